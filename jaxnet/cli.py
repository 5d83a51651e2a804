"""The command line: options in, messages out; only here does an error become an exit code."""

from __future__ import annotations

import contextlib
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import tyro

import jaxnet
from jaxnet import cli_parity
from jaxnet.cli_parity import ParityOptions
from jaxnet.config import Config, DataOptions, NetworkOptions, RunOptions, TrainingOptions

Stages = Annotated[
    tuple[str, ...],
    tyro.conf.Positional,
    tyro.conf.arg(
        metavar="[STAGE ...]",
        help="tensors, sequential, module or dynamic; without one, all of them.",
        help_behavior_hint="",
    ),
]

if TYPE_CHECKING:
    from jaxnet.runs import Problem, Progress, Run


def train(
    data: DataOptions, network: NetworkOptions, training: TrainingOptions, run: RunOptions
) -> int:
    """Train a feed-forward network on a table, or on the handwritten digits if none is given.

    Try:

    jaxnet train

    jaxnet train --data wine.csv --target class

    jaxnet train --data houses.parquet --target price --hidden 256 64 --epochs 200

    jaxnet train --data genes.npz --target y --optimizer adamw --weight-decay 0.1 --schedule warmup
    """
    config = Config(**asdict(data), **asdict(network), **asdict(training), **asdict(run))
    from jaxnet import runs  # brings JAX, which --help does without

    problem = runs.prepare(config)
    _print_problem(problem, config)
    with _reporter() as on_progress:
        finished = runs.train(config, problem=problem, on_progress=on_progress)
    _print_run(finished)
    return 0


def parity(stages: Stages = (), *, comparison: ParityOptions) -> int:
    """Compare every version of the tutorial's networks with NumPy's gradients by hand.

    The exit code is 0 if all are equal, 1 for a mismatch, whose likely cause is named, 2 if they
    could not be compared.
    """
    return cli_parity.run(stages, comparison)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; the exit code is 0 done, 1 unequal, 2 bad input, 130 interrupted."""
    argv = list(sys.argv[1:] if argv is None else argv)
    if argv == ["--version"]:
        print(f"jaxnet {jaxnet.__version__}")
        return 0
    try:
        return tyro.extras.subcommand_cli_from_dict(
            {"train": train, "parity": parity},
            prog="jaxnet",
            description="Feed-forward networks in JAX, proven equal to NumPy and PyTorch.",
            args=argv,
            config=(tyro.conf.OmitArgPrefixes, tyro.conf.DisallowNone),
        )
    except (ValueError, OSError, FloatingPointError, MemoryError) as error:
        print(f"jaxnet: {error}", file=sys.stderr)
        return 2
    except SystemExit as stop:  # tyro has printed the help, or what it could not parse
        return int(stop.code or 0)
    except KeyboardInterrupt:
        print("jaxnet: interrupted", file=sys.stderr)
        return 130


def _print_problem(problem: Problem, config: Config) -> None:
    """Say what was read, what was chosen, and how to choose otherwise."""
    rows = len(problem.train.x), len(problem.validation.x)
    sizes = "-".join(map(str, problem.spec.sizes))
    print(f"{Path(problem.table.path).name}: {rows[0]} rows to train on, {rows[1]} to validate on")
    other = "regression" if problem.task == "classification" else "classification"
    target = problem.encoding.target.name
    column = problem.table.columns[target]
    either = column.dtype != object and column.ndim == 1  # text or (N, D) leaves no choice
    override = f" (--task {other} overrides)" if config.task == "auto" and either else ""
    print(f"{problem.task} of {target!r}, since {problem.reason}{override}")
    print(f"network {sizes} {config.activation}, {config.optimizer}, batch {problem.batch_size}")


@contextlib.contextmanager
def _reporter() -> Iterator[Callable[[Progress], None]]:
    """Yield the progress callback: a live bar on a terminal, else about twenty plain lines."""
    from rich.console import Console

    console = Console()
    if not console.is_terminal:
        yield _plain_reporter()
        return
    from rich import progress as rich

    columns = (
        rich.BarColumn(),
        rich.TaskProgressColumn(),
        rich.TextColumn("{task.description}"),
        rich.TimeRemainingColumn(),
    )
    with rich.Progress(*columns, console=console) as bar:
        task = bar.add_task("compiling", total=None)
        rate = _Rate()

        def report(progress: Progress) -> None:
            text = _describe(progress, rate.per_second(progress.step), ("val_accuracy", "val_rmse"))
            bar.update(task, total=progress.num_steps, completed=progress.step, description=text)

        yield report


def _plain_reporter() -> Callable[[Progress], None]:
    rate = _Rate()
    printed = 0

    def report(progress: Progress) -> None:
        nonlocal printed
        done = progress.step * 20 // progress.num_steps
        if done > printed and progress.metrics.get("step") == progress.step:
            printed = done
            line = _describe(progress, rate.per_second(progress.step))
            print(f"step {progress.step}/{progress.num_steps}  {line}", flush=True)

    return report


class _Rate:
    """Steps per second since the first report, so that compilation does not count."""

    def __init__(self):
        self.first: tuple[float, int] | None = None

    def per_second(self, step: int) -> float:
        now = time.perf_counter()
        self.first = self.first or (now, step)
        return (step - self.first[1]) / max(now - self.first[0], 1e-9)


def _describe(
    progress: Progress, rate: float, names: Sequence[str] = ("val_loss", "val_accuracy", "val_rmse")
) -> str:
    """The loss, the metrics `names` that are there, and the rate, which the first report lacks."""
    texts = [f"loss {progress.loss:.4g}"]
    texts += [f"{name} {progress.metrics[name]:.4g}" for name in names if name in progress.metrics]
    return "  ".join([*texts, f"{rate:,.0f} steps/s"] if rate else texts)


def _print_run(run: Run) -> None:
    """Print the final metrics as a table, and where everything is."""
    from rich.console import Console
    from rich.table import Table

    table = Table(box=None, pad_edge=False)
    table.add_column("")
    for name in run.metrics["train"]:
        table.add_column(name, justify="right")
    for split, metrics in run.metrics.items():
        table.add_row(split, *map(_format, metrics, metrics.values()))
    Console().print(table)
    print(f"{run.folder}: " + ", ".join(sorted(path.name for path in run.folder.iterdir())))


def _format(name: str, value: float | None) -> str:
    if value is None:
        return "-"
    return f"{value:.2%}" if name == "accuracy" else f"{value:.4g}"
