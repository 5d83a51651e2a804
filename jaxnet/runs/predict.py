"""A trained model on a data file of any size: predictions into a file, or metrics."""

from __future__ import annotations

import contextlib
import itertools
import logging
import os
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from jaxnet.files import replacing
from jaxnet.runs.evaluation import measure
from jaxnet.runs.model import Model, softmax
from jaxnet.spec import Batch, check_choice
from jaxnet.tables import reader
from jaxnet.tables.column import Column, decode, kinds_to_read
from jaxnet.tables.encoding import UNSEEN, encode_features
from jaxnet.tables.metrics import Metrics
from jaxnet.tables.missing import Filled, has_value, without_target
from jaxnet.tables.options import ReadOptions
from jaxnet.tables.rows import encode

log = logging.getLogger("jaxnet")

SUFFIXES = (".csv", ".parquet")  # of predictions
MAX_NUMBERS = 2**23  # of a block's inputs, which bounds its memory: 64 MiB as float64


def predict(
    model: Model,
    data: str | Path,
    out: str | Path,
    *,
    keep: Sequence[str] = (),
    unseen: str = "error",
    delimiter: str | None = None,
    encoding: str | None = None,
) -> int:
    """Write the prediction for each row of a data file, in its order; return how many there are.

    data: a file, or a folder of such. out: a new file that ends in .csv or .parquet. Classes give
    the column `target`, with the class, and p_CLASS for the probability of each; numbers give
    `target` in its units, or target_0, ... for a target of several columns. keep: columns of the
    data to copy in front; those of a CSV are copied as text. unseen: "error", or "zero" to take a
    category that training did not have for none of them. delimiter, encoding: of a CSV, by default
    as in training.

    Raises: ValueError for bad input, FileExistsError if `out` exists, OSError if it cannot be
    written; then nothing is left of it.
    """
    check_choice("unseen", unseen, UNSEEN)
    out, columns = Path(out), model.encoding
    suffix = _check_out(out)
    _check_unique([*keep, *output_names(columns.target)])
    options = _reading(model, delimiter, encoding)
    rows, count = _rows(columns.width), 0
    copies = reader.copies(data, keep, rows, options) if keep else itertools.repeat({})
    blocks = reader.blocks(data, kinds_to_read(columns.features), rows, options)
    filled = Filled(columns)
    with replacing(out) as part, _writer(part, suffix) as write:
        for block, copied in zip(blocks, copies, strict=False):
            x = encode_features(block, columns, model.dtype, unseen)
            write(_table(copied | _predicted(model.outputs(x), columns.target)))
            filled.update(block)
            count += len(x)
    filled.log()
    return count


def evaluate(
    model: Model,
    data: str | Path,
    *,
    unseen: str = "error",
    delimiter: str | None = None,
    encoding: str | None = None,
) -> Metrics:
    """Return the metrics of a model on a data file, which has the target too.

    data, unseen, delimiter, encoding: as in `predict`. Rows without a target are left out, and
    counted in the log.

    Raises: ValueError for bad input, also a class that training did not have, and a file without a
    target in any row.
    """
    columns, left_out = model.encoding, 0
    kinds = kinds_to_read((*columns.features, columns.target))
    options = _reading(model, delimiter, encoding)
    filled = Filled(columns)

    def batches() -> Iterator[Batch]:
        nonlocal left_out
        for block in reader.blocks(data, kinds, _rows(columns.width), options):
            filled.update(block)
            rows = np.flatnonzero(has_value(block.columns[columns.target.name]))
            left_out += block.num_rows - len(rows)
            yield Batch(*encode(block, columns, model.dtype, rows, unseen))

    metrics = measure(model.spec, columns.target, model.params, batches())
    if not metrics.rows:
        raise ValueError(f"{data}: no row has a value of the target {columns.target.name!r}")
    if left_out:
        log.warning(without_target(left_out, columns.target.name))
    filled.log()
    return metrics


def _reading(model: Model, delimiter: str | None, encoding: str | None) -> ReadOptions:
    """Return how a file is read: as that of training, but for what is given."""
    options = model.reading
    options = options._replace(
        delimiter=delimiter or options.delimiter, encoding=encoding or options.encoding
    )
    options.check()
    return options


def output_names(target: Column) -> list[str]:
    if target.categories:
        return [target.name, *(f"p_{category}" for category in target.categories)]
    return _numbered(target.name, target.width)


def _numbered(name: str, width: int) -> list[str]:
    return [name] if width == 1 else [f"{name}_{i}" for i in range(width)]


def _rows(width: int) -> int:
    return max(1, min(reader.ROWS, MAX_NUMBERS // width))


def _predicted(y_pred: np.ndarray, target: Column) -> dict[str, np.ndarray]:
    values = decode(y_pred, target)
    if not target.categories:
        return {target.name: values}
    return dict(zip(output_names(target), [values, *softmax(y_pred).T], strict=True))


def _check_out(out: Path) -> str:
    """Return the suffix of a file that can be written, and is not there."""
    suffix = out.suffix.lower()
    if suffix not in SUFFIXES:
        raise ValueError(f"`out` must be a file ending in {' or '.join(SUFFIXES)}; got {out}")
    if os.path.lexists(out):
        raise FileExistsError(f"`out` must not exist: {out}; delete it or give another name")
    if not out.parent.is_dir():
        raise ValueError(f"`out` must be in a folder that exists, got {out}")
    return suffix


def _check_unique(names: Sequence[str]) -> None:
    if repeated := [name for name, count in Counter(names).items() if count > 1]:
        raise ValueError(
            f"`keep` must not hold a column twice, or one of the predictions' columns; "
            f"got {repeated[0]!r}"
        )


def _table(block: dict[str, Any]) -> Any:
    """Return columns as an Arrow table; those of several numbers a row, (N, D), are numbered."""
    import pyarrow as pa

    names, arrays = [], []
    for name, array in block.items():
        several = np.atleast_2d(array.T) if isinstance(array, np.ndarray) else [array]
        names += _numbered(name, len(several))
        arrays += [pa.array(a) for a in several]
    _check_unique(names)
    plain = [a.cast(a.type.value_type) if pa.types.is_dictionary(a.type) else a for a in arrays]
    return pa.table(plain, names)


@contextlib.contextmanager
def _writer(path: Path, suffix: str) -> Iterator[Callable[[Any], None]]:
    """Yield what writes a table as lines, or as a row group."""
    import pyarrow as pa
    from pyarrow import csv, parquet

    kind = {".csv": csv.CSVWriter, ".parquet": parquet.ParquetWriter}[suffix]
    with contextlib.ExitStack() as stack:
        writer = None

        def write(table: Any) -> None:
            nonlocal writer
            nested = [field for field in table.schema if pa.types.is_nested(field.type)]
            if nested and suffix == ".csv":
                raise ValueError(
                    f"`keep`: column {nested[0].name!r} has type {nested[0].type}, which .csv "
                    "cannot hold; write .parquet, or leave it out"
                )
            writer = writer or stack.enter_context(kind(path, table.schema))
            writer.write_table(table)

        yield write
