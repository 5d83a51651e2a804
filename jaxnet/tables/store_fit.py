"""The task and the encoding of a mapped table, in passes over its blocks.

They are those that `encoding` finds for the same table in memory, to rounding.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator

import numpy as np

from jaxnet import order
from jaxnet.tables.encoding import (
    Encoding,
    Summary,
    choose_task,
    fit_summaries,
    one_value,
    target_column,
    too_large,
)
from jaxnet.tables.store import MAX_CATEGORIES, Field, Mapped, runs_of, side_by_side, too_many

MAX_DISTINCT = 2**20  # integers of a target that are counted


def infer_task(mapped: Mapped, target: str) -> tuple[str, str]:
    """As `encoding.infer_task`; of more than MAX_DISTINCT integers, how many is not told."""
    dtype = target_column(mapped.rows(np.zeros(0, int)), target).dtype
    if dtype.kind not in "iu":
        return choose_task(dtype, lambda: 0)
    values = _Distinct(mapped.fields[target], MAX_DISTINCT)
    for _, records in mapped.blocks():
        values.update(records)
    if values.found is None:
        return "regression", f"it has more than {MAX_DISTINCT:,} distinct integers"
    number = len(values.found)
    return choose_task(dtype, lambda: number)


def fit_encoding(
    mapped: Mapped,
    target: str,
    task: str,
    rows: np.ndarray | order.Rows,
    categorical: Collection[str] = (),
) -> Encoding:
    """As `encoding.fit_encoding`, in one pass over the table.

    Raises: as that; ValueError too for a column of more than MAX_CATEGORIES categories.
    """
    empty = mapped.rows(np.zeros(0, int))
    as_text = {*categorical} | ({target} if task == "classification" else set())
    fields, facts = mapped.fields, _Facts(mapped, as_text)
    checked = False

    def summarise(name: str, text: bool) -> Summary:
        nonlocal checked
        if not checked:  # only now are the names known to be right
            facts.read(rows)
            checked = True
        if (texts := fields[name].categories) is not None:
            return Summary(len(mapped), tuple(sorted(texts)))
        return facts.categories(name) if text else facts.moments(name, rows)

    encoding = fit_summaries(empty, target, task, categorical, summarise)
    if (value := facts.constant(target)) is not None:
        raise one_value(mapped.path, target, value)
    return encoding


class _Facts:
    """What one pass over a table finds of its columns."""

    def __init__(self, mapped: Mapped, as_text: Collection[str]):
        self.mapped = mapped
        numbers = [field for field in mapped.fields.values() if field.categories is None]
        self.distinct = {
            field.name: _Distinct(field, MAX_CATEGORIES)
            for field in numbers
            if field.name in as_text
        }
        plain = (field for field in numbers if field.name not in as_text)
        self.runs = runs_of(sorted(plain, key=lambda field: field.at))
        self.places = {f.name: (i, j) for i, run in enumerate(self.runs) for j, f in enumerate(run)}
        self.sums = [_Moments(len(run)) for run in self.runs]

    def read(self, rows: np.ndarray | order.Rows) -> None:
        """Make the pass; mean and std are of some rows."""
        for records, chosen in _blocks(self.mapped, rows):
            for values in self.distinct.values():
                values.update(records)
            for run, sums in zip(self.runs, self.sums, strict=True):
                sums.update(side_by_side(run, records), chosen)

    def categories(self, name: str) -> Summary:
        found = self.distinct[name].found
        if found is None:
            raise too_many(self.mapped.path, name)
        return Summary(len(self.mapped), tuple(sorted(set(found.astype(str).tolist()))))

    def moments(self, name: str, rows: np.ndarray | order.Rows) -> Summary:
        run, column = self.places[name]
        mean, std = self.sums[run].result()
        if not np.isfinite(std[column]):
            field = self.mapped.fields[name]
            parts = _blocks(self.mapped, rows)
            largest = max(
                np.abs(field.of(records)[chosen].astype(float)).max(initial=0)
                for records, chosen in parts
            )
            raise too_large(self.mapped.path, name, largest)
        return Summary(len(self.mapped), mean=mean[[column]], std=std[[column]])

    def constant(self, name: str) -> object:
        """The value of a column that has one only, else None."""
        field = self.mapped.fields[name]
        if field.categories is not None:
            return field.categories[0] if len(field.categories) == 1 else None
        if name in self.distinct:
            found = self.distinct[name].found
            return None if found is None or (found != found[0]).any() else found[0]
        run, column = self.places[name]
        value = self.sums[run].first[column]
        return value if self.sums[run].constant[column] else None


def _blocks(
    mapped: Mapped, rows: np.ndarray | order.Rows
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Yield the records of a table in blocks, each with the places in it of some rows."""
    between = rows.between if isinstance(rows, order.Rows) else _between(np.sort(rows))
    for start, records in mapped.blocks(order.BLOCK):
        yield records, between(start, start + len(records)) - start


def _between(ascending: np.ndarray) -> Callable[[int, int], np.ndarray]:
    return lambda start, stop: ascending[slice(*np.searchsorted(ascending, (start, stop)))]


class _Distinct:
    """The distinct values of a field of numbers, as they are stored: None if there are too many."""

    def __init__(self, field: Field, most: int):
        self.field, self.most = field, most
        self.found: np.ndarray | None = np.zeros(0, field.dtype)

    def update(self, records: np.ndarray) -> None:
        if self.found is not None:
            bits = f"u{self.found.itemsize}"  # so that 0.0 and -0.0 are two, as their texts are
            values = np.unique(self.field.of(records).view(bits))
            values = np.union1d(self.found.view(bits), values).view(self.field.dtype)
            self.found = values if len(values) <= self.most else None


class _Moments:
    """Mean and std of D columns, by Chan, Golub and LeVeque's update of the variance.

    The values are less the first row's, so that those of a constant are exact.
    """

    def __init__(self, width: int):
        self.rows, self.shift = 0, np.zeros(width)
        self.mean = self.total = np.zeros(width)
        self.first = np.zeros(0)
        self.constant = np.ones(width, bool)

    def update(self, values: np.ndarray, chosen: np.ndarray) -> None:
        """Add the rows `chosen` of values (N, D); all of them count for `constant`."""
        if not len(self.first):
            self.first = values[0].copy()
        if self.constant.any():
            self.constant = self.constant & (values == self.first).all(axis=0)
        if not len(chosen):
            return
        part = values[chosen].astype(float)
        if not self.rows:
            self.shift = part[0].copy()
        rows = self.rows + len(part)
        with np.errstate(over="ignore", invalid="ignore"):
            part -= self.shift
            mean = part.mean(axis=0)
            part -= mean
            move = mean - self.mean
            spread = np.square(move) * (self.rows * len(part) / rows)
            self.total = self.total + np.einsum("ij,ij->j", part, part) + spread
            self.mean = self.mean + move * (len(part) / rows)
        self.rows = rows

    def result(self) -> tuple[np.ndarray, np.ndarray]:
        with np.errstate(over="ignore", invalid="ignore"):
            return self.shift + self.mean, np.sqrt(self.total / self.rows)
