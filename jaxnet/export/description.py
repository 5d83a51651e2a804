"""What the exported files take and return: model.json, and what float32 loses of it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import numpy as np

import jaxnet
from jaxnet.export import lifetime
from jaxnet.runs.model import Model
from jaxnet.spec import QUANTILES
from jaxnet.tables import dates
from jaxnet.tables.column import Column, Encoding, classes

DATE = "whole days since 1970-01-01, and seconds of the day if it has two numbers"
PARTS = ("bins", "cycles", "missing")  # inputs beside the numbers
FAR = 1e4  # |mean| / std from which a note is made: float32 has 7 digits, and loses 4 of them


class Inputs(NamedTuple):
    """How `numbers` (N, n) and `codes` become x (N, D_in).

    fill: (n,) what a missing number becomes. x is made of the numbers less mean, over std (n,); the
    numbers at `binned`, from lower to upper within 0..1 (B,); sines, and then cosines, of those at
    `turned` in their period, so many `times` (C,); whether those at `missing` were (M,); and
    whether column `column` of the codes is `code` (K,). order: (D_in,) the places in x of these in
    that order, which the rows of w1 follow.
    """

    fill: np.ndarray
    mean: np.ndarray
    std: np.ndarray
    binned: np.ndarray
    lower: np.ndarray
    upper: np.ndarray
    turned: np.ndarray
    period: np.ndarray
    times: np.ndarray
    missing: np.ndarray
    column: np.ndarray
    code: np.ndarray
    order: np.ndarray

    def cast(self, dtype: np.dtype) -> Inputs:
        """Return the same in the dtype of a network."""
        with np.errstate(over="ignore"):  # a note says so
            return Inputs(*(a.astype(dtype) if a.dtype == float else a for a in self))


def inputs_of(encoding: Encoding) -> Inputs:
    """How the two inputs of the files become the network's x, in float64."""
    numeric = [c for c in encoding.features if not c.categories]
    categorical = [c for c in encoding.features if c.categories]
    starts = np.cumsum([0, *(len(c.mean) for c in numeric)]).tolist()
    placed = list(zip(numeric, starts, strict=False))
    bins = [(start + place, *edges) for c, start in placed for place, *edges in c.bins]
    cycles = [(start + place, *cycle) for c, start in placed for place, *cycle in c.cycles]
    binned, lower, upper = np.array(bins).reshape(-1, 3).T
    turned, period, times = np.array(cycles).reshape(-1, 3).T
    sorts = [np.repeat(range(6), _counts(c)) for c in encoding.features]
    return Inputs(
        fill=np.array([v for c in numeric for v in c.fill]),
        mean=np.array([v for c in numeric for v in c.mean]),
        std=np.array([v for c in numeric for v in c.std]),
        binned=binned.astype(int),
        lower=lower,
        upper=upper,
        turned=turned.astype(int),
        period=period,
        times=times,
        missing=np.array([start + place for c, start in placed for place in c.missing], int),
        column=np.repeat(np.arange(len(categorical)), [c.width for c in categorical]),
        code=np.array([k for c in categorical for k in range(c.width)], np.int32),
        order=np.argsort(np.concatenate(sorts), kind="stable"),
    )


def _counts(column: Column) -> tuple[int, ...]:
    """How many inputs of a column are numbers, bins, cycles, missing, one-hot."""
    if column.categories:
        return 0, 0, 0, 0, 0, column.width
    numbers, bins, cycles, missing = column.widths
    return numbers, bins, cycles // 2, cycles // 2, missing, 0


def describe(model: Model) -> dict[str, Any]:
    """The content of model.json: what the files take and return, and all that encodes a row."""
    features, target = model.encoding.features, model.encoding.target
    if target.categories:
        output: dict[str, Any] = {"name": "probabilities", "classes": target.categories}
    else:
        std, mean = (tuple(part.tolist()) for part in model.scale)
        output = {"name": "prediction", "mean": mean, "std": std}
        if model.spec.loss == "quantile":  # one after the other, for each column of the target
            output["quantiles"] = QUANTILES
    return {
        "task": model.task,
        "target": target.name,
        "inputs": {
            "numbers": [_numbers(c) for c in features if not c.categories],
            "codes": [_codes(c) for c in features if c.categories],
        },
        "output": output,
        "x": [_codes(c) if c.categories else _numbers(c) | _scales(c) for c in features],
        "sizes": model.spec.sizes,
        "bias": model.spec.bias,
        "activation": model.spec.activation,
        "members": len(model.members),
        "dtype": model.dtype,
        "example": {c.name: _example(c) for c in features},
        "versions": {
            "jaxnet": jaxnet.__version__,
            "jax": jax.__version__,
            "jaxlib": lifetime.installed(),
        },
        "stablehlo_loads_until": str(lifetime.loads_until(lifetime.installed())),
    }


def _numbers(column: Column) -> dict[str, Any]:
    found = {"name": column.name, "width": len(column.mean)}
    return found | ({"date": DATE} if column.base == "date" else {})


def _codes(column: Column) -> dict[str, Any]:
    """The categories, and null for a missing value that is one of its own."""
    return {
        "name": column.name,
        "categories": [*column.categories, *(None for _ in column.missing)],
    }


def _scales(column: Column) -> dict[str, Any]:
    return {name: getattr(column, name) for name in ("mean", "std", "fill", *PARTS)}


def _example(column: Column) -> Any:
    """A value to try: the training mean, or the first category."""
    if column.categories:
        return classes(column).tolist()[0]
    if column.base == "date":
        return dates.text(column.mean)
    return column.mean[0] if len(column.mean) == 1 else column.mean


def precision_notes(columns: Sequence[Column]) -> list[str]:
    """What float32 loses of the columns that a file standardizes, one note for each such column."""
    return [note for note in map(_precision_note, columns) if note]


def _precision_note(column: Column) -> str:
    limits = np.finfo(np.float32)
    scales = [*zip(column.mean, column.std, strict=True)]
    scales += [(lower, upper - lower) for _, lower, upper in column.bins]
    if any(max(abs(mean), std) > limits.max or std < limits.tiny for mean, std in scales):
        return (
            f"column {column.name!r} is beyond the range of float32, so the result is wrong: "
            "use jaxnet train --dtype float64, or rescale it in the data"
        )
    ratio = max((abs(mean) / std for mean, std in scales), default=0)
    if ratio < FAR:
        return ""
    return (
        f"column {column.name!r} loses about {min(7, round(math.log10(ratio)))} of the 7 digits "
        f"of float32 (its |mean| / std is {ratio:.1g}): use jaxnet train --dtype float64, or "
        "subtract an offset in the data"
    )
