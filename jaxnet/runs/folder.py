"""The folder of a run: its files, the lock that keeps a second writer out, metrics line by line.

Whatever is killed at any moment leaves each file whole: JSON is written beside and renamed, metrics
are appended, and a torn last line is cut off when the run is resumed.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from jaxnet import files
from jaxnet.files import LOCK, lock, make_folder, naming_errors, read_json, sync

CONFIG = "config.json"
METRICS = "metrics.jsonl"
LINES_SHARE = 16  # as `files.JSON_SHARE`: lines of numbers take less than values in general
CHECKPOINTS = "checkpoints"
MODEL = "model"
PARAMS = "model/params.safetensors"
EXPORTED = "model.json"  # in a folder of exported files: what they are
REPORT = "model/metrics.json"  # of the best model, when training has ended
CURVES = "loss.png"
EVENTS = "tensorboard"
SWEEP, BEST = "sweep.json", "best"  # of the folder of a sweep
FILES = (CONFIG, METRICS, CHECKPOINTS, MODEL, CURVES)  # by which a folder is known to hold a run


@contextlib.contextmanager
def new_folder(
    out: str | None, name: str, names: Sequence[str], is_kept: Callable[[Path], bool]
) -> Iterator[Path]:
    """Make and lock `out`, or the next free runs/NAME-1, -2, ...

    If the block fails, and the folder is not to be kept, its `names` and the folders that were made
    are removed again.

    Raises: FileExistsError for a folder that holds a run, OSError for one that cannot be made.
    """
    folder, made = make(out, name)
    with lock(folder):
        _check_free(folder)
        check_own(folder)
        try:
            yield folder
        except BaseException:  # Ctrl-C too
            if not is_kept(folder):
                _discard(folder, names, made)
            raise


def make(out: str | None, name: str) -> tuple[Path, list[Path]]:
    """Make the folder; return it and all folders made."""
    folder = Path("runs" if out is None else out)
    if out is not None:
        _check_free(folder)
    try:
        new = make_folder(folder)
        if out is not None:
            return folder, new
        number = 1
        while True:
            numbered = folder / f"{name}-{number}"
            with contextlib.suppress(FileExistsError):
                numbered.mkdir()
                sync(folder)
                return numbered, [numbered, *new]
            number += 1
    except OSError as error:
        raise OSError(
            f"`out` must be a folder that can be made, got {folder} ({error.strerror})"
        ) from None


def _check_free(folder: Path) -> None:
    if any((folder / file).exists() for file in FILES):
        raise FileExistsError(
            f"`out` must not hold a run already: {folder}; resume it with jaxnet train --resume "
            f"{folder}, or give another folder"
        )


def _discard(folder: Path, names: Sequence[str], made: list[Path]) -> None:
    for path in (folder / name for name in (*names, LOCK)):
        if path.is_dir():
            shutil.rmtree(path, ignore_errors=True)
        else:
            path.unlink(missing_ok=True)
    with contextlib.suppress(OSError):  # not empty: something else lies there
        for path in made:
            path.rmdir()


def check_own(folder: Path) -> None:
    """Raise ValueError for a link, a pipe or a device among what a run reads and writes."""
    files.check_own(folder / name for name in (*FILES, EVENTS, LOCK))


def append_metrics(folder: Path, line: dict[str, Any], *, first: bool = True) -> None:
    """Add one line to metrics.jsonl, which is made for the first.

    Raises: OSError naming the file, also if it is gone and this is not the first line.
    """
    flags = os.O_WRONLY | os.O_APPEND | (os.O_CREAT if first else 0)
    text = json.dumps(line) + "\n"
    with (
        naming_errors(folder / METRICS),
        os.fdopen(os.open(folder / METRICS, flags, 0o666), "w") as file,
    ):
        file.write(text)


def sync_metrics(folder: Path) -> None:
    """Return when metrics.jsonl is on the disk: before a checkpoint that counts on its lines."""
    with naming_errors(folder / METRICS):
        sync(folder / METRICS)
        sync(folder)


def read_metrics(folder: Path, sure: int | None = None) -> list[dict[str, Any]]:
    """The lines of metrics.jsonl, without a torn last one; none if there is no such file.

    sure: how many lines are known to be on the disk; a power cut may have torn those after them,
    and they end before the first that is torn.

    Raises: ValueError naming a line that is not JSON.
    """
    path = folder / METRICS
    lines = files.read(path, LINES_SHARE).splitlines(keepends=True) if path.exists() else []
    if lines and not lines[-1].endswith(b"\n"):
        lines.pop()
    metrics = []
    for number, line in enumerate(lines, start=1):
        try:
            value = json.loads(line)
            if not isinstance(value, dict) or not all(map(_is_metric, value.values())):
                raise ValueError("it must hold numbers by name")
            if not isinstance(value["step"], int) or not isinstance(value["epoch"], int):
                raise ValueError("no step and epoch")
        except (ValueError, KeyError, RecursionError) as error:
            if sure is not None and number > sure:
                break
            raise ValueError(
                f"{path}: line {number} is not a line of metrics ({error}); was it edited?"
            ) from None
        metrics.append(value)
    return metrics


def _is_metric(value: Any) -> bool:
    return isinstance(value, float | None) or (isinstance(value, int) and abs(value) < 2**63)


def old_exports(folder: Path) -> list[Path]:
    """Return the exported files in a run's folder that are of other weights than its model now."""
    try:
        exported = read_json(folder / MODEL / EXPORTED)["weights"]
        with (folder / PARAMS).open("rb") as file:
            header = json.loads(file.read(min(int.from_bytes(file.read(8), "little"), 2**20)))
        now = json.loads(header["__metadata__"]["jaxnet"])["sha256"]
        old = [folder / MODEL / name for name, weights in exported.items() if weights != now]
        old = [path for path in old if path.parent == folder / MODEL]
        return [path for path in old if path.exists()]
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return []  # nothing was exported, or it cannot be known


def cut_metrics(folder: Path, step: int, number: int) -> list[dict[str, Any]]:
    """Cut metrics.jsonl after the line of `step` or before; return the `number` lines that stay.

    Raises: ValueError if a line is missing or repeated.
    """
    lines = [line for line in read_metrics(folder, number) if line["step"] <= step]
    epochs = [line["epoch"] for line in lines]
    if len(lines) != number or epochs != sorted(set(epochs)):
        raise ValueError(
            f"{folder / METRICS}: must hold {number} lines of growing epochs up to step {step}, "
            f"got the epochs {epochs[-5:]} at the end of {len(lines)}; was it edited?"
        )
    path = folder / METRICS
    if path.exists():
        kept = path.read_bytes().splitlines(keepends=True)[: len(lines)]
        os.truncate(path, sum(map(len, kept)))
    return lines
