"""The records of a mapped table, written block by block."""

from __future__ import annotations

import contextlib
import hashlib
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from jaxnet.files import write_json
from jaxnet.tables import blocks, table
from jaxnet.tables.store import CACHED, DESCRIPTION, MAX_CATEGORIES, RECORDS, Field, too_many

ROWS = 2**14  # of a Parquet file, converted at once
PART_BYTES = 2**24  # of their records, at most
SAVE_BYTES = 2**26  # of records, after which it is written down how far they go
STATE = ("bytes", "mtime_ns")  # of a file, by which it is seen to change


class Conversion(NamedTuple):
    """How far a conversion is: the rows, and the bytes of their records.

    folder: where these are. whole: whether this is the end.
    """

    folder: Path
    rows: int
    written: int
    whole: bool


def state(file: Path) -> tuple[int, int]:
    """The STATE of a file."""
    stat = file.stat()
    return stat.st_size, stat.st_mtime_ns


@contextlib.contextmanager
def telling(folder: Path) -> Iterator[None]:
    """Make an OSError name the folder, and say what to do."""
    try:
        yield
    except OSError as error:
        reason = error.strerror or str(error)
        raise OSError(
            error.errno,
            f"{folder}: the arrays of a mapped table could not be written there ({reason}); make "
            "room, or put the data where there is",
        ) from None


def layout(path: str | Path, files: list[Path], names: list[str]) -> tuple[list[Field], int]:
    """Each column's place in a record, and the bytes of one.

    Those of the most bytes come first, so that all are aligned.
    """
    every = [(file, blocks.dtypes(file, names)) for file in files]
    fields, at = {}, 0
    for name in names:
        found = [(file, dtypes[name]) for file, dtypes in every if name in dtypes]
        if not found:
            raise ValueError(f"{path}: the table is empty")
        fields[name] = _field(name, found)
    for name in sorted(names, key=lambda name: _size(fields[name]), reverse=True):
        fields[name] = fields[name]._replace(at=at)
        at = fields[name].stop
    return list(fields.values()), -(-at // 8) * 8


def _size(field: Field) -> tuple[int, str]:
    return np.dtype(field.dtype).itemsize, field.dtype


def _field(name: str, found: list[tuple[Path, np.dtype]]) -> Field:
    """The field for a column that has these types in the files."""
    text = [dtype.kind == "O" for _, dtype in found]
    if len(set(text)) > 1:
        words, numbers = found[text.index(True)][0], found[text.index(False)][0]
        raise ValueError(f"{words}: column {name!r} holds text, and in {numbers.name} numbers")
    if text[0]:
        return Field(name, np.dtype(np.uint16).str, 0, ())
    return Field(name, np.result_type(*(dtype for _, dtype in found)).str, 0)


def write(
    path: Path,
    folder: Path,
    files: list[Path],
    described: dict[str, Any],
    on_progress: Callable[[Conversion], None],
) -> None:
    """Write the records of the files, from where `described` says that they go on; it is kept up,
    also on the disk, and at the end says that they are whole.
    """
    writer = _Writer(path, folder, files, described, on_progress)
    with telling(folder), (folder / RECORDS).open("ab", buffering=0) as out:
        out.truncate(described["rows"] * described["row_bytes"])
    with (folder / RECORDS).open("ab", buffering=0) as out:
        for number in range(described["next"]["file"], len(files)):
            writer.add(number, out)
    if not described["rows"]:
        raise ValueError(f"{path}: the table is empty")
    writer.finish()


class _Writer:
    def __init__(self, path, folder, files, described, on_progress):
        self.path, self.folder, self.files, self.on_progress = path, folder, files, on_progress
        self.described = described
        self.fields = [Field(**column) for column in described["columns"]]
        self.saved, self.number = described["rows"], len(files) - 1
        known = described["next"]["texts"]
        self.texts = {
            field.name: _Texts(*known.get(field.name, ([], [])))
            for field in self.fields
            if field.categories is not None
        }

    def add(self, number: int, out: Any) -> None:
        """Append the rows of a file from where they go on."""
        file, known, self.number = self.files[number], self.described["files"][number], number
        kinds = {field.name: field.kind for field in self.fields}
        place = self.described["next"]
        rows = max(1, min(ROWS, PART_BYTES // self.described["row_bytes"]))
        parts = blocks.parts(file, kinds, rows, place["position"], known["rows"])
        for part, position in blocks.unchanged(file, parts):
            records = self._records(file, part, known["rows"])
            with telling(self.folder):
                _write_all(out, records)
            known["rows"] += len(records)
            self.described["rows"] += len(records)
            place["position"] = position
            if (self.described["rows"] - self.saved) * self.described["row_bytes"] >= SAVE_BYTES:
                self._save(out)
        known["sha256"] = _digest(file)
        if state(file) != tuple(known[name] for name in STATE):
            raise blocks.changed(file)
        self.described["next"] |= {"file": number + 1, "position": 0}
        self._save(out)

    def _records(self, file: Path, part: Any, offset: int) -> np.ndarray:
        """The records (N, bytes) of an Arrow table that comes after `offset` rows of its file."""
        records = np.zeros((part.num_rows, self.described["row_bytes"]), np.uint8)
        columns = []
        for field in self.fields:
            chunks = table.plain_arrow(file, field.name, part[field.name], offset)
            if field.categories is None:
                values = chunks.to_numpy()
                table.check_finite(file, field.name, values, offset)
            else:
                texts = self.texts[field.name]
                values = texts.codes(*table.coded(chunks), self.described["rows"])
                self._check_texts(field.name, texts)
            columns.append((field, values))
        rows = max(1, CACHED // records.shape[1])  # all of whose bytes are written while in cache
        for start in range(0, len(records), rows):
            for field, values in columns:
                field.of(records[start : start + rows])[:] = values[start : start + rows]
        return records

    def _check_texts(self, name: str, texts: _Texts, end: bool = False) -> None:
        """Refuse more texts than there may be, unless they are all numbers so far: then the table
        is read on for the word that made text of them.
        """
        if len(texts.first) <= MAX_CATEGORIES and not end:
            return
        found = table.word_among_numbers(list(texts.index), texts.first)
        if found is not None:
            raise self._word_error(name, *found)
        only_numbers = all(map(table.is_number, texts.index))
        if len(texts.first) > MAX_CATEGORIES and (end or not only_numbers):
            raise too_many(self.path, name)

    def _word_error(self, name: str, row: int, text: str) -> ValueError:
        """`tables.word_error` for a row of the table, named as its file has it."""
        for number in range(self.number):
            rows = self.described["files"][number]["rows"]
            if row < rows:
                return table.word_error(self.files[number], name, row, text)
            row -= rows
        return table.word_error(self.files[self.number], name, row, text)

    def _save(self, out: Any) -> None:
        """Write down how far the records go, once they are on the disk."""
        with telling(self.folder):
            os.fsync(out.fileno())
            texts = {name: [list(t.index), t.first] for name, t in self.texts.items()}
            self.described["next"]["texts"] = texts
            write_json(self.folder / DESCRIPTION, self.described)
        self.saved = self.described["rows"]
        self._report(False)

    def finish(self) -> None:
        """Write that the records are whole."""
        for name, texts in self.texts.items():
            self._check_texts(name, texts, end=True)
        for column in self.described["columns"]:
            if column["name"] in self.texts:
                column["categories"] = list(self.texts[column["name"]].index)
        del self.described["next"]
        self.described |= {"whole": True, "source": _source(self.path, self.described["files"])}
        with telling(self.folder):
            write_json(self.folder / DESCRIPTION, self.described)
        self._report(True)

    def _report(self, whole: bool) -> None:
        rows = self.described["rows"]
        self.on_progress(Conversion(self.folder, rows, rows * self.described["row_bytes"], whole))


class _Texts:
    """The distinct texts of a column, by their codes, and the row in which each first appears."""

    def __init__(self, texts: list[str], first: list[int]):
        self.index = {text: code for code, text in enumerate(texts)}
        self.first = first

    def codes(self, texts: list[str], which: np.ndarray, row: int) -> np.ndarray:
        """The codes (N,) of the rows from `row` on, of which each has one of `texts`."""
        codes = np.zeros(len(texts), np.uint16)
        for i, text in enumerate(texts):
            code = self.index.get(text)
            if code is None and (len(self.first) <= MAX_CATEGORIES or not table.is_number(text)):
                code = self.index[text] = len(self.first)
                self.first.append(row + int((which == i).argmax()))
            codes[i] = min(code or 0, MAX_CATEGORIES - 1)
        return codes[which]


def _write_all(out: Any, records: np.ndarray) -> None:
    """Write them, though the system may take a part at a time, as before a disk is full."""
    left = records.data.cast("B")
    while left:
        left = left[out.write(left) :]


def _digest(file: Path) -> str:
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def _source(path: Path, files: list[dict[str, Any]]) -> dict[str, Any]:
    """Name, path, bytes and sha256 of the source; of a folder, that of its files' and names."""
    digest = files[0]["sha256"]
    if path.is_dir():
        lines = "".join(f"{file['sha256']}  {file['name']}\n" for file in files)
        digest = hashlib.sha256(lines.encode()).hexdigest()
    absolute = Path(os.path.abspath(path))
    size = sum(file["bytes"] for file in files)
    return {"name": absolute.name, "path": str(absolute), "bytes": size, "sha256": digest}
