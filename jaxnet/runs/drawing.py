"""The picture of a run, drawn by a process beside it: to import matplotlib and to draw take as long
as a small run, and Python does one thing at a time.
"""

from __future__ import annotations

import contextlib
import gc
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

_beside: subprocess.Popen | None = None


@contextlib.contextmanager
def beside() -> Iterator[None]:
    """Start the process that draws the first curves of the block, if one can be started."""
    global _beside
    command = [sys.executable, "-P", "-m", "jaxnet.runs.drawing"]
    streams: Any = {"stdin": subprocess.PIPE, "stdout": subprocess.DEVNULL}
    streams["stderr"] = subprocess.DEVNULL
    with contextlib.suppress(OSError):
        _beside = subprocess.Popen(command, **streams, text=True, start_new_session=True)
    try:
        yield
    finally:
        if _beside is not None:
            _end(_beside)
        _beside = None


def ask(lines: list[dict[str, Any]], loss: str, title: str, path: str) -> None:
    """Let the process draw while this one goes on; `learning_curves` waits for it."""
    if _beside is not None and _beside.stdin and not _beside.stdin.closed:
        with contextlib.suppress(OSError), _beside.stdin as stdin:  # it may have died
            stdin.write(json.dumps([lines, loss, title, path]))


def learning_curves(lines: list[dict[str, Any]], loss: str, title: str, path: str) -> None:
    """Draw as `plots.learning_curves`, in the process if there is one, else here.

    Raises: OSError if the file cannot be written.
    """
    global _beside
    ask(lines, loss, title, path)
    process, _beside = _beside, None
    if process is not None and process.wait() == 0:
        return
    from jaxnet.runs import plots

    plots.learning_curves(lines, loss, title, path)


def _end(process: subprocess.Popen) -> None:
    """End a process that has nothing to draw; one that draws ends by itself, its file whole."""
    if process.stdin and not process.stdin.closed:
        process.kill()
        process.communicate()
    process.wait()


def _main() -> None:
    gc.disable()
    from jaxnet.runs import plots  # before it is asked

    asked = sys.stdin.read()
    if asked:
        plots.learning_curves(*json.loads(asked))
    os._exit(0)  # Python would free each object first


if __name__ == "__main__":
    _main()
