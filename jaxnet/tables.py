"""Tables from disk: the columns of a CSV, Parquet or NPZ file by name.

Every error names the file, and the row and column where there is one; data rows are counted from 1.
"""

from __future__ import annotations

import re
import zipfile
import zlib
from collections import Counter
from collections.abc import Collection
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np


class Table(NamedTuple):
    """The columns of a file by name: numbers or booleans (N,) or (N, D), or text (N,) objects."""

    path: str
    columns: dict[str, np.ndarray]


def read(path: str | Path, drop: Collection[str] = ()) -> Table:
    """Read a table from .npz, .csv, .csv.gz, .tsv or .parquet, leaving out the columns in `drop`.

    CSV: UTF-8, a header line, the delimiter (comma, semicolon or tab) taken from it. NPZ: each
    array is a column; one of more dimensions is (N, D) numbers, flattened to D per row. No pickle
    is read.

    Raises: FileNotFoundError; ValueError for another kind of file, a damaged or an empty one, a
    repeated or unknown column, a missing or non-finite value, and text among the numbers of a
    column.
    """
    file = Path(path)
    readers = {".npz": _read_npz, ".csv": _read_csv, ".csv.gz": _read_csv, ".tsv": _read_csv}
    readers[".parquet"] = _read_parquet
    suffix = next((s for s in readers if file.name.lower().endswith(s)), None)
    if suffix is None:
        raise ValueError(f"`data` must be a file ending in {', '.join(readers)}; got {path}")
    if not file.is_file():
        raise FileNotFoundError(f"`data` names no file: {path}")
    columns = readers[suffix](file, frozenset(drop))
    if unknown := sorted(set(drop) - set(columns)):
        raise ValueError(
            f"{path}: no column {unknown[0]!r} to drop; the columns are {list_names(columns)}"
        )
    columns = {name: column for name, column in columns.items() if name not in drop}
    if not columns or not len(next(iter(columns.values()))):
        raise ValueError(f"{path}: the table is empty")
    for name, column in columns.items():
        _check_column(path, name, column)
    return Table(str(path), columns)


def _read_npz(file: Path, drop: Collection[str]) -> dict[str, np.ndarray]:
    try:
        with zipfile.ZipFile(file), np.load(file, allow_pickle=False) as arrays:  # zip, not .npy
            columns = {
                name: arrays[name] if name not in drop else np.zeros(0) for name in arrays.files
            }
    except (ValueError, OSError, EOFError, zipfile.BadZipFile, zlib.error) as error:
        raise ValueError(
            f"{file}: not a readable .npz file without pickled objects ({error})"
        ) from None
    lengths = {
        name: a.shape[0] if a.ndim else None for name, a in columns.items() if name not in drop
    }
    if len(set(lengths.values())) > 1 or None in lengths.values():
        raise ValueError(f"{file}: every array must have the same number of rows, got {lengths}")
    return {name: _plain(file, name, a) for name, a in columns.items()}


def _plain(file: Path, name: str, array: np.ndarray) -> np.ndarray:
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
    import gzip

    import pyarrow
    from pyarrow import csv

    try:
        with (
            gzip.open(file, "rb")
            if file.name.lower().endswith(".gz")
            else open(file, "rb") as stream
        ):
            line = next(filter(bytes.strip, stream), b"").decode("utf-8-sig")
        header = re.sub('"[^"]*"', "", line)
        # One thread: only then does pyarrow count the rows that it refuses. A row must fit a block.
        arrow = csv.read_csv(
            file,
            csv.ReadOptions(use_threads=False, block_size=min(max(2**20, 32 * len(line)), 2**30)),
            csv.ParseOptions(delimiter=max(",;\t", key=header.count)),
            csv.ConvertOptions(strings_can_be_null=True),
        )
    except (pyarrow.ArrowInvalid, UnicodeDecodeError, OSError, EOFError, zlib.error) as error:
        raise ValueError(f"{file}: {_csv_reason(error)}") from None
    return _from_arrow(file, arrow, drop)


def _csv_reason(error: Exception) -> str:
    """pyarrow's reason in one short line; its "Row #3" counts the header."""
    if isinstance(error, UnicodeDecodeError):
        return "the text is not UTF-8"
    reason = str(error).splitlines()[0]
    if match := re.search(r"Row #(\d+): Expected (\d+) columns, got (\d+)", reason):
        row, wanted, got = map(int, match.groups())
        return f"row {row - 1} has {got} values where the header has {wanted} columns"
    return "the table is empty" if "Empty CSV" in reason else reason


def _read_parquet(file: Path, drop: Collection[str]) -> dict[str, np.ndarray]:
    import pyarrow
    from pyarrow import parquet

    try:
        arrow = parquet.read_table(file)
    except (pyarrow.ArrowInvalid, OSError) as error:
        raise ValueError(
            f"{file}: not a readable Parquet file ({str(error).splitlines()[0]})"
        ) from None
    return _from_arrow(file, arrow, drop)


def _from_arrow(file: Path, arrow: Any, drop: Collection[str]) -> dict[str, np.ndarray]:
    names = arrow.column_names
    if repeated := [name for name, count in Counter(names).items() if count > 1]:
        raise ValueError(f"{file}: the column {repeated[0]!r} appears twice; rename one of them")
    if "" in names and "" not in drop:  # pandas writes its index so
        raise ValueError(
            f"{file}: column {names.index('') + 1} has no name; name it, or drop the column ''"
        )
    if not arrow.num_rows:
        raise ValueError(f"{file}: the table is empty")
    zeros = np.zeros(0)
    return {
        name: zeros if name in drop else _from_chunks(file, name, arrow[name]) for name in names
    }


def _from_chunks(file: Path, name: str, chunks: Any) -> np.ndarray:
    import pyarrow as pa

    if chunks.null_count:
        row = int(np.flatnonzero(chunks.is_null().to_numpy())[0]) + 1
        raise ValueError(
            f"{file}: row {row}, column {name!r}: the value is missing; "
            "fill it in or drop the column"
        )
    kind = chunks.type
    if pa.types.is_dictionary(kind):
        chunks = chunks.cast(kind.value_type)
        kind = chunks.type
    if pa.types.is_string(kind) or pa.types.is_large_string(kind):
        coded = (
            chunks.combine_chunks().dictionary_encode()
        )  # one Python string for each distinct text
        return np.asarray(coded.dictionary.to_pylist(), object)[coded.indices.to_numpy()]
    if pa.types.is_decimal(kind):
        chunks = chunks.cast(pa.float64())
    elif not (pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_boolean(kind)):
        raise ValueError(
            f"{file}: column {name!r} has type {kind}; "
            "make it numbers or UTF-8 text, or drop the column"
        )
    return chunks.to_numpy()


def _check_column(path: str | Path, name: str, column: np.ndarray) -> None:
    """Refuse NaN and infinity, and text that hides among numbers."""
    if column.dtype.kind == "f" and not np.isfinite(column).all():
        row, *rest = np.argwhere(~np.isfinite(column))[0]
        raise ValueError(
            f"{path}: row {row + 1}, column {name!r}: the value is {column[(row, *rest)]}; "
            "correct it or drop the column"
        )
    if column.dtype != object:
        return
    texts, first = np.unique(column, return_index=True)
    words = [(row, text) for row, text in zip(first, texts, strict=True) if not _is_number(text)]
    if words and len(words) <= len(texts) / 2:
        row, text = min(words)
        raise ValueError(
            f"{path}: row {row + 1}, column {name!r}: {text!r} is text in a column of numbers; "
            "correct it or drop the column"
        )


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def list_names(columns: Collection[str]) -> str:
    """The names for a message: the first twenty, and how many there are."""
    names = list(columns)
    return ", ".join(names[:20]) + (f", ... ({len(names)} in all)" if len(names) > 20 else "")
