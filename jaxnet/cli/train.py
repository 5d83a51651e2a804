"""`jaxnet train` and `jaxnet import`: what they run, and what they print."""

from __future__ import annotations

import contextlib
import os
import shlex
import shutil
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from jaxnet.runs.config import Config

if TYPE_CHECKING:
    from jax.sharding import Mesh

    from jaxnet.runs.run import Dataset, Progress, Run
    from jaxnet.tables.records import Conversion

REPORT_SECONDS = 2.0  # between the lines about a conversion
REASONS = {
    "epochs": "all are made",
    "patience": "the validation loss fell no more (--patience)",
    "max_time": "the time is over (--max-time)",
}


def train(config: Config) -> int:
    """Train a new run, and say where it is and what to try next."""
    _set_threads(config)
    from jaxnet import runs
    from jaxnet.engine import processes

    with processes.raise_together():
        dataset = runs.prepare(config, on_convert=conversion_reporter())
        _print_dataset(dataset, config)
    with _reporter() as on_progress:
        run = runs.train(config, dataset=dataset, on_progress=on_progress)
    _print_run(run)
    _print_next(run, dataset)
    return 0


def resume(folder: Path, config: Config) -> int:
    """Resume a run, with the options of `config` where they differ from its own."""
    from jaxnet import runs
    from jaxnet.engine import processes

    _set_threads(config)
    with processes.raise_together():
        if config.out is not None:
            raise ValueError(f"`out` must not be given with `resume`, got {config.out}")
        record = runs.Record.load(folder)
        changed = record.changes(config)
        config = record.changed(folder, changed)
        dataset = runs.prepare_again(folder, record, config, conversion_reporter())
        _print_dataset(dataset, config)
    with _reporter() as on_progress:
        run = runs.resume(
            folder, record=record, dataset=dataset, on_progress=on_progress, **changed
        )
    _print_run(run)
    _print_next(run, dataset)
    return 0


def _set_threads(config: Config) -> None:
    """As many threads everywhere: their number decides the last bits on a CPU."""
    if config.deterministic:
        from jaxnet.engine import deterministic

        os.environ.setdefault("NPROC", str(deterministic.SHARDS))


def import_weights(
    path: Path, like: Path | None, layers: tuple[str, ...], config: Config, hidden: tuple[int, ...]
) -> int:
    """Begin a run with the weights in a file; `hidden` are the sizes if none were asked for."""
    from jaxnet import runs
    from jaxnet.export import torch_weights
    from jaxnet.runs.model import load

    params = torch_weights.read(path, layers)
    sizes = tuple(params[f"b{k}"].shape[0] for k in range(1, len(params) // 2 + 1))
    if config.hidden not in (sizes[:-1], hidden):
        raise ValueError(f"`hidden` must be {sizes[:-1]}, as in {path}, got {config.hidden}")
    usual = "off" if config.gram == "auto" else config.gram  # the dual form is of drawn weights
    config = replace(config, hidden=sizes[:-1], gram=usual)
    dataset = runs.prepare(
        config, None if like is None else load(like).encoding, conversion_reporter()
    )
    d_in, d_out = dataset.spec.sizes[0], dataset.spec.sizes[-1]
    if (params["w1"].shape[0], sizes[-1]) != (d_in, d_out):
        raise ValueError(
            f"{path}: has {params['w1'].shape[0]} inputs and {sizes[-1]} outputs, and the data "
            f"{d_in} inputs and {d_out} outputs"
        )
    params = {name: leaf.astype(config.dtype) for name, leaf in params.items()}
    _print_dataset(dataset, config)
    folder = runs.create(config, params, dataset=dataset)
    line = runs.evaluate_validation(folder).result()
    texts = [f"{name} {format_(name, value)}" for name, value in line.items()]
    print(f"{folder}: {path.name} on the validation rows: {', '.join(texts)}")
    print_commands(f"train --resume {quote(folder)}", f"evaluate {quote(folder)}")
    return 0


def _print_dataset(dataset: Dataset, config: Config) -> None:
    """Say what was read, what was chosen, and how to choose otherwise."""
    from jaxnet.runs import trainer

    # refuses options that exclude each other, before anything is said
    config, placement = trainer.resolve(config, dataset)
    mesh = placement.mesh
    rows = dataset.train_rows, dataset.validation_rows
    print(f"{Path(dataset.table.path).name}: {rows[0]} rows to train on, {rows[1]} to validate on")
    print_task(dataset, config)
    sizes = "-".join(map(str, dataset.spec.sizes))
    print(f"network {sizes} {config.activation}, {config.optimizer}, batch {dataset.batch_size}")
    if mesh is not None:
        print(_mesh_text(mesh, dataset.batch_size // mesh.shape["data"]))
    if config.gram == "on":
        usual, dual_form = trainer.operations(config, dataset)
        print(
            f"its first layer in dual form, for {dataset.spec.sizes[0]:,} columns and {rows[0]:,} "
            f"rows: {dual_form / usual:.1%} of the operations (--gram off)"
        )


def _mesh_text(mesh: Mesh, rows: int) -> str:
    processes = len({device.process_index for device in mesh.devices.flat})
    axes = ",".join(f"{name}={size}" for name, size in mesh.shape.items() if size > 1)
    devices = f"{mesh.size} {mesh.devices.flat[0].platform} device{'s' * (mesh.size > 1)}"
    where = f"{devices} in {processes} processes" if processes > 1 else devices
    return f"on {where}{f' ({axes})' * bool(axes)}, {rows} rows of each batch to one"


def print_task(dataset: Dataset, config: Config) -> None:
    """Say which task was chosen, why, and how to choose the other."""
    other = "regression" if dataset.task == "classification" else "classification"
    target = dataset.encoding.target.name
    column = dataset.table.columns[target]
    either = column.dtype != object and column.ndim == 1  # text or (N, D) leaves no choice
    override = f" (--task {other} overrides)" if config.task == "auto" and either else ""
    print(f"{dataset.task} of {target!r}, since {dataset.reason}{override}")


def conversion_reporter() -> Callable[[Conversion], None]:
    """Say on stderr, every few seconds, how far the arrays of a mapped table are, and at the end
    where.
    """
    began = told = time.perf_counter()

    def report(progress: Conversion) -> None:
        nonlocal told
        now = time.perf_counter()
        if progress.whole:
            print(
                f"jaxnet: {progress.rows:,} rows are mapped from {short(progress.folder)} "
                f"({progress.written:,} bytes), which may be deleted: it is made when needed",
                file=sys.stderr,
            )
        elif now - told >= REPORT_SECONDS:
            told = now
            rate = progress.written / 1e6 / (now - began)
            print(f"jaxnet: {progress.rows:,} rows converted, {rate:.0f} MB/s", file=sys.stderr)

    return report


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
        per_second = rate.per_second(progress.step)
        for line in progress.lines:
            done = line["step"] * 20 // progress.num_steps
            if done > printed:
                printed = done
                there = progress._replace(loss=line["train_loss"], metrics=line)
                text = _describe(there, per_second)
                print(f"step {line['step']}/{progress.num_steps}  {text}", flush=True)

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
    """Print the model's metrics as a table, which epoch it is, and where everything is."""
    from rich.console import Console
    from rich.table import Table

    table = Table(box=None, pad_edge=False)
    table.add_column(f"epoch {run.epoch}")
    for name in run.metrics["train"]:
        table.add_column(name, justify="right")
    for split, metrics in run.metrics.items():
        table.add_row(split, *map(format_, metrics, metrics.values()))
    done = f"done after {run.epochs} epoch{'s' * (run.epochs != 1)}"
    print(f"{done}: {REASONS[run.reason]}; the model is that of the lowest validation loss:")
    Console().print(table)
    names = (path.name + "/" * path.is_dir() for path in run.folder.iterdir())
    print(f"{run.folder}: " + ", ".join(sorted(name for name in names if name[0] != ".")))


def _print_next(run: Run, dataset: Dataset) -> None:
    folder, data = quote(run.folder), quote(short(Path(dataset.source["path"])))
    commands = [
        f"show {folder}",
        f"predict {folder} --data {data} --out {quote(_free('predictions', '.csv'))}",
        f"export {folder}",
    ]
    if Path(dataset.source["path"]).is_dir():  # `predict` takes one file
        del commands[1]
    print_commands(*commands)


def _free(name: str, suffix: str) -> Path:
    """name.suffix, or name-2.suffix and so on: the first that does not exist here."""
    path, number = Path(name + suffix), 2
    while path.exists():
        path, number = Path(f"{name}-{number}{suffix}"), number + 1
    return path


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


def short(path: Path) -> Path:
    """The path as seen from here, where it is below."""
    absolute, here = path.absolute(), Path(os.getcwd())
    return absolute.relative_to(here) if absolute.is_relative_to(here) else absolute


def quote(path: Path) -> str:
    return shlex.quote(str(path))


def format_(name: str, value: float | None) -> str:
    if value is None:
        return "-"
    return f"{value:.2%}" if name == "accuracy" else f"{value:.4g}"
