"""Columns in memory as a table: data frames and mappings by name, a plain array in order.

pandas, polars and others are read through the protocols of Arrow and of data frames.
"""

from __future__ import annotations

import contextlib
from collections.abc import Collection
from pathlib import Path
from typing import Any

import numpy as np

from jaxnet.tables import table
from jaxnet.tables.column import Column, kinds_to_read
from jaxnet.tables.reading.folder import Source
from jaxnet.tables.reading.indexes import of_pandas
from jaxnet.tables.reading.options import AS_FOUND, ReadOptions
from jaxnet.tables.reading.reader import read_kinds, read_source
from jaxnet.tables.table import Table


def to_table(frame: Any, drop: Collection[str] = (), options: ReadOptions = AS_FOUND) -> Table:
    """Return the table of a data frame, a structured array or a mapping of names to arrays.

    Its text is read as that of a Parquet file: `reader.read` says what is left out and logged.

    Raises: as `reader.read`; ValueError for what has no names.
    """
    path = "`table`"
    columns = _columns(frame, path, None)
    if columns is None:
        raise ValueError(f"{path} must be a data frame or a mapping, got {type(frame).__name__}")
    return read_source(path, Source(Path(path), {}, columns), drop, options)


def from_columns(
    columns: Any, features: tuple[Column, ...], options: ReadOptions = AS_FOUND
) -> Table:
    """Return the table of the features in a data frame, a structured array or a mapping of names
    to arrays; or in an array of numbers (N, D), where they are in order.

    Raises: ValueError for a missing column, columns of unequal length, and values of another kind.
    """
    path = "`columns`"
    kinds = kinds_to_read(features)
    found = _columns(columns, path, list(kinds))
    if found is None:
        found = _split(np.asarray(columns), features, path)
    return read_kinds(Source(Path(path), {}, found), kinds, options)


def _columns(frame: Any, path: str, wanted: list[str] | None) -> dict[str, Any] | None:
    """Return columns as Arrow arrays or NumPy's, those `wanted` or all; None if they have no names.

    The index of a pandas frame is left out.
    """

    arrow, keys = _arrow_table(frame), {}
    fields = getattr(getattr(frame, "dtype", None), "names", None)
    if arrow is not None:
        index = of_pandas(arrow.schema)
        names = [name for name in arrow.column_names if name not in index]
    elif hasattr(frame, "keys") or fields:
        keys = {str(key): key for key in fields or frame.keys()}
        names = list(keys)
    elif any(hasattr(type(frame), name) for name in ("columns", "column_names", "schema")):
        what = "must be a data frame, a mapping or an array"
        raise ValueError(f"{path} {what}, got {type(frame).__name__}; make it a pyarrow.Table")
    else:
        return None
    wanted = names if wanted is None else wanted
    table.check_wanted(path, names, wanted)
    if arrow is not None:
        return {name: _whole(arrow[name]) for name in wanted}
    arrays = {name: np.asarray(frame[keys[name]]) for name in wanted}
    table.check_lengths(path, {name: array.shape for name, array in arrays.items()})
    return {name: _column(path, name, array) for name, array in arrays.items()}


def _arrow_table(frame: Any) -> Any:
    """Return a data frame as an Arrow table, or None if it cannot be."""
    import pyarrow as pa

    # a frame of mixed objects is none, nor is a series
    with contextlib.suppress(pa.ArrowException, TypeError, ValueError, NotImplementedError):
        if hasattr(frame, "__arrow_c_stream__"):
            return pa.table(frame)
        if hasattr(frame, "__dataframe__"):
            from pyarrow.interchange import from_dataframe

            return from_dataframe(frame)
    return None


def _whole(column: Any) -> Any:
    return column.chunk(0) if column.num_chunks == 1 else column.combine_chunks()


def _column(path: str, name: str, array: np.ndarray) -> Any:
    """Return an array that a user gave: text and objects as Arrow arrays, others as they are."""
    import pyarrow as pa

    if array.dtype.kind in "UT" and array.ndim == 1:
        return pa.array(array.tolist(), pa.string())
    if array.dtype == object and array.ndim == 1:
        try:
            return pa.array(array, from_pandas=True)
        except (pa.ArrowException, OverflowError):
            return pa.array([_text(path, name, i, v) for i, v in enumerate(array.tolist())])
    array = np.array(array.tolist()) if array.dtype == object else array
    array = array.astype("M8[us]") if array.dtype.kind == "M" else array
    if array.dtype.kind not in table.KINDS:
        what = f"must be numbers, booleans, dates or text, got {array.dtype}"
        raise table.fault(path, name, what)
    return array.reshape(len(array), -1) if array.ndim > 2 else array


def _text(path: str, name: str, place: int, value: Any) -> str | None:
    """Return one of values of several types as text."""
    if value is None or value != value:
        return None
    if not isinstance(value, (str, bool, int, float, np.generic)):
        what = f"the value is neither number nor text: {table.quote(str(value))}"
        raise table.fault(path, name, what, place + 1)
    return str(value)


def _split(x: np.ndarray, features: tuple[Column, ...], path: str) -> dict[str, np.ndarray]:
    """Return the columns of a matrix of numbers (N, D_in)."""
    held = {c.name: "categories" if c.categories else "dates" for c in features}
    if other := [c.name for c in features if c.categories or c.base == "date"]:
        why = f"since column {other[0]!r} holds {held[other[0]]}; got an array of shape {x.shape}"
        raise ValueError(f"{path} must be a mapping of names to arrays, {why}")
    stops = np.cumsum([len(column.mean) for column in features])
    if x.ndim != 2 or x.shape[1] != stops[-1] or x.dtype.kind not in "biuf":
        got = f"got {x.dtype} of shape {x.shape}"
        raise ValueError(f"{path} must be numbers (N, {stops[-1]}), {got}")
    parts = np.split(x, stops[:-1], axis=1)
    return {column.name: part for column, part in zip(features, parts, strict=True)}
