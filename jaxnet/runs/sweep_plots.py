"""The picture of a sweep: the validation loss against the options that vary."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import LogNorm, Normalize
from matplotlib.figure import Figure
from matplotlib.image import AxesImage

from jaxnet.runs.plots import LABELS, VALIDATION, _figure, _Plain, _save, _scale, _write_plain


def sweep(
    options: Mapping[str, Sequence[Any]],
    cells: Mapping[tuple, tuple[float, float | None]],
    loss: str,
    over: str,
    title: str,
    path: str | Path,
) -> None:
    """Draw the validation loss against one to three options that vary, and write a PNG.

    options: their values by name. cells: mean and standard deviation (or None) of the loss by the
    values in that order; one that diverged is missing. over: what the mean is over, as "3 seeds";
    "" for one network.
    One option makes a line with error bars, two a heatmap, a third one heatmap for each of its
    values.
    """
    label = f"validation {LABELS[loss]}"
    if over:
        label += f"\nmean over {over}"
    if len(options) > 1:
        figure = _draw_grids(options, cells, label, title)
    else:
        figure = _figure(7, 4, title)
        axes = figure.subplots()
        _draw_means(axes, *next(iter(options.items())), cells, label)
        if over:
            bars = f"bars: one standard deviation over {over}, to each side"
            axes.set_title(bars, fontsize="small", loc="left", color="#555555")
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
    images = [_draw_grid(axes, grid, norm) for axes, grid in zip(every, grids, strict=True)]
    for axes, last in zip(every, names, strict=True):
        axes.set_xticks(range(len(columns)), [_value(v) for v in columns], rotation=45)
        axes.set_yticks(range(len(rows)), [_value(v) for v in rows])
        axes.set(xlabel=x.replace("_", " "), ylabel=y.replace("_", " "))
        axes.set_title("".join(f"{panels[0][0]} {_value(v)}" for v in last), fontsize="medium")
    bar = figure.colorbar(images[-1], ax=list(every))
    bar.set_label(label, fontsize="small")
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
