"""CSV files: their cells as text, read by pyarrow some whole rows at a time."""

from __future__ import annotations

import contextlib
import re
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from jaxnet.tables.dialect import MAX_ROW_BYTES, Dialect, open_text, sniff
from jaxnet.tables.forms import functions
from jaxnet.tables.options import ReadOptions
from jaxnet.tables.quotes import last_row_end, without_spaces
from jaxnet.tables.table import empty, fault, quote

BLOCK_BYTES = 2**20  # of text, parsed at once; a longer row takes more


def read_dialect(file: Path, options: ReadOptions) -> Dialect:
    with _errors(file):
        return sniff(file, options)


def batches(
    file: Path, names: list[str], options: ReadOptions, *, verbatim: bool = False
) -> Iterator[Any]:
    """Yield columns in order, as record batches of strings, null for a missing value.

    verbatim: take no text for a missing value.

    Raises: ValueError for a file that cannot be read.
    """
    import pyarrow as pa
    from pyarrow import csv

    with _errors(file):
        dialect, rows = sniff(file, options), 0
        places = [str(dialect.names.index(name)) for name in names]
        every = [str(i) for i in range(len(dialect.names) + dialect.padding)]
        padding = every[len(dialect.names) :]
        convert = csv.ConvertOptions(
            include_columns=[*places, *padding],
            column_types=dict.fromkeys([*places, *padding], pa.string()),
            strings_can_be_null=not verbatim,
            quoted_strings_can_be_null=bool(options.missing_words),
            null_values=["", *options.words],
        )
        parse = csv.ParseOptions(delimiter=dialect.delimiter, newlines_in_values=True)
        for chunk in _chunks(file, dialect):
            read = csv.ReadOptions(block_size=len(chunk) + 1, column_names=every)
            try:
                table = csv.read_csv(pa.BufferReader(chunk), read, parse, convert)
            except pa.ArrowInvalid:
                read.use_threads = False  # which counts the rows
                with _rows_named(file, dialect, rows):
                    table = csv.read_csv(pa.BufferReader(chunk), read, parse, convert)
                    raise
            columns = [table[place].chunk(0) for place in places]
            if b'""' in chunk and not verbatim:
                columns = [_without_empty(column) for column in columns]
            _check_padding(file, [table[place] for place in padding], dialect, rows)
            rows += table.num_rows
            yield pa.RecordBatch.from_arrays(columns, names=names)


def _without_empty(column: Any) -> Any:
    """Return strings with null for an empty one."""
    import pyarrow as pa

    compute = functions()

    return compute.if_else(compute.equal(column, ""), pa.scalar(None, pa.string()), column)


def _chunks(file: Path, dialect: Dialect) -> Iterator[bytes]:
    """Yield the rows of a file as UTF-8 text, some whole rows at a time."""
    data, place, skip = b"", 0, dialect.start
    with open_text(file, dialect.encoding) as read:
        while block := read(max(BLOCK_BYTES, len(data))):
            data += block
            if skip:
                place += min(skip, len(data))
                skip, data = max(0, skip - len(data)), data[skip:]
            end, opened = last_row_end(data, dialect.delimiter, dialect.spaced)
            if end:
                yield _spaceless(data[:end], dialect)
                place, data = place + end, data[end:]
            elif len(data) > MAX_ROW_BYTES:
                what = f"line {_line(file, dialect, place)}: a row is longer than"
                why = "; is a quote never closed?" * (opened >= 0)
                raise ValueError(f"{file}: {what} {MAX_ROW_BYTES:,} bytes{why}")
    opened = last_row_end(data, dialect.delimiter, dialect.spaced)[1]
    if opened >= 0:
        line = _line(file, dialect, place + opened)
        text = quote(data[opened : opened + 100].decode(errors="replace"))
        raise ValueError(f"{file}: line {line}: a quote is never closed: {text}")
    if data.strip():
        yield _spaceless(data, dialect)


def _line(file: Path, dialect: Dialect, place: int) -> int:
    """Return the number of the line at a place in the text, counted in bytes."""
    lines = 1
    with open_text(file, dialect.encoding) as read:
        while place > 0 and (block := read(BLOCK_BYTES)):
            lines += block.count(b"\n", 0, place)
            place -= len(block)
    return lines


def _spaceless(data: bytes, dialect: Dialect) -> bytes:
    return without_spaces(data, dialect.delimiter) if dialect.spaced else data


def _check_padding(file: Path, columns: list[Any], dialect: Dialect, rows: int) -> None:
    """Refuse a value in the columns after the last that has a name."""
    for column in columns:
        if column.null_count < len(column):
            row = rows + column.is_valid().to_pylist().index(True) + 1
            raise _widths(file, row, "more", dialect)


def _widths(file: Path, row: int, got: str, dialect: Dialect) -> ValueError:
    sign = repr(dialect.delimiter)
    what = f"has {got} values where the header has {len(dialect.names)} columns"
    advice = f"correct it, or say what separates the columns if not {sign}, as --delimiter ';'"
    return ValueError(f"{file}: row {row} {what}; {advice}")


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
        what = "the text is not UTF-8; say its encoding, as --encoding latin-1"
        raise fault(file, name, what, rows + int(found[2])) from None
