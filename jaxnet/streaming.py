"""A table file in blocks of rows, so that one larger than the memory can be read."""

from __future__ import annotations

import contextlib
import shutil
import tempfile
import zipfile
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from jaxnet import tables
from jaxnet.tables import Table

ROWS = 8192


def blocks(path: str | Path, kinds: Mapping[str, str], rows: int = ROWS) -> Iterator[Table]:
    """Yield the columns named in `kinds`, `rows` rows at a time (the last block may have fewer).

    kinds: what the text of a CSV is read as, by column: "boolean", "integer", "real" or "text";
    other formats have types of their own. The files and the checks are those of `tables.read`.

    Raises: as `tables.read`; ValueError too for a missing column, and for a file that changes
    while it is read.
    """
    file, suffix = tables.find(path)
    offset = 0
    for part in _unchanged(file, _parts(file, suffix, kinds, rows)):
        if suffix == ".npz":
            columns = {name: tables.plain(file, name, part[name]) for name in kinds}
        else:
            columns = {name: tables.from_arrow(file, name, part[name], offset) for name in kinds}
        for name, column in columns.items():
            tables.check_finite(path, name, column, offset)
        yield Table(str(path), columns, offset)
        offset += len(next(iter(columns.values())))
    if not offset:
        raise ValueError(f"{path}: the table is empty")


def copies(
    path: str | Path, names: Iterable[str], rows: int = ROWS
) -> Iterator[dict[str, list[Any]]]:
    """Yield columns as they stand, missing values too, in the blocks of `blocks`.

    A column is a list of one Arrow array (N,), an (N, D) array one of D. Those of a CSV are text.
    """
    import pyarrow as pa

    file, suffix = tables.find(path)
    kinds = dict.fromkeys(names, "verbatim")
    for part in _unchanged(file, _parts(file, suffix, kinds, rows)):
        if suffix == ".npz":
            arrays = {name: tables.plain(file, name, part[name]) for name in kinds}
            yield {
                name: [pa.array(a) for a in np.atleast_2d(array.T)]
                for name, array in arrays.items()
            }
        else:
            yield {name: [part[name].combine_chunks()] for name in kinds}


def _parts(file: Path, suffix: str, kinds: Mapping[str, str], rows: int) -> Iterator[Any]:
    """Yield dictionaries of arrays, or Arrow tables, of `rows` rows."""
    if suffix == ".npz":
        return _npz(file, kinds, rows)
    read = _parquet if suffix == ".parquet" else _csv
    return _even(read(file, kinds, rows), rows)


def _unchanged(file: Path, parts: Iterator[Any]) -> Iterator[Any]:
    """Yield the parts; raise at the end, or at an error, if the file is not what it was."""
    before = file.stat()

    def check():
        now = file.stat()
        if (now.st_size, now.st_mtime_ns) != (before.st_size, before.st_mtime_ns):
            raise ValueError(
                f"{file}: the file changed while it was read; wait until it is complete"
            ) from None

    while True:
        try:
            part = next(parts, None)
        except ValueError:
            check()
            raise
        if part is None:
            return check()
        yield part


def _check_names(file: Path, names: list[str], wanted: Iterable[str]) -> None:
    if missing := [name for name in wanted if name not in names]:
        raise ValueError(
            f"{file}: no column {missing[0]!r}; the columns are {tables.list_names(names)}"
        )
    tables.check_unique(file, [name for name in names if name in set(wanted)])


def _csv(file: Path, kinds: Mapping[str, str], rows: int) -> Iterator[Any]:
    import pyarrow as pa
    from pyarrow import csv

    types = {"boolean": pa.bool_(), "integer": pa.int64(), "real": pa.float64()}
    with tables.csv_errors(file):
        options = tables.csv_options(file)
        with tables.open_text(file) as stream, csv.open_csv(stream, *options) as reader:
            names = reader.schema.names
    _check_names(file, names, kinds)
    convert = csv.ConvertOptions(
        column_types={name: types.get(kind, pa.string()) for name, kind in kinds.items()},
        include_columns=list(kinds),
        strings_can_be_null="verbatim" not in kinds.values(),
    )
    with (
        tables.csv_errors(file, names),
        tables.open_text(file) as stream,
        csv.open_csv(stream, *options, convert) as reader,
    ):
        yield from reader


def _parquet(file: Path, kinds: Mapping[str, str], rows: int) -> Iterator[Any]:
    from pyarrow import parquet

    # Buffered, or a row group's columns would be read whole.
    with (
        tables.parquet_errors(file),
        parquet.ParquetFile(file, buffer_size=2**20, pre_buffer=False) as reader,
    ):
        _check_names(file, reader.schema_arrow.names, kinds)
        for batch in reader.iter_batches(rows, columns=list(kinds)):
            yield batch.select(list(kinds))  # "a" has brought "a.b" along


def _even(batches: Iterator[Any], rows: int) -> Iterator[Any]:
    """Yield Arrow tables of `rows` rows, the last one maybe fewer."""
    import pyarrow as pa

    parts, count = [], 0
    for batch in batches:
        while batch.num_rows:
            part = batch.slice(0, rows - count)
            batch = batch.slice(part.num_rows)
            parts, count = [*parts, part], count + part.num_rows
            if count == rows:
                yield pa.Table.from_batches(parts)
                parts, count = [], 0
    if parts:
        yield pa.Table.from_batches(parts)


def _npz(file: Path, names: Iterable[str], rows: int) -> Iterator[dict[str, np.ndarray]]:
    with contextlib.ExitStack() as stack:
        with tables.npz_errors(file):
            archive = stack.enter_context(zipfile.ZipFile(file))
        members = [name.removesuffix(".npy") for name in archive.namelist()]
        _check_names(file, members, names)
        with tables.npz_errors(file):
            arrays = {
                name: _Member(archive, archive.namelist()[members.index(name)], stack)
                for name in names
            }
        length = tables.check_lengths(file, {name: a.shape for name, a in arrays.items()})
        for start in range(0, length, rows):
            count = min(rows, length - start)
            with tables.npz_errors(file):
                block = {name: array.read(start, count) for name, array in arrays.items()}
            yield block


class _Member:
    """An array of an .npz file, read some rows after the others."""

    def __init__(self, archive: zipfile.ZipFile, name: str, stack: contextlib.ExitStack):
        self.stream: Any = stack.enter_context(archive.open(name))
        version = np.lib.format.read_magic(self.stream)
        readers = {
            (1, 0): np.lib.format.read_array_header_1_0,
            (2, 0): np.lib.format.read_array_header_2_0,
        }
        if version not in readers:
            raise ValueError(f"{name} has the format version {version}")
        self.shape, self.columnwise, self.dtype = readers[version](self.stream)
        if self.dtype.hasobject:
            raise ValueError("Object arrays cannot be loaded when allow_pickle=False")
        if self.columnwise and len(self.shape) > 1:  # a row lies scattered: on the disk, then
            unpacked = stack.enter_context(tempfile.TemporaryFile())  # noqa: SIM115
            shutil.copyfileobj(self.stream, unpacked, 2**20)
            self.stream = unpacked

    def read(self, start: int, count: int) -> np.ndarray:
        """Return the rows from `start`, which follow those read last."""
        shape = (count, *self.shape[1:])
        if not self.columnwise or len(self.shape) < 2:
            size = int(np.prod(shape)) * self.dtype.itemsize
            content = self.stream.read(size)
            if len(content) < size:
                raise ValueError("an array ends early")
            return np.ndarray(shape, self.dtype, content)
        # A map for each block, so that the pages of the last are given back.
        whole = np.memmap(self.stream, self.dtype, "r", shape=self.shape, order="F")
        return np.array(whole[start : start + count], order="C")
