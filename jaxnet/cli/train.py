"""`jaxnet train`: train a new run, or resume one."""

from __future__ import annotations

import contextlib
import itertools
import os
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from jaxnet.cli import text
from jaxnet.cli.options import TrainingCommand
from jaxnet.cli.processes import ProcessOptions, join
from jaxnet.runs import drawing
from jaxnet.runs.config import Config

if TYPE_CHECKING:
    from jax.sharding import Mesh

    from jaxnet.runs.run import Dataset, Progress, Run

REASONS = {
    "epochs": "all that were asked for",
    "patience": "the validation loss has stopped falling (--patience)",
    "max_time": "the time is up (--max-time)",
}


@dataclass(frozen=True, kw_only=True)
class Train(TrainingCommand):
    """Train a network on a table, or on the handwritten digits.

    Examples:
      jaxnet train
      jaxnet train --data wine.csv --target class
      jaxnet train --data houses.parquet --target price --hidden 256 64
      jaxnet train --data genes.npz --target y --optimizer adamw
      jaxnet train --data parts/ --target price --batch-size 4096 --devices all
      jaxnet train --resume runs/wine-1 --epochs 100
    """

    processes: ProcessOptions = field(default_factory=ProcessOptions)
    resume: Path | None = None
    """The folder of a run to resume, to the same bits as if it had never stopped. It keeps its
    options; only the epochs, learning rate, schedule, patience, devices, memory and checkpoints
    may be given anew."""

    def beside(self) -> contextlib.AbstractContextManager:
        """What goes on beside this command, imports included."""
        return drawing.beside() if self.processes == ProcessOptions() else contextlib.nullcontext()

    @property
    def options_from(self) -> Path | None:
        return self.resume

    def __call__(self) -> int:
        config = self.config()
        join(self.processes)
        if config.deterministic:  # the number of threads decides the last bits on a CPU
            from jaxnet.engine import deterministic

            os.environ.setdefault("NPROC", str(deterministic.SHARDS))
        from jaxnet import runs
        from jaxnet.engine import processes

        changed: dict[str, Any] = {}
        report = text.conversion_reporter()
        with processes.raise_together():
            if self.resume is None:
                dataset = runs.prepare(config, on_convert=report)
            else:
                if config.out is not None:
                    raise ValueError(f"`out` must not be given with `resume`, got {config.out}")
                record = runs.Record.load(self.resume)
                changed = {"record": record, **record.changes(config)}
                config = record.changed(self.resume, record.changes(config))
                dataset = runs.prepare_again(self.resume, record, config, report)
            print_dataset(dataset, config)
        with _reporter() as on_progress:
            if self.resume is None:
                run = runs.train(config, dataset=dataset, on_progress=on_progress)
            else:
                run = runs.resume(self.resume, dataset=dataset, on_progress=on_progress, **changed)
        _print_run(run)
        _print_next(run, dataset)
        return 0


def print_dataset(dataset: Dataset, config: Config) -> None:
    """Print what was read, what was chosen, and how to choose otherwise.

    Raises: ValueError for options that do not fit the data or the devices.
    """
    from jaxnet.runs import trainer

    chosen = config.epochs is None
    config, placement = trainer.resolve(config, dataset)  # raises before anything is printed
    mesh = placement.mesh
    rows = len(dataset.train), len(dataset.validation)
    print(f"{Path(dataset.table.path).name}: {rows[0]} rows to train on, {rows[1]} to validate on")
    text.print_task(dataset, config)
    sizes = "-".join(map(str, dataset.spec.sizes))
    several = f"{config.ensemble} networks" if config.ensemble > 1 else "network"
    print(f"{several} {sizes} {config.activation}, {config.optimizer}, batch {dataset.batch_size}")
    if chosen:
        epochs, steps = text.count(config.epochs or 0, "epoch"), dataset.num_steps(config)
        print(f"{epochs}, which are {steps:,} steps, for so many rows (--epochs overrides)")
    if mesh is not None:
        print(_mesh_text(mesh, dataset.batch_size // mesh.shape["data"]))
    if config.gram == "on":
        usual, dual = trainer.operations(config, dataset)
        print(
            f"the first layer is trained in its dual form: for {dataset.spec.sizes[0]:,} columns "
            f"and {rows[0]:,} rows it takes {dual / usual:.1%} of the operations (--gram off "
            "overrides)"
        )
    if trainer.bfloat16_pays(config, dataset):
        print(
            "--dtype bfloat16 would take about half the time on this processor, or less; its "
            "products keep 8 bits of each number"
        )


def _mesh_text(mesh: Mesh, rows: int) -> str:
    processes = len({device.process_index for device in mesh.devices.flat})
    axes = ",".join(f"{name}={size}" for name, size in mesh.shape.items() if size > 1)
    devices = text.count(mesh.size, f"{mesh.devices.flat[0].platform} device")
    where = f"{devices} in {processes} processes" if processes > 1 else devices
    return f"on {where}{f' ({axes})' * bool(axes)}, {rows} rows of each batch on each"


@contextlib.contextmanager
def _reporter() -> Iterator[Callable[[Progress], None]]:
    """Yield the progress callback: a live bar on a terminal, else about twenty plain lines."""
    from rich import progress as rich
    from rich.console import Console

    console = Console(file=getattr(sys.stdout, "stream", sys.stdout))  # which it may steer
    if not console.is_terminal:
        yield _plain_reporter()
        return
    columns = rich.BarColumn(), rich.TaskProgressColumn(), rich.TextColumn("{task.description}")
    with rich.Progress(*columns, rich.TimeRemainingColumn(), console=console) as bar:
        task, describe = bar.add_task("compiling", total=None), _describer("accuracy", "rmse")

        def report(progress: Progress) -> None:
            shown = describe(progress.step, progress.loss, progress.metrics)
            bar.update(task, total=progress.num_steps, completed=progress.step, description=shown)

        yield report


def _plain_reporter() -> Callable[[Progress], None]:
    describe, printed = _describer("loss", "accuracy", "rmse"), 0

    def report(progress: Progress) -> None:
        nonlocal printed
        for line in progress.lines:
            shown = describe(progress.step, line["train_loss"], line)
            twentieths = line["step"] * 20 // progress.num_steps
            if twentieths > printed:
                printed = twentieths
                print(f"step {line['step']}/{progress.num_steps}  {shown}", flush=True)

    return report


def _describer(*names: str) -> Callable[[int, float, dict[str, Any]], str]:
    """Return a function that writes the training loss, some validation metrics, and the steps per
    second since its first call, so that compilation does not count.
    """
    first: tuple[float, int] | None = None

    def describe(step: int, loss: float, metrics: dict[str, Any]) -> str:
        nonlocal first
        now = time.perf_counter()
        first = first or (now, step)
        rate = (step - first[1]) / max(now - first[0], 1e-9)
        texts = [f"loss {text.metric_text('loss', loss)}"]
        texts += text.metric_texts(metrics, [f"val_{name}" for name in names])
        return "  ".join([*texts, f"{rate:,.0f} steps/s"] if rate else texts)

    return describe


def _print_run(run: Run) -> None:
    """Print why the run ended, the metrics of its best epoch, and where everything is."""
    done = f"done after {text.count(run.epochs, 'epoch')}"
    print(f"{done}: {REASONS[run.reason]}; the model is that of the lowest validation loss:")
    print(text.model_text({"epoch": run.epoch, **run.metrics, "calibration": run.calibration}))
    text.print_folder(run.folder)
    text.print_old_exports(run.folder)


def _print_next(run: Run, dataset: Dataset) -> None:
    folder, data = text.quote(run.folder), text.short(Path(dataset.source["path"]))
    names = (f"predictions{f'-{i}' * (i > 1)}.csv" for i in itertools.count(1))
    free = next(name for name in names if not Path(name).exists())
    predict = f"predict {folder} --data {text.quote(data)} --out {free}"
    evaluate = f"evaluate {folder} --importance"
    text.print_commands(f"show {folder}", evaluate, predict, f"export {folder}")
