"""Pictures of runs, drawn by matplotlib without a screen, each file whole at every moment."""

from __future__ import annotations

import io
import itertools
import math
import textwrap
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.colors import LogNorm, Normalize
from matplotlib.figure import Figure
from matplotlib.image import AxesImage
from matplotlib.ticker import LogFormatter, MaxNLocator

from jaxnet import files

TRAIN, VALIDATION = "#4477aa", "#cc6677"  # Tol's: told apart by colour-blind readers too
COLORS = ("#332288", "#cc6677", "#117733", "#ddaa33", "#88ccee", "#882255", "#44aa99", "#777777")
STYLES = ("-", "--", ":", "-.")  # with Tol's muted colours: 32 runs told apart
LABELS = {
    "sum_squares": "sum of squared errors",
    "mean_squares": "mean squared error (standardised target)",
    "cross_entropy": "cross-entropy (nats per row)",
    "val_accuracy": "accuracy",
    "val_rmse": "root mean squared error (target's units)",
}
METRICS = ("val_accuracy", "val_rmse")
ABOVE = {"loc": "lower left", "bbox_to_anchor": (0, 1), "borderaxespad": 0.2, "frameon": False}
MAX_COUNTS = 20  # classes up to which the counts are written into a confusion matrix
MAX_LABELS = 40  # and up to which every class has a label


def learning_curves(
    metrics: Sequence[dict[str, Any]], loss: str, title: str, path: str | Path
) -> None:
    """Draw the losses, and the validation metric, against the epoch, and write a PNG.

    metrics: the lines of `metrics.jsonl`, at least one. A loss that spans more than a factor of ten
    gets a log scale.
    """
    figure = _figure(10, 4, title)
    left, right = figure.subplots(1, 2)
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
    last = f"{values[-1]:.1%}" if name == "val_accuracy" else f"{values[-1]:.4g}"
    label = f"validation, {last} at the last epoch"
    _draw(right, epochs, values, color=VALIDATION, label=label)
    right.set_ylabel(LABELS[name])
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


def confusion_matrix(
    counts: np.ndarray, classes: Sequence[str], title: str, path: str | Path
) -> None:
    """Draw a confusion matrix and write a PNG: the true class by row, the predicted by column.

    counts: (classes, classes) integers. A cell's colour is its fraction of the row.
    """
    number = len(classes)
    names = [name if len(name) <= 16 else name[:15] + "…" for name in classes]
    rows = counts.sum(axis=1, keepdims=True)
    shares = counts / np.maximum(rows, 1)
    side = float(np.clip(2.5 + 0.5 * number, 4.5, 13))
    figure = _figure(side + 1, side, title)
    axes = figure.subplots()
    image = axes.imshow(shares, cmap="Blues", vmin=0, vmax=1)
    figure.colorbar(image, ax=axes, label="fraction of the true class", shrink=0.8)
    every = -(-number // MAX_LABELS)
    ticks = range(0, number, every)
    upright = max(map(len, names)) > 3 or number > MAX_COUNTS
    labels = [names[i] for i in ticks]
    axes.set_xticks(ticks, labels, rotation=90 if upright else 0, parse_math=False)
    axes.set_yticks(ticks, labels, parse_math=False)
    axes.set(xlabel="predicted", ylabel="true")
    if number <= MAX_COUNTS:
        digits = len(str(counts.max(initial=0)))
        size = min(10.0, 72 * 0.7 * side / number / (0.7 * digits))  # points in a cell's width
        for (i, j), count in np.ndenumerate(counts):
            color = "white" if shares[i, j] > 0.6 else "black"
            if count:
                axes.text(j, i, f"{count}", ha="center", va="center", color=color, fontsize=size)
    _save(figure, path)


def sweep(
    options: Mapping[str, Sequence[Any]],
    cells: Mapping[tuple, tuple[float, float | None]],
    loss: str,
    title: str,
    path: str | Path,
) -> None:
    """Draw the validation loss against one to three options that vary, and write a PNG.

    options: their values by name. cells: mean and standard deviation (or None) of the loss by the
    values in that order; one that diverged is missing. One option makes a line with error bars, two
    a heatmap, a third one heatmap for each of its values.
    """
    label = f"validation {LABELS[loss]}"
    if len(options) > 1:
        figure = _draw_grids(options, cells, label, title)
    else:
        figure = _figure(7, 4, title)
        _draw_means(figure.subplots(), *next(iter(options.items())), cells, label)
    _save(figure, path)


def _draw_means(axes: Axes, name: str, values: Sequence[Any], cells: Mapping, label: str) -> None:
    """Draw a line with error bars; sizes, and values of which one is 0, at even distances."""
    numbers = all(isinstance(value, float) and value > 0 for value in values)
    places = {value: value if numbers else i for i, value in enumerate(values)}
    found = [(places[value], *cells[value,]) for value in values if (value,) in cells]
    mean = [mean for _, mean, _ in found]
    spread = None if all(std is None for *_, std in found) else [std or 0 for *_, std in found]
    axes.errorbar([at for at, *_ in found], mean, spread, fmt=".-", color=VALIDATION, capsize=3)
    _scale(axes, mean)
    axes.grid(alpha=0.3)
    axes.set(xlabel=name.replace("_", " "), ylabel=label)
    if numbers:
        axes.set_xscale("log")
        axes.xaxis.set_major_formatter(_Plain())
    else:
        axes.set_xticks(range(len(values)), [_value(value) for value in values])


def _draw_grids(
    options: Mapping[str, Sequence[Any]], cells: Mapping, label: str, title: str
) -> Figure:
    """Draw a heatmap of two options, or one for each value of a third."""
    (x, columns), (y, rows), *panels = options.items()
    names = [(value,) for value in panels[0][1]] if panels else [()]
    grids = [  # the means (rows, columns), NaN where there is none
        np.array([[cells.get((c, r, *last), (np.nan,))[0] for c in columns] for r in rows])
        for last in names
    ]
    width = max(4.5, 1.5 + 0.75 * len(columns)) * len(names) + 1
    figure = _figure(width, max(4.2, 1.8 + 0.45 * len(rows)), title)
    every, norm = figure.subplots(1, len(names), squeeze=False)[0], _norm(grids)
    for axes, last, grid in zip(every, names, grids, strict=True):
        image = _draw_grid(axes, grid, norm)
        axes.set_xticks(range(len(columns)), [_value(v) for v in columns], rotation=45)
        axes.set_yticks(range(len(rows)), [_value(v) for v in rows])
        axes.set(xlabel=x.replace("_", " "), ylabel=y.replace("_", " "))
        axes.set_title("".join(f"{panels[0][0]} {_value(v)}" for v in last), fontsize="medium")
    bar = figure.colorbar(image, ax=list(every), label=label)
    _write_plain(bar.ax.yaxis, few=True)
    return figure


def _norm(grids: Sequence[np.ndarray]) -> Normalize:
    """Return one scale of colours for all, a log scale for a span of more than a factor of ten."""
    values = np.concatenate([grid.ravel() for grid in grids])
    values = values[np.isfinite(values)]
    low, high = (values.min(), values.max()) if len(values) else (0.0, 1.0)
    return (LogNorm if 0 < 10 * low < high else Normalize)(low, high)


def _draw_grid(axes: Axes, grid: np.ndarray, norm: Normalize) -> AxesImage:
    """Draw a heatmap with its numbers; what diverged stays grey."""
    axes.set_facecolor("#dddddd")
    image = axes.imshow(grid, cmap="viridis_r", norm=norm, aspect="auto", origin="lower")
    for (i, j), value in np.ndenumerate(grid):
        there = np.isfinite(value)
        color = "white" if there and norm(value) > 0.5 else "black"
        weight = "bold" if there and value == np.nanmin(grid) else "normal"
        text = f"{value:.3g}" if there else "diverged"
        size = 8 if there else 6
        font = {"fontsize": size, "fontweight": weight, "color": color}
        axes.text(j, i, text, ha="center", va="center", **font)
    return image


def _value(value: Any) -> str:
    """Return an option's value as text: a number, sizes, or `default` for None."""
    if isinstance(value, tuple):
        return ",".join(map(str, value))
    return "default" if value is None else f"{value:.3g}"


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


def _figure(width: float, height: float, title: str = "") -> Figure:
    """Return a figure of that size in inches, with a title of at most two lines."""
    figure = Figure(figsize=(width, height), dpi=120, layout="constrained")
    if title:
        text = "\n".join(textwrap.wrap(_drawable(title), 95, max_lines=2, placeholder=" ..."))
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
