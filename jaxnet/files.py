"""A file is whole or it is not there: atomic writes, digests, locks.

Whatever is killed at any moment leaves the old file or the new one: content is written beside the
file, put on the disk, and renamed.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import glob
import hashlib
import itertools
import json
import os
import secrets
import stat
import zipfile
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import filelock

LOCK = ".lock"  # the file by which `lock` holds a folder
# A file that is read whole is refused if it is larger than this share of the memory; the values of
# JSON may take 24 times as much as its text.
WHOLE_SHARE, JSON_SHARE = 4, 64
NPZ_METHODS = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)  # that NumPy writes


@contextlib.contextmanager
def replacing(path: str | Path, *, new: bool = False) -> Iterator[Path]:
    """Yield an empty file's path beside `path`; rename it to `path` if the block succeeds.

    The content is on the disk before the file has its name. If the block fails nothing is left.
    new: never replace a file, also one that appears while the block runs.

    Raises: OSError naming the file, if it cannot be written; FileExistsError if it is there and
    must be new.
    """
    path = Path(path)
    with naming_errors(path):
        part, held = _new_part(path)
        try:
            yield part
            sync(part)
            (_name_once if new else os.replace)(part, path)
            sync(path.parent)
        finally:  # after Ctrl-C too
            with contextlib.suppress(OSError):
                part.unlink(missing_ok=True)
            os.close(held)


def _new_part(path: Path) -> tuple[Path, int]:
    """Make an empty file of a name that no one else has, and lock it until its handle is closed.

    Files that another process left when it died are removed: those that are not locked.
    """
    stem = os.fsdecode(os.fsencode(path.name)[:200])  # a name has at most 255 bytes
    for other in path.parent.glob(f".{glob.escape(stem)}.*.part"):
        _remove_unlocked(other)
    while True:
        part = path.with_name(f".{stem}.{secrets.token_hex(8)}.part")
        held = os.open(part, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o666)
        with contextlib.suppress(OSError):  # a filesystem without locks
            fcntl.flock(held, fcntl.LOCK_EX)
        if part.exists():  # else another writer found it before it was locked
            return part, held
        os.close(held)


def _remove_unlocked(path: Path) -> None:
    with contextlib.suppress(OSError):  # it is locked, a link, or not ours
        handle = os.open(path, os.O_RDWR | os.O_NOFOLLOW | os.O_NONBLOCK)
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            path.unlink()
        finally:
            os.close(handle)


def _name_once(part: Path, path: Path) -> None:
    """Give a file its name. Raises: FileExistsError if there is a file of that name."""
    try:
        os.link(part, path)
    except FileExistsError:
        raise
    except OSError:  # a filesystem without hard links
        os.close(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL))
        os.replace(part, path)


def make_folder(path: Path) -> list[Path]:
    """Make a folder and those above it, unless they are there; return those made, deepest first.

    Their names are on the disk.
    """
    made = [folder for folder in (path, *path.parents) if not folder.exists()]
    path.mkdir(parents=True, exist_ok=True)
    for folder in made:
        sync(folder.parent)
    return made


def write(path: str | Path, content: bytes) -> None:
    """Write a file as `replacing` does. Raises: OSError naming the file."""
    with replacing(path) as part:
        part.write_bytes(content)


def write_json(path: str | Path, value: Any) -> None:
    """Write a value as JSON, as `write` does; a path becomes text."""
    write(path, json.dumps(value, indent=1, default=str).encode() + b"\n")


def read_json(path: str | Path) -> dict[str, Any]:
    """Read a JSON object.

    Raises: FileNotFoundError; ValueError naming the file, if it does not hold a JSON object.
    """
    path = Path(path)
    content = read(path, JSON_SHARE)
    try:
        value = json.loads(content.decode())
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path}: not readable as JSON ({error}); was it edited?") from None
    if not isinstance(value, dict):
        raise ValueError(f"{path}: must hold a JSON object, got {type(value).__name__}")
    return value


def memory() -> int:
    """Return the bytes of memory of this machine, or of this process's control group."""
    installed = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    with contextlib.suppress(OSError, ValueError):
        return min(installed, int(Path("/sys/fs/cgroup/memory.max").read_text()))
    return installed


def check_size(path: str | Path, size: int, share: int = WHOLE_SHARE) -> None:
    """Raise ValueError for content whose bytes are more than 1/share of the memory."""
    most = memory() // share
    if size > most:
        raise ValueError(
            f"{path}: must take at most {most:,} bytes of memory, 1/{share} of it, got {size:,}"
        )


def read(path: str | Path, share: int = WHOLE_SHARE) -> bytes:
    """Return a file's bytes.

    Raises: FileNotFoundError; ValueError for what is no file (a pipe, a device, a folder), and for
    a file of more than 1/share of the memory.
    """
    try:
        # O_NONBLOCK: to open a pipe must not wait for who writes into it
        handle = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except (FileNotFoundError, NotADirectoryError):
        raise FileNotFoundError(f"{path}: there is no such file") from None
    try:
        found = os.fstat(handle)
        if not stat.S_ISREG(found.st_mode):
            raise ValueError(f"{path}: must be a file, got {_kind(found.st_mode)}")
        check_size(path, found.st_size, share)
        with open(handle, "rb", closefd=False) as file:
            return file.read()
    finally:
        os.close(handle)


def check_own(paths: Iterable[Path]) -> None:
    """Refuse links, pipes and devices among some paths, and in those that are folders: what is
    written into them could be elsewhere, and to read them could have no end.

    Raises: ValueError naming the path.
    """
    for path in paths:
        with contextlib.suppress(FileNotFoundError, NotADirectoryError):
            mode = path.lstat().st_mode
            if stat.S_ISDIR(mode):
                check_own(path.iterdir())
            elif not stat.S_ISREG(mode):
                raise ValueError(f"{path}: must be a file or a folder, got {_kind(mode)}")


def _kind(mode: int) -> str:
    if stat.S_ISDIR(mode):
        return "a folder"
    return "a link" if stat.S_ISLNK(mode) else "a pipe" if stat.S_ISFIFO(mode) else "a device"


def check_npz(archive: zipfile.ZipFile) -> None:
    """Raise ValueError for what `np.savez` does not write, and for arrays larger than 1/4 of the
    memory.
    """
    for member in archive.infolist():
        if not member.filename.endswith(".npy") or member.compress_type not in NPZ_METHODS:
            raise ValueError(f"{member.filename!r} in it is no array that NumPy has written")
    check_size("the arrays", sum(member.file_size for member in archive.infolist()))


def sync(path: Path) -> None:
    """Return when a file's content, or a folder's names, are on the disk.

    Folders are left alone on filesystems that cannot do it.
    """
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.ENOTSUP) or not path.is_dir():
            raise
    finally:
        os.close(handle)


def sha256(path: str | Path) -> str:
    """Return the SHA-256 of a file's bytes, in hexadecimal."""
    with Path(path).open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def state(path: str | Path) -> tuple[int, int]:
    """Return a file's size in bytes and the time of its last change in nanoseconds."""
    stat = Path(path).stat()
    return stat.st_size, stat.st_mtime_ns


@contextlib.contextmanager
def unchanged(path: str | Path) -> Iterator[None]:
    """Raise ValueError if the file has changed when the block ends, or fails with a ValueError."""
    before = state(path)
    try:
        yield
    except ValueError:
        if state(path) != before:
            raise _changed(path) from None
        raise
    if state(path) != before:
        raise _changed(path)


def _changed(path: str | Path) -> ValueError:
    return ValueError(f"{path}: the file changed while it was read; wait until it is complete")


@contextlib.contextmanager
def lock(folder: Path, *, wait: bool = False) -> Iterator[None]:
    """Hold a folder against other writers; the system releases it when the process ends.

    Raises: BlockingIOError if another process holds it, unless told to wait; OSError if it cannot
    be written.
    """
    holder = filelock.FileLock(folder / LOCK, timeout=-1 if wait else 0)
    try:
        holder.acquire()
    except filelock.Timeout:
        raise BlockingIOError(
            f"{folder}: another process is writing this run; wait for it, or end it"
        ) from None
    except OSError as error:
        raise OSError(f"{folder}: the run cannot be written ({error.strerror})") from None
    try:
        yield
    finally:
        holder.release()


@contextlib.contextmanager
def naming_errors(path: str | Path) -> Iterator[None]:
    """Make an OSError of the block name the file, and say why in one line."""
    try:
        yield
    except OSError as error:
        reason = error.strerror or str(error)
        raise OSError(error.errno, f"{path}: could not be written ({reason})") from None


def read_ahead(jobs: Iterable[Callable[[], Any]]) -> Iterator[Any]:
    """Yield what the jobs return, each begun in a thread while the result before it is in use."""
    from concurrent.futures import Future, ThreadPoolExecutor

    with ThreadPoolExecutor(1) as pool:
        begun = map(pool.submit, jobs)
        for one, _ in itertools.pairwise(itertools.chain(begun, [Future()])):
            yield one.result()  # while the other of the pair is at work
