"""The columns of one file, some rows at a time, as Arrow arrays or NumPy's."""

from __future__ import annotations

import contextlib
import os
import zipfile
import zlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from jaxnet.files import unchanged
from jaxnet.tables import csv_file, table
from jaxnet.tables.folder import Source
from jaxnet.tables.indexes import of_pandas
from jaxnet.tables.options import ReadOptions

ROWS = 8192  # of a block


class Header(NamedTuple):
    """The names of a file's columns. index: which of them are the index of a pandas frame. commas:
    commas separate them. notes: lines that say how the file is read.
    """

    names: list[str]
    index: Sequence[str] = ()
    commas: bool = False
    notes: Sequence[str] = ()


def read_header(source: Source, options: ReadOptions) -> Header:
    """Raises: ValueError for a file that cannot be read."""
    file, suffix = source.file, table.suffix_of(source.file)
    if suffix == ".npz":
        with _errors(file, ".npz file without pickled objects"), zipfile.ZipFile(file) as archive:
            return Header([name.removesuffix(".npy") for name in archive.namelist()])
    if suffix == ".parquet":
        schema = metadata(file).schema.to_arrow_schema()
        return Header([*schema.names, *source.keys], of_pandas(schema))
    dialect = csv_file.read_dialect(file, options)
    names = [*dialect.names, *source.keys]
    return Header(names, (), dialect.delimiter == ",", dialect.notes)


def parts(
    source: Source,
    names: list[str],
    rows: int,
    options: ReadOptions,
    *,
    verbatim: bool = False,
) -> Iterator[dict[str, Any]]:
    """Yield columns, some rows at a time: as Arrow arrays, or those of an .npz that are no text as
    they are. rows: how many, 0 for as many as are read at once. verbatim: the text of a CSV is
    never missing.
    """
    file, suffix = source.file, table.suffix_of(source.file)
    with unchanged(file):
        table.check_wanted(file, read_header(source, options).names, names)
        if suffix == ".npz":
            columns = _npz(file, names)
            step = rows or max(1, len(columns[names[0]]))
            for start in range(0, len(columns[names[0]]), step):
                yield {n: column[start : start + step] for n, column in columns.items()}
            return
        own = [name for name in names if name not in source.keys]
        if suffix == ".parquet":
            batches = _parquet(file, own, rows or ROWS)
        else:
            batches = csv_file.batches(file, own, options, verbatim=verbatim)
        for batch in _even(batches, rows) if rows else batches:
            yield {name: _column(source, batch, name) for name in names}


def _column(source: Source, batch: Any, name: str) -> Any:
    import pyarrow as pa

    if name not in source.keys:
        column = batch[name]
        return column.combine_chunks() if isinstance(column, pa.ChunkedArray) else column
    return pa.array([source.keys[name]] * batch.num_rows, pa.string())


def _even(batches: Iterator[Any], rows: int) -> Iterator[Any]:
    """Yield the rows of record batches as Arrow tables of `rows` rows, the last maybe of fewer."""
    import pyarrow as pa

    some, count = [], 0
    for batch in batches:
        while batch.num_rows:
            part = batch.slice(0, rows - count)
            batch = batch.slice(part.num_rows)
            some, count = [*some, part], count + part.num_rows
            if count == rows:
                yield pa.Table.from_batches(some)
                some, count = [], 0
    if some:
        yield pa.Table.from_batches(some)


def _parquet(file: Path, names: list[str], rows: int) -> Iterator[Any]:
    import pyarrow as pa
    from pyarrow import parquet

    # Buffered, or a row group's columns would be read whole.
    buffer = min(2**20, max(2**14, 2**27 // max(1, len(names))))
    options = {"buffer_size": buffer, "pre_buffer": False}
    with (
        _errors(file, "Parquet file"),
        parquet.ParquetFile(pa.OSFile(os.fsencode(file)), **options) as reader,
    ):
        for batch in reader.iter_batches(rows, columns=names):
            yield batch.select(names)  # "a" has brought "a.b" along


def metadata(file: Path) -> Any:
    """Return pyarrow's metadata of a Parquet file. Raises: ValueError."""
    import pyarrow as pa
    from pyarrow import parquet

    with _errors(file, "Parquet file"), pa.OSFile(os.fsencode(file)) as opened:
        return parquet.read_metadata(opened)


def _npz(file: Path, names: list[str]) -> dict[str, Any]:
    """Return arrays as columns: text as Arrow's, more dimensions flattened to (N, D)."""
    import pyarrow as pa

    with (
        _errors(file, ".npz file without pickled objects"),
        np.load(file, allow_pickle=False) as stored,
    ):
        arrays = {name: stored[name] for name in names}
    table.check_lengths(file, {name: array.shape for name, array in arrays.items()})
    for name, array in arrays.items():
        text = array.dtype.kind == "U" and array.ndim == 1
        if not text and array.dtype.kind not in "biufM":
            what = f"must be numbers, booleans, dates or text (N,), got {array.dtype}"
            raise table.fault(file, name, what)
        if len(array) and not array.size:
            raise table.fault(file, name, f"must hold values, got shape {array.shape}")
        if array.dtype.kind == "M":
            array = array.astype("M8[us]")
        array = array.astype(array.dtype.newbyteorder("="), copy=False)
        arrays[name] = array.reshape(len(array), -1) if array.ndim > 2 else array
    return {n: pa.array(a) if a.dtype.kind == "U" else a for n, a in arrays.items()}


@contextlib.contextmanager
def _errors(file: Path, kind: str) -> Iterator[None]:
    """Name the file that cannot be read; pyarrow's errors are ValueError and OSError too."""
    damage = (ValueError, OSError, EOFError, RuntimeError, zipfile.BadZipFile, zlib.error)
    try:
        yield
    except damage as error:
        reason = str(error).partition("\n")[0]
        raise ValueError(f"{file}: not a readable {kind} ({reason})") from None
