"""The rows of a split: in memory, or on the disk and encoded when they are asked for.

Both answer the same three calls, and nothing needs to ask which they are:

len(rows)                 how many there are
rows.batch(positions)     the rows at some positions, as one Batch
rows.blocks()             all rows in their order, some at a time
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from jaxnet.order import Rows as Order
from jaxnet.spec import Batch
from jaxnet.tables.encoding import Column, Encoding, encode
from jaxnet.tables.store import CACHED, Field, Mapped, runs_of, side_by_side
from jaxnet.tables.table import Table

BLOCK = 8192  # rows that `StoredRows.blocks` encodes at once


class Rows(Protocol):
    """Rows of x and y, of which any can be had as a batch."""

    def __len__(self) -> int: ...

    def batch(self, positions: np.ndarray) -> Batch:
        """Return the rows at some positions, integers of any shape S: x (*S, D_in), and y
        (*S, D_out), or S for classes.
        """
        ...

    def blocks(self) -> Iterator[Batch]:
        """Yield all rows in order, in blocks of bounded memory."""
        ...


@dataclass(frozen=True, eq=False)
class ArrayRows:
    """Rows in memory: x (N, D_in); y (N, D_out), or (N,) classes."""

    x: np.ndarray
    y: np.ndarray

    def __len__(self) -> int:
        return len(self.x)

    def batch(self, positions: np.ndarray) -> Batch:
        """Return the rows at some positions, as `Rows.batch` does."""
        return Batch(self.x[positions], self.y[positions])

    def blocks(self) -> Iterator[Batch]:
        """Yield all rows at once, since they are in memory."""
        yield Batch(self.x, self.y)


@dataclass(frozen=True, eq=False)
class StoredRows:
    """Some rows of a mapped table, encoded when they are asked for.

    rows: their numbers in the table.
    """

    mapped: Mapped
    rows: np.ndarray | Order
    encoding: Encoding
    dtype: str = "float32"

    def __post_init__(self):
        object.__setattr__(self, "_plan", _plan(self.mapped, self.encoding))

    def __len__(self) -> int:
        return len(self.rows)

    @property
    def width(self) -> int:
        """The columns of x."""
        return sum(column.width for column in self.encoding.features)

    def batch(self, positions: np.ndarray) -> Batch:
        """The rows at some positions among these, encoded as `encoding.encode` does.

        positions: integers of any shape S. x is (*S, D_in); y is (*S, D_out), or S for classes.

        Raises: ValueError as `encoding.encode`, naming the row.
        """
        positions = np.asarray(positions)
        index = np.asarray(self.rows[positions.ravel()])
        target = self.encoding.target
        x = np.empty((len(index), self.width), self.dtype)
        y = np.empty(
            len(index) if target.categories else (len(index), target.width),
            np.int32 if target.categories else self.dtype,
        )
        records = self.mapped.records(index)
        rows = max(1, CACHED // self.mapped.row_bytes)
        for start in range(0, len(index), rows):
            part = slice(start, start + rows)
            x[part], y[part] = self._encode(records[part], index[part])
        shape = positions.shape
        return Batch(x.reshape(*shape, self.width), y.reshape(*shape, *y.shape[1:]))

    def blocks(self) -> Iterator[Batch]:
        """Yield all rows in order, BLOCK at a time."""
        for start in range(0, len(self), BLOCK):
            yield self.batch(np.arange(start, min(start + BLOCK, len(self))))

    def _encode(self, records: np.ndarray, index: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        encoding, runs = self._plan  # type: ignore[missing-attribute]
        columns = {name: side_by_side(run, records) for name, run in runs.items()}
        try:
            return encode(Table(self.mapped.path, columns), encoding, self.dtype)
        except ValueError:
            for number in index.tolist():  # the first that is wrong is named as its file has it
                encode(self.mapped.row(number), self.encoding, self.dtype)
            raise


def _plan(mapped: Mapped, encoding: Encoding) -> tuple[Encoding, dict[str, list[Field]]]:
    """An encoding of the records, to the same bits: text by its codes, and each run of numbers as
    one column of several; and the fields of its columns.
    """
    features: list[Column] = []
    runs: dict[str, list[Field]] = {}
    for categorical, group in itertools.groupby(encoding.features, lambda c: bool(c.categories)):
        columns = {column.name: column for column in group}
        fields = [_field(mapped, column) for column in columns.values()]
        for run in [[field] for field in fields] if categorical else runs_of(fields):
            runs[run[0].name] = run
            features.append(_as_one(run, [columns[field.name] for field in run]))
    target = encoding.target
    runs[target.name] = [_field(mapped, target)]
    return Encoding(tuple(features), _as_one(runs[target.name], [target])), runs


def _field(mapped: Mapped, column: Column) -> Field:
    if column.name not in mapped.fields or (
        mapped.fields[column.name].categories is not None and not column.categories
    ):
        encode(mapped.row(0), Encoding((column,), column))  # which says so
    return mapped.fields[column.name]


def _as_one(run: list[Field], columns: list[Column]) -> Column:
    """The column of a run: of its numbers, or of the categories as the records have them."""
    first, field = columns[0], run[0]
    if not first.categories:
        mean = tuple(itertools.chain.from_iterable(column.mean for column in columns))
        std = tuple(itertools.chain.from_iterable(column.std for column in columns))
        return first._replace(mean=mean, std=std)
    if field.categories is None:
        return first
    codes = {text: str(code) for code, text in enumerate(field.categories)}
    unknown = (f"none {i}" for i in range(len(first.categories)))
    categories = tuple(codes.get(text) or next(unknown) for text in first.categories)
    return first._replace(categories=categories, kind="integer")
