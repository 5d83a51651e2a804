"""What the same bits on any number of devices cost: the deterministic step against the usual one.

    python scripts/tools/deterministic_cost.py

784-256-10, float32, Adam, batches of 256, on 1, 2, 4 and 8 virtual devices of this CPU. The rounds
are interleaved, so that a busy machine slows both alike; compiling is not counted.
"""

from __future__ import annotations

import argparse
import os
import statistics
import time
from collections.abc import Callable
from functools import partial

os.environ.setdefault("XLA_FLAGS", "--xla_force_host_platform_device_count=8")
os.environ.setdefault("NPROC", "8")

import jax

from jaxnet import data, net, optimizers, train
from jaxnet.engine import deterministic
from jaxnet.engine.mesh import data_parallel, make_mesh, replicate
from jaxnet.spec import Spec

SPEC = Spec((784, 256, 10), bias=True, loss="cross_entropy")


def main() -> None:
    """Print the median ratio of the times of some steps for each number of devices."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--steps", type=int, default=50)
    parser.add_argument("--batch-size", type=int, default=256)
    options = parser.parse_args()
    for devices in (1, 2, 4, 8):
        mesh = make_mesh(devices)
        runs = [make(mesh, options.batch_size, options.steps, way) for way in (usual, fixed)]
        times = [[timed(run) for run in runs] for _ in range(options.rounds + 1)][1:]
        ratios = sorted(after / before for before, after in times)
        per_step = [
            statistics.median(column) / options.steps * 1e3 for column in zip(*times, strict=True)
        ]
        print(
            f"{devices} devices: {per_step[0]:.2f} ms a step, deterministic {per_step[1]:.2f}; "
            f"ratio {statistics.median(ratios):.2f} ({ratios[0]:.2f} to {ratios[-1]:.2f})",
            flush=True,
        )


def usual(loss, optimizer, mesh) -> train.Step:
    return data_parallel(train.make_step(loss, optimizer), mesh)


def fixed(loss, optimizer, mesh) -> train.Step:
    return deterministic.make_step(loss, optimizer, mesh, reduction="mean")


def make(mesh: jax.sharding.Mesh, batch_size: int, num_steps: int, way: Callable) -> Callable:
    """The function that makes some steps from the initial state."""
    table = data.random_problem(SPEC, num_rows=8 * batch_size)
    optimizer = optimizers.make("adam", 1e-3)
    step = way(partial(net.loss, loss=SPEC.loss), optimizer, mesh)
    step = train.on_rows(step, replicate(mesh, table))
    rows_at = data.row_batches(len(table.x), batch_size)

    def run():
        state = replicate(mesh, train.init(SPEC.init(0), optimizer))
        train.fit_scan(step, state, rows_at, num_steps, chunk=num_steps)

    return run


def timed(run: Callable) -> float:
    start = time.perf_counter()
    run()
    return time.perf_counter() - start


if __name__ == "__main__":
    main()
