"""What a run's folder holds, as text: one run in full, or several side by side. Needs no JAX."""

from __future__ import annotations

import itertools
import shlex
import textwrap
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, NamedTuple

from jaxnet import files
from jaxnet.cli.text import aligned, columns_text, metric_text, model_text
from jaxnet.runs import folder as run_folder
from jaxnet.runs.config import Config, default_epochs
from jaxnet.runs.record import Record

METRICS = {"val_loss": min, "val_accuracy": max, "val_rmse": min}  # and which one is the best
NAME = 14  # characters of a name in a line of a table
SHOWN_APART = {"data", "target", "seed", "out"}  # options that `facts` shows under another topic


class Run(NamedTuple):
    """A run's folder as read: config.json, the lines of metrics.jsonl, and the metrics of the model
    when training has ended.
    """

    folder: Path
    record: Record
    lines: list[dict[str, Any]]
    model: dict[str, Any]

    @property
    def epochs(self) -> int:
        """The last epoch that was evaluated."""
        return self.lines[-1]["epoch"] if self.lines else 0

    @property
    def task(self) -> str:
        """The task and the target: classification of 'class'."""
        return f"{self.record.task} of {self.record.encoding.target.name!r}"

    @property
    def network(self) -> str:
        """The network's sizes and activation: 64-128-10 relu."""
        sizes, members = "-".join(map(str, self.record.spec.sizes)), self.record.config.ensemble
        several = f" x {members}" if members > 1 else ""
        return f"{sizes} {self.record.spec.activation}{several}"


def read(folder: Path) -> Run:
    """Read the folder of a run, which may still be training.

    Raises: ValueError for a folder that holds something else, FileNotFoundError without a run.
    """
    if folder.is_file():
        raise ValueError(f"{folder}: must be the folder of a run, got a file")
    record, lines = Record.load(folder), run_folder.read_metrics(folder)
    for number, line in enumerate(lines, start=1):
        if not all(isinstance(line.get(n), (int, float)) for n in ("train_loss", "val_loss")):
            raise ValueError(
                f"{folder / run_folder.METRICS}: line {number} has no train_loss and val_loss; "
                "was it edited?"
            )
    report = folder / run_folder.REPORT
    found = files.read_json(report) if report.exists() else {}
    try:
        model_text(found or {"epoch": 0, "train": {}, "calibration": {}})
    except (LookupError, TypeError, AttributeError, ValueError, OverflowError):
        raise ValueError(f"{report}: not the metrics of a model; was it edited?") from None
    return Run(folder, record, lines, found)


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


def options(record: Record) -> str:
    """The options that are not the defaults, as one would type them."""
    # config.json holds the batch size and the epochs that were taken
    rows = record.rows["train"]
    default = asdict(Config()) | {"batch_size": min(32, rows), "epochs": default_epochs(rows)}
    default |= {"gram": "off", "on_disk": "off"}  # which auto has become
    words = []
    for name, value in asdict(record.config).items():
        if name in SHOWN_APART or value in (None, default[name]):
            continue
        option = "--" + name.replace("_", "-")
        if isinstance(value, bool):
            words.append(option if value else option.replace("--", "--no-", 1))
        else:
            values = value if isinstance(value, tuple) else [value]
            words += [option, *(shlex.quote(str(v)) for v in values)]
    return " ".join(words)


def facts(run: Run) -> dict[str, str]:
    """What the run is, by topic; a topic without text is left out."""
    record, config, spec = run.record, run.record.config, run.record.spec
    parameters = sum(a * b for a, b in itertools.pairwise(spec.sizes))
    parameters += sum(spec.sizes[1:]) if spec.bias else 0
    parameters *= config.ensemble
    rows, device = record.rows, record.device
    found = {
        "data": f"{record.data['name']}: {rows['train']} rows to train on, {rows['validation']} to "
        "validate on",
        "columns": columns_text(record.encoding, record.data.get("left_out", [])).removeprefix(
            "columns: "
        ),
        "task": run.task,
        "network": f"{run.network}, {parameters:,} parameters",
        "optimizer": f"{config.optimizer}, learning rate {config.learning_rate:g}, "
        f"{config.schedule} schedule, batch {config.batch_size}",
        "seed": str(config.seed),
        "options": options(record) or "all the defaults",
        "device": ", ".join(
            f"{value} {name}" if name == "processors" else str(value)
            for name, value in device.items()
            if name != "kind" or value != device["platform"]
        ),
        "versions": ", ".join(f"{k} {v}" for k, v in record.versions.items()),
        "epochs": f"{run.epochs} of {config.epochs}{_patience(run)}",
        "changed": "; ".join(
            f"from step {entry['step']} on "
            + ", ".join(f"{name} {value}" for name, value in entry["changed"].items())
            for entry in record.history
            if entry["changed"]
        ),
    }
    return {topic: text for topic, text in found.items() if text}


def _patience(run: Run) -> str:
    patience = run.record.config.patience
    if not run.lines or patience is None:
        return ""
    over = run.epochs - best(run.lines)["epoch"] >= patience
    return ", ended by its patience" if over else ""


def summary(run: Run, width: int = 80) -> str:
    """What the run is, in lines of at most `width` characters, and its best and last epoch."""
    found = facts(run)
    margin = max(map(len, found)) + 2
    paragraphs = [
        textwrap.fill(
            text, width, initial_indent=f"{topic:{margin}}", subsequent_indent=" " * margin
        )
        for topic, text in found.items()
    ]
    if not run.lines:
        return "\n".join([str(run.folder), *paragraphs, "", "no epoch finished yet"])
    metrics = [name for name in run.lines[-1] if name not in ("epoch", "step")]
    rows = [["", "epoch", "step", *metrics]]
    for which, line in {"best": best(run.lines), "last": run.lines[-1]}.items():
        values = [metric_text(name, line.get(name)) for name in metrics]
        rows.append([which, str(line["epoch"]), str(line["step"]), *values])
    tables = [aligned(rows)]
    if run.model.get("epoch") == best(run.lines)["epoch"]:
        tables += ["", model_text(run.model)]
    return "\n".join([str(run.folder), *paragraphs, "", *tables])


def comparison(runs: Sequence[Run]) -> str:
    """Several runs in one table; the best of each metric is marked if they are comparable."""
    lines = [best(run.lines) if run.lines else {} for run in runs]
    metrics = [name for name in METRICS if any(name in line for line in lines)]
    mark = incomparable(runs) is None
    activations = len({run.record.spec.activation for run in runs}) > 1
    chosen = {name: METRICS[name](line[name] for line in lines if name in line) for name in metrics}
    rows = [["run", "network", "optimizer", "rate", "epochs", "best", *metrics]]
    for name, run, line in zip(names(runs), runs, lines, strict=True):
        config, epoch = run.record.config, str(line.get("epoch", "-"))
        shape = run.network if activations else run.network.split()[0]
        *folded, name = textwrap.wrap(name, NAME)
        rows += [[piece] + [""] * (len(rows[0]) - 1) for piece in folded]
        row = [name, shape, config.optimizer, f"{config.learning_rate:g}"]
        row += [f"{run.epochs}/{config.epochs}", epoch]
        for metric in metrics:
            here = mark and line.get(metric) == chosen[metric]
            row.append(metric_text(metric, line.get(metric)) + (" *" if here else "  "))
        rows.append(row)
    return aligned(rows) + ("\n* the best, each run at its best epoch" if mark else "")


def incomparable(runs: Iterable[Run]) -> str | None:
    """Say why the runs' losses cannot be compared; None if they can."""
    questions: dict[str, Callable[[Record], Any]] = {
        "task": lambda record: record.task,
        "data": lambda record: record.data["sha256"],
        "target": lambda record: record.encoding.target.name,
        "loss": lambda record: record.spec.loss,
        "weights": lambda record: record.weighting,
    }
    records = [run.record for run in runs]
    differ = [name for name, ask in questions.items() if len({ask(r) for r in records}) > 1]
    if not differ:
        return None
    return f"these runs differ in {' and '.join(differ)}, so none is marked as the best"


def other_rows(runs: Iterable[Run]) -> str | None:
    """Say that the runs hold out different rows, which small differences may come from."""
    if len({(run.record.config.seed, run.record.config.validation) for run in runs}) == 1:
        return None
    return (
        "these runs differ in --seed or --validation, so they are validated on different rows: "
        "small differences mean little"
    )
