"""A trained model on a data file of any size: predictions into a file, or metrics."""

from __future__ import annotations

import contextlib
import itertools
import os
import tempfile
import zipfile
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from jaxnet.runs.model import Model, softmax
from jaxnet.spec import check_choice
from jaxnet.tables import blocks
from jaxnet.tables.encoding import (
    UNSEEN,
    Column,
    decode,
    encode_features,
    encode_target,
    kinds_to_read,
)
from jaxnet.tables.metrics import Metrics

MAX_NUMBERS = 2**23  # of a block's inputs, which bounds its memory: 64 MiB as float64

Block = dict[str, list[Any]]  # the Arrow arrays (N,) of each column: one, or D for (N, D)


def predict(
    model: Model,
    data: str | Path,
    out: str | Path,
    *,
    keep: Sequence[str] = (),
    unseen: str = "error",
) -> int:
    """Write the prediction for each row of a data file, in its order; return how many there are.

    out: a new file that ends in .csv, .parquet or .npz. Classes give the column `target`, with the
    class, and p_CLASS for the probability of each; numbers give `target` in its units, or target_0,
    ... for a target of several columns, which an .npz holds as one array (N, D).
    keep: columns of the data to copy in front; those of a CSV are copied as text.
    unseen: "error", or "zero" to take a category that training did not have for none of them.

    Raises: ValueError for bad input, FileExistsError if `out` exists, OSError if it cannot be
    written; then nothing is left of it.
    """
    check_choice("unseen", unseen, UNSEEN)
    out, features = Path(out), model.encoding.features
    writer = WRITERS[_check_out(out)]
    _check_unique([*keep, *output_names(model.encoding.target)])
    rows, count = _rows(features), 0
    copies = blocks.copies(data, keep, rows) if keep else itertools.repeat({})
    with tempfile.TemporaryDirectory(prefix=f".{out.name}-", dir=out.parent) as folder:
        part = Path(folder) / out.name
        with writer(part) as write:
            tables = blocks.blocks(data, kinds_to_read(features), rows)
            for table, copied in zip(tables, copies, strict=False):
                x = encode_features(table, model.encoding, model.dtype, unseen)
                write(copied | _predicted(model.outputs(x), model.encoding.target))
                count += len(x)
        with part.open("rb") as file:
            os.fsync(file.fileno())
        part.rename(out)
    return count


def evaluate(model: Model, data: str | Path, *, unseen: str = "error") -> Metrics:
    """Return the metrics of a model on a data file, which has the target too.

    unseen: as in `predict`.

    Raises: ValueError for bad input, also a class that training did not have.
    """
    features, target = model.encoding.features, model.encoding.target
    metrics = Metrics(model.spec.loss, target)
    for table in blocks.blocks(data, kinds_to_read((*features, target)), _rows(features)):
        x = encode_features(table, model.encoding, model.dtype, unseen)
        metrics.update(model.outputs(x), encode_target(table, model.encoding, model.dtype))
    return metrics


def output_names(target: Column) -> list[str]:
    """The columns of predictions, as a CSV or Parquet file has them."""
    if target.categories:
        return [target.name, *(f"p_{category}" for category in target.categories)]
    return _spread({target.name: target.width})


def _rows(features: tuple[Column, ...]) -> int:
    width = sum(column.width for column in features)
    return max(1, min(blocks.ROWS, MAX_NUMBERS // width))


def _predicted(y_pred: np.ndarray, target: Column) -> Block:
    import pyarrow as pa

    values = decode(y_pred, target)
    if target.categories:
        names = output_names(target)[1:]
        chances = dict(zip(names, softmax(y_pred).T, strict=True))
        return {name: [pa.array(a)] for name, a in {target.name: values, **chances}.items()}
    return {target.name: [pa.array(column) for column in np.atleast_2d(values.T)]}


def _spread(widths: dict[str, int]) -> list[str]:
    """A name for each array: a column of several is numbered."""
    return [
        f"{name}_{i}" if width > 1 else name for name, width in widths.items() for i in range(width)
    ]


def _check_out(out: Path) -> str:
    """Return the suffix of a file that can be written, and is not there."""
    suffix = next((s for s in WRITERS if out.name.lower().endswith(s)), None)
    if suffix is None:
        raise ValueError(f"`out` must be a file ending in {', '.join(WRITERS)}; got {out}")
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


def _table(block: Block) -> Any:
    import pyarrow as pa

    names = _spread({name: len(arrays) for name, arrays in block.items()})
    _check_unique(names)
    arrays = [array for several in block.values() for array in several]
    plain = [
        array.cast(array.type.value_type) if pa.types.is_dictionary(array.type) else array
        for array in arrays
    ]
    return pa.Table.from_arrays(plain, names)


@contextlib.contextmanager
def _csv(path: Path) -> Iterator[Callable[[Block], None]]:
    """Yield what writes a block as lines, quoted only where it must be."""
    import pyarrow as pa
    import pyarrow.compute

    compute: Any = pa.compute  # its functions are made at run time

    def text(name: str, column: Any) -> Any:
        try:
            cast = compute.cast(column, pa.string())
        except (pa.ArrowNotImplementedError, pa.ArrowInvalid):
            raise ValueError(
                f"`keep`: column {name!r} has type {column.type}, which .csv cannot hold; "
                "write .parquet, or leave it out"
            ) from None
        if pa.types.is_boolean(column.type):
            return compute.if_else(column, "True", "False")
        quoted = compute.binary_join_element_wise(
            '"', compute.replace_substring(cast, '"', '""'), '"', ""
        )
        return compute.if_else(compute.match_substring_regex(cast, '[",\r\n]'), quoted, cast)

    with path.open("w", encoding="utf-8", newline="") as file:
        started = False

        def write(block: Block) -> None:
            nonlocal started
            table = _table(block)
            if not started:
                file.write(",".join(text("", pa.array(table.column_names)).to_pylist()) + "\n")
                started = True
            texts = [text(name, table[name]) for name in table.column_names]
            lines = compute.binary_join_element_wise(
                *texts, ",", null_handling="replace", null_replacement=""
            )
            file.write("\n".join([*lines.to_pylist(), ""]))

        yield write


@contextlib.contextmanager
def _parquet(path: Path) -> Iterator[Callable[[Block], None]]:
    from pyarrow import parquet

    with contextlib.ExitStack() as stack:
        writer = None

        def write(block: Block) -> None:
            nonlocal writer
            table = _table(block)
            writer = writer or stack.enter_context(parquet.ParquetWriter(path, table.schema))
            writer.write_table(table)

        yield write


@contextlib.contextmanager
def _npz(path: Path) -> Iterator[Callable[[Block], None]]:
    """Write Parquet first: an array's header wants the number of rows and the longest text."""
    widths, rows = {}, 0
    columns = path.with_name("columns.parquet")
    with _parquet(columns) as append:

        def write(block: Block) -> None:
            nonlocal rows
            for name, arrays in block.items():
                _check_npz(name, arrays, rows)
                widths[name] = len(arrays)
            append(block)
            rows += len(next(iter(block.values()))[0])

        yield write
    with zipfile.ZipFile(path, "w") as archive:
        names = iter(_spread(widths))
        for name, width in widths.items():
            with archive.open(f"{name}.npy", "w", force_zip64=True) as member:
                _write_array(member, columns, list(itertools.islice(names, width)), rows)


def _check_npz(name: str, arrays: list[Any], rows: int) -> None:
    import pyarrow as pa

    kind = arrays[0].type
    if pa.types.is_dictionary(kind):
        kind = kind.value_type
    text = pa.types.is_string(kind) or pa.types.is_large_string(kind)
    numbers = pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_boolean(kind)
    if not (text or numbers or pa.types.is_timestamp(kind) or pa.types.is_date(kind)):
        raise ValueError(
            f"`keep`: column {name!r} has type {kind}, which .npz cannot hold; "
            "write .parquet, or leave it out"
        )
    missing = np.array([array.is_null().to_numpy(zero_copy_only=False) for array in arrays])
    if missing.any():
        raise ValueError(
            f"`keep`: row {rows + int(missing.any(axis=0).argmax()) + 1}, column {name!r}: the "
            "value is missing, which .npz cannot hold; write .csv or .parquet"
        )


def _write_array(member: Any, columns: Path, names: list[str], rows: int) -> None:
    """Write columns of a Parquet file as one array, (N,) or (N, D), in the format of NumPy."""
    from pyarrow import parquet

    def parts() -> Iterator[np.ndarray]:
        with parquet.ParquetFile(columns, buffer_size=2**20, pre_buffer=False) as file:
            for batch in file.iter_batches(blocks.ROWS, columns=names):
                arrays = [batch[name].to_numpy(zero_copy_only=False) for name in names]
                part = arrays[0] if len(names) == 1 else np.stack(arrays, axis=1)
                yield part.astype(str) if part.dtype == object else part

    dtype = max((part.dtype for part in parts()), key=lambda dtype: dtype.itemsize)
    header = {
        "descr": np.lib.format.dtype_to_descr(dtype),
        "fortran_order": False,
        "shape": (rows,) if len(names) == 1 else (rows, len(names)),
    }
    np.lib.format.write_array_header_1_0(member, header)
    for part in parts():
        member.write(part.astype(dtype).tobytes())


WRITERS = {".csv": _csv, ".parquet": _parquet, ".npz": _npz}
