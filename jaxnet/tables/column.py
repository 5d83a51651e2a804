"""How each column of a table becomes network inputs: plain data, which a run's record keeps."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable
from typing import Any, NamedTuple

import numpy as np

from jaxnet.tables.from_json import arguments, field
from jaxnet.tables.reading.options import MISSING
from jaxnet.tables.table import KINDS

VALUES = {"boolean": "True".__eq__, "integer": int, "real": float, "text": str}  # of a category


class Column(NamedTuple):
    """How a column becomes network inputs (a target: outputs).

    A column of numbers, D a row, gives D inputs (v - mean) / std; one for each of `bins`; the sine
    and then the cosine of each of `cycles`; and one for each of `missing`. A date is the numbers
    `dates.split` gives. A column of categories gives one input for each, and one for `missing`.

    mean, std: one float for each of the D numbers. categories: text, sorted; then there are no
    numbers. kind: what the column of training held, boolean, integer, real, text or date, and how
    it was written. fill: for each number what a missing one becomes, the median of training.
    missing: the places of numbers (0 of categories) with an input that is 1 where they are missing.
    bins: (place, lower, upper), the number's share of the way from lower to upper, within 0..1.
    cycles: (place, period, times), the number's angle in its period, so many times.
    """

    name: str
    mean: tuple[float, ...] = ()
    std: tuple[float, ...] = ()
    categories: tuple[str, ...] = ()
    kind: str = "real"
    fill: tuple[float, ...] = ()
    missing: tuple[int, ...] = ()
    bins: tuple[tuple[int, float, float], ...] = ()
    cycles: tuple[tuple[int, float, int], ...] = ()

    @property
    def width(self) -> int:
        """The number of network inputs or outputs that the column takes."""
        return sum(self.widths)

    @property
    def widths(self) -> tuple[int, int, int, int]:
        """The numbers of inputs by sort: numbers or categories, bins, cycles, missing."""
        first = len(self.categories) or len(self.mean)
        return first, len(self.bins), 2 * len(self.cycles), len(self.missing)

    @property
    def base(self) -> str:
        """The kind, without how it was written."""
        return self.kind.split()[0]


class Encoding(NamedTuple):
    """How a table becomes x and y: the feature columns in order, and the target.

    missing: whether to fill missing values of features, or to refuse them: fill or error.
    """

    features: tuple[Column, ...]
    target: Column
    missing: str = "fill"

    @property
    def width(self) -> int:
        """The number of network inputs."""
        return sum(column.width for column in self.features)


def encoding_to_json(encoding: Encoding) -> dict[str, Any]:
    """Return an encoding as JSON holds it: all the fields of each column."""
    features = [column._asdict() for column in encoding.features]
    value = {"features": features, "target": encoding.target._asdict(), "missing": encoding.missing}
    return json.loads(json.dumps(value))


def encoding_from_json(value: Any) -> Encoding:
    """Return what `encoding_to_json` was given. Raises: ValueError naming the field."""
    places = enumerate(field("encoding", value, "features", list))
    features = tuple(_column(f"encoding.features[{place}]", found) for place, found in places)
    missing = field("encoding", value, "missing", str)
    if missing not in MISSING or not features:
        raise ValueError(f"`encoding` must have columns, and fill or error; got {missing!r}")
    target = _column("encoding.target", field("encoding", value, "target", dict))
    return Encoding(features, target, missing)


def _column(what: str, found: Any) -> Column:
    """Return a column that JSON holds, each field checked."""
    column = Column(**arguments(Column, what, found))
    places = range(len(column.mean) or 1)
    good = {
        "kind": column.kind.partition(" ")[0] in KINDS.values(),
        "std": len(column.std) == len(column.mean) and all(std > 0 for std in column.std),
        "fill": len(column.fill) == len(column.mean),
        "categories": bool(column.mean) != bool(column.categories),
        "missing": all(place in places for place in column.missing),
        "bins": all(place in places and _ascend(*edges) for place, *edges in column.bins),
        "cycles": all(
            p in places and _ascend(0, period) and times >= 1 for p, period, times in column.cycles
        ),
    }
    good["bins"] &= bool(column.mean) or not (column.bins or column.cycles)
    if wrong := [name for name, right in good.items() if not right]:
        shown = str(getattr(column, wrong[0]))[:60]
        raise ValueError(f"`{what}.{wrong[0]}` does not fit column {column.name!r}, got {shown}")
    return column


def _ascend(low: float, high: float) -> bool:
    return low < high and math.isfinite(high - low)


def classes(column: Column) -> np.ndarray:
    """Return the categories as training had them: booleans, integers, reals or text objects."""
    values = [VALUES[column.base](text) for text in column.categories]
    return np.array(values, object if column.base == "text" else None)


def decode(y_pred: np.ndarray, column: Column) -> np.ndarray:
    """Return what outputs (N, D_out) say of a target.

    The most probable class (N,), or float64 numbers in the target's units: (N,), or (N, D) for a
    target of several columns.
    """
    if column.categories:
        return classes(column)[y_pred.argmax(axis=1)]
    numbers = y_pred.astype(float) * np.asarray(column.std) + np.asarray(column.mean)
    return numbers if column.width > 1 else numbers[:, 0]


def kinds_to_read(columns: Iterable[Column]) -> dict[str, str]:
    """Return what to read each column as from text: its kind, but a standardised integer as a real,
    written in the same way.
    """

    def kind(column: Column) -> str:
        standardised = column.base == "integer" and not column.categories
        return column.kind.replace("integer", "real", 1) if standardised else column.kind

    return {column.name: kind(column) for column in columns}
