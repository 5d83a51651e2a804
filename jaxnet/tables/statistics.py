"""What is found of a column in one pass over its blocks: mean and variance, distinct values."""

from __future__ import annotations

import numpy as np


class Moments:
    """Number of rows, mean and sum of squares about it of D columns, block after block.

    By Chan, Golub and LeVeque's update of the variance, of the values less those of the first row:
    a constant has no variance at all.
    """

    def __init__(self):
        self.rows = 0
        self._first = self._mean = self.squares = np.zeros(0)

    def update(self, values: np.ndarray) -> None:
        """Add a block (N, D)."""
        if not len(values):
            return
        values = values.astype(float)
        if not self.rows:
            self._first = values[0].copy()
            self._mean = self.squares = np.zeros_like(self._first)
        rows = self.rows + len(values)
        with np.errstate(over="ignore", invalid="ignore"):
            values -= self._first
            mean = values.mean(axis=0)
            values -= mean
            shift = mean - self._mean
            between = np.square(shift) * (self.rows * len(values) / rows)
            self.squares = self.squares + np.einsum("ij,ij->j", values, values) + between
            self._mean = self._mean + shift * (len(values) / rows)
        self.rows = rows

    @property
    def mean(self) -> np.ndarray:
        return self._first + self._mean

    @property
    def std(self) -> np.ndarray:
        """The standard deviation (D,), about the mean of these rows; not finite on overflow."""
        return np.sqrt(self.squares / self.rows)


class Distinct:
    """The distinct values of a column of numbers (N,); `found` is None if there are over `most`."""

    def __init__(self, dtype: np.dtype, most: int):
        self.most = most
        self.found: np.ndarray | None = np.zeros(0, dtype)

    def update(self, values: np.ndarray) -> None:
        """Add a block (N,)."""
        if self.found is not None:
            bits = f"u{values.itemsize}"  # so that 0.0 and -0.0 are two, as their texts are
            unique = np.unique(np.ascontiguousarray(values).view(bits))
            found = np.union1d(self.found.view(bits), unique).view(values.dtype)
            self.found = found if len(found) <= self.most else None


class Sample:
    """At most `most` rows of all that are given, block after block; every row is as likely."""

    def __init__(self, most: int, seed: int = 0):
        self.most, self._rng = most, np.random.default_rng(seed)
        self._kept: list[np.ndarray] = []  # keys, and the arrays' rows of the smallest keys

    def update(self, *arrays: np.ndarray) -> None:
        """Add a block: arrays with the same N rows."""
        block = [self._rng.random(len(arrays[0])), *arrays]
        if self._kept:
            block = [np.concatenate(pair) for pair in zip(self._kept, block, strict=True)]
        if len(block[0]) > self.most:
            rows = np.sort(np.argpartition(block[0], self.most)[: self.most])
            block = [array[rows] for array in block]
        self._kept = block

    @property
    def arrays(self) -> list[np.ndarray]:
        """The rows kept, of each array, in their order."""
        return self._kept[1:]
