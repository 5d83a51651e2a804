"""The problem of a run: a table made ready, the network for it, and the file it came from."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any, NamedTuple

from jaxnet import data, tables
from jaxnet.config import Config
from jaxnet.encoding import Encoding, encode, fit_encoding, infer_task
from jaxnet.spec import Batch, Spec


class Problem(NamedTuple):
    """A table made ready: its encoding, the network for it, the rows to train and validate on.

    source: the data file's name, absolute path, bytes and sha256.
    """

    table: tables.Table
    source: dict[str, Any]
    task: str
    reason: str
    encoding: Encoding
    spec: Spec
    train: Batch
    validation: Batch
    batch_size: int

    @property
    def steps_per_epoch(self) -> int:
        """The batches in a pass over the training rows."""
        return len(self.train.x) // self.batch_size


def prepare(config: Config, encoding: Encoding | None = None) -> Problem:
    """Read the table and make it ready; every fault of the input is raised here.

    encoding: that of a run that goes on, or whose weights these are; by default fitted.

    Raises: FileNotFoundError; ValueError for bad input, or a file that changes while it is read.
    """
    path = data.digits_path() if config.data is None else Path(config.data)
    target = "digit" if config.target is None else config.target
    before = _state(path)
    table = tables.read(path, config.drop)
    source = _source(path)
    if _state(path) != before:
        raise ValueError(f"{path}: the file changed while it was read; try again when it is whole")
    task, reason = infer_task(table, target)
    if config.task != "auto":
        task, reason = config.task, "you said so"
    num_rows = len(table.columns[target])
    rows, held_out = data.split(num_rows, config.validation, config.seed)
    encoding = encoding or fit_encoding(table, target, task, rows, config.categorical)
    x, y = encode(table, encoding, config.dtype)
    spec = Spec(
        sizes=(x.shape[1], *config.hidden, encoding.target.width),
        bias=True,
        activation=config.activation,
        loss="cross_entropy" if task == "classification" else "mean_squares",
    )
    batch_size = config.batch_size or min(32, len(rows))
    data.row_batches(len(rows), batch_size)  # refuses a batch larger than the training rows
    batches = (
        Batch(data.take_rows(x, index), data.take_rows(y, index)) for index in (rows, held_out)
    )
    return Problem(table, source, task, reason, encoding, spec, *batches, batch_size)


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
