"""Encode tables as arrays: numbers standardised, text one-hot, classes or numbers to predict."""

from __future__ import annotations

import itertools
import math
from typing import Any

import numpy as np

from jaxnet.spec import check_choice
from jaxnet.tables import dates
from jaxnet.tables.column import Column, Encoding
from jaxnet.tables.table import (
    KINDS,
    Table,
    check_finite,
    check_wanted,
    fault,
    is_missing,
    is_number,
    list_names,
    quote,
    wrong_kind,
)

UNSEEN = ("error", "zero")  # what becomes of a category that training did not have
TYPES = {"boolean": bool, "integer": np.int64, "real": np.float64}
SCALED = 2**17  # numbers that are standardised at once, in the processor's cache: 1 MB


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
    if encoding.missing == "error":
        for column in encoding.features:
            values = table.columns[column.name]
            check_finite(table.path, column.name, values, table.offset, "error")
    x = aligned((len(arrays[0]), encoding.width), dtype)
    parts = np.split(x, np.cumsum([column.width for column in encoding.features])[:-1], axis=1)
    for column, values, part in zip(encoding.features, arrays, parts, strict=True):
        if column.categories:
            part[:] = _codes(table, values, column, unseen)[:, None] == np.arange(column.width)
        else:
            _fill(table, values, column, part)
    return x


def encode_target(table: Table, encoding: Encoding, dtype: str = "float32") -> np.ndarray:
    """Return y: (N, D_out) standardised numbers, or (N,) int32 classes; any other is an error."""
    column = encoding.target
    values = _find(table, column)
    check_finite(table.path, column.name, values, table.offset, "error")
    if column.categories:
        return _codes(table, values, column, "error", "classes")
    y = aligned((len(values), column.width), dtype)
    _fill(table, values, column, y)
    return y


def _find(table: Table, column: Column) -> np.ndarray:
    """Return the column's values: (N,) categories, or numbers (N, D)."""
    check_wanted(table.path, table.columns, [column.name])
    values = table.columns[column.name]
    is_date = column.base == "date"
    width = 1 if column.categories or is_date else len(column.mean)
    if values.size != len(values) * width:
        what = f"must have {width} value{'s' * (width > 1)} a row, as in training"
        raise fault(table.path, column.name, f"{what}; got shape {values.shape}")
    if column.categories:
        return values.reshape(len(values))
    if is_date != (values.dtype.kind == "M") and not (is_date and values.dtype == float):
        what = f"must hold {'dates' if is_date else 'numbers'}, as in training; got {values.dtype}"
        raise fault(table.path, column.name, what)
    if is_date:
        return dates.split(values.reshape(len(values)))[:, : len(column.mean)]
    return values.reshape(len(values), width)


def _codes(
    table: Table, values: np.ndarray, column: Column, unseen: str, what: str = "categories"
) -> np.ndarray:
    """Return the place (N,) int32 of each value among the categories, -1 for an unseen one.

    That of a missing value is after the last category if it is one of its own, else -1.
    """
    index: dict[str | None, int] = {text: code for code, text in enumerate(column.categories)}
    if column.missing:
        index[None] = len(index)
    few, place = values, np.arange(len(values))
    if values.dtype != object:  # of numbers each is looked up once
        few, place = np.unique(values, return_inverse=True)
    texts = category_texts(few, column.base)
    found = np.fromiter(map(index.get, texts, itertools.repeat(-1)), np.int32, len(texts))
    codes = found if values.dtype == object else found[place]
    if unseen == "error" and (codes < 0).any():
        rows = (row for row in np.flatnonzero(codes < 0) if texts[place[row]] is not None)
        if (row := next(rows, None)) is not None:
            remedy = ", or encode it as zeros with `unseen` zero" if what == "categories" else ""
            known = f"the {what} of training ({list_names(column.categories)})"
            text = f"{quote(str(texts[place[row]]))} is not among {known}; correct it{remedy}"
            raise fault(table.path, column.name, text, table.offset + int(row) + 1)
    return codes


def category_texts(values: np.ndarray, kind: str) -> list[str | None]:
    """Return each value (N,) as text, as in training: an integer may have become a real; None for
    a missing value.
    """
    if values.dtype == object:
        texts = values.tolist()
        return [t and t.capitalize() for t in texts] if kind == "boolean" else texts
    absent = is_missing(values)
    if KINDS[values.dtype.kind] == kind or kind == "text":
        texts = values.astype(str)
    else:
        with np.errstate(invalid="ignore"):
            cast = values.astype(TYPES[kind])
        texts = np.where(cast == values, cast.astype(str), values.astype(str))
    return [None if no else text for text, no in zip(texts.tolist(), absent, strict=True)]


def _fill(table: Table, values: np.ndarray, column: Column, out: np.ndarray) -> None:
    """Put the inputs that a column makes of its numbers (N, D) into `out`."""
    if values.dtype == object:
        values = _read_numbers(table, values, column)
    mean, std = np.array(column.mean), np.array(column.std)
    block = max(1, SCALED // column.width)
    for start in range(0, len(out), block):  # float64, but not all at once
        some, part = values[start : start + block], out[start : start + block]
        scaled, more, absent = part[:, : len(mean)], part[:, len(mean) :], None
        with np.errstate(over="ignore"):
            scaled[:] = (some - mean) / std
            if not np.isfinite(scaled).all():
                absent = np.isnan(some)
                some = np.where(absent, column.fill, some)
                scaled[:] = (some - mean) / std
                _check_size(table, column, some, scaled, start)
        if more.size:
            _add_inputs(column, some, absent, more)


def _add_inputs(
    column: Column, values: np.ndarray, absent: np.ndarray | None, out: np.ndarray
) -> None:
    """Put the bins, cycles and missing of numbers (N, D), once filled, into `out`.

    absent: (N, D) which were missing, None if none was.
    """
    _, bins, cycles, _ = column.widths
    if column.bins:
        place, lower, upper = (np.array(a) for a in zip(*column.bins, strict=True))
        out[:, :bins] = np.clip((values[:, place] - lower) / (upper - lower), 0, 1)
    if column.cycles:
        angles = dates.angles(values, column.cycles)
        out[:, bins : bins + cycles] = np.hstack([np.sin(angles), np.cos(angles)])
    out[:, bins + cycles :] = 0 if absent is None else absent[:, list(column.missing)]


def _check_size(
    table: Table, column: Column, values: np.ndarray, scaled: np.ndarray, start: int
) -> None:
    """Refuse the first value that is not finite once it is standardised."""
    for row, place in np.argwhere(~np.isfinite(scaled))[:1]:
        what = f"the value {values[row, place]} is too large for {scaled.dtype}; correct it"
        raise fault(table.path, column.name, what, table.offset + start + int(row) + 1)


def _read_numbers(table: Table, values: np.ndarray, column: Column) -> np.ndarray:
    """Return text (N, D) as float64; only that of booleans is read, other text is refused."""
    texts = ["" if text is None else str(text) for text in values[:, 0].tolist()]
    words = {"": np.nan} | ({"true": 1.0, "false": 0.0} if column.base == "boolean" else {})
    bad = [row for row, text in enumerate(texts) if text.lower() not in words]
    if bad:
        row = next((i for i in bad if not is_number(texts[i])), bad[0])
        kind = "boolean" if column.base == "boolean" else "real"
        raise wrong_kind(table.path, table.offset + row + 1, column.name, texts[row], kind)
    return np.array([[words[text.lower()]] for text in texts])
