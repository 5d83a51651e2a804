"""Standard output and standard error whose faults cost no work: the command goes on without them,
and says so by its exit code. What files hold is printed with escapes: to be read, never to steer
the terminal.
"""

from __future__ import annotations

import errno
import io
import os
import re
import signal
import sys
from typing import Any, TextIO

# characters that move the cursor, colour, or change the direction of what follows
STEERING = re.compile("[\x00-\x1f\x7f-\x9f\u2028-\u202e\u2066-\u2069]")


def escaped(text: str, keep: str = "") -> str:
    """Return the text in one line, with escapes for what would steer a terminal, but for `keep`."""
    return STEERING.sub(
        lambda one: one[0] if one[0] in keep else one[0].encode("unicode_escape").decode(), text
    )


class Escaping:
    """A text stream that writes escapes for what would steer a terminal, but for line breaks."""

    def __init__(self, stream: Any):
        self.stream = stream

    def write(self, text: str) -> int:
        return self.stream.write(escaped(text, "\n\t"))

    def __getattr__(self, name: str) -> Any:
        return getattr(self.stream, name)


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
