"""Tables from disk: the columns of a CSV, Parquet or NPZ file by name.

Every error names the file, and the row and column where there is one; data rows are counted from 1.
"""

from __future__ import annotations

import contextlib
import gzip
import re
import zipfile
import zlib
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np


class Table(NamedTuple):
    """The columns of a file by name: numbers or booleans (N,) or (N, D), or text (N,) objects.

    offset: how many rows of the file come before these.
    """

    path: str
    columns: dict[str, np.ndarray]
    offset: int = 0


SUFFIXES = (".npz", ".csv", ".csv.gz", ".tsv", ".parquet")
DAMAGED_NPZ = (ValueError, OSError, EOFError, RuntimeError, zipfile.BadZipFile, zlib.error)
DAMAGED_CSV = (UnicodeDecodeError, OSError, EOFError, zlib.error)
NOT = {  # what a value is that does not have its column's type, by the name of the type
    "double": "text in a column of numbers",
    "int64": "no integer in a column of integers",
    "bool": "neither true nor false",
}


def read(path: str | Path, drop: Collection[str] = ()) -> Table:
    """Read a table from .npz, .csv, .csv.gz, .tsv or .parquet, leaving out the columns in `drop`.

    CSV: UTF-8, a header line, the delimiter (comma, semicolon or tab) taken from it. NPZ: each
    array is a column; one of more dimensions is (N, D) numbers, flattened to D per row. No pickle
    is read.

    Raises: FileNotFoundError; ValueError for another kind of file, a damaged or an empty one, a
    repeated or unknown column, a missing or non-finite value, and text among the numbers of a
    column.
    """
    file, suffix = find(path)
    readers = {".npz": _read_npz, ".parquet": _read_parquet}
    columns = readers.get(suffix, _read_csv)(file, frozenset(drop))
    check_drop(path, columns, drop)
    columns = {name: column for name, column in columns.items() if name not in drop}
    if not columns or not len(next(iter(columns.values()))):
        raise ValueError(f"{path}: the table is empty")
    for name, column in columns.items():
        check_finite(path, name, column)
        _check_words(path, name, column)
    return Table(str(path), columns)


def check_wanted(file: Path, names: list[str], wanted: Iterable[str]) -> None:
    """Refuse a file without a column, or with two of that name."""
    if missing := [name for name in wanted if name not in names]:
        raise ValueError(f"{file}: no column {missing[0]!r}; the columns are {list_names(names)}")
    check_unique(file, [name for name in names if name in set(wanted)])


def check_drop(path: str | Path, names: Collection[str], drop: Collection[str]) -> None:
    """Refuse a column to drop that is not there."""
    if unknown := sorted(set(drop) - set(names)):
        raise ValueError(
            f"{path}: no column {unknown[0]!r} to drop; the columns are {list_names(names)}"
        )


def find(path: str | Path) -> tuple[Path, str]:
    """Return the file and which of SUFFIXES it ends in; raise if there is none such."""
    file = Path(path)
    suffix = next((s for s in SUFFIXES if file.name.lower().endswith(s)), None)
    if suffix is None:
        raise ValueError(f"`data` must be a file ending in {', '.join(SUFFIXES)}; got {path}")
    if not file.is_file():
        raise FileNotFoundError(f"`data` names no file: {path}")
    return file, suffix


def _read_npz(file: Path, drop: Collection[str]) -> dict[str, np.ndarray]:
    with npz_errors(file), zipfile.ZipFile(file), np.load(file, allow_pickle=False) as arrays:
        # ZipFile: a zip, not a .npy
        columns = {name: arrays[name] if name not in drop else np.zeros(0) for name in arrays.files}
    check_lengths(file, {name: a.shape for name, a in columns.items() if name not in drop})
    return {name: plain(file, name, a) for name, a in columns.items()}


@contextlib.contextmanager
def npz_errors(file: Path) -> Iterator[None]:
    """Name the .npz file that cannot be read."""
    try:
        yield
    except DAMAGED_NPZ as error:
        raise ValueError(
            f"{file}: not a readable .npz file without pickled objects ({error})"
        ) from None


def check_lengths(file: Any, shapes: dict[str, tuple[int, ...]]) -> int:
    """Return the number of rows that arrays by name have in common."""
    lengths = {name: shape[0] if shape else None for name, shape in shapes.items()}
    if len(set(lengths.values())) > 1 or None in lengths.values():
        raise ValueError(f"{file}: every array must have the same number of rows, got {lengths}")
    return next(iter(lengths.values()), None) or 0


def plain(file: Path, name: str, array: np.ndarray) -> np.ndarray:
    """Return an NPZ array as a column: text as objects, more dimensions flattened to (N, D)."""
    if array.dtype.kind == "U" and array.ndim == 1:
        return array.astype(object)
    if array.dtype.kind not in "biuf":
        raise ValueError(
            f"{file}: column {name!r} must be numbers, booleans or text (N,), got {array.dtype}"
        )
    if len(array) and not array.size:
        raise ValueError(f"{file}: column {name!r} must hold values, got shape {array.shape}")
    return array.reshape(len(array), -1) if array.ndim > 2 else array


def _read_csv(file: Path, drop: Collection[str]) -> dict[str, np.ndarray]:
    from pyarrow import csv

    with csv_errors(file), open_text(file) as stream:
        options = csv_options(csv_header(file)), csv.ConvertOptions(strings_can_be_null=True)
        arrow = csv.read_csv(stream, *options[0], options[1])
    return _columns(file, arrow, drop)


def open_text(file: Path) -> Any:
    """Open a CSV for pyarrow, which would know only .gz, not .GZ."""
    import pyarrow

    compression = "gzip" if file.name.lower().endswith(".gz") else None
    return pyarrow.input_stream(str(file), compression=compression)


def open_bytes(file: Path) -> Any:
    """Open a CSV for reading its text in parts."""
    return gzip.open(file) if file.name.lower().endswith(".gz") else open(file, "rb")


def csv_header(file: Path) -> bytes:
    """Return the bytes of a CSV up to the end of its header, the first line that is not blank."""
    lines = []
    with open_bytes(file) as stream:
        for line in stream:
            lines.append(line)
            text = b"".join(lines)
            if text.strip(b"\r\n \t\xef\xbb\xbf") and text.count(b'"') % 2 == 0:
                break
    return b"".join(lines)


def csv_options(header: bytes) -> tuple[Any, Any]:
    """Return pyarrow's options to read and to parse a CSV: block size and delimiter."""
    from pyarrow import csv

    names = re.sub('"[^"]*"', "", header.decode("utf-8-sig"))
    # One thread: only then does pyarrow count the rows that it refuses. A row must fit a block.
    return (
        csv.ReadOptions(use_threads=False, block_size=min(max(2**20, 32 * len(header)), 2**30)),
        csv.ParseOptions(delimiter=max(",;\t", key=names.count)),
    )


@contextlib.contextmanager
def csv_errors(file: Path, names: Collection[str] = (), offset: int = 0) -> Iterator[None]:
    """Name the file that cannot be read, and the row, after `offset` others, and which of its
    columns `names`.
    """
    import pyarrow

    try:
        yield
    except (pyarrow.ArrowInvalid, *DAMAGED_CSV) as error:
        raise ValueError(f"{file}: {_csv_reason(error, list(names), offset)}") from None


def _csv_reason(error: Exception, names: list[str], offset: int) -> str:
    """pyarrow's reason in one short line; its "Row #3" counts the header."""
    if isinstance(error, UnicodeDecodeError):
        return "the text is not UTF-8"
    found = re.search(r"column #(\d+): Row #(\d+): .* error to (\w+): (.*)", str(error), re.DOTALL)
    if found and names:
        where = f"row {int(found[2]) - 1 + offset}, column {names[int(found[1])]!r}: "
        value = re.fullmatch("invalid value '(.*)'", found[4], re.DOTALL)
        if value is None:
            return where + "the text is not UTF-8"
        return f"{where}{quote(value[1])} is {NOT[found[3]]}; correct it or drop the column"
    reason = str(error).splitlines()[0]
    if match := re.search(r"Row #(\d+): Expected (\d+) columns, got (\d+)", reason):
        row, wanted, got = map(int, match.groups())
        return f"row {row - 1 + offset} has {got} values where the header has {wanted} columns"
    return "the table is empty" if "Empty CSV" in reason else reason


def _read_parquet(file: Path, drop: Collection[str]) -> dict[str, np.ndarray]:
    from pyarrow import parquet

    with parquet_errors(file):
        arrow = parquet.read_table(file)
    return _columns(file, arrow, drop)


@contextlib.contextmanager
def parquet_errors(file: Path) -> Iterator[None]:
    """Name the Parquet file that cannot be read."""
    import pyarrow

    try:
        yield
    except (pyarrow.ArrowInvalid, OSError) as error:
        raise ValueError(
            f"{file}: not a readable Parquet file ({str(error).splitlines()[0]})"
        ) from None


def _columns(file: Path, arrow: Any, drop: Collection[str]) -> dict[str, np.ndarray]:
    names = arrow.column_names
    check_names(file, names, drop)
    if not arrow.num_rows:
        raise ValueError(f"{file}: the table is empty")
    zeros = np.zeros(0)
    return {name: zeros if name in drop else from_arrow(file, name, arrow[name]) for name in names}


def check_names(file: Path, names: list[str], drop: Collection[str]) -> None:
    """Refuse a name that appears twice, and a column without one unless it is dropped."""
    check_unique(file, names)
    if "" in names and "" not in drop:  # pandas writes its index so
        raise ValueError(
            f"{file}: column {names.index('') + 1} has no name; name it, or drop the column ''"
        )


def check_unique(file: Path, names: Collection[str]) -> None:
    """Refuse a column's name that appears twice."""
    if repeated := [name for name, count in Counter(names).items() if count > 1]:
        raise ValueError(f"{file}: the column {repeated[0]!r} appears twice; rename one of them")


def from_arrow(file: Path, name: str, chunks: Any, offset: int = 0) -> np.ndarray:
    """Return an Arrow column, whose rows come after `offset` others, as an array (N,)."""
    chunks = plain_arrow(file, name, chunks, offset)
    if is_text(chunks.type):
        texts, codes = coded(chunks)
        return np.asarray(texts, object)[codes]
    return chunks.to_numpy()


def plain_arrow(file: Path, name: str, chunks: Any, offset: int = 0) -> Any:
    """Return an Arrow column as one of booleans, integers, reals or text; refuse others, and
    missing values.
    """
    import pyarrow as pa

    check_missing(file, name, chunks, offset)
    kind = chunks.type
    if pa.types.is_dictionary(kind):
        chunks = chunks.cast(kind.value_type)
        kind = chunks.type
    if pa.types.is_decimal(kind):
        return chunks.cast(pa.float64())
    numbers = pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_boolean(kind)
    if not numbers and not is_text(kind):
        raise ValueError(
            f"{file}: column {name!r} has type {kind}; "
            "make it numbers or UTF-8 text, or drop the column"
        )
    return chunks


def is_text(kind: Any) -> bool:
    """Whether an Arrow type is that of text."""
    import pyarrow as pa

    return pa.types.is_string(kind) or pa.types.is_large_string(kind)


def check_missing(file: Path, name: str, chunks: Any, offset: int = 0) -> None:
    """Refuse a missing value in an Arrow column whose rows come after `offset` others."""
    if chunks.null_count:
        row = int(np.flatnonzero(chunks.is_null().to_numpy())[0]) + offset + 1
        raise ValueError(
            f"{file}: row {row}, column {name!r}: the value is missing; "
            "fill it in or drop the column"
        )


def coded(chunks: Any) -> tuple[list[str], np.ndarray]:
    """The distinct texts of an Arrow column in the order in which they appear, and which each row
    has: one Python string for each distinct text.
    """
    whole = chunks.combine_chunks().dictionary_encode()
    return whole.dictionary.to_pylist(), whole.indices.to_numpy()


def check_finite(path: str | Path, name: str, column: np.ndarray, offset: int = 0) -> None:
    """Refuse NaN and infinity in a column whose rows come after `offset` others."""
    if column.dtype.kind == "f" and not np.isfinite(column).all():
        row, *rest = np.argwhere(~np.isfinite(column))[0]
        raise ValueError(
            f"{path}: row {row + offset + 1}, column {name!r}: the value is "
            f"{column[(row, *rest)]}; correct it or drop the column"
        )


def _check_words(path: str | Path, name: str, column: np.ndarray) -> None:
    """Refuse text that hides among numbers."""
    if column.dtype == object:
        texts, first = np.unique(column, return_index=True)
        if (found := word_among_numbers(texts.tolist(), first)) is not None:
            raise word_error(path, name, *found)


def word_among_numbers(texts: Sequence[str], first: Iterable[int]) -> tuple[int, str] | None:
    """The row of the first text that is no number, and the text, if most of the distinct `texts`
    are numbers; `first` are the rows in which they first appear.
    """
    words = [(row, text) for row, text in zip(first, texts, strict=True) if not is_number(text)]
    return min(words) if words and len(words) <= len(texts) / 2 else None


def word_error(path: str | Path, name: str, row: int, text: str) -> ValueError:
    """The error that says so, of a row counted from 0."""
    return ValueError(
        f"{path}: row {row + 1}, column {name!r}: {quote(text)} is {NOT['double']}; "
        "correct it or drop the column"
    )


def is_number(text: str) -> bool:
    """Whether a text reads as a number."""
    try:
        float(text)
    except ValueError:
        return False
    return True


def list_names(columns: Collection[str]) -> str:
    """The names for a message: the first twenty, and how many there are."""
    names = list(columns)
    return ", ".join(names[:20]) + (f", ... ({len(names)} in all)" if len(names) > 20 else "")


def quote(text: str) -> str:
    """The text in quotes for a message, cut where it is long."""
    return repr(text if len(text) <= 60 else text[:60] + "...")
