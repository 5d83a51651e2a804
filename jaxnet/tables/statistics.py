"""What is found of a column in one pass over its blocks: mean and variance, distinct values."""

from __future__ import annotations

import numpy as np


class Moments:
    """Number of values, mean and sum of squares about it of D columns, block after block; NaN
    counts for nothing.

    By Chan, Golub and LeVeque's update of the variance, of the values less the first: a constant
    has no variance at all.
    """

    def __init__(self):
        self.rows = self._first = self._mean = self.squares = np.zeros(0)

    def update(self, values: np.ndarray) -> None:
        """Add a block (N, D)."""
        if not len(values):
            return
        values = values.astype(float)
        if not len(self.rows):
            self.rows, self._first, self._mean, self.squares = np.zeros((4, values.shape[1]))
        absent = np.isnan(values)
        here = len(values) - absent.sum(axis=0)
        first = values[absent.argmin(axis=0), np.arange(len(here))]
        self._first = np.where(self.rows == 0, np.nan_to_num(first), self._first)
        rows = np.maximum(self.rows + here, 1)
        with np.errstate(over="ignore", invalid="ignore"):
            values -= self._first
            values[absent] = 0
            mean = values.sum(axis=0) / np.maximum(here, 1)
            values -= mean
            values[absent] = 0
            shift = mean - self._mean
            between = np.square(shift) * (self.rows * here / rows)
            self.squares = self.squares + np.einsum("ij,ij->j", values, values) + between
            self._mean = self._mean + shift * (here / rows)
        self.rows = self.rows + here

    @property
    def mean(self) -> np.ndarray:
        return self._first + self._mean

    @property
    def std(self) -> np.ndarray:
        """The standard deviation (D,), about the mean of these rows; not finite on overflow."""
        return np.sqrt(self.squares / np.maximum(self.rows, 1))


class Distinct:
    """The distinct values of a column of numbers (N,); `found` is None if there are over `most`."""

    def __init__(self, dtype: np.dtype, most: int):
        self.most = most
        self.found: np.ndarray | None = np.zeros(0, dtype)

    def update(self, values: np.ndarray) -> None:
        """Add a block (N,), in which NaN counts for nothing."""
        if self.found is not None:
            bits = f"u{values.itemsize}"  # so that 0.0 and -0.0 are two, as their texts are
            unique = np.unique(values[values == values].view(bits))
            found = np.union1d(self.found.view(bits), unique).view(values.dtype)
            self.found = found if len(found) <= self.most else None


class Sample:
    """At most `most` rows of all that are given, block after block; every row is as likely."""

    def __init__(self, most: int, seed: int = 0):
        self.most, self._rng = most, np.random.default_rng(seed)
        self._parts: list[list[np.ndarray]] = []  # keys, and the arrays' rows of the smallest keys
        self._held, self._limit = 0, 1.0  # rows in all parts; no larger key is among the smallest

    def update(self, *arrays: np.ndarray) -> None:
        """Add a block: arrays with the same N rows."""
        keys = self._rng.random(len(arrays[0]))
        some = keys < self._limit
        self._parts.append([array[some] for array in (keys, *arrays)])
        self._held += len(self._parts[-1][0])
        if self._held > 2 * self.most:
            self._select()

    def _select(self) -> None:
        """Keep the rows of the smallest keys, in their order."""
        kept = [np.concatenate(arrays) for arrays in zip(*self._parts, strict=True)]
        if len(kept[0]) > self.most:
            rows = np.sort(np.argpartition(kept[0], self.most)[: self.most])
            kept = [array[rows] for array in kept]
            self._limit = float(kept[0].max())
        self._parts, self._held = [kept], len(kept[0])

    @property
    def arrays(self) -> list[np.ndarray]:
        """The rows kept, of each array, in their order; none before there is a block."""
        if self._parts:
            self._select()
        return self._parts[0][1:] if self._parts else []
