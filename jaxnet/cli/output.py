"""Standard output and standard error whose faults cost no work: the command goes on without them,
and says so by its exit code.
"""

from __future__ import annotations

import errno
import io
import os
import signal
import sys
from typing import TextIO


class _Descriptor(io.FileIO):
    """A file descriptor that keeps its first error, and from then on takes what it is given."""

    error: OSError | None = None

    def write(self, data) -> int:
        if self.error is None:
            try:
                return super().write(data)
            except OSError as error:  # a full disk, a reader that has gone, a closed terminal
                self.error = error
        return memoryview(data).nbytes


def guard() -> None:
    """Put such streams in the place of sys.stdout and sys.stderr."""
    while (unused := os.open(os.devnull, os.O_RDWR)) <= 2:  # else a file would take its place
        pass
    os.close(unused)
    sys.stdout, sys.stderr = stream(1, sys.stdout), stream(2, sys.stderr)


def stream(descriptor: int, like: TextIO | None) -> io.TextIOWrapper:
    """Return a text stream to a file descriptor, with the encoding and the buffering of `like`."""
    raw = _Descriptor(descriptor, "wb", closefd=False)
    unbuffered = getattr(like, "write_through", False)
    return io.TextIOWrapper(
        raw if unbuffered else io.BufferedWriter(raw),
        encoding=like.encoding if like is not None else "utf-8",
        errors="backslashreplace",
        line_buffering=getattr(like, "line_buffering", False),
        write_through=unbuffered,
    )


def exit_code(code: int) -> int:
    """Return the exit code, or 2 if what was printed is lost, 128 + SIGPIPE if no one read it."""
    sys.stdout.flush()
    error = getattr(getattr(sys.stdout.buffer, "raw", sys.stdout.buffer), "error", None)
    if error is None:
        return code
    if error.errno == errno.EPIPE:
        return code or 128 + signal.SIGPIPE
    print(f"jaxnet: standard output cannot be written ({error.strerror})", file=sys.stderr)
    return code or 2
