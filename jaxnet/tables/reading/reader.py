"""The one reader of table files: whole, or in blocks of rows so that a file larger than memory can
be read; CSV, Parquet and NPZ.
"""

from __future__ import annotations

import logging
from collections.abc import Collection, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from jaxnet.tables import table
from jaxnet.tables.reading import arrow, parquet_file
from jaxnet.tables.reading.folder import Source, sources
from jaxnet.tables.reading.looks import read_as
from jaxnet.tables.reading.options import AS_FOUND, ReadOptions
from jaxnet.tables.reading.parts import ROWS, even, parts
from jaxnet.tables.reading.scan import check_words, missing_at, scan
from jaxnet.tables.table import Table

log = logging.getLogger("jaxnet")


def read(path: str | Path, drop: Collection[str] = (), options: ReadOptions = AS_FOUND) -> Table:
    """Read a table from .npz, .csv, .csv.gz, .tsv or .parquet, leaving out the columns in `drop`.

    CSV: a header line; encoding, delimiter, and the forms of numbers and dates are found from the
    file, or said by `options`. NPZ: each array is a column; one of more dimensions is (N, D)
    numbers, flattened to D per row. No pickle is read. The index of a pandas frame, a count of the
    rows without a name, and a column without any value are left out. A line is logged of each
    guess that changes what the data mean.

    Raises: FileNotFoundError; ValueError for another kind of file, a damaged or an empty one, a
    repeated or unknown column, an infinite value, text among numbers, and what is ambiguous.
    """
    return read_source(path, Source(table.find(path)[0]), drop, options)


def read_source(
    path: str | Path, source: Source, drop: Collection[str], options: ReadOptions
) -> Table:
    """As `read`, of a file or of columns in memory."""
    found = scan(path, [source], drop, options, keep=True)
    notes = found.notes
    for name, column in found.values.items():
        _check(source, name, column, 0, options)
        if column.dtype == object:
            notes += check_words([source], name, dict.fromkeys(column.tolist()), options)
    for note in notes:
        log.warning("%s: %s", Path(path).name, note)
    return Table(str(path), found.values, 0, found.kinds, found.left_out)


def read_kinds(source: Source, kinds: Mapping[str, str], options: ReadOptions) -> Table:
    """Return the columns in memory that are named in `kinds`, which are as those of `blocks`."""
    (part,) = parts(source, list(kinds), options)
    found = {n: _value(source, n, column, kinds[n], 0, options) for n, column in part.items()}
    columns = {name: values for name, (values, _) in found.items()}
    return Table(str(source.file), columns, 0, {name: kind for name, (_, kind) in found.items()})


def blocks(
    path: str | Path,
    kinds: Mapping[str, str],
    rows: int = ROWS,
    options: ReadOptions = AS_FOUND,
) -> Iterator[Table]:
    """Yield the columns named in `kinds`, `rows` rows of a file at a time (the last may be fewer).

    kinds: what the text of a column is read as: `Table.kinds` of another table, such as "real" or
    "date %d/%m/%Y"; what is no text has a type of its own. The files are those of `read`, or a
    folder of such.

    Raises: as `read`; ValueError too for a missing column, a text of another kind, and a file
    that changes while it is read.
    """
    empty = True
    for source in sources(path):
        for block in file_blocks(source, kinds, rows, options):
            empty = False
            yield block
    if empty:
        raise table.empty(path)


def file_blocks(
    source: Source, kinds: Mapping[str, str], rows: int, options: ReadOptions
) -> Iterator[Table]:
    """As `blocks`, of one file of a table, which may be empty."""
    found: dict[str, str] = {}
    known = {name: kind for name, kind in kinds.items() if kind in ("integer", "real", "boolean")}

    def values() -> Iterator[dict[str, np.ndarray]]:
        offset = 0
        for part in parts(source, list(kinds), options, rows, known=lambda: known):
            columns = {}
            for name, column in part.items():
                columns[name], found[name] = _value(
                    source, name, column, kinds[name], offset, options
                )
            yield columns
            offset += len(next(iter(columns.values())))

    offset = 0
    for columns in even(values(), rows):
        yield Table(str(source.file), columns, offset, dict(found))
        offset += len(next(iter(columns.values())))


def copies(
    path: str | Path,
    names: Iterable[str],
    rows: int = ROWS,
    options: ReadOptions = AS_FOUND,
) -> Iterator[dict[str, Any]]:
    """Yield columns as they stand, missing values too, in the blocks of `blocks`: as Arrow arrays,
    those of a CSV of text, or those of an .npz as (N,) or (N, D).
    """
    for source in sources(path):
        yield from even(parts(source, list(names), options, rows, verbatim=True), rows)


def _value(
    source: Source, name: str, column: Any, kind: str, offset: int, options: ReadOptions
) -> tuple[np.ndarray, str]:
    """Return a column, whose rows come after `offset` others, as an array, and its kind."""
    if isinstance(column, np.ndarray):
        values, kind = column, table.KINDS[column.dtype.kind]
    elif not arrow.is_text(column.type):
        values = arrow.to_numpy(source.file, name, column, offset)
        kind = arrow.kind_of(column.type) or "real"
    else:
        texts = arrow.to_strings(column)
        values, bad = read_as(texts, kind, options)
        if bad.any():
            row = int(bad.argmax())
            raise table.wrong_kind(source.file, offset + row + 1, name, texts[row].as_py(), kind)
    _check(source, name, values, offset, options)
    return values, kind


def _check(
    source: Source, name: str, values: np.ndarray, offset: int, options: ReadOptions
) -> None:
    """Refuse infinity, and what is missing if the options do."""
    table.check_finite(source.file, name, values, offset)
    if options.missing == "error" and (gaps := table.is_missing(values)).any():
        row = int(np.argwhere(gaps)[0][0]) + offset + 1
        raise missing_at(source, name, row, options)


def estimate(file: Path) -> int:
    """Return about how many bytes the columns of a CSV or Parquet file take as arrays."""
    if table.suffix_of(file) == ".parquet":
        found = parquet_file.metadata(file)
        return 8 * found.num_rows * found.num_columns
    return file.stat().st_size * (4 if table.suffix_of(file) == ".csv.gz" else 1)
