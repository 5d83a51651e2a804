"""How a table becomes arrays: numbers standardised, text one-hot, classes or numbers to predict."""

from __future__ import annotations

from collections.abc import Collection
from typing import NamedTuple

import numpy as np

from jaxnet.tables import Table, list_names

MAX_CLASSES = 20  # an integer target with more distinct values is taken for a quantity


class Column(NamedTuple):
    """How a column becomes numbers: standardised by mean and std, or one-hot categories.

    mean, std: one float for each of the column's D numbers. categories: text, sorted; then the
    others are empty.
    """

    name: str
    mean: tuple[float, ...] = ()
    std: tuple[float, ...] = ()
    categories: tuple[str, ...] = ()

    @property
    def width(self) -> int:
        """The number of network inputs or outputs that the column takes."""
        return len(self.categories) or len(self.mean)


class Encoding(NamedTuple):
    """How a table becomes x and y: the feature columns in order, and the target."""

    features: tuple[Column, ...]
    target: Column


def infer_task(table: Table, target: str) -> tuple[str, str]:
    """Return "classification" or "regression" for a target column, and the reason in words."""
    column = _target_column(table, target)
    if column.dtype == object:
        return "classification", "its values are text"
    if column.dtype.kind == "b":
        return "classification", "its values are true and false"
    distinct = len(np.unique(column)) if column.ndim == 1 else 0
    if column.dtype.kind in "iu" and 0 < distinct <= MAX_CLASSES:
        return "classification", f"it has {distinct} distinct integers"
    if column.dtype.kind in "iu" and distinct:
        return "regression", f"it has {distinct} distinct integers, more than {MAX_CLASSES}"
    return "regression", "its values are real numbers"


def fit_encoding(
    table: Table, target: str, task: str, rows: np.ndarray, categorical: Collection[str] = ()
) -> Encoding:
    """Fit an encoding: numbers standardised by the statistics of `rows`, text one-hot.

    Categories and classes are those of the whole table. The columns named in `categorical` are
    taken as text.

    Raises: ValueError for an unknown column, a table without features, a target of one value only,
    and a text column whose values hardly repeat (an identifier).
    """
    y = _target_column(table, target)
    if task == "regression" and y.dtype == object:
        raise ValueError(
            f"{table.path}: the target {target!r} must be numbers for regression, got text"
        )
    if unknown := sorted(set(categorical) - set(table.columns)):
        raise ValueError(
            f"{table.path}: no column {unknown[0]!r}; the columns are {list_names(table.columns)}"
        )
    if len(table.columns) < 2:
        raise ValueError(f"{table.path}: there is no feature column beside the target {target!r}")
    features = tuple(
        _fit_column(table.path, name, column, rows, name in categorical, "drop it if it is an id")
        for name, column in table.columns.items()
        if name != target
    )
    advice = "choose another target, or `task` regression if it is a quantity"
    encoded = _fit_column(table.path, target, y, rows, task == "classification", advice)
    values = y.reshape(len(y), -1)
    if (constant := (values == values[0]).all(axis=0)).any():
        value = values[0, constant.argmax()]
        raise ValueError(f"{table.path}: the target {target!r} has one value only, {value}")
    return Encoding(features, encoded)


def encode(
    table: Table, encoding: Encoding, dtype: str = "float32"
) -> tuple[np.ndarray, np.ndarray]:
    """Return x (N, D_in), and y: (N, D_out) standardised numbers or (N,) int32 classes."""
    widths = [column.width for column in encoding.features]
    n = len(next(iter(table.columns.values())))
    x = np.empty((n, sum(widths)), dtype)
    stop = 0
    for column, width in zip(encoding.features, widths, strict=True):
        start, stop = stop, stop + width
        values = table.columns[column.name]
        if column.categories:
            x[:, start:stop] = _codes(values, column)[:, None] == np.arange(width)
        else:
            x[:, start:stop] = _standardise(values, column)
    values = table.columns[encoding.target.name]
    if encoding.target.categories:
        return x, _codes(values, encoding.target)
    return x, _standardise(values, encoding.target).astype(dtype)


def _fit_column(
    path: str, name: str, column: np.ndarray, rows: np.ndarray, as_text: bool, advice: str
) -> Column:
    if as_text or column.dtype == object:
        if column.ndim > 1:
            raise ValueError(
                f"{path}: column {name!r} must be (N,) to hold categories, got {column.shape}"
            )
        categories = np.unique(column.astype(str))
        if len(categories) > max(MAX_CLASSES, len(column) // 2):
            raise ValueError(
                f"{path}: column {name!r} has {len(categories)} distinct categories in "
                f"{len(column)} rows; {advice}"
            )
        return Column(name, categories=tuple(map(str, categories)))
    values = column[rows].reshape(len(rows), -1).astype(float)
    with np.errstate(over="ignore", invalid="ignore"):
        mean, std = values.mean(axis=0), values.std(axis=0)
    if not np.isfinite(std).all():
        raise ValueError(
            f"{path}: column {name!r} has values up to {np.abs(values).max():.4g}, too large to "
            "standardise; rescale it"
        )
    return Column(name, tuple(mean.tolist()), tuple(np.where(std > 0, std, 1.0).tolist()))


def _codes(values: np.ndarray, column: Column) -> np.ndarray:
    """The index (N,) int32 of each value among the column's categories, which are sorted."""
    return np.searchsorted(np.asarray(column.categories), values.astype(str)).astype(np.int32)


def _standardise(values: np.ndarray, column: Column) -> np.ndarray:
    return (values.reshape(len(values), -1) - np.asarray(column.mean)) / np.asarray(column.std)


def _target_column(table: Table, target: str) -> np.ndarray:
    if target not in table.columns:
        raise ValueError(
            f"{table.path}: no target column {target!r}; "
            f"the columns are {list_names(table.columns)}"
        )
    return table.columns[target]
