"""Text that several commands print: numbers, tables, paths, the next commands."""

from __future__ import annotations

import os
import shlex
import shutil
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from jaxnet.cli.output import escaped

if TYPE_CHECKING:
    from jaxnet.runs.config import Config
    from jaxnet.runs.run import Dataset
    from jaxnet.tables.column import Encoding
    from jaxnet.tables.convert import Conversion

REPORT_SECONDS = 2.0  # between two lines about a conversion


def metric_text(name: str, value: float | None) -> str:
    """A metric as it is printed: an accuracy in percent, "-" for None."""
    if value is None:
        return "-"
    if name.endswith(("accuracy", "coverage", "calibration_error")):
        return f"{value:.2%}"
    return f"{value:,.0f}" if 1e4 <= abs(value) < 1e15 else f"{value:.4g}"


def metric_texts(metrics: dict[str, float | None], names: Sequence[str]) -> list[str]:
    """ "name value" for each of `names` among the metrics."""
    return [f"{name} {metric_text(name, metrics[name])}" for name in names if name in metrics]


def calibration_text(found: dict[str, Any]) -> str:
    """What the temperature of a classifier changes, as `ClassMetrics.calibration` has it."""
    name, before = "expected_calibration_error", found["uncalibrated"]
    error = metric_text(name, found[name])
    if found["temperature"] == 1:
        return f"calibration: temperature 1; expected calibration error {error}"
    losses = [metric_text("", one["log_loss"]) for one in (before, found)]
    return (
        f"calibration: the temperature {found['temperature']:.3g} takes the log loss from "
        f"{losses[0]} to {losses[1]},\n"
        f"  the expected calibration error from {metric_text(name, before[name])} to {error}"
    )


def model_text(found: dict[str, Any]) -> str:
    """The metrics of a model by split, and what its temperature changes: what REPORT holds."""
    splits = [name for name in found if name not in ("epoch", "calibration")]
    rows = [[f"epoch {found['epoch']}", *found[splits[0]]]]
    rows += [[name, *map(metric_text, found[name], found[name].values())] for name in splits]
    calibration = [calibration_text(found["calibration"])] if found["calibration"] else []
    return "\n".join([aligned(rows), *calibration])


def draw_picture(path: Path, draw: Callable[[Path], None], given: Path | None) -> None:
    """Draw and say where. A place that cannot be written is an error only if it is `given`."""
    try:
        draw(path)
    except OSError as error:
        reason = os.strerror(error.errno) if error.errno else str(error)
        if given is not None:
            raise OSError(
                f"`png` must be a file that can be written, got {path} ({reason})"
            ) from None
        print(f"note: {path} cannot be written ({reason}); --png FILE draws elsewhere")
    else:
        print(path)


def count(number: int, noun: str) -> str:
    """ "1 epoch", "2 epochs"."""
    return f"{number:,} {noun}{'s' * (number != 1)}"


def columns_text(encoding: Encoding, left_out: Sequence[str]) -> str:
    """How the feature columns are taken: "2 numbers, 1 category (city 28 values)"."""
    features = encoding.features
    widest = max(features, key=lambda column: len(column.categories))
    numbers = sum(len(c.mean) for c in features if not c.categories and c.base != "date")
    counts = {"number": numbers, "date": sum(c.base == "date" for c in features)}
    parts = [count(number, noun) for noun, number in counts.items() if number]
    if any(column.bins for column in features):
        parts[0] += " with bins"
    if categories := sum(bool(column.categories) for column in features):
        noun = "category" if categories == 1 else "categories"
        largest = count(len(widest.categories), "value")
        parts.append(f"{categories:,} {noun} ({widest.name} {largest})")
    if left_out:
        parts.append(f"left out: {', '.join(left_out)}")
    return escaped(", ".join(parts))


def aligned(rows: Sequence[Sequence[str]]) -> str:
    """Rows of text as a table: the first column to the left, the others to the right."""
    rows = [[escaped(text) for text in row] for row in rows]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = (
        [row[0].ljust(widths[0]), *(t.rjust(w) for t, w in zip(row[1:], widths[1:], strict=True))]
        for row in rows
    )
    return "\n".join("  ".join(line).rstrip() for line in lines)


def short(path: Path) -> Path:
    """The path relative to the current folder, if it is below it."""
    absolute, here = path.absolute(), Path(os.getcwd())
    return absolute.relative_to(here) if absolute.is_relative_to(here) else absolute


def quote(path: Path) -> str:
    return shlex.quote(str(path))


def print_folder(folder: Path) -> None:
    names = (path.name + "/" * path.is_dir() for path in folder.iterdir())
    print(escaped(f"{folder}: " + ", ".join(sorted(name for name in names if name[0] != "."))))


def print_old_exports(folder: Path) -> None:
    """Name the exported files that the run's model has left behind."""
    from jaxnet.runs.folder import old_exports

    if old := old_exports(folder):
        names, are = ", ".join(str(path) for path in old), "is" if len(old) == 1 else "are"
        print(f"note: {names} {are} of earlier weights: jaxnet export {quote(folder)} writes anew")


def print_commands(*commands: str) -> None:
    print("next:")
    for command in commands:
        print(f"  {_program()} {command}")


def _program() -> str:
    """This program, as it can be typed again."""
    path = Path(sys.argv[0])
    if path.name == "__main__.py":
        return f"{quote(short(Path(sys.executable)))} -m jaxnet"
    found = shutil.which("jaxnet")
    same = found is not None and path.exists() and Path(found).samefile(path)
    return "jaxnet" if same else quote(short(path))


def print_task(dataset: Dataset, config: Config) -> None:
    """Print how the columns are taken; which task was chosen, why, and how to choose the other."""
    print(f"columns: {columns_text(dataset.encoding, dataset.source.get('left_out', []))}")
    other = "regression" if dataset.task == "classification" else "classification"
    target = dataset.encoding.target.name
    column = dataset.table.columns[target]
    either = column.dtype != object and column.ndim == 1  # text or (N, D) leaves no choice
    override = f" (--task {other} overrides)" if config.task == "auto" and either else ""
    print(f"{dataset.task} of {target!r}, since {dataset.reason}{override}")


def conversion_reporter() -> Callable[[Conversion], None]:
    """Return a callback that says on stderr, every few seconds, how many rows of a table are
    written as arrays, and at the end where these are.
    """
    began = reported = time.perf_counter()

    def report(progress: Conversion) -> None:
        nonlocal reported
        now = time.perf_counter()
        if progress.whole:
            print(
                f"jaxnet: {progress.rows:,} rows are read from the arrays in "
                f"{short(progress.folder)} ({progress.written:,} bytes); the folder may be "
                "deleted, and is then made again when it is needed",
                file=sys.stderr,
            )
        elif now - reported >= REPORT_SECONDS:
            reported = now
            rate = progress.written / 1e6 / (now - began)
            print(f"jaxnet: {progress.rows:,} rows converted, {rate:.0f} MB/s", file=sys.stderr)

    return report
