"""Whole processes as a user starts them: `jaxnet train`, and the script of each peer that does as
much: it reads the CSV file, splits and scales it, trains the same network for as many epochs,
measures it, and saves it.
"""

from __future__ import annotations

import shutil
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np

from jaxnet import data
from jaxnet.runs.config import default_epochs
from jaxnet.tables.reading.reader import read

from .participant import interpreter
from .rounds import ROOT, Say, rotated, with_bytecode

SCRIPTS = {  # participant: its script and the module that it imports
    "scikit-learn": ("sklearn", "sklearn.neural_network"),
    "torch": ("torch", "torch"),
    "keras": ("keras", "keras"),
}
EXPLAINED = """\
`jaxnet train`, and the script of each peer that does as much (`scripts/benchmarks/script_*.py`): it
reads the CSV file, splits and scales it, trains the same network (a hidden layer of 128, Adam,
batches of 32) for as many epochs, measures it and saves it. jaxnet draws the curves too, in a
process beside it, and keeps a checkpoint. Seconds of a process from its start to its end; in
brackets jaxnet's over the peer's, the median of the turns. Below 1 jaxnet is faster. The first two
rows are Python with the imports alone, of jaxnet JAX and optax, and with those of matplotlib that
draw: on few rows they are most of it. """
NETWORK = ["--hidden", "128", "--batch-size", "32", "--schedule", "constant", "--patience", "10000"]


def _wine() -> tuple[np.ndarray, np.ndarray]:
    columns = dict(read(data.digits_path().with_name("wine.csv")).columns)
    y = np.unique(columns.pop("cultivar"), return_inverse=True)[1]
    return np.column_stack([*columns.values()]), y


def _digits() -> tuple[np.ndarray, np.ndarray]:
    with np.load(data.digits_path()) as file:
        return file["pixels"].reshape(-1, 64), file["digit"]


def _many() -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    x = rng.standard_normal((20_000, 20), np.float32)
    return x, np.tanh(x @ rng.standard_normal((20, 5)) + rng.gumbel(size=(20_000, 5))).argmax(1)


TABLES = {"wine": _wine, "digits": _digits, "20,000 rows of 20 numbers": _many}


def measure(
    times: int, folder: Path, say: Say, *, other: str = "", quick: bool = False
) -> list[dict[str, Any]]:
    """Return a table's name, rows, epochs, and seconds of each participant, for each of TABLES;
    first of the imports, without and with matplotlib. other: the interpreter of what this one has
    not. quick: the first table only, for an epoch.

    Each is started once before it is measured, so that files and compiled programs are known; then
    all in turn, in rotating order.
    """
    known = {name: module.partition(".")[0] for name, (_, module) in SCRIPTS.items()}
    found = {name: interpreter((package,), other) for name, package in known.items()}
    pythons = {"jaxnet": sys.executable} | {name: p for name, p in found.items() if p}
    imports = {name: SCRIPTS[name][1] if name in SCRIPTS else "jax, optax" for name in pythons}
    found = []
    for what, more in (("imports", ""), ("with matplotlib", ", matplotlib.figure")):
        commands = {
            name: [pythons[name], "-c", f"import {modules}{more}"]
            for name, modules in imports.items()
        }
        seconds = _turns(commands, times, folder)
        found.append({"table": what, "rows": 0, "epochs": 0, "seconds": seconds})
    for name in [*TABLES][: 1 if quick else None]:
        x, y = TABLES[name]()
        path, epochs = folder / f"{len(found)}.csv", default_epochs(len(x) * 4 // 5)
        epochs = 1 if quick else epochs
        header = ",".join([*(f"x{i}" for i in range(x.shape[1])), "y"])
        table = np.column_stack([x, y])
        np.savetxt(path, table, fmt="%.6g", delimiter=",", header=header, comments="")
        commands = {who: [p, *_command(who, path, epochs)] for who, p in pythons.items()}
        seconds = _turns(commands, times, folder)
        medians = {who: statistics.median(values) for who, values in seconds.items()}
        say(f"{name}: " + ", ".join(f"{who} {value:.2f} s" for who, value in medians.items()))
        found.append({"table": name, "rows": len(x), "epochs": epochs, "seconds": seconds})
    return found


def _command(participant: str, path: Path, epochs: int) -> list[str]:
    if participant == "jaxnet":
        options = ["--data", str(path), "--target", "y", "--epochs", str(epochs), *NETWORK]
        return ["-m", "jaxnet", "train", *options, "--out", "run"]
    script = ROOT / "benchmarks" / f"script_{SCRIPTS[participant][0]}.py"
    return [str(script), str(path), "y", str(epochs)]


def _turns(commands: dict[str, list[str]], times: int, folder: Path) -> dict[str, list[float]]:
    """Return the seconds of each command's process, from its start to its end, in an empty folder;
    of as many turns, after one that is not counted.
    """
    out, seconds = folder / "out", {who: [] for who in commands}
    caches = {"XDG_CACHE_HOME": str(folder / "cache"), "KERAS_BACKEND": "jax"}
    environment = with_bytecode(caches | {"PYTHONPATH": str(ROOT.parent)})
    for turn in range(times + 1):
        for who in rotated([*commands], turn):
            shutil.rmtree(out, ignore_errors=True)
            out.mkdir()
            began = time.perf_counter()
            subprocess.run(
                commands[who], cwd=out, env=environment, check=True,
                stdout=subprocess.DEVNULL, stderr=subprocess.PIPE,
            )  # fmt: skip
            seconds[who] += [time.perf_counter() - began] * bool(turn)
    return seconds


def text(found: list[dict[str, Any]]) -> list[str]:
    """Return what is measured, and a table in Markdown."""
    names = sorted(found[0]["seconds"], key=lambda name: name != "jaxnet")
    rows = [["table", "rows", "epochs", *names], ["---"] * (len(names) + 3)]
    for entry in found:
        cells = [_cell(entry["seconds"], name) for name in names]
        sizes = [f"{entry[name]:,}" if entry[name] else "" for name in ("rows", "epochs")]
        rows.append([entry["table"], *sizes, *cells])
    times = (
        f"The median of {len(found[0]['seconds']['jaxnet'])} starts, after one that is not counted"
    )
    return [EXPLAINED + times + ".", "\n".join("| " + " | ".join(row) + " |" for row in rows)]


def _cell(seconds: dict[str, list[float]], name: str) -> str:
    shown = f"{statistics.median(seconds[name]):.2f} s"
    ratios = [a / b for a, b in zip(seconds["jaxnet"], seconds[name], strict=True)]
    return shown if name == "jaxnet" else f"{shown} ({statistics.median(ratios):.2f})"
