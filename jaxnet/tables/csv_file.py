"""CSV files, read by pyarrow a block of text at a time."""

from __future__ import annotations

import contextlib
import csv
import gzip
import re
import zlib
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from jaxnet.tables.table import empty, fault, is_number, suffix_of, wrong_kind

BLOCK_BYTES = 2**20  # of text, parsed at once; a row must fit
MAX_BLOCK_BYTES = 2**30
KINDS = {"double": "real", "int64": "integer", "bool": "boolean"}  # by pyarrow's names of types


class WrongKind(ValueError):
    """A value, `text`, does not have the Arrow type with which its column is read."""

    def __init__(self, error: ValueError, name: str, type: str, text: str):
        super().__init__(*error.args)
        self.name, self.type, self.text = name, type, text


def read_names(file: Path) -> list[str]:
    with _errors(file, []):
        return _header(file)[1]


def batches(file: Path, kinds: Mapping[str, str | None]) -> Iterator[Any]:
    """Yield columns in order as record batches.

    kinds: what each is read as: "boolean", "integer", "real", "date", "text", or "verbatim", which
    takes no text for a missing value; None takes what the first block's values are.

    Raises: WrongKind; ValueError for a file that cannot be read.
    """
    import pyarrow as pa

    with _errors(file, read_names(file)):
        reader = _open(file, kinds)
        binary = [field.name for field in reader.schema if pa.types.is_binary(field.type)]
        if binary:  # as text, which names the row that is not UTF-8
            reader = _open(file, {**kinds, **dict.fromkeys(binary, "text")})
        yield from reader


def settled(file: Path, names: list[str], use: Callable[[Iterator[Any]], Any]) -> Any:
    """Return use(batches), of columns whose kinds hold from the first row to the last.

    The file is read again from the start with a wider kind where a later value needs one.
    """
    kinds: dict[str, str | None] = dict.fromkeys(names)
    while True:
        try:
            return use(batches(file, kinds))
        except WrongKind as error:  # the next kind that pyarrow tries for the values of a column
            wider = "real" if is_number(error.text) else "boolean"
            time = error.type.startswith(("date", "time")) and error.type != "timestamp[us]"
            kinds[error.name] = wider if error.type == "int64" else "date" if time else "text"


def _open(file: Path, kinds: Mapping[str, str | None]) -> Any:
    import pyarrow as pa
    from pyarrow import csv

    delimiter, names = _header(file)
    packed = suffix_of(file) == ".csv.gz"  # pyarrow itself does not know .GZ
    stream = pa.input_stream(str(file), compression="gzip" if packed else None)
    size = min(max(BLOCK_BYTES, 32 * len("".join(names).encode())), MAX_BLOCK_BYTES)
    types = {"boolean": pa.bool_(), "integer": pa.int64(), "real": pa.float64()}
    types |= {"date": pa.timestamp("us"), "text": pa.string(), "verbatim": pa.string()}
    return csv.open_csv(
        stream,
        csv.ReadOptions(use_threads=False, block_size=size),  # threads would not count the rows
        csv.ParseOptions(delimiter=delimiter, newlines_in_values=True),
        csv.ConvertOptions(
            include_columns=list(kinds),
            column_types={name: types[kind.split()[0]] for name, kind in kinds.items() if kind},
            strings_can_be_null="verbatim" not in kinds.values(),
        ),
    )


def _header(file: Path) -> tuple[str, list[str]]:
    """Return the one of , ; and tab that cuts the header into the most names, and these."""
    open_ = gzip.open if suffix_of(file) == ".csv.gz" else open

    def names(delimiter: str) -> list[str]:
        # The text after the header may be anything: what is wrong there has a row.
        with open_(file, "rt", encoding="utf-8-sig", errors="surrogateescape", newline="") as text:
            with contextlib.suppress(csv.Error):  # a name is too long: another delimiter cuts it
                return next(filter(None, csv.reader(text, delimiter=delimiter)), [])
            return []

    delimiter, header = max(((d, names(d)) for d in ",;\t"), key=lambda found: len(found[1]))
    "".join(header).encode()  # refuses what is not UTF-8
    if not header:
        raise empty(file)
    return delimiter, header


@contextlib.contextmanager
def _errors(file: Path, columns: list[str]) -> Iterator[None]:
    """Name the file, and the row and column of its `columns`, in pyarrow's errors."""
    import pyarrow

    try:
        yield
    except UnicodeEncodeError:  # of the header
        raise ValueError(f"{file}: the text is not UTF-8") from None
    except (pyarrow.ArrowInvalid, OSError, EOFError, zlib.error) as error:
        raise _translated(file, str(error), columns) from None


def _translated(file: Path, text: str, columns: list[str]) -> ValueError:
    """Return pyarrow's error in one line of ours; its "Row #3" counts the header."""
    found = re.search(r"column #(\d+): Row #(\d+): .* error to ([^:]+): (.*)", text, re.DOTALL)
    if found:
        name, row = columns[int(found[1])], int(found[2]) - 1
        value = re.fullmatch("invalid value '(.*)'", found[4], re.DOTALL)
        if value is None:
            return fault(file, name, "the text is not UTF-8", row)
        error = wrong_kind(file, row, name, value[1], KINDS.get(found[3], "real"))
        return WrongKind(error, name, found[3], value[1])
    if found := re.search(r"Row #(\d+): Expected (\d+) columns, got (\d+)", text):
        text = (
            f"row {int(found[1]) - 1} has {found[3]} values where the header has {found[2]} columns"
        )
    elif "straddl" in text:
        text = f"a row is longer than {BLOCK_BYTES:,} bytes; is there a quote that is never closed?"
    return empty(file) if "Empty CSV" in text else ValueError(f"{file}: {text.splitlines()[0]}")
