"""How a process of a run hears that another one is lost: which one, and how.

Each process keeps its connection to process 0 (`rendezvous`). One that is killed closes it; one
that is stopped sends nothing more. Process 0 tells the others. JAX notices either too, but says in
pages of C++ that some process was lost, and then aborts.
"""

from __future__ import annotations

import contextlib
import ctypes
import logging
import os
import selectors
import signal
import socket
import threading
import time
from collections.abc import Callable

from jaxnet.engine.rendezvous import Member

BEAT, SILENCE = 2.0, 40.0  # seconds between two signs of life, and without one until it is lost
GRACE = 1.0  # seconds that the main thread has to raise ProcessLost, before this one ends all
EXIT_CODE = 2
LEFT, LOST = b"left", b"lost "  # messages; an empty one is a sign of life

log = logging.getLogger("jaxnet")


class Watchdog:
    """Watches the connections to other processes, in a thread of its own.

    advice: returns what to do once a process is lost, to be added to what is said.
    """

    def __init__(self, members: dict[int, Member]):
        self.advice: Callable[[], str] = lambda: "; start all processes again"
        self._members = dict(members)
        self._heard = dict.fromkeys(members, time.monotonic())
        self._begun = dict.fromkeys(members, b"")  # of a message
        self._news, self._has_news, self._leaves = "", threading.Event(), False
        self._speaker, self._lock = "", threading.Lock()
        self._thread = threading.Thread(target=self._run, name="jaxnet watchdog", daemon=True)
        self._thread.start()

    def explain(self, seconds: float = 2.0) -> str:
        """Return which process was lost, and how; "" if nothing is known within some seconds.

        From then on the caller's thread is the one that ends the process.
        """
        self._has_news.wait(seconds)
        if not self._may_speak("main thread"):
            time.sleep(60)  # the other thread ends this process
        return self._news

    def leave(self, *, orderly: bool = True) -> None:
        """Watch no more. orderly: the others do not count this process as lost."""
        self._leaves = True
        for member in list(self._members.values()):
            if orderly:
                _send(member.connection, LEFT)
            member.connection.close()

    def _run(self) -> None:
        with selectors.DefaultSelector() as selector:
            for number, member in self._members.items():
                selector.register(member.connection, selectors.EVENT_READ, number)
            due = 0.0
            while self._members and not self._leaves and not self._news:
                if time.monotonic() >= due:
                    due = time.monotonic() + BEAT
                    for member in self._members.values():
                        _send(member.connection, b"")
                # again without waiting: this process may have been stopped itself meanwhile
                ready = selector.select(BEAT) or selector.select(0)
                self._news = self._listen({key.data for key, _ in ready}, selector)
        if self._news and not self._leaves:
            self._end()

    def _listen(self, ready: set[int], selector: selectors.BaseSelector) -> str:
        """Return what is lost, or ""."""
        for number, (connection, name) in list(self._members.items()):
            if number in ready:
                content = _receive(connection)
                *messages, self._begun[number] = (self._begun[number] + content).split(b"\n")
                self._heard[number] = time.monotonic()
                for message in messages:
                    if message.startswith(LOST):
                        return message.removeprefix(LOST).decode(errors="replace")
                if LEFT in messages:
                    selector.unregister(connection)
                    connection.close()
                    del self._members[number]
                elif not content:
                    return f"{name} has ended, and its own output may say why"
            elif (silent := time.monotonic() - self._heard[number]) > SILENCE:
                return f"{name} has not answered for {silent:.0f} s: end it, if it still is there"
        return ""

    def _end(self) -> None:
        """Tell the others, and end this process unless its main thread does."""
        for member in self._members.values():
            _send(member.connection, LOST + self._news.encode())
        self._has_news.set()
        time.sleep(GRACE)
        if not self._leaves and self._may_speak("watchdog"):
            log.error("%s%s", self._news, self.advice())
            os._exit(EXIT_CODE)

    def _may_speak(self, speaker: str) -> bool:
        """Whether this thread is the first that wants to end the process."""
        with self._lock:
            self._speaker = self._speaker or speaker
            return self._speaker == speaker


def _send(connection: socket.socket, message: bytes) -> None:
    with contextlib.suppress(OSError):
        connection.settimeout(1.0)
        connection.sendall(message + b"\n")


def _receive(connection: socket.socket) -> bytes:
    """What has come; b"" from a process that has ended."""
    try:
        return connection.recv(2**12)
    except OSError:
        return b""


def delay_abort() -> None:
    """Let from here on a thread of C++ that aborts the process sleep before it does.

    JAX aborts the moment that process 0 is lost, before any thread of Python can say so. The
    handler is called with the number of the signal, 6, which it takes for seconds.
    """
    if os.name == "posix":
        libc = ctypes.CDLL(None)
        libc.signal.argtypes, libc.signal.restype = [ctypes.c_int, ctypes.c_void_p], ctypes.c_void_p
        libc.signal(signal.SIGABRT, ctypes.cast(libc.sleep, ctypes.c_void_p))
