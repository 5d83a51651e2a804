"""The rows of a split: in memory, or on disk and encoded when they are asked for."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial

import numpy as np

from jaxnet import files
from jaxnet.spec import Batch
from jaxnet.tables.column import Encoding
from jaxnet.tables.encoding import aligned, encode_features, encode_target
from jaxnet.tables.store import Store
from jaxnet.tables.table import Table
from jaxnet.tables.weights import EQUAL, Weighting

BLOCK, FEWEST = 8192, 1024  # rows that are encoded at once, at most and at least
ENCODED = 2**16  # of a column, as it is encoded: those of all stay in the processor's cache


@dataclass(frozen=True, eq=False)
class ArrayRows:
    """Rows in memory: x (N, D_in); y (N, D_out), or (N,) classes; weights (N,), or None."""

    x: np.ndarray
    y: np.ndarray
    weights: np.ndarray | None = None

    def __len__(self) -> int:
        return len(self.x)

    def batch(self, positions: np.ndarray) -> Batch:
        """Return the rows at some positions, integers of any shape S: x (*S, D_in), and y
        (*S, D_out), or S for classes.
        """
        weights = None if self.weights is None else self.weights[positions]
        return Batch(self.x[positions], self.y[positions], weights=weights)

    def blocks(self) -> Iterator[Batch]:
        """Yield all rows in order, in blocks of bounded memory: those in memory are one block."""
        yield Batch(self.x, self.y, weights=self.weights)


@dataclass(frozen=True, eq=False)
class StoredRows:
    """The rows (N,) of a store, encoded when they are asked for.

    values: (N,) of the column of weights that `weighting` names.
    """

    store: Store
    rows: np.ndarray
    encoding: Encoding
    dtype: str = "float32"
    weighting: Weighting = EQUAL
    values: np.ndarray | None = None

    def __len__(self) -> int:
        return len(self.rows)

    def batch(self, positions: np.ndarray) -> Batch:
        """As `ArrayRows.batch`. Raises: as `encode`."""
        positions = np.asarray(positions)
        x, y = encode(self.store, self.encoding, self.dtype, self.rows[positions.ravel()])
        x = x.reshape(*positions.shape, x.shape[1])
        y = y.reshape(*positions.shape, *y.shape[1:])
        values = None if self.values is None else self.values[positions]
        return Batch(x, y, weights=self.weighting.weights(values, y, self.dtype))

    def blocks(self) -> Iterator[Batch]:
        """As `ArrayRows.blocks`, BLOCK rows at a time."""
        starts, stop = range(0, len(self), BLOCK), len(self)
        blocks = (np.arange(start, min(start + BLOCK, stop)) for start in starts)
        yield from files.read_ahead(partial(self.batch, block) for block in blocks)


Rows = ArrayRows | StoredRows  # nothing needs to ask which


def rows_of(
    table: Table | Store,
    encoding: Encoding,
    dtype: str,
    weighting: Weighting,
    values: np.ndarray | None,
    rows: np.ndarray,
) -> Rows:
    """Return some rows of a table, where the table has them: in memory or on disk.

    values: of the column of weights, for all rows of the table.
    """
    values = None if values is None else values[rows]
    if isinstance(table, Store):
        return StoredRows(table, rows, encoding, dtype, weighting, values)
    x, y = encode(table, encoding, dtype, rows)
    return ArrayRows(x, y, weighting.weights(values, y, dtype))


def encode(
    table: Table | Store,
    encoding: Encoding,
    dtype: str = "float32",
    rows: np.ndarray | None = None,
    unseen: str = "error",
) -> tuple[np.ndarray, np.ndarray]:
    """Return x (N, D_in), and y: (N, D_out) standardised numbers or (N,) int32 classes.

    rows: the N rows to encode, in that order; None for all. unseen: as in `encode_features`.

    Raises: ValueError as `encode_features`, naming the row in its file.
    """
    rows = np.arange(table.num_rows) if rows is None else rows
    x = aligned((len(rows), encoding.width), dtype)
    y = aligned((len(rows), encoding.target.width), dtype)
    if encoding.target.categories:
        y = aligned((len(rows),), np.int32)
    order = np.argsort(rows, kind="stable")  # so that the disk is read in one direction
    size = min(BLOCK, max(FEWEST, ENCODED * len(encoding.features) // encoding.width))
    for start in range(0, len(rows), size):
        here = order[start : start + size]
        some = table.take(rows[here])
        try:
            x[here] = encode_features(some, encoding, dtype, unseen)
            y[here] = encode_target(some, encoding, dtype)
        except ValueError:
            for row in rows[np.sort(here)].tolist():  # to name the first that is wrong
                encode_features(table.row(row), encoding, dtype, unseen)
                encode_target(table.row(row), encoding, dtype)
            raise
    return x, y
