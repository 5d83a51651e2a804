"""What the exported files take and return: model.json, and what float32 loses of it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import numpy as np

import jaxnet
from jaxnet.runs.model import Model
from jaxnet.spec import QUANTILES
from jaxnet.tables.encoding import Column, Encoding, classes

FAR = 1e4  # |mean| / std from which a note is made: float32 has 7 digits, and loses 4 of them


class Inputs(NamedTuple):
    """How `numbers` and `codes` become x (N, D_in).

    mean, std: (n,) of the numbers, float64. column, code: for each one-hot input, its column of
    `codes` and the code that sets it. order: (D_in,) the places in x of the numbers and then of the
    one-hot inputs, which the rows of w1 follow.
    """

    mean: np.ndarray
    std: np.ndarray
    column: np.ndarray
    code: np.ndarray
    order: np.ndarray


def inputs_of(encoding: Encoding) -> Inputs:
    """How the two inputs of the files become the network's x."""
    numeric = [c for c in encoding.features if not c.categories]
    categorical = [c for c in encoding.features if c.categories]
    one_hot = np.repeat([bool(c.categories) for c in encoding.features], _widths(encoding.features))
    return Inputs(
        mean=np.array([v for c in numeric for v in c.mean]),
        std=np.array([v for c in numeric for v in c.std]),
        column=np.repeat(np.arange(len(categorical)), _widths(categorical)),
        code=np.array([k for c in categorical for k in range(c.width)], np.int32),
        order=np.argsort(one_hot, kind="stable"),
    )


def _widths(columns: Sequence[Column]) -> np.ndarray:
    return np.array([c.width for c in columns], int)


def describe(model: Model) -> dict[str, Any]:
    """The content of model.json: what the files take and return, and all that encodes a row."""
    features, target = model.encoding
    columns = [_describe(c) for c in features]
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
            "numbers": [c for c in columns if "width" in c],
            "codes": [c for c in columns if "categories" in c],
        },
        "output": output,
        "x": {
            "columns": columns,
            "mean": [v for c in features for v in (c.mean or (0.0,) * c.width)],
            "std": [v for c in features for v in (c.std or (1.0,) * c.width)],
        },
        "sizes": model.spec.sizes,
        "bias": model.spec.bias,
        "activation": model.spec.activation,
        "dtype": model.dtype,
        "example": {c.name: _example(c) for c in features},
        "versions": {"jaxnet": jaxnet.__version__, "jax": jax.__version__},
    }


def _describe(column: Column) -> dict[str, Any]:
    if column.categories:
        return {"name": column.name, "categories": column.categories}
    return {"name": column.name, "width": column.width}


def _example(column: Column) -> Any:
    """A value to try: the training mean, or the first category."""
    if column.categories:
        return classes(column).tolist()[0]
    return column.mean[0] if column.width == 1 else column.mean


def precision_notes(columns: Sequence[Column]) -> list[str]:
    """What float32 loses of the columns that a file standardizes, one note for each such column."""
    return [note for note in map(_precision_note, columns) if note]


def _precision_note(column: Column) -> str:
    limits = np.finfo(np.float32)
    scales = list(zip(column.mean, column.std, strict=True))
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
