"""Any pytree of arrays to disk and back, by Orbax: atomic, in the background, every byte checked.

    with Writer("checkpoints", keep=3) as writer:
        writer.save(step, {"state": state, "key": key}, {"epoch": 4})  # written meanwhile
    saved = restore("checkpoints", like={"state": state, "key": key})

A checkpoint is a folder named by its step, renamed to that name once it is whole and on the disk.
It holds arrays in Orbax's format and `checkpoint.json`, never a pickle; the JSON has a checksum of
every file and of itself, since the formats alone do not notice every flipped bit.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import importlib
import json
import logging
import os
import shutil
from collections.abc import Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

FORMAT = 1  # of checkpoint.json; a greater one was written by a newer jaxnet
JSON, TREE = "checkpoint.json", "tree"
OVERHEAD = 2**14  # bytes of a checkpoint beside its arrays, and more


class Restored(NamedTuple):
    """A checkpoint: its step, the tree in the structure asked for, the metadata saved with it.

    damaged: a sentence for each newer checkpoint that could not be read.
    """

    step: int
    tree: Any
    metadata: dict[str, Any]
    damaged: tuple[str, ...]


class Damaged(ValueError):
    """A checkpoint whose files are cut short or changed."""


class Writer:
    """Writes checkpoints into a folder, one at a time in a thread, and keeps the last `keep`.

    Use it in a `with` statement. Leftovers of a process that was killed while writing are removed.
    """

    def __init__(self, folder: str | Path, keep: int = 3):
        self._folder, self._keep = Path(folder).absolute(), keep
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
            for path in self._folder.glob("*.part*"):
                shutil.rmtree(path)
        except OSError as error:
            raise _disk_error(self._folder, error) from None
        self._thread = ThreadPoolExecutor(1, "checkpoint")
        self._writing: Future = self._thread.submit(importlib.import_module, "orbax.checkpoint")

    def save(self, step: int, tree: Any, metadata: Mapping[str, Any] | None = None) -> None:
        """Copy the tree to the host and write it in the background, after the one before.

        tree: any pytree of arrays, numbers and PRNG keys. metadata: what `json.dumps` takes.

        Raises: ValueError for a leaf that is no array, or a step that is not after the last;
        OSError if the checkpoint before could not be written (a full disk, say).
        """
        leaves = {name: _to_numpy(name, leaf) for name, leaf in _flatten(tree).items()}
        content = {
            "format": FORMAT,
            "leaves": {name: [list(a.shape), str(a.dtype)] for name, a in leaves.items()},
            "metadata": dict(metadata or {}),
        }
        self.wait()
        last = steps(self._folder)[-1:]
        if last and step <= last[0]:
            raise ValueError(f"`step` must be after the last checkpoint, {last[0]}; got {step}")
        self._writing = self._thread.submit(_write, self._folder, step, leaves, content, self._keep)

    def wait(self) -> None:
        """Return when all that was saved is on the disk. Raises: OSError if it is not."""
        writing, self._writing = self._writing, self._thread.submit(lambda: None)
        writing.result()

    def __enter__(self) -> Writer:
        return self

    def __exit__(self, kind, value, traceback) -> None:
        try:
            self.wait()
        except OSError:
            if kind is None:  # else the first error is the one to tell
                raise
        finally:
            self._thread.shutdown()


def restore(folder: str | Path, like: Any = None, step: int | None = None) -> Restored:
    """Read the checkpoint of `step`, or the newest that is whole, into the structure of `like`.

    like: a pytree whose leaves have the shapes and dtypes to expect; a leaf that is a jax.Array is
    put where that one lies, any other becomes a NumPy array. None: the tree is a dictionary of
    NumPy arrays by name, such as `params/w1`.

    Raises: FileNotFoundError if there is none; ValueError naming the leaf whose shape, dtype or
    presence differs from `like`, a checkpoint of a newer jaxnet, or that every one is damaged.
    """
    folder = Path(folder).absolute()
    found = steps(folder) if step is None else [step]
    if not found or not (folder / str(found[-1])).is_dir():
        raise FileNotFoundError(f"{folder}: there is no checkpoint" + f" {step}" * bool(step))
    damaged: list[str] = []
    for number in reversed(found):
        try:
            return Restored(number, *_read(folder / str(number), like), tuple(damaged))
        except Damaged as error:
            damaged.append(str(error))
    raise Damaged("; ".join(damaged))


def metadata(folder: str | Path) -> dict[str, Any]:
    """The metadata of the newest checkpoint whose JSON is whole; none without one.

    Raises: ValueError for a checkpoint of a newer jaxnet.
    """
    for number in reversed(steps(folder)):
        with contextlib.suppress(Damaged):
            return _read_json(Path(folder).absolute() / str(number))["metadata"]
    return {}


def steps(folder: str | Path) -> list[int]:
    """The steps of the checkpoints in a folder, in order, damaged ones included."""
    folder = Path(folder)
    names = [path.name for path in folder.iterdir()] if folder.is_dir() else []
    return sorted(int(name) for name in names if name.isdecimal())


def set_aside(folder: str | Path, step: int) -> None:
    """Rename every checkpoint after `step` to STEP.damaged, so that the run can go on there."""
    for number in steps(folder):
        if number > step:
            path = Path(folder) / str(number)
            copies = (path.with_name(f"{number}.damaged" + f"-{i}" * (i > 0)) for i in range(10**6))
            path.rename(next(copy for copy in copies if not copy.exists()))


def _read(path: Path, like: Any) -> tuple[Any, dict[str, Any]]:
    content = _read_json(path)
    if like is None:
        _check_files(path, content["files"])
        return _read_arrays(path, content["leaves"]), content["metadata"]
    wanted = _flatten(like)
    _check_leaves(path, content["leaves"], {name: _spec(leaf) for name, leaf in wanted.items()})
    _check_files(path, content["files"])
    arrays = _read_arrays(path, content["leaves"])
    leaves = [_like(arrays[name], leaf) for name, leaf in wanted.items()]
    return jax.tree.unflatten(jax.tree.structure(like), leaves), content["metadata"]


def _read_json(path: Path) -> dict[str, Any]:
    """The JSON of a checkpoint, its own checksum checked first."""
    try:
        content = json.loads((path / JSON).read_bytes())
        digest = content.pop("sha256")
        if digest != _digest(content):
            raise ValueError(f"the checksum of {JSON} is wrong")
    except (OSError, ValueError, KeyError, AttributeError, TypeError, RecursionError) as error:
        raise _damaged(path, error) from None
    if content["format"] > FORMAT:
        raise ValueError(
            f"{path}: the checkpoint has format {content['format']}, of a newer jaxnet; this one "
            f"reads up to {FORMAT}"
        )
    return content


def _check_files(path: Path, files: dict[str, str]) -> None:
    for name, checksum in files.items():
        try:
            if _sha256(path / name) != checksum:
                raise ValueError(f"the checksum of {name} is wrong")
        except (OSError, ValueError) as error:
            raise _damaged(path, error) from None


def _damaged(path: Path, error: Exception) -> Damaged:
    reason = getattr(error, "strerror", None) or str(error)
    return Damaged(f"{path}: the checkpoint is damaged ({reason})")


def _check_leaves(path: Path, got: dict[str, list], wanted: dict[str, tuple]) -> None:
    for name in wanted:
        if name not in got:
            raise ValueError(f"{path}: the leaf {name} is not in the checkpoint")
    for name, (shape, dtype) in got.items():
        if name not in wanted:
            raise ValueError(f"{path}: the checkpoint has a leaf {name} that is not asked for")
        if (tuple(shape), dtype) != wanted[name]:
            raise ValueError(
                f"{path}: the leaf {name} is {dtype} {tuple(shape)} in the checkpoint, and "
                f"{wanted[name][1]} {wanted[name][0]} is asked for"
            )


def _read_arrays(path: Path, leaves: dict[str, list]) -> dict[str, np.ndarray]:
    arrays = {name: np.empty(shape, dtype) for name, (shape, dtype) in leaves.items()}
    stored = {name: leaf for name, leaf in arrays.items() if leaf.size}
    with _orbax() as (reader, args):
        return arrays | reader.restore(path / TREE, args=args.StandardRestore(stored))


@contextlib.contextmanager
def _orbax() -> Iterator[tuple[Any, Any]]:
    """A Checkpointer of this process alone, for which no other one of the run need wait, and what
    its arguments are made of.
    """
    import orbax.checkpoint as ocp

    own = jax.process_index()
    alone = ocp.options.MultiprocessingOptions(
        primary_host=own, active_processes={own}, barrier_sync_key_prefix="jaxnet"
    )
    handler = ocp.StandardCheckpointHandler(multiprocessing_options=alone)
    with ocp.Checkpointer(handler, multiprocessing_options=alone) as checkpointer:
        yield checkpointer, ocp.args


def _write(folder: Path, step: int, leaves: dict[str, np.ndarray], content: dict, keep: int):
    """Write a checkpoint beside its name, then rename it; only then does an old one go."""
    part = folder / f"{step}.part"
    stored = {name: leaf for name, leaf in leaves.items() if leaf.size}  # Orbax: none empty
    absl = logging.getLogger("absl")
    absl.addFilter(_not_orbax)  # which logs, page after page, what it then raises
    try:
        _reserve(part, sum(leaf.nbytes for leaf in stored.values()) + OVERHEAD)
        with _orbax() as (writer, args):
            writer.save(part / TREE, args=args.StandardSave(stored))
        files = sorted(path for path in part.rglob("*") if path.is_file())
        content["files"] = {path.relative_to(part).as_posix(): _sha256(path) for path in files}
        with (part / JSON).open("x") as file:
            json.dump(content | {"sha256": _digest(content)}, file)
            file.flush()
            os.fsync(file.fileno())
        part.rename(folder / str(step))
        _sync(folder)
        for old in steps(folder)[:-keep]:
            gone = (folder / str(old)).rename(folder / f"{old}.part")
            shutil.rmtree(gone)
    except Exception as error:  # what TensorStore raises for a full disk is no OSError
        shutil.rmtree(part, ignore_errors=True)
        raise _disk_error(folder, error) from None
    finally:
        absl.removeFilter(_not_orbax)


def _reserve(part: Path, size: int) -> None:
    """Raise OSError if the disk has no room: half way, TensorStore's threads print pages."""
    part.mkdir()
    if hasattr(os, "posix_fallocate"):
        with (part / "room").open("wb") as file:
            os.posix_fallocate(file.fileno(), 0, size)
        (part / "room").unlink()


def _not_orbax(record: logging.LogRecord) -> bool:
    return "orbax" not in record.pathname


def _sync(folder: Path) -> None:
    """Put the names in a folder on the disk, where the system can."""
    if hasattr(os, "O_DIRECTORY"):
        handle = os.open(folder, os.O_DIRECTORY)
        os.fsync(handle)
        os.close(handle)


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _flatten(tree: Any) -> dict[str, Any]:
    """The leaves by name, such as `params/w1`."""
    leaves = {}
    for path, leaf in jax.tree.leaves_with_path(tree):
        name = jax.tree_util.keystr(path, simple=True, separator="/") or "leaf"
        if name in leaves:
            raise ValueError(f"`tree` must have leaves of different names, got two of {name}")
        leaves[name] = leaf
    return leaves


def _is_key(leaf: Any) -> bool:
    return hasattr(leaf, "dtype") and jax.dtypes.issubdtype(leaf.dtype, jax.dtypes.prng_key)


def _spec(leaf: Any) -> tuple[tuple[int, ...], str]:
    leaf = jax.eval_shape(jax.random.key_data, leaf) if _is_key(leaf) else leaf
    leaf = leaf if hasattr(leaf, "dtype") else np.asarray(leaf)
    return tuple(leaf.shape), str(leaf.dtype)


def _to_numpy(name: str, leaf: Any) -> np.ndarray:
    """A copy on the host: the buffer of a jax.Array may be donated to the next step."""
    array = np.array(jax.random.key_data(leaf) if _is_key(leaf) else leaf)
    if array.dtype.kind in "OSUMm":
        raise ValueError(f"`tree` must hold arrays of numbers only, got {name}: {array.dtype}")
    return array


def _like(array: np.ndarray, leaf: Any) -> Any:
    """The array as a leaf of the kind of `leaf`, where that one lies."""
    if _is_key(leaf):
        return jax.random.wrap_key_data(jnp.asarray(array), impl=jax.random.key_impl(leaf))
    return jax.device_put(array, leaf.sharding) if isinstance(leaf, jax.Array) else array


def _digest(content: Any) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def _disk_error(folder: Path, error: Exception) -> Exception:
    """The error itself, or an OSError in one line for what the file system refused."""
    text = str(error)
    for code in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EACCES, errno.EIO):
        reason = os.strerror(code)
        if getattr(error, "errno", None) == code or reason in text:
            return OSError(code, f"{folder}: a checkpoint could not be written ({reason})")
    return error
