"""The files of a table: one, or those in a folder and in its folders, as year=2024."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import unquote

from jaxnet.tables.table import SUFFIXES, find, suffix_of

NONE = {"__HIVE_DEFAULT_PARTITION__": None}  # as Hive writes a missing value in a name


class Source(NamedTuple):
    """A file of a table, or columns in memory, for which `file` is how messages name them.

    keys: the values, by column, that the names of its folders hold. columns: those in memory, as
    Arrow arrays or NumPy's.
    """

    file: Path
    keys: Mapping[str, str | None] = {}
    columns: Mapping[str, Any] | None = None


def is_csv(file: Path) -> bool:
    return suffix_of(file) in (".csv", ".csv.gz", ".tsv")


def sources(path: str | Path) -> list[Source]:
    """Return the files of a table: itself, or those in the folder, by name.

    Hidden files, those that begin with _, and files without a byte are left out.

    Raises: FileNotFoundError; ValueError for an .npz file in a folder, a folder without any table,
    and files whose folders have different keys.
    """
    path = Path(path)
    if not path.is_dir():
        return [Source(find(path)[0])]
    found = []
    for file in sorted(path.rglob("*"), key=lambda file: file.relative_to(path).parts):
        parts = file.relative_to(path).parts
        *folders, name = parts
        hidden = any(part[0] in "._" or part.endswith(".arrays") for part in parts)
        if hidden or not suffix_of(name) or not file.is_file():
            continue
        if suffix_of(name) == ".npz":
            what = "an .npz file cannot be part of a folder; write it as .parquet"
            raise ValueError(f"{file}: {what}")
        if not file.stat().st_size:
            continue
        pairs = (folder.partition("=") for folder in folders)
        keys = {key: NONE.get(text, unquote(text)) for key, sign, text in pairs if sign}
        found.append(Source(file, keys))
    if not found:
        raise ValueError(f"{path}: the folder has no file ending in {', '.join(SUFFIXES[1:])}")
    for source in found:
        if source.keys.keys() != found[0].keys.keys():
            what = f"must be in folders as {found[0].file.relative_to(path).parent}"
            raise ValueError(f"{source.file}: {what}, with the same keys")
    return found
