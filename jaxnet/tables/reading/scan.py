"""What the columns of a table are, found in one pass over all of its rows."""

from __future__ import annotations

import shlex
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from jaxnet.files import WHOLE_SHARE, memory
from jaxnet.tables import table
from jaxnet.tables.reading import arrow, parquet_file
from jaxnet.tables.reading.decide import Fault, decide, judge
from jaxnet.tables.reading.folder import Source, is_csv
from jaxnet.tables.reading.indexes import NAMES
from jaxnet.tables.reading.looks import Look
from jaxnet.tables.reading.options import ReadOptions
from jaxnet.tables.reading.parts import Header, parts, read_header

NUMBERED = 20  # rows from which on a column that numbers them is told


class Scan(NamedTuple):
    """What the columns of a table are.

    names: all columns. kinds, dtypes: by column, of those that are read. rows: of each file.
    left_out: columns, and why. notes: lines that say what was taken for what. values: the columns,
    if they were to be kept.
    """

    names: list[str]
    kinds: dict[str, str]
    dtypes: dict[str, np.dtype]
    rows: list[int]
    left_out: dict[str, str]
    notes: list[str]
    values: dict[str, np.ndarray]


def scan(
    path: str | Path,
    files: list[Source],
    drop: Collection[str],
    options: ReadOptions,
    *,
    keep: bool = False,
) -> Scan:
    """Find what the columns of some files of one table are, without those in `drop`.

    Raises: ValueError for files that are damaged, empty or of different columns, an unknown column
    to drop, a column whose form is ambiguous, and kinds that differ from file to file.
    """
    header = header_of(path, files, options)
    index = [name for name in header.index if name not in drop]
    wanted = table.choose(path, header.names, [*drop, *index])
    looks, rows, found, lines = _settled(path, files, wanted, options, header.commas, keep)
    left_out = dict.fromkeys(index, "the pandas index") | _left_out(path, looks, found)
    kinds = {name: kind for name, kind in found.items() if kind and name not in left_out}
    if not kinds:
        raise table.empty(path)
    lines += [line for name in kinds for line in _numbering(name, looks[name], sum(rows))]
    gaps = [name for name, kind in kinds.items() if kind == "text" and looks[name].gaps]
    lines += _missing_words(files, gaps, options)
    dtypes = {name: looks[name].dtype(kind) for name, kind in kinds.items()}
    values = {name: looks[name].finish(kind) for name, kind in kinds.items() if keep}
    if left_out:
        lines.append(f"left out: {', '.join(table.list_left_out(left_out))}")
    notes = [*header.notes, *lines]
    return Scan(header.names, kinds, dtypes, rows, left_out, notes, values)


def _settled(
    path: str | Path,
    files: list[Source],
    wanted: list[str],
    options: ReadOptions,
    commas: bool,
    keep: bool,
) -> tuple[dict[str, Look], list[int], dict[str, str | None], list[str]]:
    """Return the looks at columns that hold from the first row to the last; the rows of each file;
    and the kinds that follow, with lines about them.

    The files are read again from the start if a later value makes words of a column of numbers.
    """
    words: set[str] = set()
    while True:
        looks = {
            name: Look(options, name, commas=commas, keep=keep, words=name in words)
            for name in wanted
        }
        rows = [_look(source, looks, options, keep) for source in files]
        if not sum(rows):
            raise table.empty(path)
        kinds, lines, fault = decide(looks, options, commas)
        again = {name for name, look in looks.items() if look.again}
        if fault and not again:
            what = fault.what(fault.example)
            raise refusal(files, fault, options) or table.fault(path, fault.name, what)
        if not again:
            return looks, rows, kinds, lines
        words |= again


def _left_out(
    path: str | Path, looks: Mapping[str, Look], kinds: Mapping[str, str | None]
) -> dict[str, str]:
    """Return the columns without a value, and the first if it numbers the rows and is named so.

    Raises: ValueError if the first has no name, and other values.
    """
    found = {name: "no value" for name, kind in kinds.items() if not kind}
    first = next(iter(looks))
    if first.lower() in NAMES and (count := looks[first].count.text(in_order=True)):
        found[first] = count
    elif not first:
        what = "column 1 has no name; name it, or leave it out with `drop` ''"
        raise ValueError(f"{path}: {what}")
    return found


def header_of(path: str | Path, files: list[Source], options: ReadOptions) -> Header:
    """Return the header of a table, whose files have the same columns. Raises: ValueError."""
    first = read_header(files[0], options)
    for source in files[1:]:
        if different := sorted(set(read_header(source, options).names) ^ set(first.names)):
            what = f"must have the columns of {files[0].file.name}, and {different[0]!r} is only"
            raise ValueError(f"{source.file}: {what} in one of them")
    return first


def _look(source: Source, looks: Mapping[str, Look], options: ReadOptions, keep: bool) -> int:
    """Show the looks a file, and return how many rows it has; stop once one must begin again."""
    file, rows = source.file, 0
    if any(look.again for look in looks.values()):
        return 1
    names, typed = list(looks), not is_csv(file)
    if table.suffix_of(file) == ".parquet" and not keep:
        told, number = parquet_file.told(file)
        for name in told.keys() & looks.keys():
            type, nulls = told[name]
            if nulls < number:
                looks[name].add_type(file, type, nulls > 0)
        names = [name for name in names if name not in told]
        if not names:
            return number

    def known() -> dict[str, str]:
        return {name: kind for name in names if (kind := looks[name].plain)}

    held = 0
    for part in parts(source, names, options, known=known):
        held += sum(column.nbytes for column in part.values())
        if keep and held > memory() // WHOLE_SHARE:
            what = f"the table takes more than 1/{WHOLE_SHARE} of the memory"
            raise ValueError(f"{file}: {what}; leave its rows on the disk with `on_disk` on")
        for name, column in part.items():
            looks[name].update(file, column, rows, typed and name not in source.keys)
        rows += len(column)
        if any(look.again for look in looks.values()):
            break
    return rows


def _numbering(name: str, look: Look, rows: int) -> list[str]:
    """Return a line about a column that numbers the rows."""
    found = look.count.text(in_order=True) or look.count.text(in_order=False)
    if not found or rows <= NUMBERED:
        return []
    what = f"holds each of {found} once; if it numbers the rows, leave it out with"
    return [f"column {name!r} {what} `drop` {shlex.quote(name)}"]


def _missing_words(files: list[Source], names: list[str], options: ReadOptions) -> list[str]:
    """Return a line for each column of text that has a word taken for a missing value, among the
    first of its missing values.
    """
    lines, names = [], names * (not options.missing_words)
    for source in files:
        if names and is_csv(source.file):
            read = (parts(source, names, options, verbatim=verbatim) for verbatim in (False, True))
            for part, texts in zip(*read, strict=True):
                seen = [name for name in names if name in texts and part[name].null_count]
                for name in seen:
                    words = dict.fromkeys(texts[name].filter(part[name].is_null()).to_pylist())
                    if word := next(filter(None, words), None):
                        what = f"{table.quote(word)} is taken for a missing value"
                        advice = "`missing_words` says which texts are"
                        lines.append(f"column {name!r}: {what}; {advice}")
                names = [name for name in names if name not in seen]
                if not names:
                    break
    return lines


def missing_at(source: Source, name: str, row: int, options: ReadOptions) -> ValueError:
    """Return the error for a missing value, which shows the text that stands there."""
    shown = ""
    if is_csv(source.file) and name not in source.keys:
        before = row - 1
        for part in parts(source, [name], options, verbatim=True):
            if before < len(part[name]):
                text = part[name][before].as_py()
                shown = f" ({table.quote(text)})" * bool(text)
                break
            before -= len(part[name])
    what = f"the value is missing{shown}; fill it in or drop the column"
    return table.fault(source.file, name, what, row)


def check_words(
    files: list[Source],
    name: str,
    texts: Collection[str | None],
    options: ReadOptions,
    *,
    more: bool = False,
) -> list[str]:
    """Return a line if a column of different `texts`, and maybe more, is text though many of them
    are numbers.

    Raises: ValueError for a word among numbers, naming its row.
    """
    if name in options.categorical:
        return []
    note, fault = judge(name, texts, options, more=more)
    if fault and (error := refusal(files, fault, options)):
        raise error
    return [note] if note else []


def refusal(files: list[Source], fault: Fault, options: ReadOptions) -> ValueError | None:
    """Return the error that names the first row that is refused, if there is any."""
    for source in files:
        rows = 0
        for part in parts(source, [fault.name], options):
            texts: Any = part[fault.name]
            if not isinstance(texts, np.ndarray) and arrow.is_text(texts.type):
                texts = arrow.to_strings(texts)
                wrong = fault.wrong(texts)
                if wrong.any():
                    row = int(wrong.argmax())
                    what = fault.what(texts[row].as_py())
                    return table.fault(source.file, fault.name, what, rows + row + 1)
            rows += len(texts)
    return None
