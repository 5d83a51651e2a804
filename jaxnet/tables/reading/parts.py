"""The columns of one file, some rows at a time, as Arrow arrays or NumPy's."""

from __future__ import annotations

import zipfile
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from jaxnet import files
from jaxnet.files import unchanged
from jaxnet.tables import table
from jaxnet.tables.reading import csv_file, parquet_file
from jaxnet.tables.reading.folder import Source
from jaxnet.tables.reading.indexes import of_pandas
from jaxnet.tables.reading.options import ReadOptions
from jaxnet.tables.reading.parquet_file import naming_damage

ROWS = 8192  # of a block
NPZ = ".npz file without pickled objects"


class Header(NamedTuple):
    """The names of a file's columns. index: which of them are the index of a pandas frame. commas:
    commas separate them. notes: lines that say how the file is read.
    """

    names: list[str]
    index: Sequence[str] = ()
    commas: bool = False
    notes: Sequence[str] = ()


def read_header(source: Source, options: ReadOptions) -> Header:
    """Raises: ValueError for a file that cannot be read."""
    file, suffix = source.file, table.suffix_of(source.file)
    if source.columns is not None:
        return Header(list(source.columns))
    if suffix == ".npz":
        with (
            naming_damage(file, NPZ),
            zipfile.ZipFile(file) as archive,
        ):
            files.check_npz(archive)
            return Header([name.removesuffix(".npy") for name in archive.namelist()])
    if suffix == ".parquet":
        schema = parquet_file.read_schema(file)
        return Header([*schema.names, *source.keys], of_pandas(schema))
    dialect = csv_file.read_dialect(file, options)
    names = [*dialect.names, *source.keys]
    return Header(names, (), dialect.delimiter == ",", dialect.notes)


def parts(
    source: Source, names: list[str], options: ReadOptions, rows: int = ROWS, **how: Any
) -> Iterator[dict[str, Any]]:
    """Yield columns, some rows at a time, about `rows` if that costs nothing: as Arrow arrays, or
    those of an .npz that are no text as they are. how: as `csv_file.batches` takes it.
    """
    import pyarrow as pa

    file, suffix = source.file, table.suffix_of(source.file)
    if source.columns is not None:
        yield {name: source.columns[name] for name in names}
        return
    with unchanged(file):
        table.check_wanted(file, read_header(source, options).names, names)
        if suffix == ".npz":
            yield _npz(file, names)
            return
        own = [name for name in names if name not in source.keys]
        own = own or read_header(source, options).names[:1]  # which counts the rows
        if suffix == ".parquet":
            batches = parquet_file.batches(file, own, rows)
        else:
            batches = csv_file.batches(file, own, options, **how)
        for batch in batches:
            found = dict(zip(own, batch.columns, strict=True))
            found |= {n: pa.array([v] * len(batch), pa.string()) for n, v in source.keys.items()}
            yield {name: found[name] for name in names}


def even(parts: Iterable[dict[str, Any]], rows: int) -> Iterator[dict[str, Any]]:
    """Yield the rows of parts as parts of `rows` rows, the last maybe of fewer."""
    some, count = [], 0
    for part in parts:
        size, start = len(next(iter(part.values()))), 0
        while start < size:
            stop = min(size, start + rows - count)
            some.append({name: column[start:stop] for name, column in part.items()})
            start, count = stop, count + stop - start
            if count == rows:
                yield _together(some)
                some, count = [], 0
    if some:
        yield _together(some)


def _together(parts: list[dict[str, Any]]) -> dict[str, Any]:
    import pyarrow as pa

    joined = {}
    for name, first in parts[0].items():
        join = np.concatenate if isinstance(first, np.ndarray) else pa.concat_arrays
        joined[name] = first if len(parts) == 1 else join([part[name] for part in parts])
    return joined


def _npz(file: Path, names: list[str]) -> dict[str, Any]:
    """Return arrays as columns: text as Arrow's, more dimensions flattened to (N, D)."""
    import pyarrow as pa

    with (
        naming_damage(file, NPZ),
        np.load(file, allow_pickle=False) as stored,
    ):
        arrays = {name: stored[name] for name in names}
        if raw := [name for name, array in arrays.items() if not isinstance(array, np.ndarray)]:
            raise ValueError(f"{raw[0]!r} in it is no array that NumPy has written")
    table.check_lengths(file, {name: array.shape for name, array in arrays.items()})
    for name, array in arrays.items():
        text = array.dtype.kind == "U" and array.ndim == 1
        if not text and (array.dtype.kind not in "biufM" or array.dtype.itemsize > 8):
            what = f"must be numbers, booleans, dates or text (N,), got {array.dtype}"
            raise table.fault(file, name, what)
        if len(array) and not array.size:
            raise table.fault(file, name, f"must hold values, got shape {array.shape}")
        if array.dtype.kind == "M":
            array = array.astype("M8[us]")
        array = array.astype(array.dtype.newbyteorder("="), copy=False)
        arrays[name] = array.reshape(len(array), -1) if array.ndim > 2 else array
    with naming_damage(file, NPZ):  # text that is no Unicode
        return {n: pa.array(a) if a.dtype.kind == "U" else a for n, a in arrays.items()}
