"""Pictures of the training of runs, drawn by matplotlib without a screen; each file is whole at
every moment.
"""

from __future__ import annotations

import io
import itertools
import math
import textwrap
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.figure import Figure
from matplotlib.ticker import LogFormatter, MaxNLocator

from jaxnet import files

TRAIN, VALIDATION = "#4477aa", "#cc6677"  # Tol's: told apart by colour-blind readers too
COLORS = ("#332288", "#cc6677", "#117733", "#ddaa33", "#88ccee", "#882255", "#44aa99", "#777777")
STYLES = ("-", "--", ":", "-.")  # with Tol's muted colours: 32 runs told apart
LABELS = {
    "sum_squares": "sum of squared errors",
    "mean_squares": "mean squared error (standardised target)",
    "cross_entropy": "cross-entropy (nats per row)",
    "quantile": "quantile loss (standardised target)",
    "val_accuracy": "accuracy",
    "val_rmse": "root mean squared error (target's units)",
}
METRICS = ("val_accuracy", "val_rmse")
TITLE = 95  # letters to a line
ABOVE = {"loc": "lower left", "bbox_to_anchor": (0, 1), "borderaxespad": 0.2, "frameon": False}


def learning_curves(
    metrics: Sequence[dict[str, Any]], loss: str, title: str, path: str | Path
) -> None:
    """Draw the losses, and the validation metric, against the epoch, and write a PNG.

    metrics: the lines of `metrics.jsonl`, at least one. A loss that spans more than a factor of ten
    gets a log scale.
    """
    # fixed places, with room for long numbers: matplotlib's layout takes as long as the drawing
    figure = _figure(10, 4, title, layout=None)
    top = 0.8 if len(title) > TITLE else 0.85
    places = {"left": 0.1, "right": 0.985, "bottom": 0.13, "top": top, "wspace": 0.31}
    left, right = figure.subplots(1, 2, gridspec_kw=places)
    epochs = [line["epoch"] for line in metrics]
    train = [line["train_loss"] for line in metrics]
    losses = [line["val_loss"] for line in metrics]
    _draw(left, epochs, train, color=TRAIN, label="train (mean over the epoch)")
    _draw(left, epochs, losses, color=VALIDATION, label="validation")
    best = losses.index(min(losses))
    label = f"best, epoch {epochs[best]}"
    left.plot(epochs[best], losses[best], "o", color=VALIDATION, label=label)
    _scale(left, [*train, *losses])
    left.set_ylabel(LABELS[loss])
    name = next(name for name in METRICS if name in metrics[0])
    values = [line[name] for line in metrics]
    last = f"{values[-1]:.1%}" if name == "val_accuracy" else _readable(values[-1])
    label = f"validation, {last} at the last epoch"
    _draw(right, epochs, values, color=VALIDATION, label=label)
    right.set_ylabel(LABELS[name])
    right.yaxis.set_major_formatter(_readable)
    for axes in (left, right):  # above the axes, never over a curve
        axes.legend(**ABOVE, ncols=3, handlelength=1.2, columnspacing=1.2, fontsize="small")
    _save(figure, path)


def comparison(runs: Mapping[str, Sequence[dict[str, Any]]], path: str | Path) -> None:
    """Draw the validation loss of each run, and the validation metric, and write a PNG.

    runs: the lines of `metrics.jsonl` by the run's name; a run without lines is in the legend only.
    """
    lines = [line for metrics in runs.values() for line in metrics]
    names = ("val_loss", *(name for name in METRICS if any(name in line for line in lines)))
    columns = math.ceil(len(runs) / 24)
    widest = max((len(_shorten(name)) for name in runs), default=0)
    width = 5 * len(names) + columns * (0.7 + 0.085 * widest)  # inches
    figure = _figure(width, 5)
    all_axes = figure.subplots(1, len(names), squeeze=False)[0]
    styles = list(itertools.islice(itertools.cycle(itertools.product(STYLES, COLORS)), len(runs)))
    for axes, name in zip(all_axes, names, strict=True):
        for metrics, (style, color) in zip(runs.values(), styles, strict=True):
            here = [line for line in metrics if name in line]
            x, y = [line["epoch"] for line in here], [line[name] for line in here]
            _draw(axes, x, y, color=color, linestyle=style)
        axes.set_ylabel(LABELS.get(name, "validation loss"))
        axes.yaxis.set_major_formatter(_readable)
    _scale(all_axes[0], [line["val_loss"] for line in lines])
    numbers = [f"run {i}" for i in range(len(runs))]  # matplotlib leaves out names like _this
    curves = all_axes[0].get_lines()
    legend = figure.legend(
        curves, numbers, loc="outside right upper", ncols=columns, handlelength=3
    )
    for text, name in zip(legend.get_texts(), runs, strict=True):
        text.set_parse_math(False)
        text.set_text(_shorten(name))
    _save(figure, path)


def _draw(axes: Axes, x: Sequence[float], y: Sequence[float], **options: Any) -> None:
    axes.plot(x, y, marker="." if len(x) < 20 else None, **options)
    axes.grid(alpha=0.3)
    axes.margins(x=0.02)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1, steps=[1, 2, 5, 10]))
    axes.set_xlabel("epoch")


def _scale(axes: Axes, losses: Sequence[float]) -> None:
    """Set a log scale for losses above 0 that span more than a factor of ten."""
    positive = [loss for loss in losses if loss > 0]
    if not positive or max(positive) <= 10 * min(positive):
        return
    axes.set_yscale("log")
    # else there are too few powers of ten to read by
    _write_plain(axes.yaxis, few=max(positive) < 1000 * min(positive))


def _write_plain(axis: Axis, *, few: bool) -> None:
    """Write an axis's numbers as 0.02; few: those between the powers of ten too."""
    axis.set_major_formatter(_Plain())
    axis.set_minor_formatter(_Plain(minor_thresholds=(3, 0.4) if few else (0, 0)))


class _Plain(LogFormatter):
    """0.02 rather than 2 x 10^-2."""

    def _num_to_string(self, x, vmin, vmax):
        return f"{x:g}"


def _readable(value: float, place: float | None = None) -> str:
    """Return a number, as that of a tick: 120,000 or 0.05."""
    return f"{value:,.0f}" if 1e4 <= abs(value) < 1e15 else f"{value:.4g}"


def _figure(width: float, height: float, title: str = "", layout: Any = "constrained") -> Figure:
    """Return a figure of that size in inches, with a title of at most two lines."""
    figure = Figure(figsize=(width, height), dpi=120, layout=layout)
    if title:
        text = "\n".join(textwrap.wrap(_drawable(title), TITLE, max_lines=2, placeholder=" ..."))
        figure.suptitle(text, parse_math=False)  # a column may be called $x$
    return figure


def _shorten(name: str) -> str:
    name = _drawable(name)
    return name if len(name) <= 40 else f"{name[:18]}...{name[-19:]}"


def _drawable(text: str) -> str:
    """The text with a mark for each byte of a path that is not UTF-8."""
    return text.encode("utf-8", "replace").decode()


def _save(figure: Figure, path: str | Path) -> None:
    picture = io.BytesIO()
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph")  # a name in a script the font lacks
        figure.savefig(picture, format="png")
    files.write(Path(path), picture.getvalue())
