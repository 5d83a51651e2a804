"""Where rows of CSV text end: a line break within a quoted cell ends none.

A cell is quoted if it begins with a quote; a quote within another cell is a character.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

QUOTE = ord('"')
STEP = 2**16  # bytes that are compared at once, in the processor's cache
# from the character after the quote that opens; never less than it can match, or "" would close
CLOSES = re.compile(rb'[^"]*+(?:""[^"]*+)*+"')


class Rows(NamedTuple):
    """Of text that begins with a row: where the last whole row ends, where a quote opens that is
    not yet closed, or -1, and whether two quotes follow each other.
    """

    end: int
    opened: int = -1
    doubled: bool = False


def find_rows(data: bytes, delimiter: str, spaced: bool) -> Rows:
    """Find the rows of UTF-8 text. spaced: spaces may stand before a cell."""
    if b'"' not in data:
        return Rows(_line_end(data, 0, len(data)))
    quotes = _quotes(data)
    doubled = bool((np.diff(quotes) == 1).any())
    if not _in_pairs(data, quotes, delimiter):
        parts = list(outside(data, delimiter, spaced))
        end = max(_line_end(data, begin, end) for begin, end, _ in parts)
        return Rows(end, parts[-1][2], doubled)
    end, opened = len(data), int(quotes[-1]) if len(quotes) % 2 else -1
    while end:  # every second quote opens, so that text after an even number of them is outside
        place = _line_end(data, 0, end)
        before = int(np.searchsorted(quotes, place))
        if before % 2 == 0:
            return Rows(place, opened, doubled)
        end = int(quotes[before - 1])
    return Rows(0, opened, doubled)


def first_row_end(data: bytes, delimiter: str) -> int:
    """Return where the first row of UTF-8 text ends, with its line break; -1 if it does not."""
    for begin, end, _ in outside(data, delimiter, True):
        if found := re.compile(rb"[\r\n]").search(data, begin, end):
            return found.end() + (data[found.start() : found.start() + 2] == b"\r\n")
    return -1


def outside(data: bytes, delimiter: str, spaced: bool) -> Iterator[tuple[int, int, int]]:
    """Yield where the stretches outside quoted cells begin and end, and where a quote opens that is
    never closed, or -1.
    """
    place = 0
    if b'"' in data:
        spaces = rb" *" if spaced else b""
        begins = rb"(?:^|[" + re.escape(delimiter).encode() + rb"\r\n])" + spaces + b'"'
        opens = re.compile(begins)
        while found := opens.search(data, place):
            closed = CLOSES.match(data, found.end())
            yield place, found.end(), found.end() - 1 if closed is None else -1
            if closed is None:
                return
            place = closed.end()
    yield place, len(data), -1


def _quotes(data: bytes) -> np.ndarray:
    """Return where the quotes are."""
    text = np.frombuffer(data, np.uint8)
    starts = range(0, len(text), STEP)
    found = [np.flatnonzero(text[start : start + STEP] == QUOTE) + start for start in starts]
    return np.concatenate(found)


def without_spaces(data: bytes, delimiter: str) -> bytes:
    """Return rows without the spaces before their cells."""
    if b'"' not in data:
        data = re.sub(re.escape(delimiter).encode() + b" +", delimiter.encode(), data)
        return re.sub(rb"(?m)^ +", b"", data)
    begins = rb"(^|[" + re.escape(delimiter).encode() + rb"\r\n])"
    quoted = rb'("' + CLOSES.pattern + rb")"
    cells = begins + rb" +" + quoted + rb"?|" + begins + quoted  # the last is left as it is
    return re.sub(cells, rb"\1\2\3\4", data)


def _line_end(data: bytes, begin: int, end: int) -> int:
    """Return where the last line that ends in a stretch ends; 0 for none."""
    place = data.rfind(b"\n", begin, end)
    if place < 0 and b"\n" not in data:  # a file of an old Mac
        place = data.rfind(b"\r", begin, min(end, len(data) - 1))
    return place + 1


def _in_pairs(data: bytes, quotes: np.ndarray, delimiter: str) -> bool:
    """Return whether each second quote opens a cell, or is one of two within it, and each other
    ends one.
    """
    text = np.frombuffer(data, np.uint8)
    edge = np.zeros(256, bool)
    edge[[*delimiter.encode()[-1:], 10, 13, QUOTE]] = True
    opens, closes = quotes[::2], quotes[1::2]
    before = text[opens[opens > 0] - 1]
    after = text[closes[closes < len(text) - 1] + 1]
    edge_after = edge.copy()
    edge_after[delimiter.encode()[0]] = True
    return bool(edge[before].all() and edge_after[after].all())
