"""Split and order of very many rows, without an index of each in memory (NumPy).

Rows lie in blocks of BLOCK that follow each other on the disk. A split holds out a share of each
block; an epoch takes the blocks in a random order, and shuffles the rows within WINDOW of them at a
time, so that reading is local and memory is bounded by the window.
"""

from __future__ import annotations

import functools
import itertools
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

BLOCK = 1024
WINDOW = 1024
MOST = 2**18  # rows computed at once
ROUNDS = 6  # of the shuffle within a block


class Rows:
    """The rows of one side of a split, ascending by block: a sequence of int64 that is computed.

    `rows[index]` takes a slice or an array of integers of any shape; `np.asarray(rows)` is all.
    """

    def __init__(self, num_rows: int, share: float, seed: int, held_out: bool):
        self._num_rows, self._share, self._held_out = num_rows, share, held_out
        self._key = np.random.SeedSequence(seed).generate_state(1, np.uint64)[0]

    def __len__(self) -> int:
        return int(self._before(np.int64(self._num_rows)))

    def __getitem__(self, index: Any) -> np.ndarray:
        if isinstance(index, slice):
            index = np.arange(*index.indices(len(self)))
        at = np.asarray(index, np.int64)
        if at.size and not -len(self) <= at.min() <= at.max() < len(self):
            raise IndexError(f"the index must be within {len(self)} rows")
        flat = at.ravel()
        parts = [self._rows(flat[i : i + MOST]) for i in range(0, len(flat), MOST)]
        return np.concatenate(parts or [flat]).reshape(at.shape)

    def _rows(self, at: np.ndarray) -> np.ndarray:
        at = np.where(at < 0, at + len(self), at)
        block = self._block_of(at)
        start = block * BLOCK
        size = np.minimum(BLOCK, self._num_rows - start)
        first = (
            0
            if self._held_out
            else _share_of(start + size, self._share) - _share_of(start, self._share)
        )
        place = first + at - self._before(start)
        return start + _shuffled(place, size, self._key + block.astype(np.uint64))

    def __iter__(self) -> Iterator[int]:
        return itertools.chain.from_iterable(
            self[i : i + MOST].tolist() for i in range(0, len(self), MOST)
        )

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        return self[:] if dtype is None else self[:].astype(dtype)

    def between(self, start: int, stop: int) -> np.ndarray:
        """Those from row `start` up to row `stop`, multiples of BLOCK or the end."""
        stop = min(stop, self._num_rows)
        return self[int(self._before(np.int64(start))) : int(self._before(np.int64(stop)))]

    def _before(self, row: Any) -> Any:
        """How many of this side come before a row at which a block starts."""
        held_out = _share_of(row, self._share)
        return held_out if self._held_out else row - held_out

    def _block_of(self, at: np.ndarray) -> np.ndarray:
        """The block of each position: a guess, which the rounding of a share may shift by one."""
        share = self._share if self._held_out else 1 - self._share
        last = (self._num_rows - 1) // BLOCK
        block = np.clip((at / (share * BLOCK)).astype(np.int64), 0, last)
        while (late := self._before(block * BLOCK) > at).any():
            block = block - late
        while (early := self._before(np.minimum((block + 1) * BLOCK, self._num_rows)) <= at).any():
            block = block + early
        return block


def _share_of(rows: Any, share: float) -> Any:
    return np.floor(share * rows + 0.5).astype(np.int64)


def split(num_rows: int, validation: float, seed: int) -> tuple[Rows, Rows]:
    """As `data.split`, of which it is the part for many rows."""
    share = min(max(validation, 1 / num_rows), (num_rows - 1) / num_rows)
    return Rows(num_rows, share, seed, False), Rows(num_rows, share, seed, True)


def _shuffled(place: np.ndarray, size: np.ndarray, key: np.ndarray) -> np.ndarray:
    """A permutation of 0..size-1 for each key: where `place` goes in that of its size and key.

    Feistel's network on the halves of the bits; what falls outside `size` is sent through again
    (Black and Rogaway, Ciphers with Arbitrary Finite Domains, 2002).
    """
    half = max(1, (int(BLOCK - 1).bit_length() + 1) // 2)
    place, size, key = np.broadcast_arrays(place, size, key)
    out = _feistel(place.astype(np.uint64), key, half)
    while (outside := out >= size.astype(np.uint64)).any():
        out[outside] = _feistel(out[outside], key[outside], half)
    return out.astype(np.int64)


def _feistel(value: np.ndarray, key: np.ndarray, half: int) -> np.ndarray:
    shift, mask = np.uint64(half), np.uint64((1 << half) - 1)
    left, right = value >> shift, value & mask
    for number in range(ROUNDS):
        mixed = _mix(key * np.uint64(8) + np.uint64(number) << shift | right)
        left, right = right, left ^ (mixed & mask)
    return left << shift | right


def _mix(value: np.ndarray) -> np.ndarray:
    """The finaliser of SplitMix64 (Steele, Lea and Flood, 2014)."""
    value = (value ^ (value >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    value = (value ^ (value >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return value ^ (value >> np.uint64(31))


def row_batches(num_rows: int, batch_size: int, seed: int) -> Callable[[int], np.ndarray]:
    """As `data.row_batches`, of which it is the part for many rows."""
    steps_per_epoch = num_rows // batch_size
    kind = np.int32 if num_rows <= np.iinfo(np.int32).max else np.int64

    @functools.lru_cache(maxsize=2)
    def blocks(epoch: int) -> tuple[np.ndarray, np.ndarray]:
        """The order of the blocks, and where each window ends among the rows of the epoch."""
        order = np.random.default_rng([seed, epoch]).permutation(-(-num_rows // BLOCK))
        sizes = np.minimum(BLOCK, num_rows - order * BLOCK)
        return order, np.cumsum(np.add.reduceat(sizes, np.arange(0, len(order), WINDOW)))

    @functools.lru_cache(maxsize=2)
    def window(epoch: int, number: int) -> np.ndarray:
        chosen = blocks(epoch)[0][number * WINDOW : (number + 1) * WINDOW]
        rows = (chosen[:, None] * BLOCK + np.arange(BLOCK)).ravel()
        rows = rows[rows < num_rows].astype(kind)
        np.random.default_rng([seed, epoch, number + 1]).shuffle(rows)
        return rows

    def rows_at(step: int) -> np.ndarray:
        epoch, i = divmod(step, steps_per_epoch)
        start, stop = i * batch_size, (i + 1) * batch_size
        ends = blocks(epoch)[1]
        parts = []
        for number in range(int(np.searchsorted(ends, start, "right")), len(ends)):
            first = 0 if number == 0 else int(ends[number - 1])
            if first >= stop:
                break
            parts.append(window(epoch, number)[max(start - first, 0) : stop - first])
        return parts[0] if len(parts) == 1 else np.concatenate(parts)

    return rows_at
