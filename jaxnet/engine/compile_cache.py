"""Compiled programs: kept on disk, so that the next process need not compile them again, and in
memory only as long as they are few.

A killed process, a damaged file or a full disk costs a compilation, never more.
"""

from __future__ import annotations

import contextlib
import hashlib
import logging
import os
import threading
import warnings
from collections.abc import Hashable, Iterator
from pathlib import Path

import jax

MAX_KINDS = 16  # of trainings whose programs stay in memory: some 14 MB each for a small network
MAX_BYTES = 2**26  # of all programs; the least recently used are removed first
LOOKS = 16  # times that a process looks at all that is there, while it writes MAX_BYTES
DIGEST = 32  # bytes of SHA-256 in front of each program
DISK_ERRORS = (OSError, RuntimeError, KeyError)  # KeyError: JAX 0.10, for a user without a name

log = logging.getLogger("jaxnet.engine.compile_cache")


def enable() -> None:
    """Keep every program that this process compiles from here on, and look for it there first.

    A folder that JAX has been given (`jax_compilation_cache_dir`) stays in use instead, unless
    others can write into it.
    """
    if jax.config.jax_compilation_cache_dir is not None:  # type: ignore[missing-attribute]
        with contextlib.suppress(OSError):  # it is not there yet, or no folder of this machine
            if not _is_own(folder()):
                jax.config.update("jax_enable_compilation_cache", False)
        return
    try:
        programs = Programs(folder())
        from jax._src import compilation_cache, lib  # no public name takes a cache of one's own
    # another JAX; no home; a full disk
    except (ImportError, AttributeError, RuntimeError, OSError) as error:
        log.debug("compiled programs are not kept: %s", error)
        return
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0)
    compilation_cache._cache = programs  # type: ignore[bad-assignment]
    # a program that multiplies by oneDNN cannot be kept
    warnings.filterwarnings("ignore", message="Error writing persistent compilation cache entry")
    # JAX 0.10 prints pages of false errors for each program that it finds: it takes options of its
    # own (+prefer-no-gather) for features that the processor lacks. 1 is JAX's own level of
    # messages; another one is the user's choice.
    if jax.__version_info__ < (0, 11) and os.environ.get("TF_CPP_MIN_LOG_LEVEL") == "1":
        lib.utils.absl_set_min_log_level(3)


def folder() -> Path:
    """Return the folder of compiled programs: JAX's, if it has been given one, or our own."""
    given = jax.config.jax_compilation_cache_dir  # type: ignore[missing-attribute]
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(given or Path(base) / "jaxnet" / "compiled")


_kinds: set[Hashable] = set()
_at_work = 0
_lock = threading.Lock()


@contextlib.contextmanager
def bounded(kind: Hashable) -> Iterator[None]:
    """Train within the block. JAX keeps the programs of all trainings; those of the earlier ones
    are freed before there is one kind too many, unless another thread trains just then. What is
    needed again is compiled again, to the same bits.

    kind: equal for trainings that share their programs.
    """
    global _at_work
    with _lock:
        if kind not in _kinds and len(_kinds) >= MAX_KINDS and not _at_work:
            _kinds.clear()
            jax.clear_caches()
        _kinds.add(kind)
        _at_work += 1
    try:
        yield
    finally:
        with _lock:
            _at_work -= 1


class Programs:
    """JAX's own cache in a folder, with a digest of each program and its key.

    JAX alone runs a program that lies under another's key. It writes in place: a program cut short
    stays, with a warning at every start, and in JAX 0.10 no other is written after it.

    Raises: OSError for a folder that others can write into.
    """

    def __init__(self, path: Path):
        from jax._src.lru_cache import LRUCache

        path.mkdir(mode=0o700, parents=True, exist_ok=True)
        if not _is_own(path):
            raise PermissionError(path)
        for entry in os.scandir(path):  # what is no program would hang, or fill the memory
            file = entry.is_file(follow_symlinks=False)
            large = file and entry.stat().st_size > MAX_BYTES + DIGEST
            if large or not (file or entry.is_dir(follow_symlinks=False)):
                os.unlink(entry)
        self._path = path
        self._cache = LRUCache(str(path), max_size=MAX_BYTES)
        self._evict, self._room = self._cache._evict_if_needed, 0
        self._cache._evict_if_needed = self._make_room  # type: ignore[bad-assignment]

    def _make_room(self, *, additional_size: int) -> None:
        """Remove programs for the next ones too: JAX would read the whole folder for each."""
        self._room -= additional_size
        if self._room < 0:
            self._room = MAX_BYTES // LOOKS
            self._evict(additional_size=additional_size + self._room)

    def get(self, key: str) -> bytes | None:
        """Return a program, or None if there is none that is whole; a damaged one is removed."""
        key += _threads()
        with contextlib.suppress(*DISK_ERRORS):
            content = self._cache.get(key) or b""
            if _digest(key, content[DIGEST:]) == content[:DIGEST]:
                return content[DIGEST:]
            (self._path / f"{key}-cache").unlink(missing_ok=True)
        return None

    def put(self, key: str, value: bytes) -> None:
        """Write a program, unless the disk refuses it."""
        key += _threads()
        with contextlib.suppress(*DISK_ERRORS):
            (self._path / f"{key}-atime").touch()  # first: JAX 0.10 counts on it
            self._cache.put(key, _digest(key, value) + value)


def _is_own(path: Path) -> bool:
    """Return whether a folder is this user's, and no other can write into it; say so if not."""
    stat = path.stat()
    own = not hasattr(os, "getuid") or (stat.st_uid == os.getuid() and not stat.st_mode & 0o022)
    if not own:
        log.warning("%s: not used, since other users can write into this folder", path)
    return own


def _digest(key: str, value: bytes) -> bytes:
    return hashlib.sha256(key.encode() + value).digest()


def _threads() -> str:
    """Return a suffix for the number of XLA's threads, which JAX's keys leave out."""
    linux = hasattr(os, "sched_getaffinity")
    count = len(os.sched_getaffinity(0)) if linux else os.cpu_count()
    return f"-{os.environ.get('NPROC') or count}"
