"""Damage files of every kind that jaxnet reads, and see that each is read or refused in one line.

    python scripts/tools/fuzz_loaders.py --seconds 60

Each case is made from a seed: a good file is damaged byte by byte, or value by value where it holds
JSON, whose digests are then made right again. Cases run in a process of their own of bounded
memory, which is ended if a case takes too long. A failure (another error than ValueError, OSError
or MemoryError, a hang, a crash) prints the seed, with which --seed makes the same case again.
"""

from __future__ import annotations

import argparse
import logging
import os
import random
import resource
import select
import shutil
import signal
import tempfile
import time
import traceback
import warnings
from pathlib import Path

from loader_cases import MAKES, SLOW

REFUSED = (ValueError, OSError, MemoryError)  # which the command line turns into one line
ROUND = 100  # seeds that a process checks: JAX keeps what it compiles
SECONDS, MEMORY = 20, 3 * 2**30  # that a case may take, and that its process may take beside


def check(kind: str, seed: int, folder: Path) -> str:
    """Make a case and load it; return what the error says, or "".

    Raises: any error that is not clear.
    """
    rng = random.Random(f"{kind} {seed}")
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    load = MAKES[kind](folder, rng)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            load(folder)
        except REFUSED as error:
            return str(error) or type(error).__name__
    return ""


def work(kinds: list[str], seeds: range, folder: Path, out: int) -> None:
    """Check seeds in this process, of bounded memory, and write a line before each of them."""
    most = _size() + MEMORY
    resource.setrlimit(resource.RLIMIT_DATA, (most, most))
    logging.getLogger("jaxnet").setLevel(logging.CRITICAL)
    for seed in seeds:
        for kind in kinds:
            if seed % SLOW.get(kind, 1):
                continue
            os.write(out, f"{kind} {seed}\n".encode())
            try:
                check(kind, seed, folder)
            except Exception:
                last = traceback.format_exc().strip().splitlines()
                os.write(out, f"! {' / '.join(last[-4:])[:1500]}\n".encode())
    os.write(out, b".\n")


def _size() -> int:
    """Return the bytes of data of this process."""
    found = Path("/proc/self/status").read_text().split("VmData:")[1].split()[0]
    return int(found) * 1024


def fuzz(kinds: list[str], seeds: range, seconds: float, folder: Path) -> tuple[int, list[str]]:
    """Check seeds as long as there is time; return how many cases there were, and the failures."""
    end, cases, failures, last = time.monotonic() + seconds, 0, [], ""
    while seeds and time.monotonic() < end:
        read, write = os.pipe()
        pid = os.fork()
        if not pid:
            try:
                os.close(read)
                work(kinds, seeds[:ROUND], folder, write)
            finally:
                os._exit(0)
        os.close(write)
        with os.fdopen(read, "rb", 0) as lines:  # unbuffered, for select
            done, said, last = False, "", ""
            while not done and time.monotonic() < end + SECONDS:
                if not select.select([lines], [], [], SECONDS)[0]:
                    failures.append(f"{last}: hangs for {SECONDS} s")
                    break
                said = lines.readline().decode(errors="replace")
                if said.startswith("!"):
                    failures.append(f"{last}: {said[2:].strip()}")
                elif said in ("", ".\n"):
                    done = said == ".\n"
                    if not done:
                        failures.append(f"{last}: the process ended")
                    break
                else:
                    last, cases = said.strip(), cases + 1
                    if time.monotonic() >= end:
                        done = True
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)
        seeds = seeds[ROUND if done else seeds.index(int(last.split()[-1])) + 1 :]
    return cases, failures


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seconds", type=float, default=60.0)
    parser.add_argument("--kinds", nargs="+", default=[*MAKES], choices=[*MAKES])
    parser.add_argument("--seed", type=int, help="only this one")
    parser.add_argument("--start", type=int, default=0)
    options = parser.parse_args()
    seeds = range(options.start, 2**62)
    if options.seed is not None:
        seeds = range(options.seed, options.seed + 1)
    with tempfile.TemporaryDirectory() as name:
        began = time.monotonic()
        cases, failures = fuzz(options.kinds, seeds, options.seconds, Path(name) / "case")
        for failure in failures:
            print(failure)
        peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1024
        took = time.monotonic() - began
        print(f"{cases:,} cases in {took:.0f} s, {len(failures)} failed, at most {peak:,.0f} MB")
    raise SystemExit(bool(failures))


if __name__ == "__main__":
    main()
