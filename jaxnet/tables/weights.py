"""How much each row counts in the loss: by a column of the table, and by its class."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from jaxnet.tables.column import Encoding
from jaxnet.tables.encoding import encode_target
from jaxnet.tables.from_json import arguments
from jaxnet.tables.store import Store
from jaxnet.tables.table import Table, check_wanted, fault


class Weighting(NamedTuple):
    """What makes the weight of a row; the product, where both are given.

    column: the name of a column of numbers, or None. classes: a number for each class of the
    target, or () for none.
    """

    column: str | None = None
    classes: tuple[float, ...] = ()

    def weights(self, values: np.ndarray | None, y: np.ndarray, dtype: str) -> np.ndarray | None:
        """Return the weights of rows, shaped as `values`, those of the column, or as the classes y;
        None for rows that all count alike.
        """
        if self.classes:
            of_class = np.asarray(self.classes)[y]
            values = of_class if values is None else values * of_class
        return None if values is None else values.astype(dtype)


EQUAL = Weighting()


def weighting_from_json(value: Any) -> Weighting:
    """Return what `Weighting._asdict` gave. Raises: ValueError naming the field."""
    weighting = Weighting(**arguments(Weighting, "weighting", value))
    if min(weighting.classes, default=0) < 0:
        raise ValueError(f"`weighting.classes` must be at least 0, got {min(weighting.classes)}")
    return weighting


def read_weights(table: Table | Store, name: str) -> np.ndarray:
    """Return the column of weights (N,) of all rows, float64.

    Raises: ValueError for a column that is missing, has another value than numbers of at least 0,
    or is 0 in all rows.
    """
    check_wanted(table.path, list(table.columns), [name])
    column = table.columns[name]
    if column.dtype.kind not in "iuf" or column.ndim > 1:
        raise fault(table.path, name, "must be numbers (N,) to weigh the rows; choose another")
    parts = [check_weights(block, name) for block in table.blocks([name])]
    weights = np.concatenate(parts) if parts else np.zeros(0)
    if not weights.any():
        raise fault(table.path, name, "must weigh some row with more than 0")
    return weights


def check_weights(block: Table, name: str) -> np.ndarray:
    """Return the weights of a block of rows. Raises: ValueError naming the row of a wrong one."""
    values = block.columns[name].astype(float)
    wrong = np.flatnonzero(~(np.isfinite(values) & (values >= 0)))
    if len(wrong):
        what = f"the weight is {values[wrong[0]]}; it must be a number of at least 0"
        raise fault(block.path, name, what, block.offset + int(wrong[0]) + 1)
    return values


def balanced(table: Table | Store, encoding: Encoding, rows: np.ndarray) -> tuple[float, ...]:
    """Return a weight for each class: the mean number of rows of a class over that of this one.

    They are counted in `rows`; a class that has none there counts as one of one row.
    """
    counts, chosen = np.zeros(encoding.target.width), np.zeros(table.num_rows, bool)
    chosen[rows] = True
    for block in table.blocks([encoding.target.name]):
        y = encode_target(block, encoding)
        here = chosen[block.offset : block.offset + len(y)]
        counts += np.bincount(y[here], minlength=len(counts))
    mean = len(rows) / np.count_nonzero(counts)
    return tuple((mean / np.maximum(counts, 1)).tolist())
