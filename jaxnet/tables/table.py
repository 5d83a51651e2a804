"""A table: columns by name, and what may not be in them.

Every error names the file, and the row and column where there is one; data rows are counted from 1.
"""

from __future__ import annotations

import difflib
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

SUFFIXES = (".npz", ".csv", ".csv.gz", ".tsv", ".parquet")
KINDS = {"b": "boolean", "i": "integer", "u": "integer", "f": "real", "O": "text", "M": "date"}
FAULTS = {  # of a value that is not of the kind of its column
    "real": "text in a column of numbers",
    "integer": "no integer in a column of integers",
    "boolean": "neither true nor false",
    "date": "no date in a column of dates",
}
MAX_CATEGORIES = 2**16  # distinct values of a column that are categories
NUMBERS = 2**22  # numbers of a column in a block: 32 MB in float64


class Table(NamedTuple):
    """The columns of a file by name.

    columns: numbers or booleans (N,) or (N, D), text (N,) objects, dates (N,) datetime64[us]. A
    missing value is NaN, None or NaT; integers and booleans with missing values are float64.
    offset: how many rows of the file come before these. kinds: what each column is: "boolean",
    "integer", "real", "text" or "date", and after a space how it was written, as "real decimal=,"
    or "date %d/%m/%Y". left_out: columns of the file that are not here, and why.
    """

    path: str
    columns: dict[str, np.ndarray]
    offset: int = 0
    kinds: Mapping[str, str] = {}
    left_out: Mapping[str, str] = {}

    @property
    def num_rows(self) -> int:
        return len(next(iter(self.columns.values())))

    def take(self, rows: Any) -> Table:
        """Return some rows (M,) of all columns."""
        columns = {name: column[rows] for name, column in self.columns.items()}
        return self._replace(columns=columns, offset=0)

    def without(self, names: Collection[str]) -> Table:
        """Return the table without some columns."""
        kept = {name: column for name, column in self.columns.items() if name not in names}
        return self._replace(columns=kept)

    def row(self, number: int) -> Table:
        """Return one row, with its place in the file, for messages."""
        return self.take(slice(number, number + 1))._replace(offset=self.offset + number)

    def texts(self, name: str) -> list[str]:
        """Return the distinct values of a column of text, without None."""
        return list(set(self.columns[name].tolist()) - {None})

    def kind(self, name: str) -> str:
        """Return what a column is; by its dtype if `kinds` does not say."""
        return self.kinds.get(name) or KINDS[self.columns[name].dtype.kind]

    def blocks(self, names: Collection[str]) -> Iterator[Table]:
        """Yield some columns, some rows at a time."""
        some = self._replace(columns={name: self.columns[name] for name in names})
        widest = max((column[:1].size for column in some.columns.values()), default=1)
        rows = max(1, NUMBERS // max(1, widest))
        for start in range(0, self.num_rows if names else 0, rows):
            yield some.take(slice(start, start + rows))._replace(offset=start)


def suffix_of(path: str | Path) -> str:
    """Return which of SUFFIXES a file's name ends in, in letters of any case; "" for none."""
    name = Path(path).name.lower()
    return next((suffix for suffix in SUFFIXES if name.endswith(suffix)), "")


def find(path: str | Path) -> tuple[Path, str]:
    """Return the file and which of SUFFIXES it ends in.

    Raises: ValueError for another ending, FileNotFoundError if there is no such file.
    """
    file, suffix = Path(path), suffix_of(path)
    if not suffix:
        raise ValueError(f"`data` must be a file ending in {', '.join(SUFFIXES)}; got {path}")
    if not file.is_file():
        raise FileNotFoundError(f"`data` names no file: {path}")
    return file, suffix


def choose(path: Any, names: list[str], drop: Collection[str]) -> list[str]:
    """Return the names that are not in `drop`.

    Raises: ValueError for a name that appears twice or is empty, for one in `drop` that is not
    there, and if none is left.
    """
    check_unique(path, names)
    if "" in names[1:] and "" not in drop:  # the first may number the rows
        place = names.index("", 1) + 1
        raise ValueError(f"{path}: column {place} has no name; name it, or say `drop` ''")
    if unknown := sorted(set(drop) - set(names)):
        raise missing(path, unknown, names, ending=" to drop")
    if not set(names) - set(drop):
        raise empty(path)
    dropped = set(drop)
    return [name for name in names if name not in dropped]


def check_wanted(path: Any, names: Collection[str], wanted: Iterable[str]) -> None:
    """Refuse a table that lacks a column, or has two of that name."""
    wanted, known = dict.fromkeys(wanted), set(names)
    if lacking := [name for name in wanted if name not in known]:
        raise missing(path, lacking, names)
    check_unique(path, [name for name in names if name in wanted])


def check_unique(path: Any, names: Collection[str]) -> None:
    if repeated := [name for name, count in Counter(names).items() if count > 1]:
        raise ValueError(f"{path}: the column {repeated[0]!r} appears twice; rename one of them")


def check_lengths(path: Any, shapes: dict[str, tuple[int, ...]]) -> None:
    lengths = {name: shape[0] if shape else None for name, shape in shapes.items()}
    if len(set(lengths.values())) > 1 or None in lengths.values():
        raise ValueError(f"{path}: every array must have the same number of rows, got {lengths}")


def is_missing(column: np.ndarray) -> np.ndarray:
    """Return where a column (N,) or (N, D) holds NaN, None or NaT: booleans of its shape."""
    if column.dtype.kind in "fM":
        return np.isnan(column) if column.dtype.kind == "f" else np.isnat(column)
    if column.dtype == object:
        return np.array([value is None for value in column.ravel()], bool).reshape(column.shape)
    return np.zeros(column.shape, bool)


def check_finite(
    path: Any, name: str, column: np.ndarray, offset: int = 0, missing: str = "fill"
) -> None:
    """Refuse infinity in a column whose rows come after `offset` others, and what is missing if
    `missing` is "error".
    """
    if column.dtype.kind == "f" and np.isinf(column).any():
        place = tuple(np.argwhere(np.isinf(column))[0])
        what = f"the value is {column[place]}; correct it or drop the column"
        raise fault(path, name, what, place[0] + offset + 1)
    if missing == "error" and (gaps := is_missing(column)).any():
        row = int(np.argwhere(gaps)[0][0]) + offset + 1
        raise fault(path, name, "the value is missing; fill it in or drop the column", row)


def fault(path: Any, name: str, what: str, row: int | None = None) -> ValueError:
    """Return the error that says what is wrong with a column, or with its value in a row."""
    where = f"column {name!r} " if row is None else f"row {row}, column {name!r}: "
    return ValueError(f"{path}: {where}{what}")


def missing(
    path: Any, lacking: list[str], names: Collection[str], noun: str = "column", ending: str = ""
) -> ValueError:
    """Return the error for columns that a table lacks, with the names that may be meant."""
    plain = {name.casefold().strip(): name for name in names}
    close = (difflib.get_close_matches(name.casefold().strip(), plain, 1) for name in lacking)
    meant = [plain[one[0]] for one in close if one]
    what = f"no {noun}{'s' * (len(lacking) > 1)} {list_names(map(repr, lacking))}{ending}"
    hint = f"; did you mean {list_names(map(repr, dict.fromkeys(meant)))}?" * bool(meant)
    return ValueError(f"{path}: {what}; the columns are {list_names(names)}{hint}")


def empty(path: Any) -> ValueError:
    return ValueError(f"{path}: the table is empty")


def too_many(path: Any, name: str) -> ValueError:
    what = f"has more than {MAX_CATEGORIES:,} distinct categories; drop it if it is an id"
    return fault(path, name, what)


def wrong_kind(path: Any, row: int, name: str, text: str, kind: str = "real") -> ValueError:
    """Return the error for a text that is not of its column's kind."""
    word, _, form = kind.partition(" ")
    what = f"{FAULTS[word]}{f' ({form})' if form else ''}"
    return fault(path, name, f"{quote(text)} is {what}; correct it", row)


def is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def list_names(columns: Iterable[str]) -> str:
    """Return the names for a message: the first twenty, and how many there are."""
    names = list(columns)
    return ", ".join(names[:20]) + (f", ... ({len(names)} in all)" if len(names) > 20 else "")


def list_left_out(columns: Mapping[str, str]) -> list[str]:
    """Return columns that are left out, and why, for a message."""
    return [f"{name or 'a column without a name'} ({why})" for name, why in columns.items()]


def quote(text: str) -> str:
    """Return the text in quotes for a message, cut where it is long."""
    return repr(text if len(text) <= 60 else text[:60] + "...")
