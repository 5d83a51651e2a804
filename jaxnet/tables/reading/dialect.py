"""How a CSV file is written: its encoding, delimiter and names, found from its beginning."""

from __future__ import annotations

import codecs
import contextlib
import csv
import functools
import io
import itertools
import os
import re
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

from jaxnet.files import state
from jaxnet.tables.reading.options import ReadOptions
from jaxnet.tables.reading.quotes import first_row_end
from jaxnet.tables.table import empty, quote, suffix_of

BYTES = 2**16  # of text that are looked at; more only for a longer header
ROWS = 50  # that are looked at
MAX_ROW_BYTES = 2**28
DELIMITERS = (",", ";", "\t", "|")
MARKS = {codecs.BOM_UTF16_LE: "utf-16", codecs.BOM_UTF16_BE: "utf-16"}
NAMES = {"\t": "tab", " ": "space"}  # of delimiters


class Dialect(NamedTuple):
    """How a CSV file is written.

    encoding: None for UTF-8. start: where the rows begin in its text as UTF-8, in bytes. names:
    those of the columns, "" where there is none. padding: how many more columns the rows have, all
    of them empty. spaced: spaces stand before the cells. sure: most rows have as many values as
    there are names. notes: what of this is worth telling.
    """

    encoding: str | None
    delimiter: str
    start: int
    names: list[str]
    padding: int = 0
    spaced: bool = False
    sure: bool = True
    notes: tuple[str, ...] = ()


def sniff(file: Path, options: ReadOptions) -> Dialect:
    """Return how a file is written.

    Raises: ValueError for an empty file, a header that never ends, or one in another encoding.
    """
    return _sniff(file, state(file), options)


@functools.lru_cache(8)
def _sniff(file: Path, now: Any, options: ReadOptions) -> Dialect:
    """As `sniff`, of a file that is as it is `now`."""
    encoding, size = _encoding(file, options), BYTES
    while True:
        with open_text(file, encoding) as read:
            head = read(size + 1)
        whole = len(head) <= size
        skipped, notes, said = _before_header(head, whole)
        text = head[skipped:]
        if (ends := first_row_end(text, options.sign or said or ",")) >= 0 or whole:
            break
        if size > MAX_ROW_BYTES:
            raise ValueError(f"{file}: the header is longer than {MAX_ROW_BYTES:,} bytes")
        size *= 8
    if not text.strip():
        raise empty(file)
    if ends < 0 and text.count(b'"') % 2:
        opened = text[text.rfind(b'"') :].decode(errors="replace")
        raise ValueError(f"{file}: a quote in the header is never closed: {quote(opened)}")
    found = _choose(file, text, whole, options.sign or said)
    return found._replace(
        encoding=encoding, start=found.start + skipped, notes=(*notes, *found.notes)
    )


@contextlib.contextmanager
def open_text(file: Path, encoding: str | None) -> Iterator[Callable[[int], bytes]]:
    """Yield what reads about so many bytes of a file's text, as UTF-8; none at its end."""
    import pyarrow as pa

    packed = suffix_of(file) == ".csv.gz"  # pyarrow itself does not know .GZ
    with pa.input_stream(
        pa.OSFile(os.fsencode(file)), compression="gzip" if packed else None
    ) as stream:
        if encoding is None:
            yield stream.read
            return
        decoder, lines = codecs.getincrementaldecoder(encoding)(), 0

        def read(size: int) -> bytes:
            nonlocal lines
            text = ""
            while not text and (raw := stream.read(size)):
                try:
                    text = decoder.decode(raw)
                except UnicodeError as error:
                    before = lines + raw[: getattr(error, "start", 0)].count(b"\n")
                    what = f"line {before + 1}: the text is not {encoding}"
                    raise ValueError(f"{file}: {what}; say its `encoding`") from None
                lines += text.count("\n")
            return text.encode("utf-8", "surrogatepass")

        yield read


def _encoding(file: Path, options: ReadOptions) -> str | None:
    """Return the encoding that a user names, or a mark; None for UTF-8."""
    if options.encoding is not None:
        name = codecs.lookup(options.encoding).name
        return None if name in ("utf-8", "utf-8-sig") else name
    with open_text(file, None) as read:
        head = read(BYTES)
    for mark, name in MARKS.items():
        if head.startswith(mark):
            return name
    zero = head.find(b"\0")
    if zero >= 0:
        name = "utf-16-be" if zero % 2 == 0 else "utf-16-le"
        row = head[:zero].count(b"\n")
        where = f"row {row}" if row else "the header"
        what = f"{where}: the text is not UTF-8; if it is UTF-16, say `encoding` {name}"
        raise ValueError(f"{file}: {what}")
    return None


def _before_header(head: bytes, whole: bool) -> tuple[int, list[str], str | None]:
    """Return how many bytes stand before the header, what to tell of them, and the delimiter that
    a line sep=; names.
    """
    place = len(codecs.BOM_UTF8) if head.startswith(codecs.BOM_UTF8) else 0
    delimiter = None
    if found := re.compile(rb'"?sep=(.)"?\r?\n').match(head, place):
        place, delimiter = found.end(), found[1].decode("latin-1")
    comments = 0
    blank, line = re.compile(rb"(?:[ \t]*\r?[\n\r])+"), re.compile(rb"#[^\r\n]*\r?[\n\r]")
    while True:
        if found := blank.match(head, place):
            place = found.end()
        if not (found := line.match(head, place)) or _is_header(head, place):
            break
        place, comments = found.end(), comments + 1
    lines = f"{comments} comment line{'s' * (comments > 1)} before the header"
    return place, [f"left out: {lines}"] * bool(comments), delimiter


def _is_header(text: bytes, place: int) -> bool:
    """Return whether the line at a place, which begins with #, names as many columns as the next
    one has, which holds a number.
    """
    found = re.compile(rb"([^\r\n]*)(?:\r\n|\r|\n)([^\r\n]*)").match(text, place)
    first, second = found.groups() if found else (b"", b"")
    for delimiter in DELIMITERS:
        cells = second.split(delimiter.encode())
        if len(cells) > 1 and first.count(delimiter.encode()) == len(cells) - 1:
            return any(re.fullmatch(rb"\s*-?\d[\d.]*\s*", cell) for cell in cells)
    return False


def _choose(file: Path, text: bytes, whole: bool, delimiter: str | None) -> Dialect:
    """Return the dialect of the delimiter that cuts header and rows into equally many columns."""
    usual = "\t" if suffix_of(file) == ".tsv" else ","
    order = [usual, *(sign for sign in DELIMITERS if sign != usual)]
    tried = [delimiter] if delimiter else order
    sample = text.decode("utf-8", "surrogateescape")
    found = [_try(text, sample, whole, sign) for sign in tried]
    _, best = max(found, key=lambda one: one[0])
    try:
        "".join(best.names).encode()
    except UnicodeEncodeError:
        what = "the text of the header is not UTF-8; say its encoding, as `encoding` latin-1"
        raise ValueError(f"{file}: {what}") from None
    if delimiter is None and best.delimiter != usual:
        sign = NAMES.get(best.delimiter, best.delimiter)
        best = best._replace(notes=(*best.notes, f"the columns are separated by {sign!r}"))
    return best


def _try(
    text: bytes, sample: str, whole: bool, delimiter: str
) -> tuple[tuple[float, bool, int], Dialect]:
    """Return how well a delimiter fits, to be compared, and the dialect with it."""
    (header, _), *rows = _sample(sample, whole, delimiter) or [([""], "")]
    widths = Counter(len(row) for row, _ in rows)
    width = widths.most_common(1)[0][0] if rows else len(header)
    header = [name.strip() for name in header]
    names = header[: max(1, max((i + 1 for i, name in enumerate(header) if name), default=1))]
    fits, named_rows = width >= len(names), False
    if any("".join(row[len(names) :]) for row, _ in rows):  # there are more values than names
        quoted = all(raw.startswith('"') for _, raw in rows)
        names, named_rows = header, quoted and width == len(header) + 1 and len(header) > 1
        names = ["", *names] if named_rows else names  # as R writes its row names
        fits = width == len(names)
    padding = max(0, width - len(names)) if fits else 0
    share = fits * widths[width] / len(rows) if rows else 1.0
    score = (share if width > 1 else 0.0, not named_rows, len(header))
    spaced = width > 1 and all(raw.count(delimiter + " ") >= len(row) - 1 for row, raw in rows)
    end = first_row_end(text, delimiter)
    start = len(text) if end < 0 else end
    found = Dialect(None, delimiter, start, names, padding, spaced and bool(rows), share >= 0.5)
    return score, found


def _sample(text: str, whole: bool, delimiter: str) -> list[tuple[list[str], str]]:
    """Return the header and some rows, each as cells and as text."""
    lines = list(itertools.islice(io.StringIO(text, newline=""), 20 * ROWS))
    whole = whole and len(lines) < 20 * ROWS
    reader = csv.reader(lines, delimiter=delimiter, skipinitialspace=True)
    found, before = [], 0
    with contextlib.suppress(csv.Error):  # a cell is too long: another delimiter may cut it
        for row in reader:
            found.append((row, "".join(lines[before : reader.line_num])))
            before = reader.line_num
            if len(found) > ROWS:
                break
        else:
            found = found if whole else found[:-1] or found
    return [one for one in found if one[0]]
