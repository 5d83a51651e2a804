"""Encode tables as arrays: numbers standardised, text one-hot, classes or numbers to predict."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable
from typing import Any, NamedTuple

import numpy as np

from jaxnet.spec import check_choice
from jaxnet.tables.table import (
    KINDS,
    Table,
    check_finite,
    check_lengths,
    check_wanted,
    fault,
    is_number,
    list_names,
    quote,
    wrong_kind,
)

UNSEEN = ("error", "zero")  # what becomes of a category that training did not have
VALUES = {"boolean": "True".__eq__, "integer": int, "real": float, "text": str}  # of a category
TYPES = {"boolean": bool, "integer": np.int64, "real": np.float64}
SCALED = 2**17  # numbers that are standardised at once, in the processor's cache: 1 MB


class Column(NamedTuple):
    """How a column becomes numbers: standardised by mean and std, or one-hot categories.

    mean, std: one float for each of the column's D numbers. categories: text, sorted; then the
    others are empty. kind: what the column of training held, boolean, integer, real or text.
    """

    name: str
    mean: tuple[float, ...] = ()
    std: tuple[float, ...] = ()
    categories: tuple[str, ...] = ()
    kind: str = "real"

    @property
    def width(self) -> int:
        """The number of network inputs or outputs that the column takes."""
        return len(self.categories) or len(self.mean)


class Encoding(NamedTuple):
    """How a table becomes x and y: the feature columns in order, and the target."""

    features: tuple[Column, ...]
    target: Column

    @property
    def width(self) -> int:
        """The number of network inputs."""
        return sum(column.width for column in self.features)


def encoding_to_json(encoding: Encoding) -> dict[str, Any]:
    """Return an encoding as JSON holds it: each column's name, mean, std, categories and kind."""
    features = [column._asdict() for column in encoding.features]
    return json.loads(json.dumps({"features": features, "target": encoding.target._asdict()}))


def encoding_from_json(value: Any) -> Encoding:
    """Return what `encoding_to_json` was given. Raises: ValueError, TypeError, KeyError."""
    columns = []
    for found in (*value["features"], value["target"]):
        mean, std, categories = (tuple(found[name]) for name in ("mean", "std", "categories"))
        column = Column(str(found["name"]), mean, std, categories, str(found["kind"]))
        scales = np.asarray([column.mean, column.std], float)
        good = np.isfinite(scales).all() and (scales[1] > 0).all() and column.width > 0
        if not good or not all(isinstance(text, str) for text in column.categories):
            raise ValueError(f"the encoding of column {column.name!r}")
        columns.append(column)
    return Encoding(tuple(columns[:-1]), columns[-1])


def aligned(shape: tuple[int, ...], dtype: Any) -> np.ndarray:
    """Return an empty array aligned to 64 bytes, so that JAX on a CPU uses its memory as it is."""
    size = math.prod(shape) * np.dtype(dtype).itemsize
    buffer = np.empty(size + 64, np.uint8)
    start = -buffer.ctypes.data % 64
    return buffer[start : start + size].view(dtype).reshape(shape)


def encode_features(
    table: Table, encoding: Encoding, dtype: str = "float32", unseen: str = "error"
) -> np.ndarray:
    """Return x (N, D_in) of a table that has the feature columns, in any order, and maybe others.

    unseen: "error", or "zero" to encode a category that training did not have as zeros.

    Raises: ValueError for a column that is missing or has another width or kind than in training,
    an unseen category, and a number too large for the dtype.
    """
    check_choice("unseen", unseen, UNSEEN)
    arrays = [_find(table, column) for column in encoding.features]
    x = aligned((len(arrays[0]), encoding.width), dtype)
    parts = np.split(x, np.cumsum([column.width for column in encoding.features])[:-1], axis=1)
    for column, values, part in zip(encoding.features, arrays, parts, strict=True):
        if column.categories:
            part[:] = _codes(table, values, column, unseen)[:, None] == np.arange(column.width)
        else:
            _standardise(table, values, column, part)
    return x


def encode_target(table: Table, encoding: Encoding, dtype: str = "float32") -> np.ndarray:
    """Return y: (N, D_out) standardised numbers, or (N,) int32 classes; any other is an error."""
    column = encoding.target
    values = _find(table, column)
    if column.categories:
        return _codes(table, values, column, "error", "classes")
    y = aligned((len(values), column.width), dtype)
    _standardise(table, values, column, y)
    return y


def classes(column: Column) -> np.ndarray:
    """Return the categories as training had them: booleans, integers, reals or text objects."""
    values = [VALUES[column.kind](text) for text in column.categories]
    return np.array(values, object if column.kind == "text" else None)


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
    """Return what to read each column as from text: its kind, or a real if it is standardised."""
    return {c.name: c.kind if c.categories or c.kind == "boolean" else "real" for c in columns}


def from_columns(columns: Any, features: tuple[Column, ...], path: str = "`columns`") -> Table:
    """Return the table of a mapping of arrays by name, or of numbers (N, D_in) in order."""
    if hasattr(columns, "keys"):
        names = list(columns.keys())
        check_wanted(path, names, (column.name for column in features))
        arrays = {column.name: np.asarray(columns[column.name]) for column in features}
        check_lengths(path, {name: array.shape for name, array in arrays.items()})
        arrays = {name: _plain(path, name, array) for name, array in arrays.items()}
    else:
        arrays = _split(np.asarray(columns), features, path)
    for name, array in arrays.items():
        check_finite(path, name, array, missing="error")
    return Table(path, arrays)


def _split(x: np.ndarray, features: tuple[Column, ...], path: str) -> dict[str, np.ndarray]:
    """Return the columns of a matrix of numbers (N, D_in)."""
    if text := [column.name for column in features if column.categories]:
        why = f"since column {text[0]!r} holds categories; got an array of shape {x.shape}"
        raise ValueError(f"{path} must be a mapping of names to arrays, {why}")
    stops = np.cumsum([column.width for column in features])
    if x.ndim != 2 or x.shape[1] != stops[-1] or x.dtype.kind not in "biuf":
        got = f"got {x.dtype} of shape {x.shape}"
        raise ValueError(f"{path} must be numbers (N, {stops[-1]}), {got}")
    parts = np.split(x, stops[:-1], axis=1)
    return {column.name: part for column, part in zip(features, parts, strict=True)}


def _plain(path: str, name: str, array: np.ndarray) -> np.ndarray:
    """Return an array that a user gave as a column: numbers, booleans, or text as objects."""
    if array.dtype == object and not all(isinstance(value, str) for value in array.flat):
        for row, value in enumerate(array.tolist(), start=1):
            if not isinstance(value, (str, bool, int, float, np.generic, list)) or value != value:
                what = f"the value is missing, or neither number nor text: {quote(str(value))}"
                raise fault(path, name, what, row)
        array = np.array(array.tolist())
    if array.dtype.kind in "UT":
        array = array.astype(object)
    if array.dtype.kind not in KINDS:
        raise fault(path, name, f"must be numbers, booleans or text, got {array.dtype}")
    return array.reshape(len(array), -1) if array.ndim > 2 else array


def _find(table: Table, column: Column) -> np.ndarray:
    """Return the column's values: (N,) categories, or numbers (N, D)."""
    check_wanted(table.path, table.columns, [column.name])
    values = table.columns[column.name]
    width = 1 if column.categories else column.width
    if values.size != len(values) * width:
        what = f"must have {width} value{'s' * (width > 1)} a row, as in training"
        raise fault(table.path, column.name, f"{what}; got shape {values.shape}")
    return values.reshape(len(values)) if column.categories else values.reshape(len(values), width)


def _codes(
    table: Table, values: np.ndarray, column: Column, unseen: str, what: str = "categories"
) -> np.ndarray:
    """Return the place (N,) int32 of each value among the categories, -1 for an unseen one."""
    index = {category: code for code, category in enumerate(column.categories)}
    few, place = values, np.arange(len(values))
    if values.dtype != object:
        few, place = np.unique(values, return_inverse=True)
    texts = _texts(few, column.kind)
    codes = np.array([index.get(text, -1) for text in texts], np.int32)[place]
    if unseen == "error" and (codes < 0).any():
        row = int((codes < 0).argmax())
        remedy = ", or encode it as zeros with `unseen` zero" if what == "categories" else ""
        known = f"the {what} of training ({list_names(column.categories)})"
        text = f"{quote(texts[place[row]])} is not among {known}; correct it{remedy}"
        raise fault(table.path, column.name, text, table.offset + row + 1)
    return codes


def _texts(values: np.ndarray, kind: str) -> list[str]:
    """Return each value (N,) as text, as in training: an integer may have become a real."""
    if values.dtype == object:
        return [str(value) for value in values.tolist()]
    if KINDS[values.dtype.kind] == kind or kind == "text":
        return values.astype(str).tolist()
    with np.errstate(invalid="ignore"):
        cast = values.astype(TYPES[kind])
    return np.where(cast == values, cast.astype(str), values.astype(str)).tolist()


def _standardise(table: Table, values: np.ndarray, column: Column, out: np.ndarray) -> None:
    """Put the values (N, D), less the mean, over the std, into `out`."""
    if values.dtype == object:
        texts = values[:, 0].tolist()
        row = next((i for i, text in enumerate(texts) if not is_number(text)), 0)
        raise wrong_kind(table.path, table.offset + row + 1, column.name, texts[row])
    mean, std = np.asarray(column.mean), np.asarray(column.std)
    block = max(1, SCALED // column.width)
    for start in range(0, len(out), block):  # float64, but not all at once
        part, some = out[start : start + block], values[start : start + block]
        with np.errstate(over="ignore"):
            part[:] = (some - mean) / std
        if not np.isfinite(part).all():
            row, place = np.argwhere(~np.isfinite(part))[0]
            what = f"the value {some[row, place]} is too large for {out.dtype}; correct it"
            raise fault(table.path, column.name, what, table.offset + start + row + 1)
