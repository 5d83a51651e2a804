"""A table's file, or a folder of files, made into records for `on_disk`, in a folder beside it.

They are made once, block by block in bounded memory; after a kill it goes on where the last block
ended. Only what says that it is whole, and of the files as they now are, is ever used.
"""

from __future__ import annotations

import contextlib
import logging
import os
from collections.abc import Callable, Collection, Iterator
from pathlib import Path
from typing import Any

import filelock

from jaxnet.files import LOCK, read_json
from jaxnet.tables import blocks, table
from jaxnet.tables import records as mapped_records
from jaxnet.tables.records import Conversion
from jaxnet.tables.store import DESCRIPTION, RECORDS, Mapped

VERSION = 1

log = logging.getLogger("jaxnet")


def convert(
    path: str | Path,
    drop: Collection[str] = (),
    on_progress: Callable[[Conversion], None] = lambda progress: None,
) -> Mapped:
    """Return a Parquet, CSV or TSV file, or a folder of such with the same columns, as a mapped
    table without the columns in `drop`; make its records first, unless they are there.

    They are in the folder PATH.arrays, which may be deleted; one process at a time makes them, and
    others wait. The files of a folder follow each other in the order of their names. on_progress is
    called now and then while they are made, and at the end.

    Raises: as `tables.read`; OSError naming the folder if it cannot be written.
    """
    files, folder = sources(path), folder_of(path)
    described = _read(folder)
    if not _serves(described, path, files, drop):
        with _locked(folder):
            described = _read(folder)  # another process may have made them meanwhile
            if not _serves(described, path, files, drop):
                described = _begin(path, files, drop, described)
                mapped_records.write(Path(path), folder, files, described, on_progress)
    return Mapped(path, folder, described, drop)


def folder_of(path: str | Path) -> Path:
    """Where the records of a table are."""
    return Path(os.path.abspath(path) + ".arrays")


def sources(path: str | Path) -> list[Path]:
    """The files of a table: itself, or those in the folder, by name.

    Raises: FileNotFoundError; ValueError for a file that cannot be mapped, or a folder without any.
    """
    path = Path(path)
    files = [path]
    if path.is_dir():
        files = [file for file in path.iterdir() if file.name.lower().endswith(table.SUFFIXES)]
    for file in files:
        if table.find(file)[1] == ".npz":
            raise ValueError(
                f"{file}: an .npz file cannot be mapped; write it as .parquet, or set `on_disk` off"
            )
    if not files:
        wanted = ", ".join(suffix for suffix in table.SUFFIXES if suffix != ".npz")
        raise ValueError(f"{path}: the folder has no file ending in {wanted}")
    return sorted(files, key=lambda file: file.name)


def _read(folder: Path) -> dict[str, Any]:
    """What is written of the records; nothing if it cannot be read, or is of another version."""
    try:
        described = read_json(folder / DESCRIPTION)
    except (FileNotFoundError, ValueError):
        return {}
    return described if described.get("version") == VERSION else {}


def _same(described: dict[str, Any], files: list[Path]) -> bool:
    """Whether the files are those of which the records were made."""
    known = described.get("files", [])
    return [[file[name] for name in ("name", *mapped_records.STATE)] for file in known] == [
        [file.name, *mapped_records.state(file)] for file in files
    ]


def _held(described: dict[str, Any]) -> set[str]:
    return {column["name"] for column in described["columns"]}


def _serves(
    described: dict[str, Any], path: str | Path, files: list[Path], drop: Collection[str]
) -> bool:
    """Whether the records are whole, of these files, and have the columns."""
    if not described.get("whole") or not _same(described, files):
        return False
    table.check_drop(path, described["names"], drop)
    records = folder_of(path) / RECORDS
    size = records.stat().st_size if records.is_file() else -1
    fits = size == described["rows"] * described["row_bytes"]
    return fits and set(described["names"]) - set(drop) <= _held(described)


@contextlib.contextmanager
def _locked(folder: Path) -> Iterator[None]:
    """Make the folder, and hold it alone; wait for another process that does."""
    with mapped_records.telling(folder):
        folder.mkdir(exist_ok=True)
        lock = filelock.FileLock(folder / LOCK)
        lock.acquire()
    try:
        yield
    finally:
        lock.release()


def _begin(
    path: str | Path, files: list[Path], drop: Collection[str], before: dict[str, Any]
) -> dict[str, Any]:
    """The description to go on from: that of before, or a new one with nothing converted."""
    names, states = _names(path, files, drop), [mapped_records.state(file) for file in files]
    wanted = set(names) - set(drop)
    if before and not _same(before, files):
        log.warning("%s: the data have changed; their arrays are made anew", path)
    elif before and not before["whole"] and wanted == _held(before):
        return before
    elif before and before["whole"] and not wanted <= _held(before):
        log.warning("%s: its arrays lack a column that is wanted; they are made anew", path)
        wanted |= _held(before)
    with mapped_records.telling(folder_of(path)):
        for name in (DESCRIPTION, RECORDS):  # not overwritten: another process may have it mapped
            (folder_of(path) / name).unlink(missing_ok=True)
    kept = [name for name in names if name in wanted]
    fields, row_bytes = mapped_records.layout(path, files, kept)
    return {
        "version": VERSION,
        "whole": False,
        "rows": 0,
        "row_bytes": row_bytes,
        "names": names,
        "columns": [field._asdict() for field in fields],
        "files": [
            {"name": file.name, "rows": 0} | dict(zip(mapped_records.STATE, state, strict=True))
            for file, state in zip(files, states, strict=True)
        ],
        "next": {"file": 0, "position": 0, "texts": {}},
    }


def _names(path: str | Path, files: list[Path], drop: Collection[str]) -> list[str]:
    """The columns that all files have."""
    names = blocks.names(files[0])
    table.check_names(files[0], names, drop)
    for file in files[1:]:
        if different := sorted(set(blocks.names(file)) ^ set(names)):
            raise ValueError(
                f"{file}: must have the columns of {files[0].name}, and {different[0]!r} is only "
                "in one of them"
            )
    table.check_drop(path, names, drop)
    if not set(names) - set(drop):
        raise ValueError(f"{path}: the table is empty")
    return names
