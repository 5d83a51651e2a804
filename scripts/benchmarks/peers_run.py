"""jaxnet's own runs: all that `jaxnet train` does, timed by its progress."""

from __future__ import annotations

import os
import shutil
import tempfile
import time
from dataclasses import replace
from pathlib import Path

import numpy as np

from jaxnet import data, runs
from jaxnet.runs.config import Config
from jaxnet.runs.dataset import Dataset, prepare
from jaxnet.runs.folder import read_metrics
from jaxnet.spec import Batch

from .check import Case
from .participant import Inapplicable
from .workloads import Workload

SETTLED = 5  # the first fifth of a run is not timed: it compiles, and finds its chunks' length
FULL_BATCH_EPOCHS = 100  # between evaluations, where an epoch is one step


def config_of(workload: Workload, rows: int, **options) -> Config:
    """The options of a run on the workload: its network, optimizer and rows, on a file."""
    held_out = 359 if workload.digits and rows == workload.rows else max(10, rows // 1000)
    path = _file(workload, rows, held_out)
    return replace(
        Config(
            data=str(path), target="y", task="classification",
            validation=held_out / (rows + held_out), hidden=workload.sizes[1:-1],
            activation=workload.activation, optimizer=workload.optimizer,
            learning_rate=workload.learning_rate, schedule="constant",
            batch_size=workload.batch or rows, gram="off", dtype=workload.dtype,
        ),
        **options,
    )  # fmt: skip


def _file(workload: Workload, rows: int, held_out: int) -> Path:
    """A table of training and validation rows, made once for all processes."""
    path = Path(tempfile.gettempdir()) / f"{workload.name}-{rows}-rows.npz"
    if not path.exists():
        x, y = _table(workload, rows + held_out)
        partial = path.with_suffix(f".{os.getpid()}")
        with partial.open("wb") as file:
            np.savez(file, x=x, y=y)
        partial.rename(path)
    return path


def _table(workload: Workload, rows: int) -> tuple[np.ndarray, np.ndarray]:
    if workload.digits:
        with np.load(data.digits_path()) as file:
            return file["pixels"][:rows], file["digit"][:rows]
    rng = np.random.default_rng(workload.seed)
    x = rng.standard_normal((rows, workload.sizes[0]), dtype=np.float32)
    return x, np.arange(rows) % workload.sizes[-1]


class Train:
    """Runs, each from the beginning, since a run is a folder; the table is read once."""

    def __init__(self, workload: Workload, table: Batch, **options):
        every = FULL_BATCH_EPOCHS if workload.batch is None else 1
        self._workload, self._options = workload, {"evaluate_every": every} | options
        self._folder = Path(tempfile.mkdtemp(prefix="runs-"))
        self._dataset: Dataset | None = None
        self._run: runs.Run | None = None

    def run(self, num_steps):
        self._train(num_steps)
        assert self._run
        lines = read_metrics(self._run.folder)
        return np.array([line["train_loss"] for line in lines])

    def seconds(self, num_steps):
        """Of the steps after the first fifth, by the times of their progress."""
        while True:
            seen = self._train(num_steps)
            settled = [(t, step) for t, step in seen if step * SETTLED >= seen[-1][1]]
            (began, first), (ended, last) = settled[0], settled[-1]
            if last > first:
                return ended - began, last - first
            num_steps *= 2

    def params(self):
        assert self._run
        return self._run.params

    def own_results(self, num_steps):
        """A run on few rows, evaluated after each epoch, and its steps as NumPy would make them."""
        workload = self._workload
        rows = workload.rows if workload.batch is None else 4 * workload.batch
        epochs = num_steps if workload.batch is None else -(-num_steps // 4)
        options = self._options | {"epochs": epochs, "evaluate_every": 1}
        config = replace(config_of(workload, rows, **options), out=str(self._folder / "check"))
        dataset = prepare(config)
        run = runs.train(config, dataset=dataset)
        lines = read_metrics(run.folder)
        per_epoch = dataset.steps_per_epoch
        rows_at = data.row_batches(rows, dataset.batch_size, config.seed)
        batches = [dataset.train.batch(rows_at(step)) for step in range(epochs * per_epoch)]
        case = Case(
            dataset.spec, dataset.spec.init(config.seed), batches, workload.optimizer,
            workload.learning_rate, run.epoch * per_epoch, workload.dtype,
        )  # fmt: skip
        return [(case, np.array([line["train_loss"] for line in lines]), run.params)]

    def _train(self, num_steps):
        per_epoch = self._workload.rows // self._workload.step_rows
        epochs = max(1, -(-num_steps // per_epoch))
        folder = self._folder / "run"
        shutil.rmtree(folder, ignore_errors=True)  # the one before
        options = self._options | {"epochs": epochs, "out": str(folder)}
        config = config_of(self._workload, self._workload.rows, **options)
        self._dataset = self._dataset or prepare(config)
        seen: list[tuple[float, int]] = []
        self._run = runs.train(
            config,
            dataset=self._dataset,
            on_progress=lambda progress: seen.append((time.perf_counter(), progress.step)),
        )
        return seen


def train(workload: Workload, table: Batch) -> Train:
    """A run in the usual form."""
    return Train(workload, table)


def train_gram(workload: Workload, table: Batch) -> Train:
    """A run with the first layer in its dual form."""
    if workload.optimizer != "sgd" or workload.sizes[0] <= 2 * workload.rows:
        raise Inapplicable("there are more rows than columns, or the optimizer is not linear")
    return Train(workload, table, gram="on")
