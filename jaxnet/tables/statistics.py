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
