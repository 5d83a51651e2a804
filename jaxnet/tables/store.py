"""A table larger than memory: its rows as records in a file, mapped, and gathered as they are asked
for.

`mapped_convert.convert` makes the file. A row's values lie side by side in it, each in its column's
own type, so that a row is read from one place.
"""

from __future__ import annotations

import itertools
import mmap
from collections.abc import Collection, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from jaxnet.tables.encoding import KINDS
from jaxnet.tables.table import Table

DESCRIPTION = "arrays.json"
RECORDS = "rows.bin"
PAGES = 2**21  # bytes: what Linux may map at once where they are in its cache
RESIDENT = 2**27  # bytes of the file mapped at most, before its pages are given back
CACHED = 2**19  # bytes of records that are encoded at once
MAX_CATEGORIES = 2**16  # distinct values of a column that are categories
BLOCK_BYTES = 2**22  # of records that `blocks` reads at once


class Field(NamedTuple):
    """A column's place in a record: its dtype, and the byte at which it begins.

    categories: of text, whose codes uint16 the records hold; in the order in which they appear.
    """

    name: str
    dtype: str
    at: int
    categories: Sequence[str] | None = None

    @property
    def stop(self) -> int:
        """The byte after its last."""
        return self.at + np.dtype(self.dtype).itemsize

    @property
    def kind(self) -> str:
        """What it holds, as `encoding.Column` has it."""
        return "text" if self.categories is not None else KINDS[np.dtype(self.dtype).kind]

    def of(self, records: np.ndarray) -> np.ndarray:
        """Its values (N,) in records (N, bytes), as they are stored; a view."""
        return records[:, self.at : self.stop].view(self.dtype)[:, 0]

    def values(self, records: np.ndarray) -> np.ndarray:
        """Its values (N,), text as objects."""
        stored = self.of(records)
        return stored if self.categories is None else np.array(self.categories, object)[stored]


def too_many(path: str | Path, name: str) -> ValueError:
    """The error for a column of more than MAX_CATEGORIES."""
    return ValueError(
        f"{path}: column {name!r} has more than {MAX_CATEGORIES:,} distinct categories; drop it if "
        "it is an id"
    )


class Mapped:
    """A table (`tables.Table`) in a file of records.

    path: the table's own file or folder. source: name, path, bytes and sha256 of it. fields: the
    columns by name. files: name and rows of each of its files.
    """

    def __init__(self, path: str | Path, folder: Path, described: dict[str, Any], drop: Collection):
        self.path, self.folder = str(path), folder
        self.source: dict[str, Any] = described["source"]
        self.files = [(file["name"], file["rows"]) for file in described["files"]]
        fields = [Field(**column) for column in described["columns"]]
        self.fields = {field.name: field for field in fields if field.name not in drop}
        self.row_bytes: int = described["row_bytes"]
        self._rows: int = described["rows"]
        with (folder / RECORDS).open("rb") as file:
            self._map = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        if self.row_bytes >= mmap.PAGESIZE and hasattr(mmap, "MADV_RANDOM"):
            self._map.madvise(mmap.MADV_RANDOM)  # of smaller rows, those around one come soon
        self._records = np.frombuffer(self._map, np.uint8).reshape(self._rows, self.row_bytes)
        self._size = max(PAGES, self.row_bytes)
        self._touched = np.zeros(len(self._map) // self._size + 1, bool)

    def __len__(self) -> int:
        return self._rows

    def rows(self, index: np.ndarray) -> Table:
        """The columns of the rows `index` (N,), in that order."""
        records = self.records(index)
        return Table(self.path, {name: f.values(records) for name, f in self.fields.items()})

    def row(self, number: int) -> Table:
        """One row, with its place in its own file, for messages."""
        path, offset = Path(self.path), number
        for name, rows in self.files:
            if offset < rows:
                path = path / name if path.is_dir() else path
                break
            offset -= rows
        return Table(str(path), self.rows(np.array([number])).columns, offset)

    def records(self, index: np.ndarray) -> np.ndarray:
        """The records (N, row_bytes) of the rows `index` (N,)."""
        order = np.argsort(index)
        ascending, records = index[order], np.empty((len(index), self.row_bytes), np.uint8)
        number = np.cumsum(np.diff(ascending * self.row_bytes // self._size, prepend=0) > 0)
        most = max(1, RESIDENT // (2 * self._size))
        cuts = np.flatnonzero(np.diff(number // most, prepend=0)).tolist()
        for start, stop in itertools.pairwise((0, *cuts, len(index))):
            part = slice(start, stop)
            records[order[part]] = self._take(ascending[part])
        return records

    def _take(self, index: np.ndarray) -> np.ndarray:
        """Gather rows; give the file's pages back, or they would count as this process's memory."""
        taken = np.take(self._records, index, axis=0)
        for byte in (0, self.row_bytes - 1):
            self._touched[(index * self.row_bytes + byte) // self._size] = True
        if np.count_nonzero(self._touched) * self._size > RESIDENT // 2:
            if hasattr(mmap, "MADV_DONTNEED"):
                self._map.madvise(mmap.MADV_DONTNEED)
            self._touched[:] = False
        return taken

    def blocks(self, multiple: int = 1) -> Iterator[tuple[int, np.ndarray]]:
        """Yield all records in order, some at a time, each after the number of its first row.

        multiple: of how many rows there are in each but the last.
        """
        rows = max(1, BLOCK_BYTES // self.row_bytes // multiple) * multiple
        with (self.folder / RECORDS).open("rb") as file:  # read, so that the system reads ahead
            for start in range(0, self._rows, rows):
                records = np.empty((min(rows, self._rows - start), self.row_bytes), np.uint8)
                if file.readinto(records.data) < records.size:
                    raise ValueError(f"{self.folder / RECORDS}: the file has become shorter")
                yield start, records


def runs_of(fields: Iterable[Field]) -> list[list[Field]]:
    """Those that follow each other in the records and have one dtype, as one run each."""
    runs: list[list[Field]] = []
    for field in fields:
        last = runs[-1][-1] if runs else None
        if last and (last.dtype, last.stop) == (field.dtype, field.at):
            runs[-1].append(field)
        else:
            runs.append([field])
    return runs


def side_by_side(run: list[Field], records: np.ndarray) -> np.ndarray:
    """The values (N, D) of a run of D fields in records (N, bytes); a view."""
    return records[:, run[0].at : run[-1].stop].view(run[0].dtype)
