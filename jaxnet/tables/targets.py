"""The target: which task it stands for, which rows have one, and how they are split."""

from __future__ import annotations

import logging
from typing import Any, NamedTuple

import numpy as np

from jaxnet import data
from jaxnet.tables.missing import has_value, without_target
from jaxnet.tables.statistics import Distinct
from jaxnet.tables.store import Store
from jaxnet.tables.table import Table, fault, list_names, missing

log = logging.getLogger("jaxnet")

Source = Table | Store
MAX_CLASSES = 20  # an integer target with more distinct values is taken for a quantity
MAX_DISTINCT = 2**20  # distinct integers of a target that are counted


def infer_task(table: Source, target: str) -> tuple[str, str]:
    """Return "classification" or "regression" for a target column, and the reason in words.

    Text, booleans, and up to MAX_CLASSES distinct whole numbers are classes. Raises: ValueError for
    an unknown column, and for dates.
    """
    column = target_of(table, target)
    if column.dtype.kind == "O":
        return "classification", "its values are text"
    if table.kind(target) == "boolean":
        return "classification", "its values are true and false"
    if column.ndim > 1:
        return "regression", "its values are several numbers a row"
    distinct = Distinct(column.dtype, MAX_DISTINCT)
    for block in table.blocks([target]):
        values = block.columns[target]
        if values.dtype.kind == "f" and (values % 1 > 0).any():
            return "regression", "its values are real numbers"
        distinct.update(values)
    if distinct.found is None:
        return "regression", f"it has more than {MAX_DISTINCT:,} distinct integers"
    number = len(distinct.found)
    what = (
        f"it has {number} distinct {'integers' if column.dtype.kind in 'iu' else 'whole numbers'}"
    )
    if number <= MAX_CLASSES:
        return "classification", what
    return "regression", f"{what}, more than {MAX_CLASSES}"


def target_of(table: Source, target: str) -> np.ndarray:
    """Return the target's column. Raises: ValueError if there is none, or it holds dates."""
    if target not in table.columns:
        raise missing(table.path, [target], table.columns, "target column")
    column = table.columns[target]
    if column.dtype.kind == "M":
        what = "holds dates, and must hold numbers or text to be the target"
        raise fault(table.path, target, what)
    return column


class Labels(NamedTuple):
    """The rows (N,) of a table that have a target; for classification the class (N,) of each, the
    place of its value among `values`, and else None. target: the column.
    """

    target: str
    rows: np.ndarray
    classes: np.ndarray | None
    values: list[Any]

    def split(self, validation: float, seed: int) -> tuple[np.ndarray, np.ndarray]:
        """Return the rows to train and to validate on, as `data.split`."""
        train, held_out = data.split(len(self.rows), validation, seed, self.classes)
        return self.rows[train], self.rows[held_out]

    def folds(self, number: int, seed: int) -> list[np.ndarray]:
        """Return the rows of each fold, as `data.folds`."""
        return [self.rows[f] for f in data.folds(len(self.rows), number, seed, self.classes)]

    def log(self, num_rows: int, train: np.ndarray, held_out: np.ndarray) -> None:
        """Log how many rows have no target, and the classes of one row or of one split only."""
        if left_out := num_rows - len(self.rows):
            log.warning(without_target(left_out, self.target))
        if self.classes is None:
            return
        counts = np.bincount(self.classes, minlength=len(self.values))
        code = np.full(num_rows, -1)
        code[self.rows] = self.classes
        names = np.arange(len(counts))
        told = {
            "only 1 row": counts == 1,
            "no row to train on": ~np.isin(names, code[train]) & (counts > 1),
            "no row to validate on": ~np.isin(names, code[held_out]) & (counts > 1),
        }
        for what, found in told.items():
            if texts := [str(self.values[place]) for place in np.flatnonzero(found)]:
                noun = "class" if len(texts) == 1 else "classes"
                log.warning(f"{what} is of the {noun} {list_names(texts)}")


def find_labels(table: Source, target: str, task: str) -> Labels:
    """Return the rows that have a target, and their classes, in a pass over the target's column."""
    rows, classes, index = [], [], {}
    dtype = np.int32 if table.num_rows <= np.iinfo(np.int32).max else np.int64
    for block in table.blocks([target]):
        values = block.columns[target]
        here = np.flatnonzero(has_value(values))
        rows.append((block.offset + here).astype(dtype))
        if task == "classification":
            few, place = values[here], slice(None)
            if values.dtype != object:
                few, place = np.unique(few, return_inverse=True)
            codes = [index.setdefault(value, len(index)) for value in few.tolist()]
            classes.append(np.array(codes, np.int32)[place])
    found = np.concatenate(classes) if classes else None
    return Labels(target, np.concatenate(rows), found, list(index))
