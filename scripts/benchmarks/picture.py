"""The result as pictures: ratios by workload, and the scaling curves."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, NullFormatter

from .peers import JAXNET, REFERENCES

Result = dict[str, Any]
OURS, OTHERS, FLOOR = "#4477aa", "#cc6677", "#777777"  # Tol's: for colour-blind readers too
BLUE = JAXNET | set(REFERENCES.values())
CURVES = {
    "fit_scan": ("jaxnet", OURS, "o-"),
    "torch": ("torch", OTHERS, "s-"),
    "floor": ("floor", FLOOR, "^--"),
}
AXES = {
    "batch": "rows of a batch",
    "width": "units of a hidden layer",
    "depth": "hidden layers",
    "rows": "rows of the table",
}


def ratios(result: Result, path: Path) -> None:
    """A dot for each participant of each workload, over the reference, with its spread."""
    number = len(result["workloads"])
    columns = min(3, number)
    lines = -(-number // columns)
    most = max(len(_shown(found)) for found in result["workloads"])
    size = 4.6 * columns, lines * (0.9 + 0.26 * most)
    figure = Figure(figsize=size, dpi=120, layout="constrained")
    grid = figure.subplots(lines, columns, squeeze=False).ravel()
    for axes, found in zip(grid, result["workloads"], strict=False):
        _dots(axes, found)
    for axes in grid[number:]:
        axes.remove()
    reference = "time per step over the plain JAX scan's (1); blue: JAX scan and jaxnet"
    figure.suptitle(f"{reference}; grey line: the floor", fontsize="medium")
    figure.savefig(path)


def _shown(found: Result) -> dict[str, Result]:
    return {name: e for name, e in found["participants"].items() if "ratio" in e}


def _dots(axes: Axes, found: Result) -> None:
    shown = dict(sorted(_shown(found).items(), key=lambda item: -item[1]["ratio"][0]))
    for y, (name, entry) in enumerate(shown.items()):
        median, low, high = entry["ratio"]
        color = OURS if name in BLUE else OTHERS
        axes.plot([low, high], [y, y], color=color, linewidth=2, alpha=0.5)
        axes.plot(median, y, "o", color=color)
        axes.annotate(
            f"{median:.2f}", (max(high, median), y), (5, 0), textcoords="offset points",
            va="center", fontsize="x-small",
        )  # fmt: skip
    reference = shown.get(found["reference"])
    if reference:
        axes.axvline(1, color=OURS, linewidth=0.8)
        axes.axvline(found["floor"]["us"] / reference["us"], color=FLOOR, linestyle="--")
    axes.set_xscale("log")
    axes.margins(x=0.18)
    _plain(axes)
    axes.set_yticks(range(len(shown)), list(shown), fontsize="small")
    axes.set_ylim(-0.6, len(shown) - 0.4)
    axes.set_title(found["workload"]["name"], fontsize="medium", loc="left")
    axes.grid(axis="x", alpha=0.3)


def _plain(axes: Axes) -> None:
    """0.1 and 10 rather than powers of ten, and few of them."""
    low, high = axes.get_xlim()
    decades = np.log10(high / low)
    marks = (1, 2, 5) if decades < 2.2 else (1,)
    ticks = [m * 10.0**p for p in range(-4, 7) for m in marks if low <= m * 10.0**p <= high]
    axes.set_xticks(ticks)
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axes.xaxis.set_minor_formatter(NullFormatter())


def scaling(result: Result, path: Path) -> None:
    """Four panels, both axes logarithmic."""
    figure = Figure(figsize=(9.5, 7.5), dpi=120, layout="constrained")
    for axes, (axis, label) in zip(figure.subplots(2, 2).ravel(), AXES.items(), strict=True):
        points = [point for point in result["scaling"] if point["axis"] == axis]
        for name, (title, color, style) in CURVES.items():
            at = [(p["value"], value) for p in points if (value := _us(p, name)) is not None]
            if not at:
                continue
            x, y = zip(*at, strict=True)
            axes.plot(x, y, style, color=color, markersize=4, label=title)
        axes.set(xscale="log", yscale="log", xlabel=label, ylabel="us a step")
        axes.legend(fontsize="small")
        values = [point["value"] for point in points]
        axes.set_xticks(values, [f"{value:,}" for value in values])
        axes.xaxis.set_minor_formatter(NullFormatter())
        axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,g}"))
        axes.yaxis.set_minor_formatter(NullFormatter())
        axes.grid(alpha=0.3)
    figure.suptitle(
        "128-256-256-10, Adam, batch 128, 16,384 rows; one size changed", fontsize="medium"
    )
    figure.savefig(path)


def _us(point: Result, name: str) -> float | None:
    """The curve's value; torch's is the better of its eager forms."""
    if name != "torch":
        return point["us"].get(name)
    return min((v for k, v in point["us"].items() if k.startswith("torch")), default=None)
