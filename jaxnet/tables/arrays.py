"""The two arrays of a store in .npy files: numbers (N, K), and codes (N, C) of texts.

Each block of a file has a digest, which is checked before its rows are first used.
"""

from __future__ import annotations

import itertools
import os
import weakref
import zlib
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np

from jaxnet import files

NUMBERS, CODES = "numbers.npy", "codes.npy"
DIGESTED = 2**20  # bytes of a file that have a digest
JOINED = 2**12  # bytes between two rows up to which they are read at once


def write(
    folder: Path,
    num_rows: int,
    blocks: Iterable[tuple[np.ndarray, np.ndarray]],
    on_block: Callable[[int, int], None],
) -> tuple[int, dict[str, list[int]]]:
    """Write numbers and codes block by block; return their bytes, and the digests of each file.

    on_block: is called with the rows and the bytes written so far. No map is written to: a full
    disk would kill the process.
    """
    rows = written = 0
    with (
        files.replacing(folder / NUMBERS) as numbers,
        files.replacing(folder / CODES) as codes,
        numbers.open("wb") as first,
        codes.open("wb") as second,
    ):
        outs = _Digesting(first), _Digesting(second)
        for block in blocks:
            for out, array in zip(outs, block, strict=True):
                if not rows:
                    header = np.lib.format.header_data_from_array_1_0(array)
                    shape = num_rows, array.shape[1]
                    np.lib.format.write_array_header_2_0(
                        out, header | {"fortran_order": False, "shape": shape}
                    )
                out.write(array.data)
            rows, written = rows + len(block[0]), written + sum(array.nbytes for array in block)
            on_block(rows, written)
    return written, {name: out.digests for name, out in zip((NUMBERS, CODES), outs, strict=True)}


def digest(content: bytes | memoryview, before: int = 0) -> int:
    """Return the CRC-32 of a block, of which `before` is that of its part before the content."""
    return zlib.crc32(content, before)


def num_blocks(path: Path) -> int:
    """Return how many blocks of a file have a digest."""
    return -(-path.stat().st_size // DIGESTED)


class _Digesting:
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


class Array:
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

    def rows(self, rows: np.ndarray) -> np.ndarray:
        """Return some rows, given in ascending order; not to be written to.

        Rows that are near each other are read at once. No map is made of the file: if it were cut
        short, to touch its map would end the process.

        Raises: ValueError for a file that is cut short, or a block that has changed.
        """
        if not self._row or not len(rows):
            return np.empty((len(rows), self.shape[1]), self.dtype)
        self._check_rows(rows)
        starts = np.flatnonzero(np.diff(rows, prepend=-JOINED - 1) * self._row > JOINED)
        first, last = rows[starts], rows[np.append(starts[1:], len(rows)) - 1]
        number = last - first + 1  # of rows to read from each first one on
        places = (self._offset + first * self._row).tolist()
        sizes = (number * self._row).tolist()
        read = b"".join(map(os.pread, itertools.repeat(self._file), sizes, places))
        if len(read) < sum(sizes):
            raise self._fault("is cut short")
        found = np.frombuffer(read, self.dtype).reshape(-1, self.shape[1])
        if len(found) == len(rows) and (np.diff(rows) > 0).all():
            return found  # none is between them
        skipped = np.repeat(np.cumsum(number) - number - first, np.diff(starts, append=len(rows)))
        return found[rows + skipped]

    def _check_rows(self, rows: np.ndarray) -> None:
        """Check the blocks of some rows that this process has not checked before."""
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
