"""`jaxnet train` in several processes, which SLURM, Open MPI, Kubernetes or the user starts."""

from __future__ import annotations

import os
import sys
import threading
from collections.abc import Callable
from dataclasses import dataclass

from jaxnet.cli import output
from jaxnet.engine.signals import RemoteError

DELAY = 3.0  # seconds; JAX's C++ writes pages about a lost process, about which we say one line

_release: Callable[[], None] | None = None


@dataclass(frozen=True, kw_only=True)
class ProcessOptions:
    """Several processes with the same options; process 0 alone writes and prints."""

    distributed: bool = False
    """This is one of the processes that SLURM, Open MPI or Kubernetes has started."""
    coordinator: str | None = None
    """HOST:PORT of process 0, for processes that you start yourself."""
    process_id: int | None = None
    """The number of this process, from 0."""
    num_processes: int | None = None
    """How many processes there are."""


def join(options: ProcessOptions) -> None:
    """Join the other processes of the run, if any; from then on only process 0 prints.

    Raises: ValueError for options that exclude each other; as `engine.processes.start`.
    """
    by_hand = {name: value for name, value in vars(options).items() if name != "distributed"}
    given = [name for name, value in by_hand.items() if value is not None]
    if options.distributed and given:
        raise ValueError(f"`{given[0]}` must not be given with `distributed`, which finds it")
    if not (options.distributed or given):
        return
    from jaxnet.engine import processes

    global _release
    processes.start(**by_hand)
    _release = delay_native_errors()
    # gloo and XLA print to file descriptor 1: it leads nowhere now, process 0 prints to a copy
    sys.stdout.flush()
    own = os.dup(1) if processes.is_main() else os.open(os.devnull, os.O_WRONLY)
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
    sys.stdout = output.stream(own, sys.stdout)


def delay_native_errors() -> Callable[[], None]:
    """Show what is not Python's on the standard error some seconds later, so that nothing of it
    comes if the process ends meanwhile, by `os._exit`. Returns what ends this, and shows the rest.
    """
    shown, (reader, writer) = os.dup(2), os.pipe()
    os.dup2(writer, 2)
    os.close(writer)
    sys.stderr.flush()
    sys.stderr = output.stream(shown, sys.stderr)
    ending = threading.Event()

    def forward():
        while content := os.read(reader, 2**16):
            ending.wait(DELAY)
            os.write(shown, content)

    thread = threading.Thread(target=forward, daemon=True)
    thread.start()

    def release():
        sys.stderr.flush()
        ending.set()
        os.dup2(shown, 2)
        thread.join(timeout=1)

    return release


def is_silent(error: BaseException) -> bool:
    """Whether another process reports this error, so that this one must not."""
    if not _joined():
        return False
    from jaxnet.engine import processes

    shared = isinstance(error, (RemoteError, KeyboardInterrupt, FloatingPointError))
    return shared and not processes.is_main()


def leave(code: int, lost: bool = False) -> int:
    """Part from the other processes and return the exit code; end at once if one is lost."""
    if _joined():
        from jaxnet.engine import processes

        sys.stdout.flush()
        sys.stderr.flush()
        if lost or not processes.disconnect():
            os._exit(code)
        if _release:
            _release()
    return code


def _joined() -> bool:
    jax = sys.modules.get("jax")
    return jax is not None and jax.distributed.is_initialized()
