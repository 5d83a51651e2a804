"""Data frames and mappings of columns, in memory, as tables."""

from __future__ import annotations

from typing import Any

from jaxnet.tables.column import Column
from jaxnet.tables.encoding import from_columns
from jaxnet.tables.table import Table


def to_table(frame: Any) -> Table:
    """Return the table of a data frame, or of a mapping of column names to arrays.

    Raises: ValueError for another thing, or columns that are not numbers, booleans or text.
    """
    if not hasattr(frame, "keys"):
        raise ValueError(f"`table` must be a data frame or a mapping, got {type(frame).__name__}")
    return from_columns(frame, tuple(Column(str(name)) for name in frame.keys()), "`table`")  # noqa: SIM118
