"""Pictures of what a model predicts: confusion, calibration, predicted against true, importance."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from matplotlib.ticker import MaxNLocator

from jaxnet.runs.importance import Importance
from jaxnet.runs.plots import ABOVE, TRAIN, VALIDATION, _figure, _readable, _save, _shorten
from jaxnet.tables.ranking import Calibration

MAX_COUNTS = 20  # classes up to which the counts are written into a confusion matrix
MAX_LABELS = 40  # and up to which every class has a label
MAX_BARS = 30  # columns whose importance is drawn


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


def calibration(
    before: Calibration, after: Calibration, temperature: float, title: str, path: str | Path
) -> None:
    """Draw how often the predicted class is right, against its probability, and write a PNG.

    before, after: without and with the temperature. Below the curves: how many rows are where.
    """
    figure = _figure(5.5, 5.5, title)
    top, bottom = figure.subplots(2, 1, sharex=True, height_ratios=(4, 1))
    top.plot([0, 1], [0, 1], color="#777777", linestyle=":", label="ideal")
    curves = {"calibrated": (after, VALIDATION, "-")}
    if temperature != 1:
        what = f"with temperature {temperature:.3g}"
        curves = {"as trained": (before, TRAIN, "--"), what: (after, VALIDATION, "-")}
    for name, (found, color, style) in curves.items():
        there = found.rows > 0
        x, y = (part[there] / found.rows[there] for part in (found.confidence, found.right))
        label = f"{name}: expected calibration error {found.error:.1%}"
        top.plot(x, y, marker=".", color=color, linestyle=style, label=label)
    edges = np.linspace(0, 1, len(after.rows) + 1)
    bottom.bar(edges[:-1], after.rows, np.diff(edges), align="edge", color=VALIDATION, alpha=0.6)
    lowest = edges[np.flatnonzero(before.rows + after.rows)[0]]
    top.set(ylabel="share that is right", ylim=(0, 1.03), xlim=(lowest, 1.005))
    bottom.set(xlabel="probability of the predicted class", ylabel="rows")
    for axes in (top, bottom):
        axes.grid(alpha=0.3)
    top.legend(**ABOVE, fontsize="small")
    _save(figure, path)


def predicted(
    pairs: Sequence[np.ndarray], names: Sequence[str], title: str, path: str | Path
) -> None:
    """Draw predicted numbers against the true ones, and write a PNG.

    pairs: predicted and true, (N, D) each; names: of the D columns, of which four are drawn.
    """
    number = min(len(names), 4)
    figure = _figure(0.5 + 4.5 * number, 4.6, title)
    for k, axes in enumerate(figure.subplots(1, number, squeeze=False)[0]):
        y_pred, y = (array[:, k] for array in pairs)
        low, high = min(y.min(), y_pred.min()), max(y.max(), y_pred.max())
        alpha = float(np.clip(60 / np.sqrt(len(y)) / 5, 0.1, 0.8))
        axes.plot(y, y_pred, ".", color=TRAIN, alpha=alpha, markeredgewidth=0)
        axes.plot([low, high], [low, high], color=VALIDATION, label="predicted = true")
        axes.set_xlabel(f"true {_shorten(names[k])}", parse_math=False)
        axes.set_ylabel(f"predicted {_shorten(names[k])}", parse_math=False)
        axes.set_aspect("equal", adjustable="datalim")
        for axis in (axes.xaxis, axes.yaxis):
            axis.set_major_locator(MaxNLocator(5))
            axis.set_major_formatter(_readable)
        axes.grid(alpha=0.3)
        axes.legend(**ABOVE, fontsize="small")
    _save(figure, path)


def importance(found: Sequence[Importance], metric: str, title: str, path: str | Path) -> None:
    """Draw the rise of a metric for each column, the largest on top, and write a PNG."""
    shown = found[:MAX_BARS][::-1]
    longest = max(len(_shorten(one.name)) for one in shown)
    figure = _figure(6 + 0.09 * longest, 1.3 + 0.26 * max(len(shown), 4), title)  # inches
    axes = figure.subplots()
    places = range(len(shown))
    mean, std = ([getattr(one, name) for one in shown] for name in ("mean", "std"))
    axes.barh(places, mean, xerr=std, color=TRAIN, ecolor="#333333", capsize=2)
    axes.set_yticks(places, [_shorten(one.name) for one in shown], parse_math=False)
    axes.set_ylim(-0.6, len(shown) - 0.4)
    axes.axvline(0, color="#333333", linewidth=0.8)
    note = "mean, and standard deviation over the shuffles"
    axes.set_xlabel(f"rise of the {metric} when the column is shuffled\n({note})")
    axes.xaxis.set_major_formatter(_readable)
    axes.grid(alpha=0.3, axis="x")
    _save(figure, path)
