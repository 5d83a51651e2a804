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
from jaxnet.runs.model import Model
from jaxnet.spec import Batch, check_choice
from jaxnet.tables.column import kinds_to_read
from jaxnet.tables.encoding import UNSEEN, encode_features
from jaxnet.tables.metrics import Metrics
from jaxnet.tables.missing import Filled, has_value, without_target
from jaxnet.tables.reading import reader
from jaxnet.tables.reading.folder import sources
from jaxnet.tables.reading.options import ReadOptions
from jaxnet.tables.reading.scan import header_of
from jaxnet.tables.rows import encode
from jaxnet.tables.weights import check_weights

log = logging.getLogger("jaxnet")

SUFFIXES = (".csv", ".parquet")  # of predictions
MAX_NUMBERS = 2**23  # of a block's inputs, which bounds its memory: 64 MiB as float64


def predict(
    model: Model,
    data: str | Path,
    out: Any,
    *,
    keep: Sequence[str] | str = (),
    unseen: str = "error",
    threshold: float | str | None = None,
    delimiter: str | None = None,
    encoding: str | None = None,
) -> int:
    """Write the prediction for each row of a data file or folder, in order; return their number.

    out: a new file that ends in .csv or .parquet, or a binary stream, written as CSV. Classes give
    the column `target`, with the class, and p_CLASS for the probability of each; numbers `target`
    in its units, of quantiles the median, target_low and target_high; a target of several columns
    target_0, ... keep: columns of the data to copy in front, or "all", those of a CSV as text; the
    target among them makes it target_predicted. unseen, threshold: as in `Model.predict`.
    delimiter, encoding: of a CSV, by default as in training.

    Raises: ValueError for bad input, FileExistsError if `out` exists, OSError: nothing is written.
    """
    check_choice("unseen", unseen, UNSEEN)
    columns, cut = model.encoding, model.threshold(threshold)
    suffix = ".csv" if hasattr(out, "write") else _check_out(Path(out))
    reading = reading_of(model, delimiter, encoding)
    names = output_names(model, keep := kept(data, keep, reading))
    _check_unique([*keep, *names])
    rows, count, filled = _rows(columns.width), 0, Filled(columns)
    copies = reader.copies(data, keep, rows, reading) if keep else itertools.repeat({})
    blocks = reader.blocks(data, kinds_to_read(columns.features), rows, reading)
    with _place(out) as place, _writer(place, suffix) as write:
        for block, copied in zip(blocks, copies, strict=False):
            x = encode_features(block, columns, model.dtype, unseen)
            values = zip(names, _predicted(model, model.outputs(x), cut), strict=True)
            write(_table(copied | dict(values)))
            filled.update(block)
            count += len(x)
    filled.log()
    return count


def evaluate(
    model: Model,
    data: str | Path,
    *,
    unseen: str = "error",
    threshold: float | str | None = None,
    delimiter: str | None = None,
    encoding: str | None = None,
) -> Metrics:
    """Return the metrics of a model on a data file, which has the target too.

    data, unseen, threshold, delimiter, encoding: as in `predict`. A column that weighed the rows in
    training weighs them in the loss. Rows without a target are left out, and counted in the log.

    Raises: ValueError for bad input, also a class that training did not have, and a file without a
    target in any row.
    """
    reading = reading_of(model, delimiter, encoding)
    return model.measure(batches(model, data, unseen, reading), threshold)


def batches(model: Model, data: str | Path, unseen: str, reading: ReadOptions) -> Iterator[Batch]:
    """Yield the rows of a data file with the target, encoded. Raises: as `evaluate`."""
    columns, column = model.encoding, model.weighting.column
    kinds = kinds_to_read((*columns.features, columns.target))
    kinds |= {} if column is None else {column: "real"}
    filled, left_out, count = Filled(columns), 0, 0
    for block in reader.blocks(data, kinds, _rows(columns.width), reading):
        filled.update(block)
        rows = np.flatnonzero(has_value(block.columns[columns.target.name]))
        left_out, count = left_out + block.num_rows - len(rows), count + len(rows)
        values = None if column is None else check_weights(block, column)[rows]
        x, y = encode(block, columns, model.dtype, rows, unseen)
        yield Batch(x, y, weights=model.weighting.weights(values, y, model.dtype))
    if not count:
        raise ValueError(f"{data}: no row has a value of the target {columns.target.name!r}")
    if left_out:
        log.warning(without_target(left_out, columns.target.name))
    filled.log()


def reading_of(model: Model, delimiter: str | None, encoding: str | None) -> ReadOptions:
    """Return how a file is read: as that of training, but for what is given."""
    options = model.reading
    options = options._replace(
        delimiter=delimiter or options.delimiter, encoding=encoding or options.encoding
    )
    options.check()
    return options


def kept(data: str | Path, keep: Sequence[str] | str, reading: ReadOptions) -> list[str]:
    """Return the names of the columns that `predict` copies. Raises: as `predict`."""
    if not isinstance(keep, str):
        return list(keep)
    check_choice("keep", keep, ("all",))
    return header_of(data, sources(data), reading).names


def output_names(model: Model, keep: Sequence[str] = ()) -> list[str]:
    """Return the names of the predictions' columns beside those that are kept."""
    target = model.encoding.target
    name = f"{target.name}_predicted" if target.name in keep else target.name
    if target.categories:
        return [name, *(f"p_{category}" for category in target.categories)]
    names = _numbered(name, target.width)
    if model.spec.loss != "quantile":
        return names
    own = _numbered(target.name, target.width)
    return [*names, *(f"{name}_{side}" for side in ("low", "high") for name in own)]


def _predicted(model: Model, y_pred: np.ndarray, threshold: float | None) -> list[np.ndarray]:
    """Return the columns (N,) that outputs (N, D_out) become."""
    if model.encoding.target.categories:
        return [model.decode(y_pred, threshold), *model.softmax(y_pred).T]
    if model.spec.loss != "quantile":
        return list(np.atleast_2d(model.decode(y_pred).T))
    low, middle, high = (np.atleast_2d(level.T) for level in model.quantiles(y_pred))
    return [*middle, *low, *high]


def _numbered(name: str, width: int) -> list[str]:
    return [name] if width == 1 else [f"{name}_{i}" for i in range(width)]


def _rows(width: int) -> int:
    return max(1, min(reader.ROWS, MAX_NUMBERS // width))


@contextlib.contextmanager
def _place(out: Any) -> Iterator[Any]:
    """Yield where to write: a stream, or a new file, which stays away if one has appeared."""
    if hasattr(out, "write"):
        yield out
        return
    try:
        # opened here, since pyarrow opens no path that is not UTF-8
        with replacing(Path(out), new=True) as part, part.open("wb") as file:
            yield file
    except FileExistsError:
        raise _exists(Path(out)) from None


def _exists(out: Path) -> FileExistsError:
    return FileExistsError(f"`out` must not exist: {out}; delete it or give another name")


def _check_out(out: Path) -> str:
    """Return the suffix of a file that can be written, and is not there."""
    suffix = out.suffix.lower()
    if suffix not in SUFFIXES:
        raise ValueError(f"`out` must be a file ending in {' or '.join(SUFFIXES)}; got {out}")
    if os.path.lexists(out):
        raise _exists(out)
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
def _writer(file: Any, suffix: str) -> Iterator[Callable[[Any], None]]:
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
            writer = writer or stack.enter_context(kind(file, table.schema))
            writer.write_table(table)

        yield write
