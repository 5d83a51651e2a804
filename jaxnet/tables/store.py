"""A table on disk as two arrays: numbers (N, K), and codes (N, C) of texts.

`convert` makes them, once, in the folder PATH.arrays: numbers.npy; codes.npy, the places of texts
among the distinct texts of their column; and arrays.json, written last, which says what they are
and has a digest of each block of both files. A block is checked before its rows are first used.
"""

from __future__ import annotations

import copy
import os
import re
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from jaxnet.tables.arrays import CODES, NUMBERS, Array
from jaxnet.tables.from_json import arguments
from jaxnet.tables.table import KINDS, Table

DESCRIPTION = "arrays.json"
BLOCK_BYTES = 2**24  # of rows that are read at once


class Field(NamedTuple):
    """A column of a store: the dtype it is read with, its kind, its place in numbers or codes, its
    texts. A missing text has the code -1; dates are numbers of microseconds, NaN where missing.
    """

    name: str
    dtype: str
    kind: str
    place: int
    texts: list[str] | None = None


class Part(NamedTuple):
    """A file of the table as it was converted. doubtful: its size and time may deceive."""

    name: str
    state: tuple[int, int]
    doubtful: bool
    rows: int
    sha256: str


class Description(NamedTuple):
    """What arrays.json holds, beside its digest."""

    version: int
    rows: int
    names: tuple[str, ...]
    files: tuple[dict, ...]
    columns: tuple[dict, ...]
    source: dict[str, str | int]
    notes: tuple[str, ...]
    left_out: dict[str, str]
    options: dict
    digests: dict[str, list[int]]


def check_description(found: dict[str, Any]) -> None:
    """Raise ValueError for a description that `convert` has not written."""
    about = Description(**arguments(Description, "arrays", found))
    parts = [Part(**arguments(Part, "files", one)) for one in about.files]
    fields = [Field(**arguments(Field, "columns", one)) for one in about.columns]
    words = [field.texts is not None for field in fields]
    places = [sum(word == words[i] for word in words[:i]) for i in range(len(words))]
    good = (
        about.rows == sum(part.rows for part in parts) and all(part.rows >= 0 for part in parts),
        places == [field.place for field in fields],
        all((field.dtype == "O") == word for field, word in zip(fields, words, strict=True)),
        all(re.fullmatch(r"O|\|b1|[<|][iuf]\d|<M8\[us\]", field.dtype) for field in fields),
        all(field.kind.partition(" ")[0] in KINDS.values() for field in fields),
        {"name", "path", "bytes", "sha256"} <= about.source.keys(),
        {NUMBERS, CODES} <= about.digests.keys(),
    )
    if not all(good):
        raise ValueError("the parts of the description do not fit each other")


class Store:
    """A table (`Table`) whose rows are on disk.

    path: the table's own file or folder. source: name, path, bytes and sha256 of it. columns:
    arrays without rows, which tell the dtypes. kinds, left_out: as a table's.
    """

    def __init__(self, path: str | Path, found: dict[str, Any], drop: Collection[str] = ()):
        self.path = str(path)
        digests = found["digests"]
        self._arrays = [Array(folder_of(path) / name, digests[name]) for name in (NUMBERS, CODES)]
        self.source: dict[str, Any] = found["source"]
        self.num_rows: int = found["rows"]
        self.left_out: dict[str, str] = found["left_out"]
        self._files: list[dict[str, Any]] = found["files"]
        fields = [Field(**column) for column in found["columns"]]
        self._fields = {field.name: field for field in fields if field.name not in drop}
        self.columns = {name: np.zeros(0, field.dtype) for name, field in self._fields.items()}
        self.kinds = {name: field.kind for name, field in self._fields.items()}

    def kind(self, name: str) -> str:
        return self.kinds[name]

    def without(self, names: Collection[str]) -> Store:
        store = copy.copy(self)
        store._fields = {n: field for n, field in self._fields.items() if n not in names}
        store.columns = {name: self.columns[name] for name in store._fields}
        store.kinds = {name: self.kinds[name] for name in store._fields}
        return store

    def texts(self, name: str) -> list[str]:
        return self._fields[name].texts or []

    def blocks(self, names: Collection[str]) -> Iterator[Table]:
        rows = max(1, BLOCK_BYTES // (8 * len(self._fields)))
        for start in range(0, self.num_rows if names else 0, rows):
            some = np.arange(start, min(start + rows, self.num_rows))
            taken = [array.rows(some) for array in self._arrays]
            yield Table(self.path, self._columns(taken, names), start, self.kinds)

    def take(self, rows: np.ndarray) -> Table:
        order = np.argsort(rows)  # so that the disk is read in one direction
        taken = [array.rows(rows[order])[np.argsort(order)] for array in self._arrays]
        return Table(self.path, self._columns(taken, self._fields), 0, self.kinds)

    def _columns(self, taken: list[np.ndarray], names: Collection[str]) -> dict[str, np.ndarray]:
        columns = {}
        for name in names:
            field = self._fields[name]
            if field.texts is not None:  # the code -1 takes the last
                texts, codes = np.array([*field.texts, None], object), taken[1][:, field.place]
                if len(codes) and not -1 <= codes.min() <= codes.max() < len(field.texts):
                    what = f"a code of column {name!r} has no text; delete the folder"
                    raise ValueError(f"{folder_of(self.path) / CODES}: {what}")
                columns[name] = texts[codes]
            elif field.dtype.startswith("<M"):
                columns[name] = to_dates(taken[0][:, field.place])
            else:
                columns[name] = taken[0][:, field.place].astype(field.dtype)
        return columns

    def row(self, number: int) -> Table:
        """Return one row, with the file that it comes from and its place there, for messages."""
        path, offset = Path(self.path), number
        for file in self._files:
            if offset < file["rows"]:
                path = path / file["name"] if path.is_dir() else path
                break
            offset -= file["rows"]
        return self.take(np.array([number]))._replace(path=str(path), offset=offset)


def to_dates(numbers: np.ndarray) -> np.ndarray:
    """Return numbers (N,) of microseconds since 1970 as datetime64[us], NaT for NaN."""
    gaps = np.isnan(numbers)
    dates = np.where(gaps, 0, numbers).astype(np.int64).view("M8[us]")
    dates[gaps] = np.datetime64("NaT", "us")
    return dates


def to_numbers(dates: np.ndarray) -> np.ndarray:
    """Return dates (N,) as float64 microseconds since 1970, NaN for NaT."""
    numbers = dates.astype("M8[us]").astype(np.int64).astype(float)
    numbers[np.isnat(dates)] = np.nan
    return numbers


def folder_of(path: str | Path) -> Path:
    """Return the folder of a table's arrays."""
    return Path(os.path.abspath(path) + ".arrays")
