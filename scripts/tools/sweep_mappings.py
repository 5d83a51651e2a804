"""How 64 networks are best trained on this machine: one by one, by several workers, or stacked.

The table of docs/sweep.md, from which `sweep_plan.mapping` takes its rule. Compiling is not
counted, and the rounds are interleaved, so that a busy machine slows all mappings alike.
"""

import argparse
import itertools
import os
import statistics
import tempfile
import time
from pathlib import Path

import numpy as np

from jaxnet import sweep
from jaxnet.runs.config import Config
from jaxnet.sweep.members import Workers
from jaxnet.sweep.settings import Mapping

# name -> rows, columns, classes, hidden sizes, batch size, epochs; None: the digits
NETWORKS = {
    "4-2-2, batch 32": ((160, 4, 2), (2,), 32, 100),
    "13-32-3, batch 32 (wine)": ((178, 13, 3), (32,), 32, 100),
    "13-64-64-3, batch 32 (wine)": ((178, 13, 3), (64, 64), 32, 50),
    "64-32-10, batch 32 (digits)": (None, (32,), 32, 10),
    "64-128-10, batch 32 (digits)": (None, (128,), 32, 10),
    "1000-100-10, batch 64 (the tutorial)": ((80, 1000, 10), (100,), 64, 100),
}
MEMBERS = 64


def main() -> None:
    """Print, for each network and mapping, the median seconds of several rounds."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    rounds, cores = parser.parse_args().rounds, len(os.sched_getaffinity(0))
    stacks = {f"stacks of {size}": (size, cores) for size in (4, 8, 16, 32)}
    mappings = {
        "one by one": (1, 1),
        f"{cores} workers": (1, cores),
        **stacks,
        "one stack": (64, 1),
    }
    print(f"| {MEMBERS} networks | multiplications | " + " | ".join(mappings) + " |")
    print("|---" * (len(mappings) + 2) + "|")
    for name, (shape, hidden, batch_size, epochs) in NETWORKS.items():
        with tempfile.TemporaryDirectory() as folder:
            planned = plan(Path(folder), shape, hidden, batch_size, epochs)
        programs = [
            Workers(planned, hidden, Mapping(1, size, workers, ""))
            for size, workers in mappings.values()
        ]
        seconds = [[timed(members) for members in programs] for _ in range(rounds)]
        medians = [statistics.median(column) for column in zip(*seconds, strict=True)]
        sizes = planned.dataset.spec.sizes[0], *hidden, planned.dataset.spec.sizes[-1]
        work = batch_size * sum(a * b for a, b in itertools.pairwise(sizes))
        cells = (f"{value:.3f} s" for value in medians)
        print(f"| {name} | {work:,} | " + " | ".join(cells) + " |", flush=True)


def plan(folder: Path, shape, hidden, batch_size: int, epochs: int) -> sweep.Plan:
    """A plan of 64 learning rates, on the digits or on random numbers of a shape."""
    config = Config(hidden=hidden, batch_size=batch_size, epochs=epochs)
    if shape is not None:
        rows, columns, classes = shape
        rng = np.random.default_rng(0)
        x = rng.standard_normal((rows, columns))
        np.savez(folder / "random.npz", x=x, y=np.arange(rows) % classes)
        config = Config(
            data=str(folder / "random.npz"), target="y", hidden=hidden, batch_size=batch_size,
            epochs=epochs,
        )  # fmt: skip
    return sweep.plan(config, learning_rate=np.geomspace(1e-4, 1e-2, MEMBERS).tolist())


def timed(members: Workers) -> float:
    """Seconds to train all members."""
    began = time.perf_counter()
    assert len(list(members.results(lambda share: None, lambda: None))) == MEMBERS
    return time.perf_counter() - began


if __name__ == "__main__":
    main()
