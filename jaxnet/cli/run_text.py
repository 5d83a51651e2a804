"""What a run's folder says, as text: one run in full, or several side by side. Needs no JAX."""

from __future__ import annotations

import io
import itertools
import math
import shlex
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from jaxnet import files
from jaxnet.runs import folder as run_folder
from jaxnet.runs.config import Config

if TYPE_CHECKING:
    from rich.table import Table

METRICS = {"val_loss": min, "val_accuracy": max, "val_rmse": min}  # and which one is the best
SPEC = {"sizes", "activation", "loss"}
HEIGHT = 13  # rows of a curve
UNSAID = {"data", "target", "seed", "out"}  # options that have a place of their own


class Run(NamedTuple):
    """A run's folder as read: config.json, and the lines of metrics.jsonl."""

    folder: Path
    described: dict[str, Any]
    lines: list[dict[str, Any]]

    @property
    def epochs(self) -> int:
        """Those evaluated so far."""
        return self.lines[-1]["epoch"] if self.lines else 0

    def option(self, name: str) -> Any:
        return self.described["config"].get(name, getattr(Config(), name))


def read(folder: str | Path) -> Run:
    """Read the folder of a run, which may still be going.

    Raises: ValueError for a folder that holds something else, FileNotFoundError without a run.
    """
    folder = Path(folder)
    if folder.is_file():
        raise ValueError(f"{folder}: must be the folder of a run, got a file")
    described = files.read_json(folder / run_folder.CONFIG)
    parts = [described.get(key) for key in ("config", "spec", "rows", "data")]
    if not all(isinstance(part, dict) for part in parts) or SPEC - set(described["spec"]):
        raise ValueError(
            f"{folder / run_folder.CONFIG}: must hold a run's config, spec, rows and data; "
            "is it another program's?"
        )
    lines = run_folder.read_metrics(folder)
    for number, line in enumerate(lines, start=1):
        if not all(isinstance(line.get(n), (int, float)) for n in ("train_loss", "val_loss")):
            raise ValueError(
                f"{folder / run_folder.METRICS}: line {number} has no train_loss and val_loss; "
                "was it edited?"
            )
    return Run(folder, described, lines)


def best(lines: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Return the line of the lowest val_loss, the first of equal ones."""
    return min(lines, key=lambda line: line["val_loss"])


def names(runs: Sequence[Run]) -> list[str]:
    """Name each run by its folder's last part, or by the whole path if two share that."""
    short = [run.folder.resolve().name for run in runs]
    return [
        name if short.count(name) == 1 else str(run.folder)
        for name, run in zip(short, runs, strict=True)
    ]


def network(run: Run) -> str:
    """The network's sizes and activation: 64-128-10 relu."""
    spec = run.described["spec"]
    return f"{'-'.join(map(str, spec['sizes']))} {spec['activation']}"


def options(run: Run) -> str:
    """The options that are not the defaults, as one would type them."""
    given = run.described["config"]
    default = vars(Config())
    rows = run.described["rows"].get("train", 0)
    default |= {"batch_size": min(32, rows)}  # config.json holds the one that was taken
    words = []
    for name, value in given.items():
        expected = default.get(name)
        expected = list(expected) if isinstance(expected, tuple) else expected
        if name in UNSAID or value is None or value == expected:
            continue
        flag = "--" + name.replace("_", "-")
        if isinstance(value, bool):
            words.append(flag if value else flag.replace("--", "--no-", 1))
            continue
        values = value if isinstance(value, list) else [value]
        words += [flag, *(shlex.quote(str(v)) for v in values)]
    return " ".join(words)


def facts(run: Run) -> list[tuple[str, str]]:
    """What the run is, by topic; what an older or unfinished run does not say is left out."""
    described, rows = run.described, run.described["rows"]
    sizes = described["spec"]["sizes"]
    biases = sum(sizes[1:]) if described["spec"].get("bias") else 0
    parameters = sum(a * b for a, b in itertools.pairwise(sizes)) + biases
    target = described.get("encoding", {}).get("target", {}).get("name", run.option("target"))
    device = described.get("device") or {}
    versions = described.get("versions") or {}
    changed = [entry for entry in described.get("history") or () if entry.get("changed")]
    found = {
        "data": f"{described['data'].get('name')}: {rows.get('train')} rows to train on, "
        f"{rows.get('validation')} to validate on",
        "task": f"{described.get('task')} of {target!r}",
        "network": f"{network(run)}, {parameters:,} parameters",
        "optimizer": f"{run.option('optimizer')}, learning rate {run.option('learning_rate'):g}, "
        f"{run.option('schedule')} schedule, batch {run.option('batch_size')}",
        "seed": str(run.option("seed")),
        "options": options(run) or "all the defaults",
        "device": ", ".join(
            f"{value} {name}" if name == "processors" else str(value)
            for name, value in device.items()
            if name != "kind" or value != device.get("platform")
        ),
        "versions": ", ".join(f"{name} {version}" for name, version in versions.items()),
        "epochs": f"{run.epochs} of {run.option('epochs')}{_patience(run)}",
        "changed": "; ".join(
            f"from step {entry['step']} on "
            + ", ".join(f"{name} {value}" for name, value in entry["changed"].items())
            for entry in changed
        ),
    }
    return [(topic, text) for topic, text in found.items() if text]


def _patience(run: Run) -> str:
    patience = run.option("patience")
    if not run.lines or patience is None:
        return ""
    over = run.epochs - best(run.lines)["epoch"] >= patience
    return ", ended by its patience" if over else ""


def summary(run: Run, width: int = 80) -> str:
    """What the run is, and its best and last epoch, in lines of at most `width` characters."""
    from rich.table import Table

    table = Table(box=None, pad_edge=False, show_header=False)
    table.add_column(no_wrap=True)
    table.add_column(overflow="fold")
    for row in facts(run):
        table.add_row(*row)
    text = f"{run.folder}\n{_render(table, width)}"
    if not run.lines:
        return f"{text}\n\nno epoch finished yet"
    chosen = {"best": best(run.lines), "last": run.lines[-1]}
    metrics = [name for name in run.lines[-1] if name not in ("epoch", "step")]
    table = Table(box=None, pad_edge=False)
    for name in ("", "epoch", "step", *metrics):
        table.add_column(name, justify="right" if name else "left", overflow="fold")
    for which, line in chosen.items():
        numbers = [
            str(line["epoch"]),
            str(line["step"]),
            *(format_(n, line.get(n)) for n in metrics),
        ]
        table.add_row(which, *numbers)
    return f"{text}\n\n{_render(table, width)}"


def comparison(runs: Sequence[Run], width: int = 80) -> str:
    """Several runs in one table; the best of each metric is marked if they are comparable."""
    from rich.table import Table

    lines = [best(run.lines) if run.lines else {} for run in runs]
    metrics = [name for name in METRICS if any(name in line for line in lines)]
    mark = len(runs) > 1 and incomparable(runs) is None
    chosen = {name: METRICS[name](line[name] for line in lines if name in line) for name in metrics}
    activations = len({run.described["spec"]["activation"] for run in runs}) > 1
    table = Table(box=None, pad_edge=False, collapse_padding=True)
    for name in ("run", "network"):
        table.add_column(name, overflow="fold")
    table.add_column("optimizer", no_wrap=True)
    for name in ("learning\nrate", "epochs", "best\nepoch", *(f"{name}  " for name in metrics)):
        table.add_column(name, justify="right", no_wrap=True)
    for name, run, line in zip(names(runs), runs, lines, strict=True):
        texts = []
        for metric in metrics:
            here = mark and line.get(metric) == chosen[metric]
            texts.append(format_(metric, line.get(metric)) + (" *" if here else "  "))
        made = f"{run.epochs}/{run.option('epochs')}"
        rate, epoch = f"{run.option('learning_rate'):g}", str(line.get("epoch", "-"))
        shape = network(run) if activations else network(run).split()[0]
        table.add_row(name, shape, run.option("optimizer"), rate, made, epoch, *texts)
    return _render(table, width) + ("\n* the best, each run at its best epoch" if mark else "")


def incomparable(runs: Iterable[Run]) -> str | None:
    """Say why the runs' losses cannot be compared; None if they can."""
    questions: dict[str, Callable[[Run], Any]] = {
        "task": lambda run: run.described.get("task"),
        "data": lambda run: (
            (data := run.described["data"]).get("sha256") or (data.get("name"), data.get("bytes"))
        ),
        "target": lambda run: run.option("target"),
        "loss": lambda run: run.described["spec"].get("loss"),
    }
    runs = list(runs)
    differ = [name for name, ask in questions.items() if len({ask(run) for run in runs}) > 1]
    if not differ:
        return None
    return (
        f"not comparable: these runs differ in {' and '.join(differ)}, so none is marked the best"
    )


def other_rows(runs: Iterable[Run]) -> str | None:
    """Say that the runs hold out different rows, which small differences may come from."""
    if len({(run.option("seed"), run.option("validation")) for run in runs}) == 1:
        return None
    return "seed or share differs: they were validated on different rows, mind small differences"


def format_(name: str, value: float | None) -> str:
    """A metric as the command line writes it."""
    if value is None:
        return "-"
    return f"{value:.2%}" if name == "val_accuracy" else f"{value:.4g}"


def curve(lines: Sequence[dict[str, Any]], width: int = 80, *, unicode: bool = True) -> str:
    """Draw both losses against the epoch in `width` columns, at least 40.

    A span of more than a factor of ten gets a log scale. Without `unicode` it is ASCII.
    """
    series = {n: [(line["epoch"], line[n]) for line in lines] for n in ("train_loss", "val_loss")}
    series = {n: [p for p in points if math.isfinite(p[1])] for n, points in series.items()}
    values = [y for points in series.values() for _, y in points]
    if not values:
        return "no finite loss to draw"
    log = min(values) > 0 and max(values) > 10 * min(values)
    scale, back = (math.log10, lambda y: 10**y) if log else (float, float)
    low, high = scale(min(values)), scale(max(values))
    rows = range(0, HEIGHT, 3) if high > low else [HEIGHT // 2]  # with a number beside them
    ticks = {row: f"{back(high - (high - low) * row / (HEIGHT - 1)):.3g}" for row in rows}
    margin = max(map(len, ticks.values())) + 1
    columns = max(width, 40) - margin - 2
    span = lines[0]["epoch"], lines[-1]["epoch"]

    def place(x: float, y: float) -> tuple[float, float]:
        """The place in the picture, both from 0 to 1, the second from the top."""
        across = (x - span[0]) / (span[1] - span[0]) if span[1] > span[0] else 0.5
        return across, (high - scale(y)) / (high - low) if high > low else 0.5

    placed = {name: [place(*point) for point in points] for name, points in series.items()}
    cells = (_blocks if unicode else _letters)(placed["train_loss"], placed["val_loss"], columns)
    side, corner, line, up = ("│", "└", "─", "▲") if unicode else ("|", "+", "-", "^")
    marks = ("⠒⠒", "▄▄") if unicode else ("..", "oo")
    at = best(lines)["epoch"]
    column = round(place(at, back(low))[0] * (columns - 1))
    under = [f"{span[0]}", f"{span[1]}"]
    text = [f"loss{', log scale' if log else ''}: {marks[0]} train, {marks[1]} validation"]
    for row in range(HEIGHT):
        drawn = "".join(cells.get((column, row), " ") for column in range(columns))
        text.append(f"{ticks.get(row, ''):>{margin - 1}} {side}{drawn}".rstrip())
    text.append(" " * margin + corner + line * columns)
    text.append(" " * (margin + 1 + column) + up)
    middle = f"epoch, {up} best {at}".center(columns - len(under[0]) - len(under[1]))
    text.append((" " * (margin + 1) + under[0] + middle + under[1]).rstrip())
    return "\n".join(text)


Points = Sequence[tuple[float, float]]


def _raster(points: Points, columns: int, rows: int) -> set[tuple[int, int]]:
    """The (column, row) of a grid that the line through the points touches."""
    grid = [(x * (columns - 1), y * (rows - 1)) for x, y in points]
    cells = {(round(x), round(y)) for x, y in grid}
    for (x0, y0), (x1, y1) in itertools.pairwise(grid):
        steps = max(1, math.ceil(max(abs(x1 - x0), abs(y1 - y0))))
        for i in range(1, steps):
            part = i / steps
            cells.add((round(x0 + part * (x1 - x0)), round(y0 + part * (y1 - y0))))
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


def _render(table: Table, width: int) -> str:
    """A table as plain text: no colour, and names are never taken for markup."""
    from rich.console import Console

    file = io.StringIO()
    console = Console(
        file=file, width=width, markup=False, emoji=False, highlight=False, color_system=None
    )
    console.print(table)
    return "\n".join(line.rstrip() for line in file.getvalue().splitlines())
