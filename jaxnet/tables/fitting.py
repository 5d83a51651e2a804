"""Fit an encoding to a table, in memory or on disk, in one pass over its blocks."""

from __future__ import annotations

from collections.abc import Collection

import numpy as np

from jaxnet.tables.encoding import Column, Encoding
from jaxnet.tables.statistics import Distinct, Moments
from jaxnet.tables.store import Store
from jaxnet.tables.table import KINDS, MAX_CATEGORIES, Table, check_wanted, fault, missing, too_many

Source = Table | Store
MAX_CLASSES = 20  # an integer target with more distinct values is taken for a quantity
MAX_DISTINCT = 2**20  # distinct integers of a target that are counted
EXACT = 2**53  # integers from here on are rounded in a store


def infer_task(table: Source, target: str) -> tuple[str, str]:
    """Return "classification" or "regression" for a target column, and the reason in words."""
    column = _target(table, target)
    if column.dtype.kind == "O":
        return "classification", "its values are text"
    if column.dtype.kind == "b":
        return "classification", "its values are true and false"
    if column.dtype.kind not in "iu" or column.ndim > 1:
        return "regression", "its values are real numbers"
    distinct = Distinct(column.dtype, MAX_DISTINCT)
    for block in table.blocks([target]):
        distinct.update(block.columns[target])
    if distinct.found is None:
        return "regression", f"it has more than {MAX_DISTINCT:,} distinct integers"
    number = len(distinct.found)
    if number <= MAX_CLASSES:
        return "classification", f"it has {number} distinct integers"
    return "regression", f"it has {number} distinct integers, more than {MAX_CLASSES}"


def fit_encoding(
    table: Source, target: str, task: str, rows: np.ndarray, categorical: Collection[str] = ()
) -> Encoding:
    """Fit an encoding: numbers standardised by the statistics of `rows`, text one-hot.

    Categories and classes are those of the whole table; columns in `categorical` are text.

    Raises: ValueError for an unknown column, a table without features, a target of one value only,
    and categories that hardly repeat (an identifier) or are more than MAX_CATEGORIES.
    """
    if task == "regression" and _target(table, target).dtype.kind == "O":
        what = f"the target {target!r} must be numbers for regression, got text"
        raise ValueError(f"{table.path}: {what}")
    check_wanted(table.path, list(table.columns), categorical)
    if len(table.columns) < 2:
        raise ValueError(f"{table.path}: there is no feature column beside the target {target!r}")
    classes = {target} if task == "classification" else set()
    found = _summarise(table, rows, {*categorical} | classes)
    columns = {
        name: _numbers(table, name, summary)
        if isinstance(summary, Moments)
        else _categories(table, name, summary, name == target)
        for name, summary in found.items()
    }
    y, summary = columns.pop(target), found[target]
    constant = summary.squares == 0 if isinstance(summary, Moments) else [len(y.categories) == 1]
    if any(constant):
        value = y.categories[0] if y.categories else y.mean[int(np.argmax(constant))]
        raise ValueError(f"{table.path}: the target {target!r} has one value only, {value}")
    return Encoding(tuple(columns.values()), y)


def _target(table: Source, target: str) -> np.ndarray:
    if target not in table.columns:
        raise missing(table.path, f"target column {target!r}", table.columns)
    return table.columns[target]


def _summarise(
    table: Source, rows: np.ndarray, as_text: Collection[str]
) -> dict[str, Moments | Distinct | None]:
    """Return each column's moments in some rows, or the distinct numbers in all rows of a column to
    take as text; None for text.
    """
    found: dict[str, Moments | Distinct | None] = dict.fromkeys(table.columns)
    for name, column in table.columns.items():
        if name in as_text and column.ndim > 1:
            what = f"must be (N,) to hold categories, got {column.shape}"
            raise fault(table.path, name, what)
        if column.dtype.kind != "O":
            as_category = name in as_text
            found[name] = Distinct(column.dtype, MAX_CATEGORIES) if as_category else Moments()
    chosen = np.zeros(table.num_rows, bool)
    chosen[rows] = True
    for block in table.blocks([name for name, summary in found.items() if summary]):
        here = chosen[block.offset : block.offset + block.num_rows]
        for name, values in block.columns.items():
            if isinstance(summary := found[name], Moments):
                summary.update(values.reshape(len(values), -1)[here])
            elif summary:
                summary.update(values)
    return found


def _numbers(table: Source, name: str, moments: Moments) -> Column:
    mean, std = moments.mean, moments.std
    if not np.isfinite(std).all():
        largest = max(np.abs(b.columns[name].astype(float)).max() for b in table.blocks([name]))
        what = f"has values up to {largest:.4g}, too large to standardise; rescale it"
        raise fault(table.path, name, what)
    kind = KINDS[table.columns[name].dtype.kind]
    std = np.where(std > 0, std, 1.0)
    return Column(name, tuple(mean.tolist()), tuple(std.tolist()), kind=kind)


def _categories(table: Source, name: str, distinct: Distinct | None, is_target: bool) -> Column:
    """Return a column of categories: the distinct texts, or the distinct numbers as texts."""
    if distinct is None:
        texts = table.texts(name)
    elif (numbers := distinct.found) is None:
        raise too_many(table.path, name)
    else:
        rounded = numbers.dtype.kind in "iu" and isinstance(table, Store)
        if rounded and max(abs(int(number)) for number in numbers) >= EXACT:
            what = f"must hold integers below {EXACT:,} to be categories of a table on disk"
            raise fault(table.path, name, f"{what}; write them as text")
        texts = set(numbers.astype(str).tolist())
    if len(texts) > max(MAX_CLASSES, table.num_rows // 2):
        what = f"has {len(texts)} distinct categories in {table.num_rows} rows"
        quantity = "choose another target, or `task` regression if it is a quantity"
        advice = quantity if is_target else "drop it if it is an id"
        raise fault(table.path, name, f"{what}; {advice}")
    kind = KINDS[table.columns[name].dtype.kind]
    return Column(name, categories=tuple(sorted(texts)), kind=kind)
