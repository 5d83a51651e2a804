"""A table on disk as two arrays: numbers (N, K), and codes (N, C) of texts.

`convert` makes them, once, in the folder PATH.arrays: numbers.npy; codes.npy, the places of texts
among the distinct texts of their column; and arrays.json, written last, which says what they are
and has a digest of each block of both files. A block is checked before its rows are first used.
"""

from __future__ import annotations

import copy
import mmap
import os
import weakref
import zlib
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from jaxnet.tables.table import Table

DESCRIPTION, NUMBERS, CODES = "arrays.json", "numbers.npy", "codes.npy"
BLOCK_BYTES = 2**24  # of rows that are read at once
DIGESTED = 2**20  # bytes of a file that have a digest
GATHERED = 128  # rows that are gathered from one map, of which Linux may hold 2 MB for each


class Field(NamedTuple):
    """A column of a store: the dtype it is read with, its place in numbers or codes, its texts."""

    name: str
    dtype: str
    place: int
    texts: list[str] | None = None


class Store:
    """A table (`Table`) whose rows are on disk.

    path: the table's own file or folder. source: name, path, bytes and sha256 of it. columns:
    arrays without rows, which tell the dtypes.
    """

    def __init__(self, path: str | Path, found: dict[str, Any], drop: Collection[str] = ()):
        self.path = str(path)
        digests = found["digests"]
        self._arrays = [_Array(folder_of(path) / name, digests[name]) for name in (NUMBERS, CODES)]
        self.source: dict[str, Any] = found["source"]
        self.num_rows: int = found["rows"]
        self._files: list[dict[str, Any]] = found["files"]
        fields = [Field(**column) for column in found["columns"]]
        self._fields = {field.name: field for field in fields if field.name not in drop}
        self.columns = {name: np.zeros(0, field.dtype) for name, field in self._fields.items()}

    def without(self, names: Collection[str]) -> Store:
        store = copy.copy(self)
        store._fields = {n: field for n, field in self._fields.items() if n not in names}
        store.columns = {name: self.columns[name] for name in store._fields}
        return store

    def texts(self, name: str) -> list[str]:
        return self._fields[name].texts or []

    def blocks(self, names: Collection[str]) -> Iterator[Table]:
        rows = max(1, BLOCK_BYTES // (8 * len(self._fields)))
        for start in range(0, self.num_rows if names else 0, rows):
            taken = [array.rows(start, min(start + rows, self.num_rows)) for array in self._arrays]
            yield Table(self.path, self._columns(taken, names), start)

    def take(self, rows: np.ndarray) -> Table:
        order = np.argsort(rows)  # so that the disk is read in one direction
        taken = [np.empty((len(rows), a.shape[1]), a.dtype) for a in self._arrays]
        for array in self._arrays:
            array.check(rows)
        for start in range(0, len(order), GATHERED):
            some = order[start : start + GATHERED]
            for out, array in zip(taken, self._arrays, strict=True):
                out[some] = array.map()[rows[some]]
        return Table(self.path, self._columns(taken, self._fields))

    def _columns(self, taken: list[np.ndarray], names: Collection[str]) -> dict[str, np.ndarray]:
        columns = {}
        for name in names:
            field = self._fields[name]
            if field.texts is None:
                columns[name] = taken[0][:, field.place].astype(field.dtype)
            else:
                columns[name] = np.array(field.texts, object)[taken[1][:, field.place]]
        return columns

    def row(self, number: int) -> Table:
        """Return one row, with the file that it comes from and its place there, for messages."""
        path, offset = Path(self.path), number
        for file in self._files:
            if offset < file["rows"]:
                path = path / file["name"] if path.is_dir() else path
                break
            offset -= file["rows"]
        return Table(str(path), self.take(np.array([number])).columns, offset)


def folder_of(path: str | Path) -> Path:
    """Return the folder of a table's arrays."""
    return Path(os.path.abspath(path) + ".arrays")


def digest(content: bytes | memoryview, before: int = 0) -> int:
    """Return the CRC-32 of a block, of which `before` is that of its part before the content."""
    return zlib.crc32(content, before)


class Digesting:
    """A file that is written in one direction, and the digests of its blocks."""

    def __init__(self, file: Any):
        self._file, self._written = file, 0
        self.digests: list[int] = []

    def write(self, content: Any) -> None:
        self._file.write(content)
        left = memoryview(content)
        left = left.cast("B") if left.nbytes else left
        while left.nbytes:
            room = DIGESTED - self._written % DIGESTED
            if room == DIGESTED:
                self.digests.append(0)
            part, left = left[:room], left[room:]
            self.digests[-1] = digest(part, self.digests[-1])
            self._written += part.nbytes


class _Array:
    """An array in a .npy file, which stays the same if another file takes its name.

    digests: of each block of the file.
    """

    def __init__(self, path: Path, digests: list[int]):
        self._path, self._digests = path, digests
        self._unchecked = np.ones(len(digests), bool)
        with path.open("rb") as file:
            self._file = os.dup(file.fileno())
            weakref.finalize(self, os.close, self._file)
            self._check(np.array([0]))  # which has the header
            np.lib.format.read_magic(file)
            self.shape, _, self.dtype = np.lib.format.read_array_header_2_0(file)
            self._offset = file.tell()
        self._row = self.shape[1] * self.dtype.itemsize

    def rows(self, start: int, stop: int) -> np.ndarray:
        """Return the rows from `start` to before `stop`. Raises: as `check`."""
        self.check(np.arange(start, stop))
        found = np.empty((stop - start, self.shape[1]), self.dtype)
        if os.preadv(self._file, [found.data], self._offset + start * self._row) < found.nbytes:
            raise self._fault("is cut short")
        return found

    def check(self, rows: np.ndarray) -> None:
        """Check the blocks of some rows that this process has not checked before.

        Raises: ValueError for a file that is cut short, or a block that has changed.
        """
        if self._row and self._unchecked.any():
            for place in [*range(0, self._row, DIGESTED), self._row - 1]:  # within the row
                self._check((self._offset + rows * self._row + place) // DIGESTED)

    def _check(self, blocks: np.ndarray) -> None:
        for block in np.unique(blocks[self._unchecked[blocks]]).tolist():
            if digest(os.pread(self._file, DIGESTED, block * DIGESTED)) != self._digests[block]:
                short = os.fstat(self._file).st_size <= (len(self._digests) - 1) * DIGESTED
                text = f"has changed in block {block} of {len(self._digests)}, of 1 MiB each"
                raise self._fault("is cut short" if short else text)
            self._unchecked[block] = False

    def _fault(self, text: str) -> ValueError:
        what = f"delete the folder {self._path.parent}, and it is made again from the table"
        return ValueError(f"{self._path}: the file {text} since it was written; {what}")

    def map(self) -> np.ndarray:
        """Map the array anew: the pages that the map before has touched are given back.

        Raises: ValueError for a file that is cut short: to touch its map would end the process.
        """
        if os.fstat(self._file).st_size < self._offset + self.shape[0] * self._row:
            raise self._fault("is cut short")
        pages = mmap.mmap(self._file, 0, access=mmap.ACCESS_READ)
        return np.ndarray(self.shape, self.dtype, pages, self._offset)
