"""Parquet files: their columns as Arrow arrays, and what their metadata tell of them."""

from __future__ import annotations

import base64
import contextlib
import os
import tokenize
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from jaxnet.tables.reading import arrow


def read_schema(file: Path) -> Any:
    return metadata(file).schema.to_arrow_schema()


def metadata(file: Path) -> Any:
    """Return pyarrow's metadata of a file. Raises: ValueError."""
    from pyarrow import parquet

    with naming_damage(file, "Parquet file"), _opened(file) as opened:
        return parquet.read_metadata(opened)


def _opened(file: Path) -> Any:
    """Open a file, whose name need not be UTF-8."""
    import pyarrow as pa

    return pa.OSFile(os.fsencode(file))


def batches(file: Path, names: list[str], rows: int) -> Iterator[Any]:
    """Yield columns in order, as record batches of `rows` rows or fewer."""
    import pyarrow as pa
    from pyarrow import parquet

    # Buffered, or a row group's columns would be read whole.
    buffer = min(2**20, max(2**14, 2**27 // max(1, len(names))))
    options = {"buffer_size": buffer, "pre_buffer": False}
    with (
        naming_damage(file, "Parquet file"),
        parquet.ParquetFile(_opened(file), **options) as reader,
    ):
        coded = _coded_integers(reader.metadata) & {*names}
        for batch in reader.iter_batches(rows, columns=names):
            batch = batch.select(names)  # "a" has brought "a.b" along
            for name in coded:
                place = names.index(name)
                batch = batch.set_column(place, name, batch[name].cast(pa.string()))
            yield batch


def told(file: Path) -> tuple[dict[str, tuple[Any, int]], int]:
    """Return the types and the numbers of nulls of the columns of which the metadata tell all that
    matters, and the number of rows: not of text, nor of integers that may number the rows.
    """
    found = metadata(file)
    schema, coded = found.schema.to_arrow_schema(), _coded_integers(found)
    groups: dict[str, list[Any]] = {}
    for group in (found.row_group(i) for i in range(found.num_row_groups)):
        for column in (group.column(place) for place in range(group.num_columns)):
            groups.setdefault(column.path_in_schema, []).append(column.statistics)
    types = {}
    for field in schema:
        known = groups.get(field.name, [])
        plain = not (arrow.is_text(field.type) or arrow.is_nested(field.type))
        if field.name in coded or not plain or not all(s and s.has_null_count for s in known):
            continue
        nulls = sum(one.null_count for one in known)
        if not (arrow.kind_of(field.type) == "integer" and _may_count(known, found.num_rows)):
            types[field.name] = field.type, nulls
    return types, found.num_rows


def _may_count(known: list[Any], rows: int) -> bool:
    """Return whether the least and the largest integer are those of a count of the rows."""
    least = min((one.min for one in known if one.has_min_max), default=-1)
    most = max((one.max for one in known if one.has_min_max), default=-1)
    return least in (0, 1) and most == least + rows - 1


def _coded_integers(found: Any) -> set[str]:
    """Return the columns that were categories of integers as they were written; pyarrow reads them
    as integers.
    """
    import pyarrow as pa

    written = (found.metadata or {}).get(b"ARROW:schema")
    if written is None:
        return set()
    schema = pa.ipc.read_schema(pa.py_buffer(base64.b64decode(written)))
    return {f.name for f in schema if pa.types.is_dictionary(f.type) and arrow.is_text(f.type)}


@contextlib.contextmanager
def naming_damage(file: Path, kind: str) -> Iterator[None]:
    """Name the file that cannot be read; pyarrow's errors are ValueError and OSError too."""
    from pyarrow import ArrowException

    damage = (ValueError, OSError, EOFError, RuntimeError, zipfile.BadZipFile, zlib.error)
    damage += (ArrowException, OverflowError, tokenize.TokenError)  # the last of NumPy's headers
    try:
        yield
    except damage as error:
        reason = str(error).partition("\n")[0]
        raise ValueError(f"{file}: not a readable {kind} ({reason})") from None
