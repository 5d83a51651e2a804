"""The dataset of a run: a table made ready, the network for it, and the file it came from."""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from jaxnet import data
from jaxnet.files import memory, sha256, unchanged
from jaxnet.runs.config import Config, default_epochs
from jaxnet.spec import QUANTILES, Spec
from jaxnet.tables.column import Encoding
from jaxnet.tables.fitting import fit_encoding
from jaxnet.tables.reading import reader
from jaxnet.tables.rows import Rows, rows_of
from jaxnet.tables.store import Store
from jaxnet.tables.table import Table, find, list_left_out
from jaxnet.tables.targets import find_labels, infer_task
from jaxnet.tables.weights import EQUAL, Weighting, balanced, read_weights

if TYPE_CHECKING:
    from jaxnet.tables.convert import Conversion

log = logging.getLogger("jaxnet")

SHARE = 0.25  # of the memory: the rows of a table estimated to take more stay on disk


class Dataset(NamedTuple):
    """A table made ready: its encoding, the network for it, the rows to train and validate on.

    table: the columns, without rows unless `prepare` was told to keep them. source: the data's
    name, absolute path, bytes and sha256, and the columns left out. train, validation: the rows, on
    disk if `on_disk`. weighting: what makes their weights; values: those of the column of weights,
    for all rows.
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
    weighting: Weighting = EQUAL
    values: np.ndarray | None = None

    @property
    def steps_per_epoch(self) -> int:
        """The batches in a pass over the training rows."""
        return len(self.train) // self.batch_size

    def num_steps(self, config: Config) -> int:
        """Return the steps of a whole training."""
        return self.steps_per_epoch * (config.epochs or default_epochs(len(self.train)))


def prepare(
    config: Config,
    encoding: Encoding | None = None,
    on_convert: Callable[[Conversion], None] = lambda progress: None,
    *,
    table: Any = None,
    keep_table: bool = False,
) -> Dataset:
    """Read the table and make it ready; log what is guessed, raise every fault of the input.

    encoding: that of the run to resume; by default it is fitted. on_convert: called with how far
    the conversion of a table is whose rows stay on disk. table: a data frame, or a mapping of names
    to columns, in place of a file. keep_table: keep the columns, which a sweep needs to split anew.

    Raises: FileNotFoundError; ValueError for bad input, or a file that changes while it is read.
    """
    target = "digit" if config.target is None else config.target
    table, source = _table(config, on_convert) if table is None else _of_frame(table, config)
    task, reason = _task(config, table, target)
    values, table = _take_weights(table, config.sample_weight)
    labels = find_labels(table, target, task)
    rows, held_out = labels.split(config.validation, config.seed)
    if encoding is None:
        labels.log(table.num_rows, rows, held_out)
        encoding = fit(table, target, task, rows, config, log.warning)
    weighting = weighting_of(config, table, encoding, rows)
    batch_size = config.batch_size or min(32, len(rows))
    data.row_batches(len(rows), batch_size)  # refuses a batch larger than the training rows
    spec, on_disk = _spec(config, task, encoding), isinstance(table, Store)
    make_rows = partial(rows_of, table, encoding, config.param_dtype, weighting, values)
    split = make_rows(rows), make_rows(held_out)
    table = _kept(table, keep_table)
    used = {column.name for column in (*encoding.features, encoding.target)}
    source["left_out"] += [name for name in table.columns if name not in used]
    made = source, task, reason, encoding, spec, *split, batch_size, on_disk, weighting, values
    return Dataset(table, *made)


def _task(config: Config, table: Table | Store, target: str) -> tuple[str, str]:
    """Return the task, and the reason for it in words."""
    task, reason = infer_task(table, target)
    if config.task != "auto":
        task, reason = config.task, "you said so"
    check_task(config, task)
    return task, reason


def _take_weights(
    table: Table | Store, name: str | None
) -> tuple[np.ndarray | None, Table | Store]:
    """Return the column of weights, and the table without it."""
    return (None, table) if name is None else (read_weights(table, name), table.without([name]))


def _kept(table: Table | Store, keep: bool) -> Table:
    """Return a table, or its columns without their rows."""
    if keep and isinstance(table, Table):
        return table
    columns = {name: column[:0].copy() for name, column in table.columns.items()}
    return Table(table.path, columns, kinds=table.kinds)


def check_task(config: Config, task: str) -> None:
    """Raise ValueError for options of classes if the target is numbers."""
    for name in ("class_weight", "label_smoothing"):
        if getattr(config, name) and task == "regression":
            raise ValueError(f"`{name}` must be given for classes only, got a regression")


def weighting_of(
    config: Config, table: Table | Store, encoding: Encoding, rows: np.ndarray
) -> Weighting:
    """Return what makes the weights of rows; those of classes are counted in the training rows."""
    classes = balanced(table, encoding, rows) if config.class_weight else ()
    return Weighting(config.sample_weight, classes)


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


def _spec(config: Config, task: str, encoding: Encoding) -> Spec:
    loss, outputs = "cross_entropy" if task == "classification" else "mean_squares", 1
    if config.loss == "quantile":
        if task == "classification":
            raise ValueError("`loss` must be auto for classification, got quantile")
        loss, outputs = "quantile", len(QUANTILES)
    return Spec(
        sizes=(encoding.width, *config.hidden, outputs * encoding.target.width),
        bias=True,
        activation=config.activation,
        loss=loss,
        label_smoothing=config.label_smoothing,
    )


def _of_frame(frame: Any, config: Config) -> tuple[Table, dict[str, Any]]:
    """Return the table of a data frame; its source has the name "frame", and no path."""
    if config.data is not None or config.target is None or config.on_disk == "on":
        given = f"data {config.data!r}, target {config.target!r}, on_disk {config.on_disk}"
        raise ValueError(f"`table` must be given with a target, and without a file; got {given}")
    from jaxnet.tables import frames  # only data frames need it

    table = frames.to_table(frame, config.drop, config.reading)
    digest, size = hashlib.sha256(), 0
    for name, column in table.columns.items():
        text = column.dtype == object
        content = json.dumps(column.tolist()).encode() if text else column.tobytes()
        digest.update(repr((name, str(column.dtype), column.shape, len(content))).encode())
        digest.update(content)
        size += len(content)
    source = {"name": "frame", "path": "", "bytes": size, "sha256": digest.hexdigest()}
    return table, source | {"left_out": list_left_out(table.left_out)}


def _table(
    config: Config, on_convert: Callable[[Conversion], None]
) -> tuple[Table | Store, dict[str, Any]]:
    """Return the table; name, path, bytes and sha256 of its file, and the columns left out."""
    if config.data is None and config.target is not None:
        raise ValueError(
            "`data` and `target` must be given together, or in Python a table and its target; got "
            f"the target {config.target!r} alone"
        )
    path = data.digits_path() if config.data is None else Path(config.data)
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
