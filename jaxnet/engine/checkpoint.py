"""Any pytree of arrays to disk and back: atomic, in the background, every byte checked.

A checkpoint is a folder named by its step, which has that name once it is whole and on the disk. It
holds the arrays as safetensors, and `checkpoint.json` with a digest of the arrays' file and of
itself; never a pickle.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import re
import shutil
from collections.abc import Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load, save

from jaxnet import files

FORMAT = 2  # of checkpoint.json; 1 was that of jaxnet 0.1
JSON, ARRAYS = "checkpoint.json", "arrays.safetensors"


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
        with files.naming_errors(self._folder):
            files.make_folder(self._folder)
            for path in self._folder.glob("*.part"):
                real = path.is_dir() and not path.is_symlink()
                shutil.rmtree(path) if real else path.unlink()
        self._thread = ThreadPoolExecutor(1, "checkpoint")
        self._writing: Future | None = None

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
        writing, self._writing = self._writing, None
        if writing is not None:
            writing.result()

    def __enter__(self) -> Writer:
        return self

    def __exit__(self, kind, value, traceback) -> None:
        try:
            self.wait()
        except OSError:
            if kind is None:  # else the first error is the one to raise
                raise
        finally:
            self._thread.shutdown()


def restore(folder: str | Path, like: Any = None, step: int | None = None) -> Restored:
    """Read the checkpoint of `step`, or the newest that is whole, into the structure of `like`.

    like: a pytree whose leaves have the shapes and dtypes to expect; a leaf that is a jax.Array is
    put where that one lies, any other becomes a NumPy array. None: the tree is a dictionary of
    NumPy arrays by name, such as `params/w1`.

    Raises: FileNotFoundError if there is none; ValueError naming the leaf whose shape, dtype or
    presence differs from `like`, a checkpoint of another format, or that every one is damaged.
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
    """Return the metadata of the newest checkpoint whose JSON is whole; {} without one.

    Raises: ValueError for a checkpoint of another format.
    """
    for number in reversed(steps(folder)):
        with contextlib.suppress(Damaged):
            return _read_json(Path(folder).absolute() / str(number))["metadata"]
    return {}


def steps(folder: str | Path) -> list[int]:
    """Return the steps of the checkpoints in a folder, in order, damaged ones included."""
    folder = Path(folder)
    names = [path.name for path in folder.iterdir()] if folder.is_dir() else []
    return sorted(int(name) for name in names if re.fullmatch("0|[1-9][0-9]{0,18}", name))


def set_aside(folder: str | Path, step: int) -> None:
    """Rename every checkpoint after `step` to STEP.damaged, so that the run can resume there."""
    for number in steps(folder):
        if number > step:
            path = Path(folder) / str(number)
            copies = (path.with_name(f"{number}.damaged" + f"-{i}" * (i > 0)) for i in range(10**6))
            path.rename(next(copy for copy in copies if not copy.exists()))
            files.sync(path.parent)


def _write(folder: Path, step: int, leaves: dict[str, np.ndarray], content: dict, keep: int):
    """Write a checkpoint beside its name, then rename it; only then is an old one removed."""
    part = folder / f"{step}.part"
    try:
        part.mkdir()
        stored = save({name: _plain(leaf) for name, leaf in leaves.items()})
        content["arrays"] = hashlib.sha256(stored).hexdigest()
        (part / ARRAYS).write_bytes(stored)
        (part / JSON).write_text(json.dumps(content | {"sha256": _digest(content)}))
        for path in (part / ARRAYS, part / JSON, part):
            files.sync(path)
        part.rename(folder / str(step))
        files.sync(folder)
        for old in steps(folder)[:-keep]:
            shutil.rmtree((folder / str(old)).rename(folder / f"{old}.part"))
    except OSError as error:
        shutil.rmtree(part, ignore_errors=True)
        reason = os.strerror(error.errno) if error.errno else str(error)
        raise OSError(
            error.errno, f"{folder}: a checkpoint could not be written ({reason})"
        ) from None


def _plain(array: np.ndarray) -> np.ndarray:
    """The array as NumPy's own dtypes have it: bfloat16 and its kind become unsigned integers."""
    array = np.ascontiguousarray(array).reshape(array.shape)
    return array.view(f"u{array.itemsize}") if array.dtype.kind == "V" else array


def _read(path: Path, like: Any) -> tuple[Any, dict[str, Any]]:
    content = _read_json(path)
    if like is None:
        return _read_arrays(path, content), content["metadata"]
    wanted = _flatten(like)
    _check_leaves(path, content["leaves"], {name: _spec(leaf) for name, leaf in wanted.items()})
    arrays = _read_arrays(path, content)
    leaves = [_like(arrays[name], leaf) for name, leaf in wanted.items()]
    return jax.tree.unflatten(jax.tree.structure(like), leaves), content["metadata"]


def _read_json(path: Path) -> dict[str, Any]:
    """The JSON of a checkpoint, once its own digest is checked."""
    try:
        content = files.read_json(path / JSON)
        if content.pop("sha256", None) != _digest(content):
            raise ValueError(f"the digest of {JSON} is wrong")
        if not _is_whole(content):
            raise ValueError(f"{JSON} lacks a part, or has one of another type")
    except (OSError, ValueError, RecursionError) as error:
        raise _damaged(path, error) from None
    if content["format"] != FORMAT:
        other = "a newer" if content["format"] > FORMAT else "an older"
        raise ValueError(
            f"{path}: the checkpoint has format {content['format']}, of {other} jaxnet; this one "
            f"reads format {FORMAT}"
        )
    return content


def _is_whole(content: dict[str, Any]) -> bool:
    """Return whether the JSON of a checkpoint has its parts, each of the right type."""
    leaves = content.get("leaves")
    return (
        isinstance(content.get("format"), int)
        and isinstance(content.get("metadata"), dict)
        and isinstance(leaves, dict)
        and all(map(_is_leaf, leaves.values()))
    )


def _is_leaf(value: Any) -> bool:
    """Return whether a value is a shape and a dtype."""
    found = isinstance(value, list) and len(value) == 2 and isinstance(value[0], list)
    return found and all(isinstance(n, int) for n in value[0]) and isinstance(value[1], str)


def _read_arrays(path: Path, content: dict[str, Any]) -> dict[str, np.ndarray]:
    try:
        stored = files.read(path / ARRAYS)
        if hashlib.sha256(stored).hexdigest() != content.get("arrays"):
            raise ValueError(f"the digest of {ARRAYS} is wrong")
        arrays = load(stored)
        leaves = {name: arrays[name].view(t) for name, (_, t) in content["leaves"].items()}
        if any(list(leaves[name].shape) != shape for name, (shape, _) in content["leaves"].items()):
            raise ValueError(f"the shapes in {ARRAYS} are not those of {JSON}")
    except (OSError, ValueError, KeyError, TypeError, SafetensorError) as error:
        raise _damaged(path, error) from None
    return leaves


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


def _flatten(tree: Any) -> dict[str, Any]:
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
