"""What a long use costs: memory, open files and threads of one process, at several moments.

    python scripts/tools/long_use.py           # every case, each in a process of its own
    python scripts/tools/long_use.py predictions trainings
    python scripts/tools/long_use.py --quick   # a fiftieth of each

Each case is one line of the tutorial or of a service that goes on for days: one training of many
steps, many predictions of as many rows as happen to come, and so on. What levels off has the same
figures at a half and at the end. The exit code is 1 if files or threads have grown since the half,
or memory by more than a tenth.
"""

from __future__ import annotations

import argparse
import os
import queue
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np

from jaxnet import runs
from jaxnet.runs.config import Config

MOMENTS = 0.02, 0.1, 0.25, 0.5, 0.75, 1.0
MAX_GROWTH = 1.1  # of memory, from a half to the end
MIN_MB = 5.0  # growth that is none


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("cases", nargs="*", metavar="CASE", help=f"{', '.join(CASES)}; default all")
    parser.add_argument("--quick", action="store_true", help="a fiftieth of each case")
    parser.add_argument("--here", action="store_true", help="in this process, the first case only")
    options = parser.parse_args()
    if unknown := set(options.cases) - set(CASES):
        parser.error(f"unknown: {', '.join(sorted(unknown))}")
    share = 0.02 if options.quick else 1.0
    if options.here:
        with tempfile.TemporaryDirectory() as folder:
            os.chdir(folder)
            write_table(Path("table.csv"), 5)
            return measure(options.cases[0], share)
    print(
        f"{'case':12} {'done':>8} {'MB':>7} {'files':>6} {'threads':>7} {'ms each':>8}", flush=True
    )
    quick = ["--quick"] * options.quick
    return max(
        subprocess.run([sys.executable, __file__, case, "--here", *quick]).returncode
        for case in options.cases or CASES
    )


def measure(case: str, share: float) -> int:
    """Print a line at each moment; return the exit code."""
    make, number = CASES[case]
    total = max(1, round(number * share))
    moments = sorted({max(1, round(moment * total)) for moment in MOMENTS})
    seen, before, began = {}, 0, time.perf_counter()
    for done in make(total):
        if moments and done >= moments[0]:
            while moments and done >= moments[0]:
                moments.pop(0)
            now = time.perf_counter()
            seen[done] = memory(), open_files(), threading.active_count()
            each = 1000 * (now - began) / (done - before)
            mb, *others = seen[done]
            print(
                f"{case:12} {done:8,} {mb:7.0f} {others[0]:6} {others[1]:7} {each:8.3g}", flush=True
            )
            before, began = done, time.perf_counter()
    half = seen[min(seen, key=lambda done: abs(done - total / 2))]
    end = seen[max(seen)]
    grown = end[0] > max(MAX_GROWTH * half[0], half[0] + MIN_MB) or end[1:] > half[1:]
    return int(grown)


def memory() -> float:
    """The resident memory of this process in MB."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 2**20


def open_files() -> int:
    """The least of some moments: a checkpoint may be written in one of them."""
    counts = []
    for _ in range(5):
        counts.append(len(os.listdir("/proc/self/fd")) - 1)  # without the listing's own
        time.sleep(0.01)
    return min(counts)


def write_table(path: Path, columns: int) -> None:
    rng = np.random.default_rng(0)
    x = rng.standard_normal((300, columns))
    y = np.where(x.sum(axis=1) + rng.standard_normal(300) > 0, "yes", "no")
    names = ",".join([*(f"x{i}" for i in range(columns)), "y"])
    rows = (",".join([*map(repr, row.tolist()), word]) for row, word in zip(x, y, strict=True))
    path.write_text(names + "\n" + "\n".join(rows) + "\n")


def config(out: str, **options) -> Config:
    defaults: dict = {"data": "table.csv", "target": "y", "hidden": (16,), "batch_size": 16}
    defaults["epochs"] = 2
    return Config(out=out, **(defaults | options))


# -- the cases: each yields how much is done


def steps(total: int) -> Iterator[int]:
    """One training of so many steps, with an evaluation every 15 of them."""
    options = config("steps", epochs=-(-total // 15), checkpoint_every=1.0)
    dataset, made = runs.prepare(options), queue.SimpleQueue()

    def train() -> None:
        try:
            runs.train(options, dataset=dataset, on_progress=lambda now: made.put(now.step))
        finally:
            made.put(None)

    thread = threading.Thread(target=train)
    thread.start()
    yield from iter(made.get, None)
    thread.join()


def predictions(total: int) -> Iterator[int]:
    """Predictions from one loaded model, each of another number of rows up to 3,000."""
    model, rng = trained(), np.random.default_rng(1)
    x = rng.standard_normal((3000, 5))
    for i in range(total):
        model.predict(x[: rng.integers(1, len(x))])
        yield i + 1


def loads(total: int) -> Iterator[int]:
    """Loads of one model, each with a prediction."""
    trained()
    x = np.random.default_rng(1).standard_normal((100, 5))
    for i in range(total):
        runs.load("trained").predict(x)
        yield i + 1


def trainings(total: int) -> Iterator[int]:
    """One training after the other, the same each time."""
    for i in range(total):
        runs.train(config(f"trained-{i}"))
        yield i + 1


def tables(total: int) -> Iterator[int]:
    """One training after the other, each on a table of other columns, with another network."""
    for i in range(total):
        write_table(Path("other.csv"), 2 + i)
        rate = 0.1 / (i + 1)
        runs.train(config(f"other-{i}", data="other.csv", hidden=(4 + i,), learning_rate=rate))
        yield i + 1


def threads(total: int) -> Iterator[int]:
    """Two trainings at once, in two threads; both give the bits that they give alone."""
    wanted = [weights(f"alone-{seed}", seed) for seed in range(2)]
    with ThreadPoolExecutor(2) as pool:
        for i in range(total):
            both = [pool.submit(weights, f"both-{i}-{seed}", seed) for seed in range(2)]
            if [one.result() for one in both] != wanted:
                raise SystemExit(f"threads: other bits than alone, at the {i + 1}th time")
            yield i + 1


def weights(out: str, seed: int) -> bytes:
    run = runs.train(config(out, seed=seed, dtype=("float32", "float64")[seed], epochs=20))
    return b"".join(run.params[name].tobytes() for name in sorted(run.params))


def trained() -> runs.Model:
    runs.train(config("trained"))
    return runs.load("trained")


CASES: dict[str, tuple[Callable[[int], Iterator[int]], int]] = {
    "steps": (steps, 200_000),
    "predictions": (predictions, 10_000),
    "loads": (loads, 500),
    "trainings": (trainings, 100),
    "tables": (tables, 50),
    "threads": (threads, 50),
}

if __name__ == "__main__":
    sys.exit(main())
