"""What the tests of `parallel` run in processes of their own: `mesh_cases.py NAME OUT [...]`.

Each case returns arrays, which process 0 writes to OUT.npz. Further arguments: the process, how
many there are, and the coordinator.
"""

import sys
from functools import partial

import jax
import numpy as np
from flax import nnx
from jax.tree_util import Partial

from jaxnet import data, flax_net, net, optimizers, train
from jaxnet.engine import accumulate, deterministic, epochs, processes
from jaxnet.engine import mesh as parallel
from jaxnet.spec import Spec

SPEC = Spec((7, 16, 5, 3), bias=True)
MESHES = ("data=8", "data=4,model=2", "data=1,model=8", "data=2")
ROWS, BATCH, STEPS = 24, 8, 20
WIDE = 8  # columns: w1 and its bias are divided over a model axis, the others are not
ROWS_AT = data.row_batches(ROWS, BATCH, seed=5)


def problem(spec=SPEC, dtype="float64", rows=ROWS):
    return data.random_problem(spec, num_rows=rows, seed=3, dtype=dtype)


def flat(prefix, state, losses):
    """Leaves of a state, and losses, as arrays with names."""
    leaves = jax.tree.leaves(parallel.to_host(state))
    return {f"{prefix} {i}": leaf for i, leaf in enumerate(leaves)} | {f"{prefix} loss": losses}


def trajectory(name, place, over=lambda step: step, rows_at=ROWS_AT, **options):
    """State and losses after some steps in float64; `place` puts arrays, `over` divides a step."""
    optimizer = optimizers.make(name, 0.01)
    step = over(train.make_step(net.loss, optimizer, **options))
    state = place(train.init(SPEC.init(1, "float64"), optimizer))
    step = train.on_rows(step, place(problem()))
    return train.fit_scan(step, state, rows_at, STEPS, chunk=10)


def trajectories(meshes=MESHES):
    """Runs on every mesh, by rows and by the whole table; "one": the same on one device."""
    ways = {"one": (lambda tree: tree, lambda step: step)}
    for axes in meshes:
        mesh = parallel.make_mesh(axes)
        ways[axes] = (
            partial(parallel.shard_params, mesh, min_columns=WIDE),
            partial(parallel.data_parallel, mesh=mesh, min_columns=WIDE),
        )
    parts = partial(accumulate.accumulated, microbatches=4, reduction="sum")
    found = {}
    with jax.enable_x64(True):
        for axes, (place, over) in ways.items():
            for name in ("sgd", "adam"):
                found |= flat(f"rows {name} {axes}", *trajectory(name, place, over))
            found |= flat(f"all adam {axes}", *trajectory("adam", place, over, lambda i: None))
        found |= flat("accumulated", *trajectory("adam", *ways["one"], value_and_grad=parts))
        for axes in ("data=2", "data=4,model=2"):
            if axes in ways:
                place, over = ways[axes]
                split = trajectory("adam", place, over, lambda i: None, value_and_grad=parts)
                found |= flat(f"all adam accumulated {axes}", *split)
    return found


def float32_gradients():
    """The gradients of one batch on every mesh, as float32 makes them."""

    def step(params, batch):
        loss, grads = jax.value_and_grad(net.loss)(params, batch)
        return grads, loss

    found = {}
    for axes in MESHES:
        mesh = parallel.make_mesh(axes)
        params = parallel.shard_params(mesh, SPEC.init(1), min_columns=WIDE)
        over = parallel.data_parallel(step, mesh, min_columns=WIDE)
        grads, loss = over(params, parallel.rows(mesh, problem(dtype="float32")))
        found |= {f"{axes} {name}": np.asarray(grad) for name, grad in grads.items()}
        found[f"{axes} loss"] = np.asarray(loss)
    return found


def placement():
    """Whether what is divided stays so, and what a batch that does not divide is told."""
    mesh, optimizer = parallel.make_mesh("data=4,model=2"), optimizers.make("adam", 0.01)
    before = parallel.shard_params(mesh, train.init(SPEC.init(1), optimizer), min_columns=WIDE)
    specs = [str(leaf.sharding.spec) for leaf in jax.tree.leaves(before)]
    step = parallel.data_parallel(train.make_step(net.loss, optimizer), mesh, min_columns=WIDE)
    step = train.on_rows(step, parallel.replicate(mesh, problem(dtype="float32")))
    after, _ = train.fit_scan(step, before, ROWS_AT, 5, chunk=2)
    found = {"before": np.array(specs)}
    found["after"] = np.array([str(leaf.sharding.spec) for leaf in jax.tree.leaves(after)])
    try:
        step(after, np.arange(6))
    except ValueError as error:
        found["uneven"] = np.array(str(error))
    program = jax.jit(lambda step, *args: step(*args)).lower(step, after, ROWS_AT(0)).compile()
    found["rows each"] = np.array("f32[2,7]" in (program.as_text() or ""))
    return found


def out_in():
    """Weights held (out, in), on a mesh with a model axis and on one device."""
    mesh, optimizer = parallel.make_mesh("data=4,model=2"), optimizers.make("adam", 0.01)
    wide = {"min_columns": WIDE, "axis": 0}
    ways = {
        "one": (lambda tree: tree, lambda step: step),
        "mesh": (
            partial(parallel.shard_params, mesh, **wide),
            partial(parallel.data_parallel, mesh=mesh, **wide),
        ),
    }
    found = {}
    with jax.enable_x64(True):
        for name, (place, over) in ways.items():
            step = over(train.make_step(train.transposed(net.loss), optimizer))
            table = problem() if name == "one" else parallel.replicate(mesh, problem())
            state = place(train.init(train.transpose(SPEC.init(1, "float64")), optimizer))
            state, losses = train.fit_scan(
                train.on_rows(step, table), state, ROWS_AT, STEPS, chunk=10
            )
            found |= flat(name, state, losses)
            if name == "mesh":
                found["w1"] = np.array(state.params["w1"].addressable_shards[0].data.shape)
    return found


def own_data():
    """Each process gives its own rows: step by step, and as a chunk of batches."""
    mesh, table = parallel.make_mesh(), problem(dtype="float32")
    own = parallel.own_rows(mesh, BATCH)
    optimizer = optimizers.make("adam", 0.01)
    step = parallel.data_parallel(train.make_step(net.loss, optimizer), mesh)

    def own_batch(i):
        rows = ROWS_AT(i)[own]
        return jax.tree.map(lambda a: a[rows], table)

    def batch_at(i):
        return parallel.rows(mesh, own_batch(i))

    def state():
        return parallel.replicate(mesh, train.init(SPEC.init(1), optimizer))

    streamed, losses = train.fit(step, state(), batch_at, STEPS)
    at_rows = train.on_rows(step, parallel.replicate(mesh, table))
    gathered, same = train.fit_scan(at_rows, state(), ROWS_AT, STEPS)
    chunk = parallel.rows(mesh, train.stack(own_batch, 0, 5, 5), axis=1)
    return {
        **flat("streamed", streamed, losses),
        **flat("gathered", gathered, same),
        "chunk": parallel.to_host(chunk).x,
        "own": np.array([own.start, own.stop]),
    }


def evaluated():
    """Epochs with evaluations in one program, patience and all."""
    mesh, optimizer = parallel.make_mesh(), optimizers.make("adam", 0.01)
    table = problem(dtype="float32")
    step = parallel.data_parallel(train.make_step(net.loss, optimizer), mesh)
    found = {}
    for name, place, over in (
        ("one", lambda tree: tree, train.make_step(net.loss, optimizer)),
        ("mesh", partial(parallel.replicate, mesh), step),
    ):
        state = place(train.init(SPEC.init(1), optimizer))
        best = epochs.Best(place(SPEC.init(1)), np.inf, 0)
        evaluate = Partial(lambda table, params: {"loss": net.loss(params, table)}, place(table))
        parts = epochs.segments(0, 9, 3, 9)
        at_rows = train.on_rows(over, place(table))
        if name == "mesh" or jax.process_count() == 1:
            chunk = epochs.run(at_rows, evaluate, state, best, ROWS_AT, parts, (9, 5))
            found |= flat(name, chunk.state, chunk.losses)
            found[f"{name} evaluations"] = chunk.evaluations["loss"]
    return found


def talk():
    """What the processes say to each other."""
    number = jax.process_index()
    own = {"x": np.array([-0.0, np.nan, number], "float32"), "n": np.arange(3) + number}
    got = processes.broadcast(own | {"empty": np.zeros((0, 2))})
    said = processes.gather_ints([number, 10 * number - 1])
    return {"x": got["x"], "n": got["n"], "empty": got["empty"], "said": said}


# network, rows of a batch, optimizer, and on how many devices beside one: each compiles for seconds
DETERMINISTIC: dict[str, tuple[Spec, int, str, tuple[int, ...]]] = {
    "7-5-3": (Spec((7, 5, 3), bias=True), 8, "sgd", (4, 8)),
    "64-128-10": (Spec((64, 128, 10), True, loss="cross_entropy"), 32, "adam", (2,)),
    "300-200-50-10": (Spec((300, 200, 50, 10), True, "gelu", "mean_squares"), 64, "adam", (4, 8)),
}


def same_bits():
    """Runs in deterministic mode, on each number of devices if this is one process."""
    count = len(jax.devices())
    found = {}
    for name, (spec, batch_size, optimizer, numbers) in DETERMINISTIC.items():
        for number in (1, *numbers) if jax.process_count() == 1 else {count} & {*numbers}:
            mesh = parallel.make_mesh(number)
            table = problem(spec, "float32", 3 * batch_size)
            loss = partial(net.loss, activation=spec.activation, loss=spec.loss)
            reduction = "sum" if spec.loss == "sum_squares" else "mean"
            made = optimizers.make(optimizer, optimizers.schedule("warmup", 1e-3, STEPS))
            step = deterministic.make_step(loss, made, mesh, reduction=reduction)
            step = train.on_rows(step, parallel.replicate(mesh, table))
            state = parallel.replicate(mesh, train.init(spec.init(1), made))
            rows_at = data.row_batches(3 * batch_size, batch_size, seed=5)
            run = train.fit_scan(step, state, rows_at, STEPS, chunk=10)
            found |= flat(f"{number}: {name}", *run)
    return found


def model_state():
    """A Flax module with running statistics and dropout on a mesh; "one": on one device."""
    optimizer, rngs = optimizers.make("sgd", 0.01), nnx.Rngs(0)
    layers = nnx.Linear(7, 16, rngs=rngs), nnx.BatchNorm(16, rngs=rngs), nnx.relu
    module = nnx.Sequential(*layers, nnx.Dropout(0.5, rngs=rngs), nnx.Linear(16, 3, rngs=rngs))
    loss, params, first = flax_net.split(module, lambda m, b: ((m(b.x) - b.y) ** 2).mean())
    mesh = parallel.make_mesh("data=8")
    ways = {
        "one": (lambda tree: tree, lambda step: step),
        "data=8": (partial(parallel.replicate, mesh), partial(parallel.data_parallel, mesh=mesh)),
    }
    found, step, table = {}, train.make_step(loss, optimizer), problem(dtype="float32")
    for name, (place, over) in ways.items():
        on_rows = train.on_rows(over(step), place(table))
        state = place(train.init(params, optimizer, first))
        state, losses = train.fit_scan(on_rows, state, ROWS_AT, 5)
        found |= flat(name, (state.params, state.model_state), losses)
    return found


CASES = {
    "one process": {
        "model_state": model_state,
        "trajectories": trajectories,
        "float32_gradients": float32_gradients,
        "placement": placement,
        "out_in": out_in,
        "own_data": own_data,
        "evaluated": evaluated,
    },
    "many processes": {
        "trajectories": partial(trajectories, ("all",)),
        "own_data": own_data,
        "evaluated": evaluated,
        "talk": talk,
    },
    "same bits": {"same_bits": same_bits},
}


def main():
    name, out, *others = sys.argv[1:]
    if others:
        number, count, coordinator = others
        processes.start(coordinator, int(number), int(count))
    found = {}
    for label, case in CASES[name].items():
        found |= {f"{label}/{key}": value for key, value in case().items()}
    if processes.is_main():
        np.savez(out, **found)


if __name__ == "__main__":
    main()
