"""How a run is stopped from outside: by a signal, which ends the chunk of steps and not the
process, by an error of another process, or by the loss of one.
"""

from __future__ import annotations

import contextlib
import os
import signal
import threading
from collections.abc import Callable, Iterator
from typing import Any

ASKED = (signal.SIGTERM, signal.SIGINT)  # by someone, who may ask twice
# a closed terminal, and the warnings of schedulers and of a limit on time: they may come in numbers
WARNINGS = (signal.SIGHUP, signal.SIGUSR1, signal.SIGXCPU)


class Stopped(KeyboardInterrupt):
    """A run that a signal has ended after saving; `signum` tells which."""

    def __init__(self, signum: int, message: str):
        super().__init__(message)
        self.signum = signum


class ProcessLost(RuntimeError):
    """Another process of the run no longer answers."""


class RemoteError(RuntimeError):
    """An error of another process of the run, which reports it."""


def raise_on_signals() -> None:
    """Raise `Stopped` on each of these signals, so that what is half done is cleaned up.

    A signal that this process ignores (`nohup`) stays ignored.
    """
    for number in (*ASKED, *WARNINGS):
        if signal.getsignal(number) != signal.SIG_IGN:
            signal.signal(number, _stop)


def _stop(signum: int, frame: Any) -> None:
    if _imports(frame):  # C code that is imported may swallow what is raised
        threading.Timer(0.02, os.kill, (os.getpid(), signum)).start()
        return
    for number in WARNINGS:  # which may follow: they must not end the cleaning
        if signal.getsignal(number) is _stop:
            signal.signal(number, signal.SIG_IGN)
    name = signal.Signals(signum).name
    raise Stopped(signum, "interrupted" if signum == signal.SIGINT else f"ended by {name}")


def _imports(frame: Any) -> bool:
    while frame is not None and "importlib._bootstrap" not in frame.f_code.co_filename:
        frame = frame.f_back
    return frame is not None


@contextlib.contextmanager
def catch_signals() -> Iterator[Callable[[], int | None]]:
    """Yield a function that returns the first signal received, if any.

    It is only noted. A SIGTERM or SIGINT after it acts as it did before, a SIGHUP, SIGUSR1 or
    SIGXCPU never: a terminal that closes and a limit on time send several. Those three are left
    alone where this process ignores them (`nohup`), or has a handler of its own for them. Handlers
    can be set in the main thread alone: elsewhere no signal is noted.
    """
    received: list[int] = []
    before = {}

    def note(signum, frame):
        received.append(signum)
        for number in ASKED:
            signal.signal(number, before[number])

    if threading.current_thread() is threading.main_thread():
        taken = (n for n in WARNINGS if signal.getsignal(n) in (signal.SIG_DFL, _stop))
        before = {number: signal.signal(number, note) for number in (*ASKED, *taken)}
    try:
        yield lambda: received[0] if received else None
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
