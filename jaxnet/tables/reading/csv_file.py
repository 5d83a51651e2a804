"""CSV files: their cells as text, read by pyarrow some whole rows at a time."""

from __future__ import annotations

import contextlib
import re
import zlib
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from jaxnet.tables.reading.dialect import MAX_ROW_BYTES, Dialect, open_text, sniff
from jaxnet.tables.reading.forms import functions
from jaxnet.tables.reading.options import ReadOptions
from jaxnet.tables.reading.quotes import find_rows, without_spaces
from jaxnet.tables.table import empty, fault, quote

BLOCK_BYTES = 2**20  # of text, parsed at once; a longer row takes more


def read_dialect(file: Path, options: ReadOptions) -> Dialect:
    with _errors(file):
        return sniff(file, options)


def batches(
    file: Path,
    names: list[str],
    options: ReadOptions,
    known: Callable[[], Mapping[str, str]] = dict,
    *,
    verbatim: bool = False,
) -> Iterator[Any]:
    """Yield columns in order, as record batches of strings, null for a missing value.

    known: asked before each batch for the columns to be read as integer, real or boolean, which is
    faster; if a value is none, all are strings. verbatim: take no text for a missing value.

    Raises: ValueError for a file that cannot be read.
    """
    import pyarrow as pa

    with _errors(file):
        dialect, rows = sniff(file, options), 0
        found = {name: place for place, name in enumerate(dialect.names)}
        places = {str(found[name]): name for name in names}
        padding = [str(len(dialect.names) + i) for i in range(dialect.padding)]
        text = dict.fromkeys([*places, *padding], "text")
        for chunk, doubled in _chunks(file, dialect):
            kinds = known()
            typed = text | {place: kinds.get(name, "text") for place, name in places.items()}
            table = None
            if typed != text:
                with contextlib.suppress(pa.ArrowInvalid):
                    table = _parse(chunk, dialect, typed, options)
            if table is None:
                with _rows_named(file, dialect, rows):
                    table = _parse_text(chunk, dialect, text, options, verbatim)
            columns = [table[place].chunk(0) for place in places]
            if doubled and not verbatim:
                columns = [_without_empty(column) for column in columns]
            _check_padding(file, [table[place] for place in padding], dialect, rows)
            rows += table.num_rows
            yield pa.RecordBatch.from_arrays(columns, names=names)


def _parse_text(
    chunk: Any, dialect: Dialect, text: Mapping[str, str], options: ReadOptions, verbatim: bool
) -> Any:
    import pyarrow as pa

    try:
        return _parse(chunk, dialect, text, options, verbatim=verbatim)
    except pa.ArrowInvalid:
        _parse(chunk, dialect, text, options, threads=False)  # the error counts the rows
        raise


def _parse(
    chunk: Any,
    dialect: Dialect,
    kinds: Mapping[str, str],
    options: ReadOptions,
    *,
    verbatim: bool = False,
    threads: bool = True,  # with which the rows are not counted in errors
) -> Any:
    import pyarrow as pa
    from pyarrow import csv

    types = {
        "text": pa.string(),
        "integer": pa.int64(),
        "real": pa.float64(),
        "boolean": pa.bool_(),
    }
    names = [str(i) for i in range(len(dialect.names) + dialect.padding)]
    return csv.read_csv(
        pa.BufferReader(chunk),
        csv.ReadOptions(use_threads=threads, block_size=chunk.size + 1, column_names=names),
        csv.ParseOptions(delimiter=dialect.delimiter, newlines_in_values=True),
        csv.ConvertOptions(
            include_columns=list(kinds),
            column_types={place: types[kind] for place, kind in kinds.items()},
            strings_can_be_null=not verbatim,
            quoted_strings_can_be_null=bool(options.missing_words),
            null_values=["", *options.words],
            true_values=["true", "True", "TRUE"],  # and not 1
            false_values=["false", "False", "FALSE"],
        ),
    )


def _without_empty(column: Any) -> Any:
    """Return a column with null for an empty string."""
    import pyarrow as pa

    compute = functions()

    if not pa.types.is_string(column.type):
        return column
    return compute.if_else(compute.equal(column, ""), pa.scalar(None, pa.string()), column)


def _chunks(file: Path, dialect: Dialect) -> Iterator[tuple[Any, bool]]:
    """Yield the rows of a file as buffers of UTF-8 text, some whole rows at a time, and whether
    two quotes follow each other there.
    """
    data, place, skip = b"", 0, dialect.start
    with open_text(file, dialect.encoding) as read:
        while block := read(max(BLOCK_BYTES, len(data))):
            data += block
            if skip:
                place += min(skip, len(data))
                skip, data = max(0, skip - len(data)), data[skip:]
            found = find_rows(data, dialect.delimiter, dialect.spaced)
            if found.end:
                yield _buffer(data, found.end, dialect), found.doubled
                place, data = place + found.end, data[found.end :]
            elif len(data) > MAX_ROW_BYTES:
                what = f"line {_line(file, dialect, place)}: a row is longer than"
                why = "; is a quote never closed?" * (found.opened >= 0)
                raise ValueError(f"{file}: {what} {MAX_ROW_BYTES:,} bytes{why}")
    found = find_rows(data, dialect.delimiter, dialect.spaced)
    if found.opened >= 0:
        line = _line(file, dialect, place + found.opened)
        text = quote(data[found.opened : found.opened + 100].decode(errors="replace"))
        raise ValueError(f"{file}: line {line}: a quote is never closed: {text}")
    if data.strip(b"\r\n"):
        yield _buffer(data, len(data), dialect), found.doubled


def _buffer(data: bytes, end: int, dialect: Dialect) -> Any:
    import pyarrow as pa

    if dialect.spaced:
        return pa.py_buffer(without_spaces(data[:end], dialect.delimiter))
    return pa.py_buffer(data).slice(0, end)


def _line(file: Path, dialect: Dialect, place: int) -> int:
    """Return the number of the line at a place in the text, counted in bytes."""
    lines = 1
    with open_text(file, dialect.encoding) as read:
        while place > 0 and (block := read(BLOCK_BYTES)):
            lines += block.count(b"\n", 0, place)
            place -= len(block)
    return lines


def _check_padding(file: Path, columns: list[Any], dialect: Dialect, rows: int) -> None:
    """Refuse a value in the columns after the last that has a name."""
    for column in columns:
        if column.null_count < len(column):
            row = rows + column.is_valid().to_pylist().index(True) + 1
            raise _widths(file, row, "more", dialect)


def _widths(file: Path, row: int, got: str, dialect: Dialect) -> ValueError:
    what = f"has {got} values where the header has {len(dialect.names)} columns"
    if not dialect.sure:
        what += f"; say what separates them if not {dialect.delimiter!r}, as `delimiter` ';'"
    return ValueError(f"{file}: row {row} {what}")


@contextlib.contextmanager
def _errors(file: Path) -> Iterator[None]:
    """Name the file in the errors of a damaged one."""
    import pyarrow

    try:
        yield
    except (pyarrow.ArrowInvalid, OSError, EOFError, zlib.error) as error:
        if isinstance(error, FileNotFoundError):
            raise
        text = str(error).splitlines()[0]
        raise (empty(file) if "Empty CSV" in text else ValueError(f"{file}: {text}")) from None


@contextlib.contextmanager
def _rows_named(file: Path, dialect: Dialect, rows: int) -> Iterator[None]:
    """Name the row and the column in pyarrow's errors, whose rows come after others."""
    import pyarrow

    try:
        yield
    except pyarrow.ArrowInvalid as error:
        text = str(error)
        if found := re.search(r"Row #(\d+): Expected \d+ columns, got (\d+)", text):
            raise _widths(file, rows + int(found[1]), found[2], dialect) from None
        found = re.search(r"column #(\d+): Row #(\d+): .* invalid UTF8", text)
        if found is None:
            raise
        name = dialect.names[int(found[1])]
        what = "the text is not UTF-8; say its encoding, as `encoding` latin-1"
        raise fault(file, name, what, rows + int(found[2])) from None
