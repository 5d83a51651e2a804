"""Compiled programs kept on disk, so that the next process need not compile them again.

    compile_cache.enable()   # the command line does, without --no-cache

A killed process, a damaged file or a full disk costs a compilation, never more. JAX's own cache in
a folder writes in place and reads whatever it finds there, hence this one in its place.
"""

from __future__ import annotations

import contextlib
import hashlib
import itertools
import logging
import os
import platform
import sys
import tempfile
from pathlib import Path

import jax
import jaxlib

MAX_BYTES = 2**26  # of all programs, of every version and machine; the longest unused go first
DIGEST = 32  # bytes of SHA-256, before the program in its file

PROCESSOR = ("vendor_id", "cpu family", "model", "flags")  # of /proc/cpuinfo, on x86
PROCESSOR += ("CPU implementer", "CPU variant", "CPU part", "Features")  # and on ARM

log = logging.getLogger("jaxnet.engine.compile_cache")


def enable() -> None:
    """Keep every program that this process compiles from here on, and look for it there first.

    A folder that JAX has been given (`jax_compilation_cache_dir`) stays in use instead.
    """
    if jax.config.jax_compilation_cache_dir is not None:  # type: ignore[missing-attribute]
        return
    try:
        from jax._src import compilation_cache  # there is no public name for a cache of one's own

        root = folder()
    except (ImportError, RuntimeError) as error:  # another JAX, or a user without a home
        log.debug("compiled programs are not kept: %s", error)
        return
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0)
    compilation_cache._cache = Programs(root, root / _environment())  # type: ignore


def folder() -> Path:
    """The user's folder for compiled programs."""
    if os.environ.get("XDG_CACHE_HOME"):
        base = Path(os.environ["XDG_CACHE_HOME"])
    elif sys.platform == "win32" and "LOCALAPPDATA" in os.environ:
        base = Path(os.environ["LOCALAPPDATA"])
    else:
        base = Path.home() / ("Library/Caches" if sys.platform == "darwin" else ".cache")
    return base / "jaxnet" / "programs"


class Programs:
    """What JAX asks for compiled programs: a file for each, whole or not there, and checked.

    root: bounded as a whole; path: the folder in it for programs that this process can run.
    """

    def __init__(self, root: Path, path: Path):
        self._root, self._path = root, path

    def get(self, key: str) -> bytes | None:
        """The program, or None if it is not there whole."""
        path = self._path / key
        try:
            content = path.read_bytes()
            if hashlib.sha256(content[DIGEST:]).digest() == content[:DIGEST]:
                os.utime(path)  # used now
                return content[DIGEST:]
            path.unlink()
        except OSError as error:
            log.debug("not read: %s", error)
        return None

    def put(self, key: str, value: bytes) -> None:
        """Write a program beside its name, then rename it; the longest unused make room."""
        try:
            self._path.mkdir(mode=0o700, parents=True, exist_ok=True)
            handle, name = tempfile.mkstemp(dir=self._path)
            try:
                with open(handle, "wb") as file:
                    file.write(hashlib.sha256(value).digest() + value)
                os.replace(name, self._path / key)
            except OSError:
                os.unlink(name)
                raise
            self._make_room()
        except OSError as error:
            log.debug("not written: %s", error)

    def _make_room(self) -> None:
        files = [(path, path.stat()) for path in self._root.glob("*/*")]
        size = sum(stat.st_size for _, stat in files)
        for path, stat in sorted(files, key=lambda file: file[1].st_mtime):
            if size <= MAX_BYTES:
                break
            path.unlink(missing_ok=True)
            size -= stat.st_size


def _environment() -> str:
    """A folder's name for what programs are compiled for, as far as JAX's keys do not tell.

    XLA compiles for the very processor, and may split loops for the number of its threads.
    """
    affinity = getattr(os, "sched_getaffinity", lambda pid: range(os.cpu_count() or 1))
    threads = len(affinity(0)), os.environ.get("NPROC"), os.environ.get("XLA_FLAGS")
    host = repr((platform.system(), platform.machine(), _processor(), threads)).encode()
    return f"jax-{jax.__version__}-{jaxlib.__version__}-{hashlib.sha256(host).hexdigest()[:16]}"


def _processor() -> list[str]:
    """What tells one processor from another: its model and features, else the machine's name."""
    lines: list[str] = []
    with contextlib.suppress(OSError), open("/proc/cpuinfo") as file:
        first = itertools.takewhile(str.strip, file)  # an empty line ends the first core
        lines = [line for line in first if line.startswith(PROCESSOR)]
    return lines or [platform.processor(), platform.node()]
