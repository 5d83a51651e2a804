"""Hold the reader of tables against Python's csv module, and pyarrow, on generated files.

    python scripts/tools/fuzz_tables.py --seconds 60

Each file is made from a seed: text with quotes anywhere; values in many spellings; Parquet of many
types. It is read whole, in blocks, and from the arrays on disk, a few bytes at a time. A failure
prints the seed, with which --seed makes the same file again.
"""

from __future__ import annotations

import argparse
import csv
import datetime
import io
import logging
import math
import random
import shutil
import tempfile
import time
from collections.abc import Callable
from decimal import Decimal
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from pyarrow import parquet

from jaxnet.tables import convert as conversion
from jaxnet.tables.reading import csv_file, dialect
from jaxnet.tables.reading.options import ReadOptions
from jaxnet.tables.reading.reader import blocks, copies, read

PIECES = [
    "a",
    "b",
    "7",
    " ",
    '"',
    '""',
    "'",
    ",",
    ";",
    "\n",
    "\r\n",
    "ä",
    "東",
    "x y",
    "NA",
    "#",
    "",
]
WORDS = ["Rom", "Köln", "x, y", 'say "no"', "a\nb", "é;è", "東京", "two  words", "-", "N.A."]
Check = Callable[[Path, random.Random], None]


def check_cells(folder: Path, rng: random.Random) -> None:
    """Any text: the cells are those of Python's csv, or the file is refused where csv's rows are
    not of one width.
    """
    delimiter, line = rng.choice([",", ";", "\t", "|"]), rng.choice(["\n", "\r\n"])
    width = rng.randint(1, 4)
    rows = [[_cell(rng, delimiter) for _ in range(width)] for _ in range(rng.randint(1, 12))]
    if rng.random() < 0.2:
        rows.append([_cell(rng, delimiter)])
    names = [f"n{i}" for i in range(width)]
    text = "".join(delimiter.join(row) + line for row in [names, *rows])
    text = text if rng.random() < 0.7 else text.removesuffix(line)
    path = folder / "a.csv"
    path.write_bytes(text.encode())
    found = [row for row in csv.reader(io.StringIO(text, newline=""), delimiter=delimiter) if row]
    even = all(len(row) == width for row in found)
    options, got, said = ReadOptions(delimiter=delimiter), [], ""
    try:
        parts = list(copies(path, names, rng.randint(1, 9), options))
        got = [[text for part in parts for text in part[name].to_pylist()] for name in names]
    except ValueError as error:
        said = str(error)
    if said:
        assert said.startswith(f"{path}: "), said
        assert len(found) < 2 or not even or not _closed(text, delimiter), (text, said)
        return
    expected = [[row[i] for row in found[1:]] for i in range(width)] if even else None
    if dialect.sniff(path, options).spaced:  # the spaces before a cell are no part of it
        got = [[cell.lstrip(" ") for cell in column] for column in got]
        expected = [[cell.lstrip(" ") for cell in column] for column in expected or []]
    assert got == expected, (text, got, expected)


def _cell(rng: random.Random, delimiter: str) -> str:
    """Return a cell as it stands in the file: most are right, some have quotes anywhere."""
    content = "".join(rng.choices(PIECES, k=rng.randint(0, 4)))
    if rng.random() < 0.5:
        return '"' + content.replace('"', '""') + '"'
    plain = content.replace("\n", "").replace("\r", "").replace(delimiter, "")
    return plain.lstrip('"') if rng.random() < 0.95 else plain


def _closed(text: str, delimiter: str) -> bool:
    """Return whether every quoted cell is closed, by csv's own strict rules."""
    try:
        list(csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True))
    except csv.Error as error:
        return "unexpected end" not in str(error)
    return True


def check_values(folder: Path, rng: random.Random) -> None:
    """Columns of values in a spelling of their own are read as these values, whole, in blocks and
    on disk.
    """
    rows, columns, expected = rng.randint(2, 60), {}, {}
    delimiter = rng.choice([",", ";", "\t", "|"])
    comma = delimiter != "," and rng.random() < 0.5
    kinds = rng.choices(list(SPELLED), k=rng.randint(2, 5))
    for place, kind in enumerate(kinds):
        values = SPELLED[kind](rng, rows, comma)
        gaps = [rng.random() < 0.15 for _ in values] if rng.random() < 0.4 else [False] * rows
        gaps[0] = gaps[1] = False
        empty = rng.choice(["", "NA", "null"])
        name = f"{kind} {place}"
        columns[name] = [
            empty if gap else text for gap, (text, _) in zip(gaps, values, strict=True)
        ]
        expected[name] = [None if gap else v for gap, (_, v) in zip(gaps, values, strict=True)]
    encoding = rng.choice(["utf-8", "utf-8", "utf-8-sig", "utf-16"])
    sink, line = io.StringIO(newline=""), rng.choice(["\n", "\r\n"])
    quoting = csv.QUOTE_NONNUMERIC if rng.random() < 0.3 else csv.QUOTE_MINIMAL
    writer = csv.writer(sink, delimiter=delimiter, lineterminator=line, quoting=quoting)
    writer.writerow(columns)
    writer.writerows(zip(*columns.values(), strict=True))
    path = folder / "a.csv"
    path.write_bytes(sink.getvalue().encode(encoding))
    options = ReadOptions(decimal="," if comma else None, missing_words=("NA", "null"))
    _check_table(path, expected, options, rng)


def _integers(rng: random.Random, rows: int, comma: bool) -> list[tuple[str, Any]]:
    top = rng.choice([3, 100, 2**40])
    return [(str(n), n) for n in (rng.randint(-top, top) for _ in range(rows))]


def _reals(rng: random.Random, rows: int, comma: bool) -> list[tuple[str, Any]]:
    makes = rng.choice([lambda: rng.gauss(0, 1), lambda: rng.randint(-9, 9) / 4, rng.random])
    values = [0.5, *(makes() * 10.0 ** rng.choice([-9, 0, 9]) for _ in range(rows - 1))]
    return [(_spell(repr(value), comma), value) for value in values]


def _spell(text: str, comma: bool) -> str:
    return text.translate(str.maketrans(",.", ".,")) if comma else text


def _grouped(rng: random.Random, rows: int, comma: bool) -> list[tuple[str, Any]]:
    unit = rng.choice(["", "$", "€"])
    values = [123456.5, *(rng.randint(0, 10**7) / 4 for _ in range(rows - 1))]
    return [(unit + _spell(f"{value:,.2f}", comma), value) for value in values]


def _shares(rng: random.Random, rows: int, comma: bool) -> list[tuple[str, Any]]:
    values = [rng.randint(0, 1000) / 8 for _ in range(rows)]
    return [(_spell(f"{value!r}%", comma), value) for value in values]


def _booleans(rng: random.Random, rows: int, comma: bool) -> list[tuple[str, Any]]:
    spelled = rng.choice([("true", "false"), ("True", "False"), ("TRUE", "FALSE")])
    return [(spelled[not value], value) for value in (rng.random() < 0.5 for _ in range(rows))]


def _words(rng: random.Random, rows: int, comma: bool) -> list[tuple[str, Any]]:
    some = [*rng.sample(WORDS, 5)]
    return [(text, text) for text in (rng.choice(some) for _ in range(rows))]


def _codes(rng: random.Random, rows: int, comma: bool) -> list[tuple[str, Any]]:
    width = rng.randint(2, 5)
    texts = ["0" * width, *(f"{rng.randrange(10**width):0{width}}" for _ in range(rows - 1))]
    return [(text, text) for text in texts]


def _dates(rng: random.Random, rows: int, comma: bool) -> list[tuple[str, Any]]:
    form = rng.choice(
        ["%Y-%m-%d", "%Y-%m-%dT%H:%M:%S", "%Y-%m-%d %H:%M", "%d.%m.%Y", "%d/%m/%Y", "%m/%d/%Y"]
        + ["%d/%m/%y %H:%M", "%d-%b-%Y", "%b %d, %Y", "%m/%d/%Y %I:%M:%S %p", "%Y/%m/%d"]
    )
    first = datetime.datetime(1970, 1, 1)
    seconds = [25 * 86400 + 3600, *(rng.randrange(0, 2**31) for _ in range(rows - 1))]
    found = []
    for second in seconds:
        text = (first + datetime.timedelta(seconds=second)).strftime(form)
        found.append((text, datetime.datetime.strptime(text, form)))
    return found


SPELLED = {
    "integers": _integers,
    "reals": _reals,
    "grouped": _grouped,
    "shares": _shares,
    "booleans": _booleans,
    "words": _words,
    "codes": _codes,
    "dates": _dates,
}


def check_parquet(folder: Path, rng: random.Random) -> None:
    """Columns of many types are read as pyarrow's own values are."""
    rows = rng.randint(2, 60)
    table, expected = {}, {}
    for place in range(rng.randint(1, 6)):
        kind = rng.choice(list(TYPES))
        type, make = TYPES[kind]
        gaps = rng.random() < 0.4
        values = [None if gaps and i > 1 and rng.random() < 0.2 else make(rng) for i in range(rows)]
        array = pa.array(values, type)
        table[f"{kind} {place}"] = array.dictionary_encode() if kind == "coded" else array
        expected[f"{kind} {place}"] = [
            float(v) if kind == "decimal" and v else v for v in array.to_pylist()
        ]
    path = folder / "a.parquet"
    parquet.write_table(pa.table(table), path, row_group_size=rng.randint(1, rows))
    _check_table(path, expected, ReadOptions(), rng)


def _moment(rng: random.Random) -> datetime.datetime:
    return datetime.datetime(1970, 1, 1) + datetime.timedelta(seconds=rng.randrange(2**31))


TYPES: dict[str, tuple[Any, Callable[[random.Random], Any]]] = {
    "int64": (pa.int64(), lambda rng: rng.randint(-(2**50), 2**50)),
    "int8": (pa.int8(), lambda rng: rng.randint(-128, 127)),
    "uint16": (pa.uint16(), lambda rng: rng.randrange(2**16)),
    "half": (pa.float16(), lambda rng: np.float16(rng.gauss(0, 1))),
    "single": (pa.float32(), lambda rng: rng.randint(-99, 99) / 8),
    "double": (pa.float64(), lambda rng: rng.gauss(0, 1)),
    "boolean": (pa.bool_(), lambda rng: rng.random() < 0.5),
    "text": (pa.string(), lambda rng: rng.choice(WORDS)),
    "view": (pa.string_view(), lambda rng: rng.choice(WORDS)),
    "large": (pa.large_string(), lambda rng: rng.choice(WORDS)),
    "coded": (pa.string(), lambda rng: rng.choice(WORDS)),
    "decimal": (pa.decimal128(9, 2), lambda rng: Decimal(rng.randint(-999, 999)) / 4),
    "day": (pa.date32(), lambda rng: _moment(rng).date()),
    "time": (pa.timestamp("ms"), _moment),
}


def _check_table(
    path: Path, expected: dict[str, list[Any]], options: ReadOptions, rng: random.Random
) -> None:
    """Hold a file, whole, in blocks and on disk, against the values of its columns."""
    table = read(path, (), options)
    kept = {name: values for name, values in expected.items() if name not in table.left_out}
    _compare(table.columns, kept, path)
    parts = [block.columns for block in blocks(path, table.kinds, rng.randint(1, 20), options)]
    joined = {name: np.concatenate([part[name] for part in parts]) for name in table.columns}
    _compare(joined, kept, path)
    shutil.rmtree(f"{path}.arrays", ignore_errors=True)
    store = conversion.convert(path, (), options=options)
    taken = store.take(np.arange(store.num_rows))
    _compare(taken.columns, kept, path)
    assert dict(store.kinds) == dict(table.kinds), path
    assert {n: c.dtype for n, c in store.columns.items()} == {
        n: c.dtype for n, c in table.columns.items()
    }


def _compare(columns: dict[str, np.ndarray], expected: dict[str, list[Any]], path: Path) -> None:
    assert list(columns) == list(expected), (path.read_bytes()[:2000], list(columns))
    for name, values in expected.items():
        got = columns[name].tolist()
        same = [_same(a, b) for a, b in zip(got, values, strict=True)]
        assert all(same), (name, got, values, path.read_bytes()[:2000])


def _same(got: Any, value: Any) -> bool:
    """Return whether a value is the one that was written, of the type that it should have."""
    if value is None:
        return got is None or (isinstance(got, float) and math.isnan(got))
    if isinstance(value, (datetime.date, datetime.datetime)):
        day = datetime.datetime(value.year, value.month, value.day)
        return got == (value if isinstance(value, datetime.datetime) else day)
    if isinstance(value, str):
        return got == value
    return not isinstance(got, str) and got == float(value)


CHECKS: dict[str, Check] = {
    "cells": check_cells,
    "values": check_values,
    "parquet": check_parquet,
}


def check(name: str, seed: int, folder: Path) -> None:
    """Make one file from a seed, and check how it is read. Raises: AssertionError."""
    rng = random.Random(f"{name} {seed}")
    before = csv_file.BLOCK_BYTES, conversion.BLOCK_NUMBERS
    csv_file.BLOCK_BYTES, conversion.BLOCK_NUMBERS = rng.choice([3, 17, 90, 2**20]), 20
    try:
        CHECKS[name](folder, rng)
    finally:
        csv_file.BLOCK_BYTES, conversion.BLOCK_NUMBERS = before


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seconds", type=float, default=60.0)
    parser.add_argument("--seed", type=int, help="only this one")
    parser.add_argument("--start", type=int, default=0)
    options = parser.parse_args()
    logging.getLogger("jaxnet").setLevel(logging.ERROR)
    end, seed, failed = time.monotonic() + options.seconds, options.start, 0
    with tempfile.TemporaryDirectory() as name:
        while options.seed is not None or time.monotonic() < end:
            seed = options.seed if options.seed is not None else seed
            for kind in CHECKS:
                try:
                    check(kind, seed, Path(name))
                except Exception as error:
                    failed += 1
                    print(f"{kind} --seed {seed}: {type(error).__name__}: {str(error)[:2000]}")
            if options.seed is not None:
                break
            seed += 1
    print(f"{seed - options.start:,} seeds, {failed} failed")
    raise SystemExit(failed > 0)


if __name__ == "__main__":
    main()
