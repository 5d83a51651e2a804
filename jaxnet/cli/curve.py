"""The losses of a run drawn as text."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from typing import Any

HEIGHT = 13  # rows of a curve
Points = Sequence[tuple[float, float]]


def draw(lines: Sequence[dict[str, Any]], width: int = 80, *, unicode: bool = True) -> str:
    """Draw both losses against the epoch in `width` columns, at least 40.

    lines: those of metrics.jsonl. A range of more than a factor of ten gets a log scale. Without
    `unicode` the drawing is ASCII.
    """
    series = [[(line["epoch"], line[n]) for line in lines] for n in ("train_loss", "val_loss")]
    series = [[point for point in points if math.isfinite(point[1])] for points in series]
    values = [y for points in series for _, y in points]
    if not values:
        return "no finite loss to draw"
    log = min(values) > 0 and max(values) > 10 * min(values)
    scale, back = (math.log10, lambda y: 10**y) if log else (float, float)
    low, high = scale(min(values)), scale(max(values))
    rows = range(0, HEIGHT, 3) if high > low else [HEIGHT // 2]  # that have a number beside them
    ticks = {row: f"{back(high - (high - low) * row / (HEIGHT - 1)):.3g}" for row in rows}
    margin = max(map(len, ticks.values())) + 1
    columns = max(width, 40) - margin - 2
    first, last = lines[0]["epoch"], lines[-1]["epoch"]

    def across(epoch: float) -> float:
        return (epoch - first) / (last - first) if last > first else 0.5

    def down(loss: float) -> float:
        return (high - scale(loss)) / (high - low) if high > low else 0.5

    train, validation = ([(across(x), down(y)) for x, y in points] for points in series)
    cells = (_blocks if unicode else _letters)(train, validation, columns)
    side, corner, line, up = ("│", "└", "─", "▲") if unicode else ("|", "+", "-", "^")
    marks = ("⠒⠒", "▄▄") if unicode else ("..", "oo")
    text = [f"loss{', log scale' if log else ''}: {marks[0]} train, {marks[1]} validation"]
    for row in range(HEIGHT):
        drawn = "".join(cells.get((column, row), " ") for column in range(columns))
        text.append(f"{ticks.get(row, ''):>{margin - 1}} {side}{drawn}".rstrip())
    best = min(lines, key=lambda line: line["val_loss"])["epoch"]
    middle = f"epoch, {up} best {best}".center(columns - len(f"{first}{last}"))
    text.append(" " * margin + corner + line * columns)
    text.append(" " * (margin + 1 + round(across(best) * (columns - 1))) + up)
    text.append((" " * (margin + 1) + f"{first}{middle}{last}").rstrip())
    return "\n".join(text)


def _raster(points: Points, columns: int, rows: int) -> set[tuple[int, int]]:
    """The (column, row) of a grid that the line through the points touches."""
    grid = [(x * (columns - 1), y * (rows - 1)) for x, y in points]
    cells = {(round(x), round(y)) for x, y in grid}
    for (x0, y0), (x1, y1) in itertools.pairwise(grid):
        steps = max(1, math.ceil(max(abs(x1 - x0), abs(y1 - y0))))
        for i in range(1, steps):
            cells.add((round(x0 + i / steps * (x1 - x0)), round(y0 + i / steps * (y1 - y0))))
    return cells


def _letters(train: Points, validation: Points, columns: int) -> dict[tuple[int, int], str]:
    return dict.fromkeys(_raster(train, columns, HEIGHT), ".") | dict.fromkeys(
        _raster(validation, columns, HEIGHT), "o"
    )


def _blocks(train: Points, validation: Points, columns: int) -> dict[tuple[int, int], str]:
    """Thin dots of Braille for the training loss; over them thick half blocks for validation."""
    bits = ((0x01, 0x08), (0x02, 0x10), (0x04, 0x20), (0x40, 0x80))
    dots: dict[tuple[int, int], int] = {}
    for x, y in _raster(train, 2 * columns, 4 * HEIGHT):
        dots[x // 2, y // 4] = dots.get((x // 2, y // 4), 0) | bits[y % 4][x % 2]
    halves: dict[tuple[int, int], int] = {}
    for x, y in _raster(validation, columns, 2 * HEIGHT):
        halves[x, y // 2] = halves.get((x, y // 2), 0) | 1 << y % 2
    thin = {cell: chr(0x2800 + dot) for cell, dot in dots.items()}
    return thin | {cell: " ▀▄█"[half] for cell, half in halves.items()}
