"""What a checkpoint after every epoch costs: the same training with and without, turn by turn.

    python scripts/tools/checkpoint_cost.py

784-512-512-10 with Adam, batches of 128: a checkpoint holds the parameters, two moments and the
best parameters, 10.7 MB. Time counts from the first epoch's end to the last one's.
"""

from __future__ import annotations

import argparse
import os
import statistics
import tempfile
import time
from pathlib import Path

import numpy as np

from jaxnet import runs
from jaxnet.runs.config import Config


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", type=int, default=60_000)
    parser.add_argument("--epochs", type=int, default=6)
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        os.chdir(name)
        rng = np.random.default_rng(0)
        x = rng.random((options.rows, 784), np.float32)
        np.savez("table.npz", x=x, y=(x @ rng.standard_normal((784, 10))).argmax(axis=1))
        config = Config(
            data="table.npz", target="y", hidden=(512, 512), batch_size=128, epochs=options.epochs
        )
        dataset = runs.prepare(config)
        ratios = []
        for number in range(options.rounds):
            with_, without = (
                seconds(config, dataset, f"{number} {every}", every) for every in (0.0, 1e6)
            )
            ratios.append(with_ / without)
            print(
                f"with {with_:.2f} s, without {without:.2f} s, ratio {ratios[-1]:.3f}", flush=True
            )
    print(f"median ratio {statistics.median(ratios):.3f} ({min(ratios):.3f} to {max(ratios):.3f})")


def seconds(config: Config, dataset: runs.Dataset, out: str, every: float) -> float:
    """The time that training takes after its first epoch, compilation left out."""
    times = {}

    def on_progress(progress: runs.Progress) -> None:
        times[progress.metrics.get("epoch", 0)] = time.perf_counter()

    options = vars(config) | {"out": str(Path(out)), "checkpoint_every": every}
    runs.train(Config(**options), dataset=dataset, on_progress=on_progress)
    return times[config.epochs] - times[1]


if __name__ == "__main__":
    main()
