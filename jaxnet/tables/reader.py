"""The one reader of table files: whole, or in blocks of rows so that a file larger than memory can
be read; CSV, Parquet and NPZ.
"""

from __future__ import annotations

import contextlib
import zipfile
import zlib
from collections.abc import Collection, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from jaxnet.files import unchanged
from jaxnet.tables import csv_file, table
from jaxnet.tables.table import Table

ROWS = 8192  # of a block


def read(path: str | Path, drop: Collection[str] = (), missing: str = "fill") -> Table:
    """Read a table from .npz, .csv, .csv.gz, .tsv or .parquet, leaving out the columns in `drop`.

    CSV: UTF-8, a header line, the delimiter (comma, semicolon or tab) taken from it. NPZ: each
    array is a column; one of more dimensions is (N, D) numbers, flattened to D per row. No pickle
    is read. missing: "fill" leaves NaN, None and NaT where a value is missing, "error" refuses it.

    Raises: FileNotFoundError; ValueError for another kind of file, a damaged or an empty one, a
    repeated or unknown column, an infinite value, and text among numbers.
    """
    file, suffix = table.find(path)
    names = table.choose(file, read_names(file), drop)
    if suffix == ".npz":
        columns: Any = _npz(file, names)
    elif suffix == ".parquet":
        columns = _together(_parquet(file, names, ROWS))
    else:
        columns = csv_file.settled(file, names, _together)
    if columns is None or not len(columns[names[0]]):
        raise table.empty(path)
    arrays = {name: _to_numpy(file, name, columns[name], 0, missing) for name in names}
    read = Table(str(path), arrays, 0, {name: kind_of(columns[name]) for name in names})
    for name, column in read.columns.items():
        if column.dtype == object:
            check_words([file], name, read.texts(name))
    return read


def blocks(
    path: str | Path, kinds: Mapping[str, str], rows: int = ROWS, missing: str = "fill"
) -> Iterator[Table]:
    """Yield the columns named in `kinds`, `rows` rows at a time (the last block may have fewer).

    kinds: what the text of a CSV is read as, by column: "boolean", "integer", "real" or "text";
    other formats have types of their own. The files and the checks are those of `read`.

    Raises: as `read`; ValueError too for a missing column, and for a file that changes while it is
    read.
    """
    offset = 0
    for part in _parts(path, kinds, rows):
        columns = {name: _to_numpy(path, name, a, offset, missing) for name, a in part.items()}
        yield Table(str(path), columns, offset, {name: kind_of(a) for name, a in part.items()})
        offset += len(next(iter(columns.values())))
    if not offset:
        raise table.empty(path)


def copies(path: str | Path, names: Iterable[str], rows: int = ROWS) -> Iterator[dict[str, Any]]:
    """Yield columns as they stand, missing values too, in the blocks of `blocks`: as Arrow arrays,
    those of a CSV of text, or those of an .npz as (N,) or (N, D).
    """
    return _parts(path, dict.fromkeys(names, "verbatim"), rows)


def read_names(file: Path) -> list[str]:
    if table.suffix_of(file) == ".npz":
        with _errors(file, ".npz file without pickled objects"), zipfile.ZipFile(file) as archive:
            return [name.removesuffix(".npy") for name in archive.namelist()]
    if table.suffix_of(file) == ".parquet":
        return _metadata(file).schema.to_arrow_schema().names
    return csv_file.read_names(file)


def scan(file: Path, names: list[str]) -> tuple[dict[str, tuple[np.dtype, str]], int]:
    """Return the dtypes with which `read` reads columns of a CSV or Parquet file, object for text,
    and their kinds, and the number of rows, in a pass over it. Without rows there are no dtypes.
    """
    if table.suffix_of(file) == ".parquet":
        schema, gaps, rows = _scan(_parquet(file, names, ROWS))
    else:
        schema, gaps, rows = csv_file.settled(file, names, _scan)
    if not rows:
        return {}, 0
    none = schema.empty_table()
    found = {}
    for name in names:
        dtype = _to_numpy(file, name, none[name], 0).dtype
        if name in gaps and dtype.kind in "biu":
            dtype = np.dtype(float)
        found[name] = dtype, kind_of(none[name])
    return found, rows


def _scan(batches: Iterator[Any]) -> tuple[Any, set[str], int]:
    """Return the schema, the columns that miss a value, and the number of rows."""
    schema, gaps, rows = None, set(), 0
    for batch in batches:
        schema, rows = batch.schema, rows + batch.num_rows
        gaps |= {name for name in schema.names if batch[name].null_count}
    return schema, gaps, rows


def estimate(file: Path) -> int:
    """Return about how many bytes the columns of a CSV or Parquet file take as arrays."""
    if table.suffix_of(file) == ".parquet":
        metadata = _metadata(file)
        return 8 * metadata.num_rows * metadata.num_columns
    return file.stat().st_size * (4 if table.suffix_of(file) == ".csv.gz" else 1)


def check_words(files: list[Path], name: str, texts: Collection[str]) -> None:
    """Refuse a column of text of which at least half of the distinct `texts`, but not all, are
    numbers, and name the first that is not.
    """
    words = sum(not table.is_number(text) for text in texts)
    if not 0 < words <= len(texts) / 2:
        return
    for file in files:
        for block in blocks(file, {name: "text"}):
            for row, text in enumerate(block.columns[name].tolist(), block.offset + 1):
                if not table.is_number(text):
                    raise table.wrong_kind(file, row, name, text)


def _parts(path: str | Path, kinds: Mapping[str, str], rows: int) -> Iterator[dict[str, Any]]:
    """Yield columns, some rows at a time: as Arrow arrays, or those of an .npz as they are."""
    file, suffix = table.find(path)
    names = list(kinds)
    with unchanged(file):
        table.check_wanted(file, read_names(file), names)
        if suffix == ".npz":
            columns = _npz(file, names)
            for start in range(0, len(columns[names[0]]), rows):
                yield {name: column[start : start + rows] for name, column in columns.items()}
            return
        parquet = suffix == ".parquet"
        batches = _parquet(file, names, rows) if parquet else csv_file.batches(file, kinds)
        for part in _even(batches, rows):
            yield {name: part[name] for name in names}


def _even(batches: Iterator[Any], rows: int) -> Iterator[Any]:
    """Yield the rows of record batches as Arrow tables of `rows` rows, the last maybe of fewer."""
    parts, count = [], 0
    for batch in batches:
        while batch.num_rows:
            part = batch.slice(0, rows - count)
            batch = batch.slice(part.num_rows)
            parts, count = [*parts, part], count + part.num_rows
            if count == rows:
                yield _together(parts)
                parts, count = [], 0
    if parts:
        yield _together(parts)


def _together(batches: Iterable[Any]) -> Any:
    """Return record batches as one Arrow table, or None if there are none."""
    import pyarrow as pa

    parts = list(batches)
    return pa.Table.from_batches(parts) if parts else None


def _parquet(file: Path, names: list[str], rows: int) -> Iterator[Any]:
    from pyarrow import parquet

    # Buffered, or a row group's columns would be read whole.
    buffer = min(2**20, max(2**14, 2**27 // max(1, len(names))))
    options = {"buffer_size": buffer, "pre_buffer": False}
    with _errors(file, "Parquet file"), parquet.ParquetFile(file, **options) as reader:
        for batch in reader.iter_batches(rows, columns=names):
            yield batch.select(names)  # "a" has brought "a.b" along


def _metadata(file: Path) -> Any:
    from pyarrow import parquet

    with _errors(file, "Parquet file"):
        return parquet.read_metadata(file)


def _npz(file: Path, names: list[str]) -> dict[str, np.ndarray]:
    """Return arrays as columns: text as objects, more dimensions flattened to (N, D)."""
    with (
        _errors(file, ".npz file without pickled objects"),
        np.load(file, allow_pickle=False) as stored,
    ):
        arrays = {name: stored[name] for name in names}
    table.check_lengths(file, {name: array.shape for name, array in arrays.items()})
    for name, array in arrays.items():
        text = array.dtype.kind == "U" and array.ndim == 1
        if not text and array.dtype.kind not in "biuf":
            what = f"must be numbers, booleans or text (N,), got {array.dtype}"
            raise table.fault(file, name, what)
        if len(array) and not array.size:
            raise table.fault(file, name, f"must hold values, got shape {array.shape}")
        array = array.astype(object if text else array.dtype.newbyteorder("="), copy=False)
        arrays[name] = array.reshape(len(array), -1) if array.ndim > 2 else array
    return arrays


@contextlib.contextmanager
def _errors(file: Path, kind: str) -> Iterator[None]:
    """Name the file that cannot be read; pyarrow's errors are ValueError and OSError too."""
    damage = (ValueError, OSError, EOFError, RuntimeError, zipfile.BadZipFile, zlib.error)
    try:
        yield
    except damage as error:
        reason = str(error).partition("\n")[0]
        raise ValueError(f"{file}: not a readable {kind} ({reason})") from None


def kind_of(column: Any) -> str:
    """Return the kind of an array, or of an Arrow array, which may miss values."""
    import pyarrow as pa

    if isinstance(column, np.ndarray):
        return table.KINDS[column.dtype.kind]
    kind = column.type.value_type if pa.types.is_dictionary(column.type) else column.type
    if pa.types.is_boolean(kind):
        return "boolean"
    if pa.types.is_string(kind) or pa.types.is_large_string(kind):
        return "text"
    if pa.types.is_date(kind) or pa.types.is_timestamp(kind):
        return "date"
    return "integer" if pa.types.is_integer(kind) else "real"


def _to_numpy(file: Any, name: str, column: Any, offset: int, missing: str = "fill") -> np.ndarray:
    """Return a column, whose rows come after `offset` others, as booleans, integers, reals, text or
    dates, with NaN, None or NaT for what is missing.

    Refuse other types, infinity, and missing values if `missing` is "error".
    """
    if not isinstance(column, np.ndarray):
        column = _from_arrow(file, name, column)
    table.check_finite(file, name, column, offset, missing)
    return column


def _from_arrow(file: Any, name: str, column: Any) -> np.ndarray:
    import pyarrow as pa

    kind = column.type
    if pa.types.is_dictionary(kind):
        column, kind = column.cast(kind.value_type), kind.value_type
    if pa.types.is_string(kind) or pa.types.is_large_string(kind):
        coded = column.combine_chunks().dictionary_encode()  # one Python string for each text
        texts = np.array([*coded.dictionary.to_pylist(), None], object)
        return texts[coded.indices.fill_null(len(texts) - 1).to_numpy(zero_copy_only=False)]
    if pa.types.is_date(kind) or pa.types.is_timestamp(kind):  # with a zone: in UTC
        return column.cast(pa.timestamp("us", getattr(kind, "tz", None))).to_numpy()
    if pa.types.is_null(kind) or pa.types.is_decimal(kind):
        return column.cast(pa.float64()).to_numpy()
    if not (pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_boolean(kind)):
        what = f"has type {kind}; make it numbers, dates or UTF-8 text, or drop the column"
        raise table.fault(file, name, what)
    if column.null_count and not pa.types.is_floating(kind):
        if pa.types.is_boolean(kind):
            column = column.cast(pa.int8())
        return column.cast(pa.float64(), safe=False).to_numpy()
    return column.to_numpy()
