"""How much time products in bfloat16 save: steps of float32 and bfloat16 in turn, in one process.

python scripts/tools/bfloat16_gain.py --hidden 1024 1024 --batch-size 4096 --rounds 5
"""

from __future__ import annotations

import argparse
import logging
import statistics
import tempfile
import time
from pathlib import Path

import jax
import numpy as np

from jaxnet import runs

STEPS = 4  # to an epoch
EPOCHS = 20  # the first call of the device, of 50 steps, compiles and is not counted


def seconds_of_step(data: Path, dtype: str, out: Path, options: argparse.Namespace) -> float:
    """Return the time of a step after the first call of the device."""
    seen: list[tuple[float, int]] = []
    config = runs.Config(
        data=str(data), target="y", task="classification", hidden=tuple(options.hidden),
        batch_size=options.batch_size, dtype=dtype, epochs=EPOCHS, patience=EPOCHS, out=str(out),
        validation=0.02,
    )  # fmt: skip
    runs.train(
        config, on_progress=lambda progress: seen.append((time.perf_counter(), progress.step))
    )
    seconds, steps = np.subtract(seen[-1], seen[0])
    return seconds / steps


def main() -> None:
    """Print the time of a step in both, and the median ratio of the rounds."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--hidden", type=int, nargs="+", default=[1024, 1024])
    parser.add_argument("--batch-size", type=int, default=4096)
    parser.add_argument("--columns", type=int, default=1024)
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    logging.disable(logging.WARNING)
    rng = np.random.default_rng(0)
    x = rng.standard_normal((int(STEPS * options.batch_size / 0.98), options.columns), np.float32)
    with tempfile.TemporaryDirectory() as folder:
        data = Path(folder) / "table.npz"
        np.savez(data, x=x, y=np.arange(len(x)) % 10)
        found = [
            [
                seconds_of_step(data, dtype, Path(folder) / f"{dtype}-{number}", options)
                for dtype in ("float32", "bfloat16")
            ]
            for number in range(options.rounds)
        ]
    single, half = np.median(found, axis=0) * 1e3
    ratio = statistics.median(half / single for single, half in found)
    print(
        f"JAX {jax.__version__}: float32 {single:.1f} ms, bfloat16 {half:.1f} ms, ratio {ratio:.2f}"
    )


if __name__ == "__main__":
    main()
