"""What tests/test_parallel.py runs in processes of its own, with devices set before JAX starts.

    python parallel_cases.py devices            8 virtual devices, in one process
    python parallel_cases.py process PORT I N   process I of N

The last line is JSON.
"""

import json
import sys
from functools import partial
from typing import Any

import jax
import numpy as np

from jaxnet import data, net, optimizers, parallel, train
from jaxnet.spec import Batch, Spec

SPEC = Spec((7, 12, 8, 3), bias=True, loss="cross_entropy")
ROWS, BATCH, STEPS = 43, 16, 25
MESHES = ["1", "2", "all", "data=4,model=2", "data=2,model=4", "data=1,model=2"]


def problem(dtype):
    return data.random_problem(SPEC, num_rows=ROWS, seed=3, dtype=dtype)


def make_step(optimizer):
    return train.make_step(partial(net.loss, loss=SPEC.loss), optimizer)


def on_one_device(name, dtype, rows_at):
    optimizer = optimizers.make(name, 0.01)
    step = train.on_rows(make_step(optimizer), problem(dtype))
    state = train.init(SPEC.init(1, dtype), optimizer)
    return train.fit_scan(step, state, rows_at, STEPS, chunk=9)


def on_mesh(axes, name, dtype, rows_at):
    mesh, optimizer = parallel.make_mesh(axes), optimizers.make(name, 0.01)
    step = parallel.data_parallel(make_step(optimizer), mesh, min_columns=8)
    step = train.on_rows(step, parallel.replicate(mesh, problem(dtype)))
    state = train.init(SPEC.init(1, dtype), optimizer)
    state = parallel.shard_params(mesh, state, min_columns=8)
    return mesh, *train.fit_scan(step, state, rows_at, STEPS, chunk=9)


def distance(got, want):
    """The largest difference of any leaf, relative to the leaf's largest element."""
    pairs = zip(jax.tree.leaves(got), jax.tree.leaves(want), strict=True)
    return max(float(np.abs(a - b).max() / max(np.abs(b).max(), 1e-30)) for a, b in pairs)


def devices():
    rows_at = data.row_batches(ROWS, BATCH, 5)
    found = {}
    for dtype in ("float32", "float64"):
        with jax.enable_x64(dtype == "float64"):
            for name in ("momentum", "adam"):
                one, want = on_one_device(name, dtype, rows_at)
                for axes in MESHES:
                    mesh, state, losses = on_mesh(axes, name, dtype, rows_at)
                    got = parallel.to_host(state)
                    w1 = state.params["w1"]
                    found[f"{axes} {name} {dtype}"] = {
                        "state": distance(got, parallel.to_host(one)),
                        "losses": distance([losses], [want]),
                        "devices": len(w1.sharding.device_set),
                        "columns": w1.addressable_shards[0].data.shape[1],
                        "moment": _moment(state).addressable_shards[0].data.shape[1],
                        "data": mesh.shape["data"],
                    }
    return {"found": found, "rows_of_a_device": rows_of_a_device(rows_at)}


def _moment(state):
    return next(leaf for leaf in jax.tree.leaves(state.opt_state) if np.shape(leaf) == (7, 12))


def rows_of_a_device(rows_at):
    """The rows of the hidden layer (N, 12) in a compiled program: a device's own, or all."""
    mesh, optimizer = parallel.make_mesh("all"), optimizers.make("adam", 0.01)
    step = train.on_rows(
        parallel.data_parallel(make_step(optimizer), mesh),
        parallel.replicate(mesh, problem("float32")),
    )
    state = parallel.replicate(mesh, train.init(SPEC.init(1), optimizer))
    text: Any = jax.jit(step).lower(state, rows_at(0)).compile().as_text()
    return [n for n in (BATCH // 8, BATCH) if f"f32[{n},12]" in text]


def process(port, number, processes):
    parallel.start(f"127.0.0.1:{port}", int(number), int(processes))
    mesh, optimizer = parallel.make_mesh("all"), optimizers.make("adam", 0.01)
    rows_at, table = data.row_batches(ROWS, BATCH, 5), problem("float32")
    own = parallel.own_rows(mesh, BATCH)

    def batch_at(step):  # of which this process reads only its own rows
        rows = rows_at(step)[own]
        return parallel.rows(mesh, Batch(table.x[rows], table.y[rows]))

    step = parallel.data_parallel(make_step(optimizer), mesh)
    state = parallel.replicate(mesh, train.init(SPEC.init(1), optimizer))
    state, losses = train.fit(step, state, batch_at, STEPS)
    state = parallel.to_host(state)
    return {
        "own": [own.start, own.stop],
        "main": parallel.is_main(),
        "agreed": parallel.agree([10 + int(number), 7]).tolist(),
        "broadcast": parallel.broadcast({"a": np.array([-0.0, int(number)])})["a"].tolist(),
        "losses": losses.tolist(),
        "w1": state.params["w1"].tolist(),
    }


if __name__ == "__main__":
    print(json.dumps({"devices": devices, "process": process}[sys.argv[1]](*sys.argv[2:])))
