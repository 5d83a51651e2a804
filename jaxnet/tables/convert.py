"""Convert a table's file, or a folder of files, to a store, block by block in bounded memory.

A conversion that is killed starts again: only arrays that are whole, and of the files as they now
are, are ever used.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import logging
import os
import shutil
import time
from collections.abc import Callable, Collection, Iterator
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from jaxnet import files
from jaxnet.tables import arrays, table
from jaxnet.tables.arrays import CODES, NUMBERS
from jaxnet.tables.reading import reader
from jaxnet.tables.reading.folder import Source, sources
from jaxnet.tables.reading.options import AS_FOUND, ReadOptions
from jaxnet.tables.reading.scan import Scan, check_words, header_of, missing_at, scan
from jaxnet.tables.store import (
    DESCRIPTION,
    Field,
    Store,
    check_description,
    folder_of,
    to_numbers,
)

VERSION = 3
RESOLUTION = 2 * 10**9  # nanoseconds within which a file can change and keep its time: of FAT
CHANGED = "the data have changed"
BLOCK_NUMBERS = 2**20  # that are converted at once

log = logging.getLogger("jaxnet")


class Conversion(NamedTuple):
    """How far a conversion is: the rows written, and their bytes; whole at its end."""

    folder: Path
    rows: int
    written: int
    whole: bool


def convert(
    path: str | Path,
    drop: Collection[str] = (),
    on_progress: Callable[[Conversion], None] = lambda progress: None,
    options: ReadOptions = AS_FOUND,
) -> Store:
    """Return a Parquet, CSV or TSV file, or a folder of such with the same columns, as a store
    without the columns in `drop`; make its arrays first, unless they are there.

    They are in the folder PATH.arrays, which may be deleted; one process at a time makes them, and
    others wait. The files of a folder follow each other in the order of their names. on_progress is
    called now and then while they are made, and at the end.

    Raises: as `reader.read`; OSError naming the folder if it cannot be written.
    """
    files_, folder = _sources(path), folder_of(path)
    found, reason = _look(path, files_, drop, options)
    if reason:
        with files.naming_errors(folder):
            files.make_folder(folder)
        try:
            with files.lock(folder, wait=True):
                # another process may have made them meanwhile
                found, reason = _look(path, files_, drop, options)
                if reason:
                    found = _convert(Path(path), files_, drop, options, found, reason, on_progress)
        except BaseException:  # Ctrl-C too
            _remove(folder)
            raise
    for note in found["notes"]:
        log.warning("%s: %s", Path(path).name, note)
    store = Store(path, found, drop)
    if options.missing == "error":
        _check_missing(store, options)
    return store


def _remove(folder: Path) -> None:
    """Remove a folder in which nothing was made, unless another process has it."""
    with contextlib.suppress(OSError), files.lock(folder):
        if [file.name for file in folder.iterdir()] == [files.LOCK]:
            shutil.rmtree(folder)


def _check_missing(store: Store, options: ReadOptions) -> None:
    """Refuse a table that misses a value, and name the first in its first block."""
    for block in store.blocks(list(store.columns)):
        for name, column in block.columns.items():
            if (gaps := table.is_missing(column)).any():
                row = store.row(block.offset + int(gaps.argmax()))
                raise missing_at(Source(Path(row.path)), name, row.offset + 1, options)


def _sources(path: str | Path) -> list[Source]:
    """Return the files of a table whose rows can stay on disk."""
    found = sources(path)
    if table.suffix_of(found[0].file) == ".npz":
        what = "the rows of an .npz file cannot stay on disk; write it as .parquet"
        raise ValueError(f"{found[0].file}: {what}, or set `on_disk` off")
    return found


def _look(
    path: str | Path, paths: list[Source], drop: Collection[str], options: ReadOptions
) -> tuple[dict[str, Any], str]:
    """Return the description of a store, {} for none, and why its arrays do not serve, or ""."""
    folder, found = folder_of(path), {}
    files.check_own([folder])
    try:
        found = files.read_json(folder / DESCRIPTION)
        if found.pop("digest", None) != _digest(found):
            return {}, "there are none"
        if found.get("version") == VERSION:
            check_description(found)
    except (FileNotFoundError, ValueError):
        return {}, "there are none"
    if found.get("version") != VERSION:
        return {}, "there are none"
    now = [[_name(path, source.file), [*files.state(source.file)]] for source in paths]
    if [[file["name"], file["state"]] for file in found["files"]] != now:
        return found, CHANGED
    for (file, *_), known in zip(paths, found["files"], strict=True):
        if known["doubtful"] and files.sha256(file) != known["sha256"]:
            return found, CHANGED
    if found["options"] != _options(options):
        return found, "the options have changed"
    wanted = table.choose(path, found["names"], drop)
    try:
        held = [np.load(folder / name, mmap_mode="r") for name in (NUMBERS, CODES)]
    except Exception:  # a damaged header raises errors of many kinds
        return found, "one is missing or cut short"
    words = sum(column["texts"] is not None for column in found["columns"])
    widths = len(found["columns"]) - words, words
    for name in (NUMBERS, CODES):
        if arrays.num_blocks(folder / name) != len(found["digests"][name]):
            return found, "one is missing or cut short"
    if [array.shape for array in held] != [(found["rows"], width) for width in widths]:
        return found, "they have another shape"
    held = {*(column["name"] for column in found["columns"]), *found["left_out"]}
    return found, "" if held.issuperset(wanted) else "a column is wanted that they lack"


def _options(options: ReadOptions) -> dict[str, Any]:
    """Return the options that change what is read, as JSON holds them."""
    return json.loads(json.dumps(options._replace(missing="")._asdict()))


def _name(path: str | Path, file: Path) -> str:
    """Return the name of a file of a table, as in its folder."""
    return file.relative_to(path).as_posix() if Path(path).is_dir() else file.name


def _convert(
    path: Path,
    paths: list[Source],
    drop: Collection[str],
    options: ReadOptions,
    found: dict[str, Any],
    reason: str,
    on_progress: Callable[[Conversion], None],
) -> dict[str, Any]:
    """Write arrays in the place of those `found`, and last of all what they are; return that."""
    folder, states = folder_of(path), [files.state(source.file) for source in paths]
    if found:
        log.warning("%s: its arrays are made anew: %s", path, reason)
        held = {column["name"] for column in found["columns"] if reason != CHANGED}
        table.choose(path, header_of(path, paths, options).names, drop)  # knows them all
        drop = set(drop) - held
    (folder / DESCRIPTION).unlink(missing_ok=True)
    with contextlib.ExitStack() as stack:
        for source in paths:
            stack.enter_context(files.unchanged(source.file))
        look = scan(path, paths, drop, options)
        fields = _fields(look)
        notes = look.notes
        report = partial(_report, on_progress, folder)
        blocks = _blocks(path, paths, fields, options, notes)
        written, digests = arrays.write(folder, sum(look.rows), blocks, report)
        described = [
            {"name": _name(path, file), "state": known, "doubtful": _doubtful(known), "rows": rows}
            | {"sha256": files.sha256(file)}
            for (file, *_), known, rows in zip(paths, states, look.rows, strict=True)
        ]
    source = _source(path, described)
    found = {"version": VERSION, "rows": sum(look.rows), "names": look.names, "files": described}
    found |= {"columns": [field._asdict() for field in fields], "source": source, "notes": notes}
    found |= {"left_out": look.left_out, "options": _options(options), "digests": digests}
    files.write_json(folder / DESCRIPTION, found | {"digest": _digest(found)})
    report(sum(look.rows), written, whole=True)
    return found


def _report(
    on_progress: Callable[[Conversion], None],
    folder: Path,
    rows: int,
    written: int,
    whole: bool = False,
) -> None:
    on_progress(Conversion(folder, rows, written, whole))


def _doubtful(state: tuple[int, int]) -> bool:
    """Whether a file may still change, and have the size and the time of this state."""
    return time.time_ns() - state[1] < RESOLUTION


def _fields(look: Scan) -> list[Field]:
    """Return a field for each column of a table."""
    fields: list[Field] = []
    for name, kind in look.kinds.items():
        words = kind == "text"
        place = sum((field.texts is None) != words for field in fields)
        dtype = "O" if words else look.dtypes[name].str
        fields.append(Field(name, dtype, kind, place, [] if words else None))
    return fields


def _blocks(
    path: Path, paths: list[Source], fields: list[Field], options: ReadOptions, notes: list[str]
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Yield numbers and codes of some rows after the others; collect the texts of the fields, and
    lines about them.

    float32 holds booleans, integers of up to 16 bits and reals of up to 32 exactly: it is taken if
    no column of numbers needs float64, in which integers from 2**53 on are rounded.
    """
    numbers = [field for field in fields if field.texts is None]
    texts = {field.name: field.texts for field in fields if field.texts is not None}
    index: dict[str, dict[str, int]] = {name: {} for name in texts}
    exact = all(np.can_cast(field.dtype, np.float32) for field in numbers)
    kinds = {field.name: field.kind for field in fields}
    rows = max(1, BLOCK_NUMBERS // len(fields))
    for source in paths:
        for block in reader.file_blocks(source, kinds, rows, options):
            taken = [block.columns[field.name] for field in numbers]
            codes = [_codes(block.columns[name], index[name]) for name in texts]
            for name, known in index.items():
                if len(known) > table.MAX_CATEGORIES:  # which may be the numbers before a word
                    check_words(paths, name, known, options, more=True)
                    raise table.too_many(path, name)
            yield (
                _side_by_side(taken, block.num_rows, np.float32 if exact else np.float64),
                _side_by_side(codes, block.num_rows, np.int32),
            )
    for name, found in texts.items():
        found.extend(index[name])
        notes += check_words(paths, name, found, options)


def _side_by_side(columns: list[Any], rows: int, dtype: type) -> np.ndarray:
    """Return columns (N,) as an array (N, K)."""
    array = np.empty((rows, len(columns)), dtype)
    for place, column in enumerate(columns):
        dates = isinstance(column, np.ndarray) and column.dtype.kind == "M"
        array[:, place] = to_numbers(column) if dates else column
    return array


def _codes(column: np.ndarray, index: dict[str, int]) -> list[int]:
    """Return the place of each text in `index`, to which new ones are added; -1 for None."""
    values = column.tolist()
    for text in dict.fromkeys(values):
        if text is not None:
            index.setdefault(text, len(index))
    return list(map((index | {None: -1}).__getitem__, values))


def _digest(found: dict[str, Any]) -> int:
    return arrays.digest(json.dumps(found, sort_keys=True, default=str).encode())


def _source(path: Path, described: list[dict[str, Any]]) -> dict[str, Any]:
    """Return name, path, bytes and sha256 of the source; of a folder, of its files and names."""
    digest = described[0]["sha256"]
    if path.is_dir():
        lines = "".join(f"{file['sha256']}  {file['name']}\n" for file in described)
        digest = hashlib.sha256(lines.encode()).hexdigest()
    size = sum(file["state"][0] for file in described)
    path = Path(os.path.abspath(path))
    return {"name": path.name, "path": str(path), "bytes": size, "sha256": digest}
