"""Tables on disk: rows a second converted and trained on, beside NumPy on the same bytes."""

from __future__ import annotations

import shutil
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from pyarrow import csv, parquet

from jaxnet import data, runs
from jaxnet.engine import streams
from jaxnet.runs import dataset, loop, state, steps, trainer
from jaxnet.tables import convert, store
from jaxnet.tables.arrays import NUMBERS
from jaxnet.tables.reading import reader
from jaxnet.tables.reading.folder import sources
from jaxnet.tables.reading.options import AS_FOUND
from jaxnet.tables.reading.scan import scan
from jaxnet.tables.rows import BLOCK

from .rounds import Say

COLUMNS, CLASSES, BATCH = 20, 4, 4096
NAMES = {".parquet": "Parquet", ".csv": "CSV"}
NETWORKS: dict[str, dict[str, Any]] = {
    f"hidden 32, no bins, batches of {BATCH:,}": {"hidden": (32,), "numbers": "standard"},
    "the defaults, batches of 32": {"batch_size": 32},
}
EXPLAINED = """\
{rows:,} rows of {columns} numbers in float32 and a class, in Parquet and in CSV; all files are in
the system's cache. The floor is NumPy with the {megabytes:,.0f} MB that jaxnet keeps of the Parquet
file (of the CSV file it keeps float64, twice as much): read in order, or through a memory map by
the batches of the first network. A conversion finds the kinds of the columns, for which it reads
all text once; reads the table; and writes it, with digests of both files. An epoch is of {train:,}
rows, compiled and warm, and ends with an evaluation of {validation:,} more. Its parts, each alone:
gathering rows from the file; encoding them as inputs; both for the rows of the evaluation; and
computing on batches that are in memory. In an epoch the next batches are read while it computes.
The median of {times}; of the floor the least."""


def measure(times: int, folder: Path, say: Say, *, quick: bool = False) -> dict[str, Any]:
    """Return the seconds of the floor, of conversions and of epochs: medians of so many."""
    rows, batch = (20_000, 256) if quick else (2_000_000, BATCH)
    found: dict[str, Any] = {"rows": rows, "times": times}
    paths = _write(folder, rows)
    found["conversions"] = {NAMES[p.suffix]: _medians(_conversion, times, p) for p in paths}
    found["bytes"] = (store.folder_of(paths[0]) / NUMBERS).stat().st_size
    found["epochs"] = {}
    for name, options in NETWORKS.items():
        say(f"  {name}")
        options = {"batch_size": batch} | options
        config = runs.Config(data=str(paths[0]), target="y", on_disk="on", epochs=1, **options)
        made: Any = dataset.prepare(config)
        if "floor" not in found:
            found["floor"] = _floor(made)
            found |= {"train": len(made.train), "validation": len(made.validation)}
        held = made._replace(train=_Held(made.train), validation=_Held(made.validation))
        whole, computing = _epoch(config, made), _epoch(config, held)
        found["epochs"][name] = _medians(_parts, times, made, whole, computing)
    return found


def _write(folder: Path, rows: int) -> list[Path]:
    rng = np.random.default_rng(0)
    x = rng.standard_normal((rows, COLUMNS), np.float32)
    signal = x @ rng.standard_normal(COLUMNS) + rng.standard_normal(rows)
    y = np.digitize(signal, np.quantile(signal, np.arange(1, CLASSES) / CLASSES))
    table = pa.table({f"x{i}": x[:, i] for i in range(COLUMNS)} | {"y": y.astype(np.uint8)})
    parquet.write_table(table, folder / "disk.parquet")
    csv.write_csv(table, folder / "disk.csv")
    return [folder / "disk.parquet", folder / "disk.csv"]


def _medians(measure: Callable[..., dict[str, float]], times: int, *args: Any) -> dict[str, float]:
    tries = [measure(*args) for _ in range(times)]
    return {name: statistics.median(one[name] for one in tries) for name in tries[0]}


def _seconds(work: Callable[[], Any]) -> float:
    began = time.perf_counter()
    work()
    return time.perf_counter() - began


def _conversion(path: Path) -> dict[str, float]:
    shutil.rmtree(store.folder_of(path), ignore_errors=True)
    whole = _seconds(lambda: convert.convert(path))
    kinds, rows = convert.convert(path).kinds, convert.BLOCK_NUMBERS // (COLUMNS + 1)
    finding = _seconds(lambda: scan(path, sources(path), (), AS_FOUND))
    reading = _seconds(lambda: [None for _ in reader.blocks(path, kinds, rows)])
    writing = whole - finding - reading
    return {"seconds": whole, "kinds": finding, "reading": reading, "writing": writing}


def _floor(made: dataset.Dataset) -> dict[str, float]:
    path = store.folder_of(made.table.path) / NUMBERS
    table, rows = np.load(path, mmap_mode="r"), _positions(made, 1)
    ways = {
        "in order": lambda: np.load(path),
        "by batches": lambda: [len(table[made.train.rows[some[0]]]) for some in rows],
    }
    return {name: min(_seconds(way) for _ in range(3)) for name, way in ways.items()}


def _positions(made: dataset.Dataset, size: int) -> list[np.ndarray]:
    """The positions of the rows of an epoch's batches, so many batches at once."""
    rows_at, stop = data.row_batches(len(made.train), made.batch_size), made.steps_per_epoch
    cuts = range(0, stop, size)
    return [np.stack([rows_at(i) for i in range(cut, min(cut + size, stop))]) for cut in cuts]


class _Held:
    """Rows whose batches are in memory: of each shape always the first."""

    def __init__(self, rows: Any):
        self._rows, self._known = rows, {}

    def __len__(self) -> int:
        return len(self._rows)

    def batch(self, positions: np.ndarray) -> Any:
        if positions.shape not in self._known:
            self._known[positions.shape] = self._rows.batch(positions)
        return self._known[positions.shape]


def _epoch(config: runs.Config, made: dataset.Dataset) -> Callable[[], Any]:
    """Return the function that trains for an epoch, as a run does, once it has compiled."""
    config, placement = trainer.resolve(config, made)
    params = steps.initial_params(config, made.spec)
    ways = trainer.make_trainer(config, made, params, placement)

    def train() -> None:
        nothing = dict.fromkeys(("save", "on_line", "on_progress"), lambda _: None)
        begin = state.begin(ways.params, ways.optimizer)
        loop.run(config, made, ways, begin, signal=lambda: None, **nothing)

    train()
    return train


def _parts(made: Any, whole: Callable, computing: Callable) -> dict[str, float]:
    train, size = made.train, streams.BYTES // (4 * made.batch_size * made.spec.sizes[0])
    slabs = _positions(made, max(1, size))
    ordered = [np.sort(train.rows[s.ravel()]) for s in slabs]
    cut = [rows[i : i + BLOCK] for rows in ordered for i in range(0, len(rows), BLOCK)]
    gathering = _seconds(lambda: [train.store.take(some).num_rows for some in cut])
    return {
        "seconds": _seconds(whole),
        "gathering": gathering,
        "encoding": _seconds(lambda: [len(train.batch(s).y) for s in slabs]) - gathering,
        "evaluation": _seconds(lambda: [None for _ in made.validation.blocks()]),
        "computing": _seconds(computing),
    }


def text(found: dict[str, Any]) -> list[str]:
    """Return what is measured, and a table in Markdown."""
    about = EXPLAINED.format(**found, columns=COLUMNS, megabytes=found["bytes"] / 1e6)
    rows = {"in order": found["rows"], "by batches": found["train"]}
    lines = ["| | rows a second | over the floor | seconds | of which |", "|---" * 5 + "|"]
    conversions = {f"{name}, converted": v for name, v in found["conversions"].items()}
    epochs = {f"an epoch: {name}": v for name, v in found["epochs"].items()}
    for floor, entries in (("in order", conversions), ("by batches", epochs)):
        least, number = found["floor"][floor], rows[floor]
        for name, parts in ({f"NumPy, {floor}": {"seconds": least}} | entries).items():
            seconds, *_ = parts.values()
            split = ", ".join(f"{part} {s:.2f}" for part, s in [*parts.items()][1:])
            cells = f"{number / seconds:,.0f} | {seconds / least:.1f} | {seconds:.2f}"
            lines.append(f"| {name} | {cells} | {split} |")
    return [about, "\n".join(lines)]
