"""The dataset of a run: a table made ready, the network for it, and the file it came from."""

from __future__ import annotations

import contextlib
import hashlib
import os
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from jaxnet import data, order
from jaxnet.runs.config import Config
from jaxnet.spec import Spec
from jaxnet.tables import blocks, convert, store_fit
from jaxnet.tables import table as tables
from jaxnet.tables.encoding import Encoding, encode, fit_encoding, infer_task
from jaxnet.tables.records import Conversion
from jaxnet.tables.rows import ArrayRows, Rows, StoredRows
from jaxnet.tables.store import Mapped

SHARE = 0.25  # of the memory: a table estimated to take more is mapped


class Dataset(NamedTuple):
    """A table made ready: its encoding, the network for it, the rows to train and validate on.

    table: the columns, without rows unless `prepare` was to keep them. source: the data's name,
    absolute path, bytes and sha256. train, validation: the rows in memory, or on the disk, as
    `on_disk` says.
    """

    table: tables.Table
    source: dict[str, Any]
    task: str
    reason: str
    encoding: Encoding
    spec: Spec
    train: Rows
    validation: Rows
    batch_size: int
    on_disk: bool = False

    @property
    def train_rows(self) -> int:
        """The number of rows to train on."""
        return len(self.train)

    @property
    def validation_rows(self) -> int:
        """The number of rows to validate on."""
        return len(self.validation)

    @property
    def steps_per_epoch(self) -> int:
        """The batches in a pass over the training rows."""
        return self.train_rows // self.batch_size


class _Read(NamedTuple):
    """A table and what can be done with it, in memory or mapped."""

    table: tables.Table
    source: dict[str, Any]
    num_rows: int
    infer: Callable[[str], tuple[str, str]]
    fit: Callable[..., Encoding]
    take: Callable[[Encoding, str, list[np.ndarray | order.Rows]], list[Any]]


def prepare(
    config: Config,
    encoding: Encoding | None = None,
    on_convert: Callable[[Conversion], None] = lambda progress: None,
    *,
    keep_table: bool = False,
) -> Dataset:
    """Read the table and make it ready; every fault of the input is raised here.

    encoding: that of a run that goes on, or whose weights these are; by default fitted. on_convert:
    told how far the arrays of a table to be mapped are, while they are made. keep_table: keep the
    rows of one in memory, which a sweep needs to split it anew.

    Raises: FileNotFoundError; ValueError for bad input, or a file that changes while it is read.
    """
    path = data.digits_path() if config.data is None else Path(config.data)
    target = "digit" if config.target is None else config.target
    on_disk = use_disk(config, path)
    if on_disk:
        read = _read_mapped(convert.convert(path, config.drop, on_convert))
    else:
        read = _read_whole(path, config)
    task, reason = read.infer(target)
    if config.task != "auto":
        task, reason = config.task, "you said so"
    rows, held_out = data.split(read.num_rows, config.validation, config.seed)
    encoding = encoding or read.fit(target, task, rows, config.categorical)
    spec = Spec(
        sizes=(sum(c.width for c in encoding.features), *config.hidden, encoding.target.width),
        bias=True,
        activation=config.activation,
        loss="cross_entropy" if task == "classification" else "mean_squares",
    )
    train, validation = read.take(encoding, config.param_dtype, [rows, held_out])
    batch_size = config.batch_size or min(32, len(rows))
    data.row_batches(len(rows), batch_size)  # refuses a batch larger than the training rows
    table = read.table
    if not keep_table:
        empty = {name: column[:0].copy() for name, column in table.columns.items()}
        table = table._replace(columns=empty)
    return Dataset(
        table, read.source, task, reason, encoding, spec, train, validation, batch_size, on_disk
    )


def use_disk(config: Config, path: Path) -> bool:
    """Whether the table is mapped: as `config.on_disk` says, or by its size.

    Raises: ValueError for a folder that may not be.
    """
    if config.data == "":
        tables.find("")  # which refuses it; as a path it would be this folder
    if config.on_disk == "off" and path.is_dir():
        raise ValueError(f"`on_disk` must be on or auto for a folder of files, got off for {path}")
    if config.on_disk != "auto" or path.is_dir():
        return config.on_disk != "off"
    mappable = path.is_file() and not path.name.lower().endswith(".npz")
    return mappable and blocks.estimate(path) > SHARE * memory()


def memory() -> int:
    """The bytes of memory of this machine, or of the control group that this process is in."""
    installed = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    with contextlib.suppress(OSError, ValueError):
        return min(installed, int(Path("/sys/fs/cgroup/memory.max").read_text()))
    return installed


def _read_mapped(mapped: Mapped) -> _Read:
    def take(encoding, dtype, several):
        return [StoredRows(mapped, rows, encoding, dtype) for rows in several]

    return _Read(
        mapped.rows(np.zeros(0, int)),
        mapped.source,
        len(mapped),
        partial(store_fit.infer_task, mapped),
        partial(store_fit.fit_encoding, mapped),
        take,
    )


def _read_whole(path: Path, config: Config) -> _Read:
    before = _state(path)
    table = tables.read(path, config.drop)
    source = _source(path)
    if _state(path) != before:
        raise ValueError(f"{path}: the file changed while it was read; try again when it is whole")

    def take(encoding, dtype, several):
        return [ArrayRows(*encode(table, encoding, dtype, np.asarray(rows))) for rows in several]

    def fit(target, task, rows, categorical):
        return fit_encoding(table, target, task, np.asarray(rows), categorical)

    num_rows = len(next(iter(table.columns.values())))
    return _Read(table, source, num_rows, partial(infer_task, table), fit, take)


def _state(path: Path) -> tuple[int, int] | None:
    if not path.is_file():
        return None  # which `tables.read` tells
    stat = path.stat()
    return stat.st_size, stat.st_mtime_ns


def _source(path: Path) -> dict[str, Any]:
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    size = path.stat().st_size
    return {"name": path.name, "path": str(path.absolute()), "bytes": size, "sha256": digest}
