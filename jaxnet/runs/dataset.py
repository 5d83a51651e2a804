"""The dataset of a run: a table made ready, the network for it, and the file it came from."""

from __future__ import annotations

import contextlib
import logging
import os
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from jaxnet import data
from jaxnet.files import sha256, unchanged
from jaxnet.runs.config import Config
from jaxnet.spec import Spec
from jaxnet.tables import reader
from jaxnet.tables.column import Encoding
from jaxnet.tables.fitting import fit_encoding
from jaxnet.tables.rows import ArrayRows, Rows, StoredRows, encode
from jaxnet.tables.store import Store
from jaxnet.tables.table import Table, find, list_left_out
from jaxnet.tables.targets import find_labels, infer_task

if TYPE_CHECKING:
    from jaxnet.tables.convert import Conversion

log = logging.getLogger("jaxnet")

SHARE = 0.25  # of the memory: the rows of a table estimated to take more stay on disk


class Dataset(NamedTuple):
    """A table made ready: its encoding, the network for it, the rows to train and validate on.

    table: the columns, without rows unless `prepare` was told to keep them. source: the data's
    name, absolute path, bytes and sha256, and the columns left out. train, validation: the rows, on
    disk if `on_disk`.
    """

    table: Table
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
    def steps_per_epoch(self) -> int:
        """The batches in a pass over the training rows."""
        return len(self.train) // self.batch_size


def prepare(
    config: Config,
    encoding: Encoding | None = None,
    on_convert: Callable[[Conversion], None] = lambda progress: None,
    *,
    keep_table: bool = False,
) -> Dataset:
    """Read the table and make it ready; log what is guessed, raise every fault of the input.

    encoding: that of the run to resume; by default it is fitted. on_convert: called with how far
    the conversion of a table is whose rows stay on disk. keep_table: keep the columns of a table in
    memory, which a sweep needs to split it anew.

    Raises: FileNotFoundError; ValueError for bad input, or a file that changes while it is read.
    """
    path = data.digits_path() if config.data is None else Path(config.data)
    target = "digit" if config.target is None else config.target
    table, source = _table(path, config, on_convert)
    task, reason = infer_task(table, target)
    if config.task != "auto":
        task, reason = config.task, "you said so"
    labels = find_labels(table, target, task)
    rows, held_out = labels.split(config.validation, config.seed)
    if encoding is None:
        labels.log(table.num_rows, rows, held_out)
        encoding = fit(table, target, task, rows, config, log.warning)
    batch_size = config.batch_size or min(32, len(rows))
    data.row_batches(len(rows), batch_size)  # refuses a batch larger than the training rows
    return Dataset(
        table=_table_of(table, keep_table),
        source=source,
        task=task,
        reason=reason,
        encoding=encoding,
        spec=_spec(config, task, encoding),
        train=_rows(table, encoding, config, rows),
        validation=_rows(table, encoding, config, held_out),
        batch_size=batch_size,
        on_disk=isinstance(table, Store),
    )


def fit(
    table: Table | Store,
    target: str,
    task: str,
    rows: np.ndarray,
    config: Config,
    say: Callable[[str], None] = lambda sentence: None,
) -> Encoding:
    """Return `fit_encoding` with the options of a run."""
    options = {"numbers": config.numbers, "missing": config.missing, "say": say}
    return fit_encoding(table, target, task, rows, config.categorical, **options)


def _table_of(table: Table | Store, keep: bool) -> Table:
    """Return a table, or its columns without their rows."""
    if keep and isinstance(table, Table):
        return table
    columns = {name: column[:0].copy() for name, column in table.columns.items()}
    return Table(table.path, columns, kinds=table.kinds)


def _spec(config: Config, task: str, encoding: Encoding) -> Spec:
    return Spec(
        sizes=(encoding.width, *config.hidden, encoding.target.width),
        bias=True,
        activation=config.activation,
        loss="cross_entropy" if task == "classification" else "mean_squares",
    )


def _table(
    path: Path, config: Config, on_convert: Callable[[Conversion], None]
) -> tuple[Table | Store, dict[str, Any]]:
    """Return the table; name, path, bytes and sha256 of its file, and the columns left out."""
    if use_disk(config, path):
        from jaxnet.tables.convert import convert  # only tables on disk need it

        store = convert(path, config.drop, on_convert, config.reading)
        return store, store.source | {"left_out": list_left_out(store.left_out)}
    find(path)
    source: dict[str, Any] = {"name": path.name, "path": str(path.absolute())}
    with unchanged(path):
        table = reader.read(path, config.drop, config.reading)
        source |= {"bytes": path.stat().st_size, "sha256": sha256(path)}
        return table, source | {"left_out": list_left_out(table.left_out)}


def _rows(table: Table | Store, encoding: Encoding, config: Config, rows: np.ndarray) -> Rows:
    if isinstance(table, Store):
        return StoredRows(table, rows, encoding, config.param_dtype)
    return ArrayRows(*encode(table, encoding, config.param_dtype, rows))


def use_disk(config: Config, path: Path) -> bool:
    """Return whether the rows stay on disk: as `config.on_disk` says, or by the table's size.

    Raises: ValueError for a folder whose rows may not.
    """
    if config.data == "":
        find("")  # which refuses it; as a path it would be this folder
    if config.on_disk == "off" and path.is_dir():
        raise ValueError(f"`on_disk` must be on or auto for a folder of files, got off for {path}")
    if config.on_disk != "auto" or path.is_dir():
        return config.on_disk != "off"
    possible = path.is_file() and not path.name.lower().endswith(".npz")
    return possible and reader.estimate(path) > SHARE * memory()


def memory() -> int:
    """Return the bytes of memory of this machine, or of this process's control group."""
    installed = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    with contextlib.suppress(OSError, ValueError):
        return min(installed, int(Path("/sys/fs/cgroup/memory.max").read_text()))
    return installed
