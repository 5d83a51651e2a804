"""`jaxnet show`: one run in full with its curve, or several side by side."""

from __future__ import annotations

import codecs
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Annotated

import tyro

from jaxnet.cli import run_text as texts
from jaxnet.runs.folder import CURVES, METRICS

Runs = Annotated[
    tuple[str, ...],
    tyro.conf.Positional,
    tyro.conf.arg(
        metavar="RUN [RUN ...]", help="The folder of a run, or of several.", help_behavior_hint=""
    ),
]
Picture = Annotated[
    str | None,
    tyro.conf.arg(
        metavar="FILE",
        help="Where the picture goes; by default loss.png in the run's folder, or comparison.png "
        "here for several runs.",
        help_behavior_hint="",
    ),
]


def show(runs: Runs = (), *, png: Picture = None) -> int:
    """Show a run, finished or not, with its curve; or compare several in a table and a picture.

    Try:

    jaxnet show runs/digits-1

    jaxnet show runs/digits-1 runs/digits-2 runs/digits-3

    jaxnet show runs/* --png all.png
    """
    found = _read(runs)
    if png is not None and (Path(png).suffix.lower() != ".png" or not Path(png).parent.is_dir()):
        raise ValueError(f"`png` must be a file name.png in a folder that exists, got {png!r}")
    if len(found) == 1:
        return _show_one(found[0], png)
    _print(texts.comparison(found, _width()))
    for note in (texts.incomparable(found), texts.other_rows(found)):
        if note:
            _print(f"note: {note}")
    if any(run.lines for run in found):
        from jaxnet.runs import plots  # matplotlib takes a second to import

        path = Path(png or "comparison.png")
        lines = dict(zip(texts.names(found), (run.lines for run in found), strict=True))
        _draw(path, lambda: plots.comparison(lines, path), must=png is not None)
    else:
        _print("no epoch finished yet")
    return 0


def _read(folders: tuple[str, ...]) -> list[texts.Run]:
    """Read every run before anything is shown."""
    if not folders:
        raise ValueError("`runs` must name the folder of at least one run, got none")
    seen: set[Path] = set()
    for folder in folders:
        if Path(folder).resolve() in seen:
            raise ValueError(f"`runs` must be different folders, got {folder} twice")
        seen.add(Path(folder).resolve())
    return [texts.read(folder) for folder in folders]


def _show_one(run: texts.Run, png: str | None) -> int:
    _print(texts.summary(run, _width()))
    if not run.lines:
        return 0
    _print("\n" + texts.curve(run.lines, _width(), unicode=_unicode()) + "\n")
    path = Path(png) if png else run.folder / CURVES
    if png is None and not _older(path, run.folder / METRICS):
        _print(str(path))
        return 0
    from jaxnet.runs import plots

    described = run.described
    target = described.get("encoding", {}).get("target", {}).get("name", run.option("target"))
    title = f"{texts.names([run])[0]}: {described.get('task')} of {target!r}"
    loss = described["spec"]["loss"]
    _draw(path, lambda: plots.learning_curves(run.lines, loss, title, path), must=png is not None)
    return 0


def _older(path: Path, than: Path) -> bool:
    return not path.exists() or path.stat().st_mtime_ns < than.stat().st_mtime_ns


def _draw(path: Path, draw: Callable[[], None], *, must: bool) -> None:
    """Draw and say where; a place that cannot be written is an error only if it was asked for."""
    try:
        draw()
    except OSError as error:
        if must:
            raise OSError(
                f"`png` must be a file that can be written, got {path} ({error.strerror})"
            ) from None
        _print(f"note: {path} cannot be written ({error.strerror}); --png FILE draws elsewhere")
    else:
        _print(str(path))


def _width() -> int:
    return shutil.get_terminal_size().columns if sys.stdout.isatty() else 80


def _unicode() -> bool:
    return codecs.lookup(sys.stdout.encoding or "ascii").name == "utf-8"


def _print(text: str) -> None:
    """Print, with escapes for what the terminal's encoding lacks."""
    encoding = sys.stdout.encoding or "ascii"
    print(text.encode(encoding, "backslashreplace").decode(encoding), flush=True)
