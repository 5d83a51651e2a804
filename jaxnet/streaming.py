"""A table file in blocks of rows, so that one larger than the memory can be read."""

from __future__ import annotations

import contextlib
import shutil
import tempfile
import zipfile
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from jaxnet import tables
from jaxnet.tables import Table

ROWS = 8192
CSV_BYTES = 2**22  # of a CSV's text, parsed at once


def blocks(path: str | Path, kinds: Mapping[str, str], rows: int = ROWS) -> Iterator[Table]:
    """Yield the columns named in `kinds`, `rows` rows at a time (the last block may have fewer).

    kinds: what the text of a CSV is read as, by column: "boolean", "integer", "real" or "text";
    other formats have types of their own. The files and the checks are those of `tables.read`.

    Raises: as `tables.read`; ValueError too for a missing column, and for a file that changes
    while it is read.
    """
    file, suffix = tables.find(path)
    offset = 0
    for part in unchanged(file, _parts(file, suffix, kinds, rows)):
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
    for part in unchanged(file, _parts(file, suffix, kinds, rows)):
        if suffix == ".npz":
            arrays = {name: tables.plain(file, name, part[name]) for name in kinds}
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

    with tables.parquet_errors(file):
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
    return csv_names(file)


def dtypes(file: Path, names: Collection[str]) -> dict[str, np.dtype]:
    """The dtypes with which `tables.read` reads columns of a CSV or Parquet file, object for text.

    Those of a CSV take a pass over it; there are none if it has no rows.
    """
    if not file.name.lower().endswith(".parquet"):
        types = {"text": object, "boolean": bool, "integer": np.int64, "real": np.float64}
        return {name: np.dtype(types[kind]) for name, kind in csv_kinds(file, names).items()}
    schema = _parquet_schema(file)
    _check_names(file, schema.names, names)
    empty = schema.empty_table()
    return {name: tables.from_arrow(file, name, empty[name]).dtype for name in names}


def parts(
    file: Path, kinds: Mapping[str, str], rows: int, start: int = 0, offset: int = 0
) -> Iterator[tuple[Any, int]]:
    """Yield a CSV or Parquet file as Arrow tables, and the place at which each ends: `start` to go
    on there, with `offset` rows before it. rows: the most that are read of a Parquet file at once.
    """
    if file.name.lower().endswith(".parquet"):
        return parquet_parts(file, kinds, rows, start)
    return csv_parts(file, kinds, start, offset)


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


def _check_names(file: Path, names: list[str], wanted: Iterable[str]) -> None:
    if missing := [name for name in wanted if name not in names]:
        raise ValueError(
            f"{file}: no column {missing[0]!r}; the columns are {tables.list_names(names)}"
        )
    tables.check_unique(file, [name for name in names if name in set(wanted)])


def _csv(file: Path, kinds: Mapping[str, str], rows: int) -> Iterator[Any]:
    return (table for table, _ in csv_parts(file, kinds))


def csv_parts(
    file: Path, kinds: Mapping[str, str], start: int = 0, offset: int = 0
) -> Iterator[tuple[Any, int]]:
    """Yield the columns `kinds` of a CSV as Arrow tables, and where in its text each of them ends.

    start: where to go on, one such end, with `offset` rows before it.
    """
    import pyarrow as pa
    from pyarrow import csv

    types = {"boolean": pa.bool_(), "integer": pa.int64(), "real": pa.float64()}
    names = csv_names(file)
    _check_names(file, names, kinds)
    convert = csv.ConvertOptions(
        column_types={name: types.get(kind, pa.string()) for name, kind in kinds.items()},
        include_columns=list(kinds),
        strings_can_be_null="verbatim" not in kinds.values(),
    )
    return _csv_parts(file, names, lambda: convert, start, offset)


def csv_names(file: Path) -> list[str]:
    """The names in the header of a CSV."""
    with tables.csv_errors(file):
        header = tables.csv_header(file)
        return _parse(header, header).column_names


def csv_kinds(file: Path, names: Collection[str]) -> dict[str, str]:
    """What kind each column is, "boolean", "integer", "real" or "text", as `tables.read` finds it.

    That takes a pass over the file. Raises: as `tables.read`, for a missing value too.
    """
    import pyarrow as pa
    import pyarrow.compute
    from pyarrow import csv

    compute: Any = pa.compute  # its functions are made at run time
    found: dict[str, set] = {name: set() for name in names}
    bits = dict.fromkeys(names, True)
    offset = 0

    def convert() -> Any:
        text = {name: pa.string() for name in names if pa.string() in found[name]}
        options = {"include_columns": list(names), "strings_can_be_null": True}
        return csv.ConvertOptions(column_types=text, **options)

    for table, _ in _csv_parts(file, csv_names(file), convert, 0, 0):
        for name in names if table.num_rows else ():
            tables.check_missing(file, name, table[name], offset)
            found[name].add(table[name].type)
            if bits[name] and pa.types.is_integer(table[name].type):
                low, high = compute.min_max(table[name]).as_py().values()
                bits[name] = 0 <= low <= high <= 1
        offset += table.num_rows
    return {name: _kind(file, name, found[name], bits[name]) for name in names if found[name]}


def _kind(file: Path, name: str, types: set, bits: bool) -> str:
    """The kind of a column whose parts are of some types: pyarrow's first that holds them all."""
    import pyarrow as pa

    if len(types) == 1 or all(pa.types.is_temporal(kind) for kind in types):
        kind = tables.plain_arrow(file, name, pa.chunked_array([], types.pop())).type
        kinds = {pa.int64(): "integer", pa.bool_(): "boolean", pa.float64(): "real"}
        return kinds.get(kind, "text")
    if types == {pa.int64(), pa.float64()}:
        return "real"
    return "boolean" if types == {pa.int64(), pa.bool_()} and bits else "text"


def _csv_parts(
    file: Path, names: list[str], convert: Callable[[], Any], start: int, offset: int
) -> Iterator[tuple[Any, int]]:
    """Yield a CSV's parts as Arrow tables, and where each ends; `convert` is asked at each."""
    with tables.csv_errors(file, names):
        header = tables.csv_header(file)
        texts = _texts(file, header, start)
    while True:
        with tables.csv_errors(file, names, offset):
            text, stop = next(texts, (None, 0))
            if text is None:
                return
            table = _parse(header, text, convert())
        offset += table.num_rows
        yield table, stop


def _parse(header: bytes, text: bytes, convert: Any = None) -> Any:
    import pyarrow as pa
    from pyarrow import csv

    read, parse = tables.csv_options(header)
    read.block_size = max(read.block_size, len(text) + 1)  # in one piece
    for threads in (True, False):  # the columns at once; only one thread counts what it refuses
        read.use_threads = threads
        try:
            return csv.read_csv(pa.BufferReader(text), read, parse, convert)
        except pa.ArrowInvalid:
            if not threads:
                raise
    return None


def _texts(file: Path, header: bytes, start: int) -> Iterator[tuple[bytes, int]]:
    """Yield the header and some whole lines of a CSV, and where these end; once, if it has none."""
    size = max(CSV_BYTES, 32 * len(header))
    with tables.open_bytes(file) as stream:
        stop = stream.seek(max(start, len(header)))
        text = stream.read(size)
        if not text and not start:
            yield header, stop
        while text:
            more = stream.read(size)
            end = _whole_lines(text) if more else len(text)
            if end:
                stop += end
                yield header + text[:end], stop
            text = text[end:] + more


def _whole_lines(text: bytes) -> int:
    """Where the last whole line ends. A newline within quotes ends none, unless all seem to be."""
    last = stop = text.rfind(b"\n") + 1
    odd = text.count(b'"', 0, stop) % 2
    while stop and odd:
        before = text.rfind(b"\n", 0, stop - 1) + 1
        odd ^= text.count(b'"', before, stop) % 2
        stop = before
    return stop or last


def _parquet(file: Path, kinds: Mapping[str, str], rows: int) -> Iterator[Any]:
    return (table for table, _ in parquet_parts(file, kinds, rows))


def _parquet_schema(file: Path) -> Any:
    from pyarrow import parquet

    with tables.parquet_errors(file):
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
        tables.parquet_errors(file),
        parquet.ParquetFile(file, buffer_size=buffer, pre_buffer=False) as reader,
    ):
        _check_names(file, reader.schema_arrow.names, names)
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
