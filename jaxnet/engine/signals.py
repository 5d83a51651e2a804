"""How a run is stopped from outside: by SIGTERM or Ctrl-C, which end the chunk of steps and not the
process, by an error of another process, or by the loss of one.
"""

from __future__ import annotations

import contextlib
import signal
import threading
from collections.abc import Callable, Iterator

SIGNALS = (signal.SIGTERM, signal.SIGINT)


class Stopped(KeyboardInterrupt):
    """A run that a signal has ended after saving; `signum` tells which."""

    def __init__(self, signum: int, message: str):
        super().__init__(message)
        self.signum = signum


class ProcessLost(RuntimeError):
    """Another process of the run no longer answers."""


class RemoteError(RuntimeError):
    """An error of another process of the run, which reports it."""


@contextlib.contextmanager
def catch_signals() -> Iterator[Callable[[], int | None]]:
    """Yield a function that returns the signal received, if any.

    The first signal is only noted; a second one acts as it did before. Handlers can be set in the
    main thread alone: elsewhere no signal is noted.
    """
    received: list[int] = []
    before = {}

    def note(signum, frame):
        received.append(signum)
        restore()

    def restore():
        for number, handler in before.items():
            signal.signal(number, handler)

    if threading.current_thread() is threading.main_thread():
        before = {number: signal.signal(number, note) for number in SIGNALS}
    try:
        yield lambda: received[0] if received else None
    finally:
        restore()
