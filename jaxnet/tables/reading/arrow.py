"""Arrow arrays as the columns of a table: what kind each type is, and its values."""

from __future__ import annotations

import functools
from typing import Any

import numpy as np

from jaxnet.tables.reading.forms import as_numpy, functions
from jaxnet.tables.table import fault


@functools.cache
def is_text(type: Any) -> bool:
    """Return whether a type holds text; categories that are integers do too."""
    import pyarrow as pa

    if pa.types.is_dictionary(type):
        return is_text(type.value_type) or pa.types.is_integer(type.value_type)
    return any(
        test(type)
        for test in (pa.types.is_string, pa.types.is_large_string, pa.types.is_string_view)
    )


def is_nested(type: Any) -> bool:
    import pyarrow as pa

    return pa.types.is_nested(type)


def to_strings(column: Any) -> Any:
    """Return a column of text as an array of strings."""
    import pyarrow as pa

    if isinstance(column, pa.ChunkedArray):
        column = column.combine_chunks()
    if pa.types.is_dictionary(column.type):
        column = column.cast(column.type.value_type)
    return column if pa.types.is_string(column.type) else column.cast(pa.string())


@functools.cache
def kind_of(type: Any) -> str | None:
    """Return the kind of a column, None for one that holds nothing; "" for one that cannot be."""
    import pyarrow as pa

    is_ = pa.types
    if is_.is_dictionary(type) and not is_text(type):
        return kind_of(type.value_type)
    if is_.is_list(type) or is_.is_large_list(type) or is_.is_fixed_size_list(type):
        inner = kind_of(type.value_type)
        return inner if inner in ("boolean", "integer", "real") else ""
    if is_.is_null(type):
        return None
    if is_text(type):
        return "text"
    if is_.is_boolean(type):
        return "boolean"
    if is_.is_date(type) or is_.is_timestamp(type):
        return "date"
    if is_.is_integer(type):
        return "integer"
    return "real" if is_.is_floating(type) or is_.is_decimal(type) else ""


def to_numpy(file: Any, name: str, column: Any, offset: int = 0) -> np.ndarray:
    """Return a column that is no text as an array (N,), or (N, D) of lists; a null is NaN or NaT.

    Raises: ValueError for a type that is neither numbers, dates nor text, and for lists of unequal
    length, whose rows come after `offset` others.
    """
    import pyarrow as pa

    if isinstance(column, pa.ChunkedArray):
        column = column.combine_chunks()
    if pa.types.is_dictionary(column.type):
        column = column.cast(column.type.value_type)
    kind, type = kind_of(column.type), column.type
    if kind == "":
        what = f"has type {type}; make it numbers, dates or UTF-8 text, or drop the column"
        raise fault(file, name, what)
    if is_nested(type):
        return _lists(file, name, column, offset)
    if kind == "date":  # with a zone: in UTC
        column = column.cast(pa.timestamp("us", getattr(type, "tz", None)), safe=False)
    elif kind is None or pa.types.is_decimal(type):
        column = column.cast(pa.float64())
    elif kind == "boolean" and column.null_count:
        column = column.cast(pa.int8())
    if kind in ("boolean", "integer") and column.null_count:
        column = column.cast(pa.float64(), safe=False)
    return as_numpy(column)


def _lists(file: Any, name: str, column: Any, offset: int) -> np.ndarray:
    """Return lists of one length as rows (N, D), of NaN for a null."""
    compute = functions()

    lengths = compute.list_value_length(column)
    width = compute.max(lengths).as_py() or 0
    wrong = compute.not_equal(lengths, width).fill_null(False).to_numpy(zero_copy_only=False)
    if wrong.any():
        row = int(wrong.argmax())
        what = f"the list has {lengths[row]} values where another has {width}; give all as many"
        raise fault(file, name, what, offset + row + 1)
    values = to_numpy(file, name, column.drop_null().flatten())
    rows = np.full((len(column), width), np.nan, np.result_type(values, float))
    there = column.is_valid().to_numpy(zero_copy_only=False)
    if there.all():
        return values.reshape(-1, width)
    rows[there] = values.reshape(-1, width)
    return rows
