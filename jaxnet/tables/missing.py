"""Missing values: where they are, how many were filled, and what is said of it."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Iterable

import numpy as np

from jaxnet.tables import dates
from jaxnet.tables.column import Column, Encoding
from jaxnet.tables.table import Table, is_missing

log = logging.getLogger("jaxnet")

SHOWN = 10  # columns of which a line is said each


def has_value(values: np.ndarray) -> np.ndarray:
    """Return which rows (N,) of a column (N,) or (N, D) miss nothing."""
    return np.logical_not(is_missing(values).reshape(len(values), -1).any(axis=1))


def without_target(number: int, target: str) -> str:
    """Return the line for so many rows without a target."""
    rows = "1 row has" if number == 1 else f"{number:,} rows have"
    return (
        f"{rows} no value of the target {target!r}, and {'is' if number == 1 else 'are'} left out"
    )


class Filled:
    """Counts the missing values of features that training had complete, block after block."""

    def __init__(self, encoding: Encoding):
        self._columns = [column for column in encoding.features if not column.missing]
        self._counts: Counter[str] = Counter()

    def update(self, table: Table) -> None:
        for column in self._columns:
            if number := int(is_missing(table.columns[column.name]).sum()):
                self._counts[column.name] += number

    def log(self) -> None:
        """Log what became of them, a line for each column."""
        for line in sentences((column, self._counts[column.name]) for column in self._columns):
            log.warning(line)


def sentences(counts: Iterable[tuple[Column, int]]) -> list[str]:
    """Return what became of the missing values of columns, of which each has so many."""
    told = [(column, number) for column, number in counts if number]
    lines = [f"column {c.name!r}: {_values(number)} {_became(c)}" for c, number in told[:SHOWN]]
    if more := [number for _, number in told[SHOWN:]]:
        lines.append(f"{len(more)} more columns: {_values(sum(more))} treated in the same ways")
    return lines


def _values(number: int) -> str:
    return f"{number:,} missing value was" if number == 1 else f"{number:,} missing values were"


def _became(column: Column) -> str:
    if column.categories:
        return "taken as a category" if column.missing else "encoded as zeros: training had none"
    marked = ", and marked by an input" if column.missing else ""
    return f"filled with the median {_median(column)}{marked}"


def _median(column: Column) -> str:
    if column.base == "date":
        return dates.text(column.fill)
    return f"{column.fill[0]:.6g}" if len(column.fill) == 1 else "of its place"
