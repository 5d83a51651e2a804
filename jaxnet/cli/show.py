"""`jaxnet show`: one run in full with its curve, or several side by side."""

from __future__ import annotations

import codecs
import os
import shutil
import sys
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from tyro.conf import Positional

from jaxnet.cli import text
from jaxnet.cli.options import run_of

if TYPE_CHECKING:
    from jaxnet.cli.run_text import Run


@dataclass(frozen=True, kw_only=True)
class Show:
    """Show a run with its curve, finished or not; or compare several.

    Examples:
      jaxnet show runs/digits-1
      jaxnet show runs/digits-1 runs/digits-2 runs/digits-3
      jaxnet show runs/* --png all.png
    """

    runs: Positional[tuple[Path, ...]] = ()
    """The folder of a run, or of several."""
    png: Path | None = None
    """The picture to draw; by default RUN/loss.png, or comparison.png beside several runs."""

    def __call__(self) -> int:
        from jaxnet.cli import run_text

        png = self.png
        if png is not None and (png.suffix.lower() != ".png" or not png.parent.is_dir()):
            raise ValueError(f"`png` must be a .png file in a folder that exists, got {png}")
        if not self.runs:
            raise ValueError("`runs` must name the folder of at least one run, got none")
        folders = [folder.resolve() for folder in self.runs]
        for i, folder in enumerate(self.runs):
            if folders[i] in folders[:i]:
                raise ValueError(f"`runs` must be different folders, got {folder} twice")
        found = [run_text.read(run_of(folder)) for folder in self.runs]
        if len(found) == 1:
            _show_one(found[0], png)
        else:
            _compare(found, png)
        return 0


def _show_one(run: Run, png: Path | None) -> None:
    from jaxnet.cli import curve, run_text
    from jaxnet.runs.folder import CURVES, METRICS

    width = shutil.get_terminal_size().columns if sys.stdout.isatty() else 80
    print(run_text.summary(run, width))
    text.print_old_exports(run.folder)
    if not run.lines:
        return
    unicode = codecs.lookup(sys.stdout.encoding or "ascii").name == "utf-8"
    print("\n" + curve.draw(run.lines, width, unicode=unicode) + "\n")
    path, metrics = png or run.folder / CURVES, run.folder / METRICS
    if png is None and path.exists() and path.stat().st_mtime_ns >= metrics.stat().st_mtime_ns:
        print(path)
        return
    from jaxnet.runs import plots  # brings matplotlib

    title, loss = f"{run_text.names([run])[0]}: {run.task}", run.record.spec.loss
    text.draw_picture(path, partial(plots.learning_curves, run.lines, loss, title), png)


def _compare(runs: list[Run], png: Path | None) -> None:
    from jaxnet.cli import run_text

    print(run_text.comparison(runs))
    for note in (run_text.incomparable(runs), run_text.other_rows(runs)):
        if note:
            print(f"note: {note}")
    if not any(run.lines for run in runs):
        print("no epoch finished yet")
        return
    from jaxnet.runs import plots  # brings matplotlib

    parents = [run.folder.absolute().parent for run in runs]
    path = png or text.short(Path(os.path.commonpath(parents)) / "comparison.png")
    lines = dict(zip(run_text.names(runs), (run.lines for run in runs), strict=True))
    text.draw_picture(path, partial(plots.comparison, lines), png)
