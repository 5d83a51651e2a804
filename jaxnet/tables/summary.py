"""What is found of the columns of a table, in memory or on disk, in one pass over its blocks."""

from __future__ import annotations

from collections.abc import Collection

import numpy as np

from jaxnet.tables import dates
from jaxnet.tables.statistics import Distinct, Moments
from jaxnet.tables.table import MAX_CATEGORIES, fault, is_missing
from jaxnet.tables.targets import Source

SAMPLE = 2**16  # training rows of which medians and quantiles are taken; of fewer rows, all
SAMPLED = 2**26  # numbers of all columns that are sampled at most


class Summary:
    """What is found of a column in a pass over its blocks.

    moments: of the training rows of a column of numbers or dates. distinct: the numbers in all rows
    of a column of numbers to take as categories. texts: the distinct ones of text. absent: (D,)
    which numbers are missing in a training row, or (1,) if none is. missing: how many are in all
    rows. sample: (M, D) numbers of M training rows.
    """

    def __init__(
        self,
        moments: Moments | None = None,
        distinct: Distinct | None = None,
        texts: Collection[str] = (),
    ):
        self.moments, self.distinct, self.texts = moments, distinct, texts
        self.absent, self.missing = np.zeros(1, bool), 0
        self.sample, self._taken = np.zeros((0, 0)), 0

    def update(
        self, values: np.ndarray, training: np.ndarray, sampled: np.ndarray, num_sampled: int
    ) -> None:
        """Add a block (N, ...).

        training, sampled: (N,) which rows are to train on, and which of these are sampled.
        num_sampled: how many are in all blocks.
        """
        if values.dtype.kind in "fMO":
            absent = is_missing(values).reshape(len(values), -1)
            if number := int(absent.sum()):
                self.missing += number
                self.absent = self.absent | absent[training].any(axis=0)
        if self.moments is not None:
            numbers = dates.split(values) if values.dtype.kind == "M" else values
            numbers = numbers.reshape(len(values), -1)
            self.moments.update(numbers[training])
            if not len(self.sample):
                self.sample = np.empty((num_sampled, numbers.shape[1]), numbers.dtype)
            some = numbers[sampled]
            self.sample[self._taken : self._taken + len(some)] = some
            self._taken += len(some)
        elif self.distinct is not None:
            self.distinct.update(values)

    @property
    def is_empty(self) -> bool:
        """Whether there is no value: of numbers, in the rows to train on."""
        if self.moments is not None:
            return not self.moments.rows.any()
        if self.distinct is not None:
            return self.distinct.found is not None and not len(self.distinct.found)
        return not self.texts


def summarise(table: Source, rows: np.ndarray, as_text: Collection[str]) -> dict[str, Summary]:
    """Return what is found of each column, of which those in `as_text` are taken as text.

    The moments are those of all `rows`, the sample for medians and quantiles of all up to SAMPLE of
    them (of fewer where a row is wide), else of a seeded draw.
    """
    found: dict[str, Summary] = {}
    for name, column in table.columns.items():
        if name in as_text and (column.ndim > 1 or column.dtype.kind == "M"):
            got = column.shape if column.ndim > 1 else "dates"
            raise fault(table.path, name, f"must be (N,) to hold categories, got {got}")
        if column.dtype.kind == "O":
            found[name] = Summary(texts=table.texts(name))
        elif name in as_text:
            found[name] = Summary(distinct=Distinct(column.dtype, MAX_CATEGORIES))
        else:
            found[name] = Summary(Moments())
    training, sampled = np.zeros((2, table.num_rows), bool)
    training[rows] = True
    sampled[_sample(rows, sum(column[:1].size or 1 for column in table.columns.values()))] = True
    num_sampled = int(sampled.sum())
    for block in table.blocks(list(found)):
        here = slice(block.offset, block.offset + block.num_rows)
        for name, values in block.columns.items():
            found[name].update(values, training[here], sampled[here], num_sampled)
    return found


def _sample(rows: np.ndarray, numbers: int) -> np.ndarray:
    """Return the rows of which medians and quantiles are taken, for so many numbers a row; some
    more than once.
    """
    most = min(SAMPLE, max(1, SAMPLED // numbers))
    if len(rows) <= most:
        return rows
    return rows[np.random.default_rng(0).integers(0, len(rows), most)]
