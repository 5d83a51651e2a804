"""`jaxnet train` in several processes: started here, or joined where something else has started
them; only process 0 prints.
"""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from jaxnet.engine.signals import SIGNALS, RemoteError

GRACE = 10.0  # seconds for the others to end by themselves, once one has failed
LAUNCHED = "JAXNET_LAUNCHED"  # in the environment of a process that ends with the one before it


@dataclass(frozen=True, kw_only=True)
class ProcessOptions:
    """The processes of the run; all are given the same options, and process 0 writes and prints."""

    processes: int = 1
    """Start so many on this machine's CPU. Several GPUs of a machine need one: --devices all."""
    distributed: bool = False
    """This is one of several processes that SLURM, Open MPI or Kubernetes has started."""
    coordinator: str | None = None
    """HOST:PORT of process 0, where no such system tells."""
    process_id: int | None = None
    """Which process this is, from 0."""
    num_processes: int | None = None
    """How many there are."""


ONE = ProcessOptions()


def check(options: ProcessOptions) -> None:
    """Raise ValueError for options that exclude each other."""
    if options.processes < 1:
        raise ValueError(f"`processes` must be at least 1, got {options.processes}")
    given = _by_hand(options)
    if options.processes > 1 and (given or options.distributed):
        other = [*given, "distributed"][0]
        raise ValueError(f"`processes` must not be given with `{other}`: it starts processes")
    if options.distributed and given:
        raise ValueError(f"`distributed` must not be given with `{given[0]}`: it finds the others")


def _by_hand(options: ProcessOptions) -> list[str]:
    names = ("coordinator", "process_id", "num_processes")
    return [name for name in names if getattr(options, name) is not None]


def join(options: ProcessOptions) -> None:
    """Join the processes of this run, if it has several, and leave the printing to process 0."""
    if not (options.distributed or _by_hand(options)):
        return
    from jaxnet.engine import processes  # brings JAX, which --help does without

    if os.environ.get(LAUNCHED):
        _end_with_parent()
    processes.start(options.coordinator, options.process_id, options.num_processes)
    # what gloo and XLA print themselves goes nowhere
    sys.stdout.flush()
    own = os.dup(1) if processes.is_main() else os.open(os.devnull, os.O_WRONLY)
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
    sys.stdout = os.fdopen(own, "w", encoding=sys.stdout.encoding, closefd=False)


def is_silent(error: BaseException) -> bool:
    """Whether it is for another process to say what happened."""
    if not _joined():
        return False
    from jaxnet.engine import processes

    shared = isinstance(error, (RemoteError, KeyboardInterrupt, FloatingPointError))
    return shared and not processes.is_main()


def part(code: int, lost: bool = False) -> int:
    """Return the exit code, once the processes have parted; end at once if one is lost."""
    if _joined():
        from jaxnet.engine import processes

        sys.stdout.flush()
        sys.stderr.flush()
        if lost or not processes.disconnect():
            os._exit(code)
    return code


def _joined() -> bool:
    jax = sys.modules.get("jax")
    return jax is not None and jax.distributed.is_initialized()


def _end_with_parent() -> None:
    """Take the end of the process that started this one, and holds its input, for a SIGTERM."""

    def watch():
        while os.read(0, 1):
            pass
        os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=watch, daemon=True).start()


def launch(arguments: Sequence[str], number: int, device: str) -> int:
    """Run `jaxnet` with these arguments in so many processes; the exit code is that of the first
    that fails, or 0.

    A signal to this process is passed on to process 0. When a process fails the others are given
    some seconds to say so, and are then ended.
    """
    if device not in ("auto", "cpu"):
        raise ValueError(
            f"`processes` must be 1 for `device` {device}: one process drives all devices "
            "(--devices all)"
        )
    address = f"127.0.0.1:{_free_port()}"
    started: list[subprocess.Popen] = []
    try:
        for i in range(number):
            own = ["--processes", "1", "--coordinator", address]
            own += ["--process-id", str(i), "--num-processes", str(number)]
            started.append(_start([*arguments, *own], i))
        relays = [threading.Thread(target=_relay, args=(i, started[i])) for i in range(number)]
        for relay in relays:
            relay.start()
        with _passing_on(started[0]):
            failed = _wait(started)
    finally:
        for process in started:
            process.kill()
            process.wait()
    for relay, process in zip(relays, started, strict=True):
        relay.join()
        for stream in (process.stdin, process.stderr):
            stream and stream.close()
    if failed is None:
        return 0
    code = started[failed].returncode
    if code < 0:
        print(
            f"jaxnet: process {failed} was ended by {signal.Signals(-code).name}", file=sys.stderr
        )
    return 128 - code if code < 0 else code


def _start(arguments: list[str], i: int) -> subprocess.Popen:
    program = Path(sys.argv[0])
    command = [str(program)] if program.name == "jaxnet" else ["-m", "jaxnet"]
    return subprocess.Popen(
        [sys.executable, *command, *arguments],
        env=os.environ | {LAUNCHED: "1", "JAX_PLATFORMS": "cpu"},
        stdin=subprocess.PIPE,
        stdout=None if i == 0 else subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        start_new_session=True,  # a Ctrl-C is for the process that started them, which passes it on
    )


def _free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


def _relay(i: int, process: subprocess.Popen) -> None:
    """Print what a process says on stderr, and which one it is, but for process 0."""
    assert process.stderr
    for line in process.stderr:
        text = line.decode(errors="replace")
        sys.stderr.write(f"process {i}: {text}" if i else text)
        sys.stderr.flush()


@contextlib.contextmanager
def _passing_on(process: subprocess.Popen) -> Iterator[None]:
    before = {
        number: signal.signal(number, lambda number, _: process.send_signal(number))
        for number in SIGNALS
    }
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _wait(started: list[subprocess.Popen]) -> int | None:
    """Wait until all have ended; once one has failed, some seconds. Return which failed: rather
    one that was killed than one that noticed.
    """
    deadline = float("inf")
    while None in (codes := [process.poll() for process in started]):
        if any(codes):
            deadline = min(deadline, time.monotonic() + GRACE)
        if time.monotonic() > deadline:
            break
        time.sleep(0.05)
    failed = {code: i for i, code in enumerate(codes) if code}
    return failed[min(failed)] if failed else None
