"""A CSV in blocks of whole lines, and the kinds of its columns."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping
from pathlib import Path
from typing import Any

from jaxnet.tables.table import (
    check_missing,
    check_wanted,
    csv_errors,
    csv_header,
    csv_options,
    open_bytes,
    plain_arrow,
)

BYTES = 2**22  # of the text, parsed at once


def parts(
    file: Path, kinds: Mapping[str, str], start: int = 0, offset: int = 0
) -> Iterator[tuple[Any, int]]:
    """Yield the columns `kinds` of a CSV as Arrow tables, and where in its text each of them ends.

    start: where to go on, one such end, with `offset` rows before it.
    """
    import pyarrow as pa
    from pyarrow import csv

    types = {"boolean": pa.bool_(), "integer": pa.int64(), "real": pa.float64()}
    names = read_names(file)
    check_wanted(file, names, kinds)
    convert = csv.ConvertOptions(
        column_types={name: types.get(kind, pa.string()) for name, kind in kinds.items()},
        include_columns=list(kinds),
        strings_can_be_null="verbatim" not in kinds.values(),
    )
    return _parts(file, names, lambda: convert, start, offset)


def read_names(file: Path) -> list[str]:
    """The names in the header of a CSV."""
    with csv_errors(file):
        header = csv_header(file)
        return _parse(header, header).column_names


def find_kinds(file: Path, names: Collection[str]) -> dict[str, str]:
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

    for table, _ in _parts(file, read_names(file), convert, 0, 0):
        for name in names if table.num_rows else ():
            check_missing(file, name, table[name], offset)
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
        kind = plain_arrow(file, name, pa.chunked_array([], types.pop())).type
        kinds = {pa.int64(): "integer", pa.bool_(): "boolean", pa.float64(): "real"}
        return kinds.get(kind, "text")
    if types == {pa.int64(), pa.float64()}:
        return "real"
    return "boolean" if types == {pa.int64(), pa.bool_()} and bits else "text"


def _parts(
    file: Path, names: list[str], convert: Callable[[], Any], start: int, offset: int
) -> Iterator[tuple[Any, int]]:
    """Yield a CSV's parts as Arrow tables, and where each ends; `convert` is asked at each."""
    with csv_errors(file, names):
        header = csv_header(file)
        texts = _texts(file, header, start)
    while True:
        with csv_errors(file, names, offset):
            text, stop = next(texts, (None, 0))
            if text is None:
                return
            table = _parse(header, text, convert())
        offset += table.num_rows
        yield table, stop


def _parse(header: bytes, text: bytes, convert: Any = None) -> Any:
    import pyarrow as pa
    from pyarrow import csv

    read, parse = csv_options(header)
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
    size = max(BYTES, 32 * len(header))
    with open_bytes(file) as stream:
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
