"""A table file in blocks of rows, so that one larger than the memory can be read."""

from __future__ import annotations

import contextlib
import shutil
import tempfile
import zipfile
from collections.abc import Collection, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from jaxnet.tables import csv_blocks
from jaxnet.tables.table import (
    Table,
    check_finite,
    check_lengths,
    check_wanted,
    find,
    from_arrow,
    npz_errors,
    parquet_errors,
    plain,
)

ROWS = 8192


def blocks(path: str | Path, kinds: Mapping[str, str], rows: int = ROWS) -> Iterator[Table]:
    """Yield the columns named in `kinds`, `rows` rows at a time (the last block may have fewer).

    kinds: what the text of a CSV is read as, by column: "boolean", "integer", "real" or "text";
    other formats have types of their own. The files and the checks are those of `tables.read`.

    Raises: as `tables.read`; ValueError too for a missing column, and for a file that changes
    while it is read.
    """
    file, suffix = find(path)
    offset = 0
    for part in unchanged(file, _parts(file, suffix, kinds, rows)):
        if suffix == ".npz":
            columns = {name: plain(file, name, part[name]) for name in kinds}
        else:
            columns = {name: from_arrow(file, name, part[name], offset) for name in kinds}
        for name, column in columns.items():
            check_finite(path, name, column, offset)
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

    file, suffix = find(path)
    kinds = dict.fromkeys(names, "verbatim")
    for part in unchanged(file, _parts(file, suffix, kinds, rows)):
        if suffix == ".npz":
            arrays = {name: plain(file, name, part[name]) for name in kinds}
            yield {
                name: [pa.array(a) for a in np.atleast_2d(array.T)]
                for name, array in arrays.items()
            }
        else:
            yield {name: [part[name].combine_chunks()] for name in kinds}


def estimate(file: Path) -> int:
    """About how many bytes the columns of a CSV or Parquet file take as arrays."""
    size = file.stat().st_size
    if not file.name.lower().endswith(".parquet"):
        return 4 * size if file.name.lower().endswith(".gz") else size
    from pyarrow import parquet

    with parquet_errors(file):
        metadata = parquet.read_metadata(file)
    schema, widths = metadata.schema.to_arrow_schema(), []
    for kind in schema.types:
        with contextlib.suppress(ValueError):  # text, which has no width
            widths.append(kind.bit_width / 8)
    return int(metadata.num_rows * (sum(widths) + 8 * (len(schema) - len(widths))))


def names(file: Path) -> list[str]:
    """The columns of a CSV or Parquet file."""
    if file.name.lower().endswith(".parquet"):
        return _parquet_schema(file).names
    return csv_blocks.read_names(file)


def dtypes(file: Path, names: Collection[str]) -> dict[str, np.dtype]:
    """The dtypes with which `tables.read` reads columns of a CSV or Parquet file, object for text.

    Those of a CSV take a pass over it; there are none if it has no rows.
    """
    if not file.name.lower().endswith(".parquet"):
        types = {"text": object, "boolean": bool, "integer": np.int64, "real": np.float64}
        return {
            name: np.dtype(types[kind]) for name, kind in csv_blocks.find_kinds(file, names).items()
        }
    schema = _parquet_schema(file)
    check_wanted(file, schema.names, names)
    empty = schema.empty_table()
    return {name: from_arrow(file, name, empty[name]).dtype for name in names}


def parts(
    file: Path, kinds: Mapping[str, str], rows: int, start: int = 0, offset: int = 0
) -> Iterator[tuple[Any, int]]:
    """Yield a CSV or Parquet file as Arrow tables, and the place at which each ends: `start` to go
    on there, with `offset` rows before it. rows: the most that are read of a Parquet file at once.
    """
    if file.name.lower().endswith(".parquet"):
        return parquet_parts(file, kinds, rows, start)
    return csv_blocks.parts(file, kinds, start, offset)


def _parts(file: Path, suffix: str, kinds: Mapping[str, str], rows: int) -> Iterator[Any]:
    """Yield dictionaries of arrays, or Arrow tables, of `rows` rows."""
    if suffix == ".npz":
        return _npz(file, kinds, rows)
    read = _parquet if suffix == ".parquet" else _csv
    return _even(read(file, kinds, rows), rows)


def unchanged(file: Path, parts: Iterator[Any]) -> Iterator[Any]:
    """Yield the parts of a file; raise at the end, or at an error, if it is not what it was."""
    before = file.stat()

    def check():
        now = file.stat()
        if (now.st_size, now.st_mtime_ns) != (before.st_size, before.st_mtime_ns):
            raise changed(file) from None

    while True:
        try:
            part = next(parts, None)
        except ValueError:
            check()
            raise
        if part is None:
            return check()
        yield part


def changed(file: Path) -> ValueError:
    """The error for a file that is not what it was."""
    return ValueError(f"{file}: the file changed while it was read; wait until it is complete")


def _csv(file: Path, kinds: Mapping[str, str], rows: int) -> Iterator[Any]:
    return (table for table, _ in csv_blocks.parts(file, kinds))


def _parquet(file: Path, kinds: Mapping[str, str], rows: int) -> Iterator[Any]:
    return (table for table, _ in parquet_parts(file, kinds, rows))


def _parquet_schema(file: Path) -> Any:
    from pyarrow import parquet

    with parquet_errors(file):
        return parquet.read_schema(file)


def parquet_parts(
    file: Path, names: Iterable[str], rows: int, start: int = 0
) -> Iterator[tuple[Any, int]]:
    """Yield columns of a Parquet file as Arrow tables of at most `rows` rows, and the row at which
    each of them ends; start: the row to begin at.
    """
    import pyarrow as pa
    from pyarrow import parquet

    names = list(names)
    # Buffered, or a row group's columns would be read whole.
    buffer = min(2**20, max(2**14, 2**27 // max(1, len(names))))
    with (
        parquet_errors(file),
        parquet.ParquetFile(file, buffer_size=buffer, pre_buffer=False) as reader,
    ):
        check_wanted(file, reader.schema_arrow.names, names)
        sizes = [reader.metadata.row_group(i).num_rows for i in range(reader.num_row_groups)]
        ends = np.cumsum(sizes, dtype=int)
        first = int(np.searchsorted(ends, start, "right"))
        row = int(ends[first - 1]) if first else 0
        for batch in reader.iter_batches(rows, range(first, len(sizes)), names):
            part, row = batch.slice(max(0, start - row)), row + batch.num_rows
            if part.num_rows:  # "a" has brought "a.b" along
                yield pa.Table.from_batches([part.select(names)]), row


def _even(several: Iterator[Any], rows: int) -> Iterator[Any]:
    """Yield the rows of Arrow tables `rows` at a time, the last maybe fewer."""
    import pyarrow as pa

    parts, count = [], 0
    for table in several:
        while table.num_rows:
            part = table.slice(0, rows - count)
            table = table.slice(part.num_rows)
            parts, count = [*parts, part], count + part.num_rows
            if count == rows:
                yield pa.concat_tables(parts)
                parts, count = [], 0
    if parts:
        yield pa.concat_tables(parts)


def _npz(file: Path, names: Iterable[str], rows: int) -> Iterator[dict[str, np.ndarray]]:
    with contextlib.ExitStack() as stack:
        with npz_errors(file):
            archive = stack.enter_context(zipfile.ZipFile(file))
        members = [name.removesuffix(".npy") for name in archive.namelist()]
        check_wanted(file, members, names)
        with npz_errors(file):
            arrays = {
                name: _Member(archive, archive.namelist()[members.index(name)], stack)
                for name in names
            }
        length = check_lengths(file, {name: a.shape for name, a in arrays.items()})
        for start in range(0, length, rows):
            count = min(rows, length - start)
            with npz_errors(file):
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
