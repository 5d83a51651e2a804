"""Columns that only number the rows: the index of a pandas frame, or a count from 0 or 1."""

from __future__ import annotations

import json
from typing import Any

import numpy as np

INDEX = "__index_level_0__"
NAMES = ("", "rownames", "row.names", "unnamed: 0", "index")  # in any case, of a count of the rows


def of_pandas(schema: Any) -> list[str]:
    """Return the columns of an Arrow schema that are the index of the pandas frame it was."""
    index = [INDEX]
    if found := (schema.metadata or {}).get(b"pandas"):
        index += [one for one in json.loads(found)["index_columns"] if isinstance(one, str)]
    return [name for name in dict.fromkeys(index) if name in schema.names]


class Count:
    """Whether integers, block after block, are those from 0 or 1 on, in order or not."""

    def __init__(self):
        self._rows, self._first, self._least = 0, 0, 0
        self._possible = self._in_order = True
        self._sums = np.zeros(2, np.uint64)  # of values and their squares, modulo 2**64

    def update(self, values: np.ndarray) -> None:
        """Add a block (N,)."""
        if not self._possible or not len(values):
            return
        if values.dtype.kind not in "iu" or values.ndim > 1 or values.min() < 0:
            self._possible = False
            return
        low = int(values.min())
        if not self._rows:
            self._first, self._least = int(values[0]), low
        self._least = min(self._least, low)
        begin = self._first + self._rows
        ends = int(values[0]) == begin and int(values[-1]) == begin + len(values) - 1
        self._in_order &= ends and bool((np.diff(values) == 1).all())
        self._rows += len(values)
        wide = values.astype(np.uint64)
        self._sums += np.array([wide.sum(), np.square(wide).sum()], np.uint64)

    def text(self, *, in_order: bool) -> str:
        """Return "0..N-1" or "1..N" if the integers are these, else ""."""
        if not self._possible or self._rows < 2 or self._least > 1 or self._in_order != in_order:
            return ""
        n, least = self._rows, self._least
        last = least + n - 1
        sums = n * (least + last) // 2, last * (last + 1) * (2 * last + 1) // 6
        if tuple(int(value) for value in self._sums) != tuple(value % 2**64 for value in sums):
            return ""
        return "1..N" if least else "0..N-1"
