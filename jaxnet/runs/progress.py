"""Progress of training in one line that is written over: for notebooks, and for scripts."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from typing import TextIO

from jaxnet.runs.loop import Progress

WIDTH = 79  # so that a shorter line covers a longer one
SECONDS = 0.2  # between two updates


def progress_line(stream: TextIO | None = None) -> Callable[[Progress], None]:
    """Return an `on_progress` for `train` and `resume` that keeps one line up to date.

    It needs no terminal: a notebook writes over a line at a carriage return too. stream: by default
    standard output.
    """
    shown = 0.0

    def report(progress: Progress) -> None:
        nonlocal shown
        now, ends = time.perf_counter(), progress.step >= progress.num_steps
        if now - shown < SECONDS and not ends:
            return
        shown = now
        text = f"step {progress.step:,} of {progress.num_steps:,}  loss {progress.loss:.4g}"
        for name in ("val_loss", "val_accuracy", "val_rmse"):
            if name in progress.metrics:
                text += f"  {name} {progress.metrics[name]:.4g}"
        out = stream or sys.stdout
        out.write(f"\r{text:{WIDTH}}" + "\n" * ends)
        out.flush()

    return report
