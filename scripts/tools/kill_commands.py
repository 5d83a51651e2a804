"""Kill every other command at random moments: what is there is whole, and nothing is left over."""

from __future__ import annotations

import json
import os
import random
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np

CONVERT = "import sys; from jaxnet.tables.convert import convert; convert(sys.argv[1])"
TABLE = ["--data", "table.csv", "--target", "y", "--hidden", "16"]
NOT_COMPARED = {".lock", "config.json", "sweep.json", "checkpoint.json"}  # they name their folder


class Command(NamedTuple):
    """What is started in a folder, which file or folder it makes, and what goes on after a kill.

    resume: the arguments that finish it after a kill; None if it is started anew.
    is_last: whether the process is to be killed from now on, beside the moments of any command.
    """

    arguments: list[str]
    makes: str
    resume: list[str] | None = None
    is_last: Callable[[Path], bool] = lambda folder: False


def _all_epochs(folder: Path) -> bool:
    metrics = folder / "made" / "metrics.jsonl"
    return metrics.exists() and metrics.read_bytes().count(b"\n") == 30


TRAIN = ["-m", "jaxnet", "train", *TABLE, "--epochs", "30", "--out", "made"]
SWEEP = ["-m", "jaxnet", "sweep", *TABLE, "--epochs", "20", "--out", "made"]
COMMANDS = {
    "the conversion of a table": Command(["-c", CONVERT, "rows.csv"], "rows.csv.arrays"),
    "predict": Command(
        ["-m", "jaxnet", "predict", "run", "--data", "rows.csv", "--out", "made.csv"], "made.csv"
    ),
    "export": Command(["-m", "jaxnet", "export", "run", "--out", "made"], "made"),
    "sweep": Command([*SWEEP, "--learning-rate", "0.1", "0.01"], "made"),
    "the last save": Command(
        TRAIN, "made", ["-m", "jaxnet", "train", "--resume", "made"], _all_epochs
    ),
}


def kill_commands(source: Path, kills: int, moments: random.Random) -> int:
    """Kill each command so often; return 0 if all that was there was whole, and all was made."""
    code = 0
    for name, command in COMMANDS.items():
        folder = source / name
        folder.mkdir()
        shutil.copy(source / "table.csv", folder)
        write_rows(folder / "rows.csv")
        shutil.copytree(source / "whole", folder / "run")
        began = time.monotonic()
        finish(folder, command.arguments)
        seconds = time.monotonic() - began
        wanted = contents(folder / command.makes)
        clean = listing(folder)
        remove(folder / command.makes)
        faults, killed = [], 0
        while killed < kills:
            killed += kill(folder, command, seconds, moments)
            faults += check(folder, command, wanted)
        finish(folder, command.arguments)
        faults += different(contents(folder / command.makes), wanted)
        faults += [f"left over: {path}" for path in sorted(listing(folder) - clean)]
        print(
            f"{killed:4} killed in {name}: {faults or 'all whole, nothing left over'}", flush=True
        )
        code |= bool(faults)
    return code


def write_rows(path: Path) -> None:
    """Write a table of 20,000 rows, old enough that its time tells every change."""
    x = np.random.default_rng(1).standard_normal((20_000, 5))
    rows = (",".join(map(repr, row.tolist())) for row in x)
    path.write_text("a,b,c,d,e\n" + "\n".join(rows) + "\n")
    os.utime(path, (10**9, 10**9))


def start(folder: Path, arguments: list[str]) -> subprocess.Popen:
    return subprocess.Popen(
        [sys.executable, *arguments],
        cwd=folder,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env=os.environ | {"JAX_PLATFORMS": "cpu"},
    )


def finish(folder: Path, arguments: list[str]) -> None:
    process = start(folder, arguments)
    output = process.communicate()[0]
    if process.returncode:
        raise SystemExit(f"{arguments}: exit code {process.returncode}\n{output}")


def kill(folder: Path, command: Command, seconds: float, moments: random.Random) -> bool:
    """End the command by SIGKILL: at any moment, or as it writes; whether it was still running."""
    process = start(folder, command.arguments)
    end = time.monotonic() + moments.uniform(0, seconds)
    if moments.random() < 0.7:  # as it writes
        end = time.monotonic() + 60
        while process.poll() is None and not (command.is_last(folder) or writing(folder, command)):
            time.sleep(0.001)
        end = time.monotonic() + moments.uniform(0, 0.15)
    while process.poll() is None and time.monotonic() < end:
        time.sleep(0.001)
    running = process.poll() is None
    process.kill()
    process.communicate()
    return running


def writing(folder: Path, command: Command) -> bool:
    """Whether a file is being written; of a run, only the last save counts."""
    return command.resume is None and any(folder.rglob("*.part"))


def check(folder: Path, command: Command, wanted: dict[str, bytes]) -> list[str]:
    """Finish what can be resumed; name the files that are not whole; start anew, if need be."""
    made = folder / command.makes
    if command.resume and (made / "config.json").exists():
        finish(folder, command.resume)
        faults = different(contents(made), wanted)
    elif (made / "best" / "config.json").exists():
        finish(folder, ["-m", "jaxnet", "train", "--resume", "made/best"])
        faults = different(contents(made), wanted)
    else:
        found = contents(made)
        faults = different(found, {name: wanted.get(name, b"") for name in found})
        if (made / "sweep.csv").exists():  # it has the members so far
            faults = []
            json.loads((made / "sweep.json").read_text())
    if command.resume or command.makes != "rows.csv.arrays":
        parts = [] if made.is_dir() else list(folder.glob(f".{made.name}.*.part"))
        remove(made)
        if made.name == "made.csv" and len(parts) > 1:
            faults.append(f"parts of dead processes: {parts}")
    return faults


def contents(path: Path) -> dict[str, bytes]:
    """Return the bytes of a file, or of the files of a folder that say the same in any folder."""
    files = [path] if path.is_file() else sorted(p for p in path.rglob("*") if p.is_file())
    kept = (p for p in files if p.name not in NOT_COMPARED and p.suffix != ".part")
    return {str(p.relative_to(path.parent)): p.read_bytes() for p in kept}


def different(found: dict[str, bytes], wanted: dict[str, bytes]) -> list[str]:
    names = sorted(found.keys() | wanted.keys())
    return [f"not as it should be: {n}" for n in names if found.get(n) != wanted.get(n)]


def listing(folder: Path) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob("*") if path.name != ".lock"}


def remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)
