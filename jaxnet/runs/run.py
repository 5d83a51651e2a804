"""A run as a folder: train it, kill it at any moment, resume it to the same bits.

Several processes (`engine.processes`) call the same: process 0 alone writes, and each has the
result.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from jaxnet import files
from jaxnet.engine import checkpoint, processes
from jaxnet.runs import session, state, tensorboard, trainer
from jaxnet.runs.config import Config
from jaxnet.runs.dataset import Dataset, prepare
from jaxnet.runs.evaluation import measure
from jaxnet.runs.folder import CHECKPOINTS, EVENTS, FILES, METRICS, new_folder
from jaxnet.runs.loop import Progress
from jaxnet.runs.model import load
from jaxnet.runs.record import Record, digest
from jaxnet.runs.session import Run
from jaxnet.tables.convert import Conversion
from jaxnet.tables.metrics import Metrics
from jaxnet.tables.rows import Rows


def train(
    config: Config,
    *,
    table: Any = None,
    dataset: Dataset | None = None,
    on_progress: Callable[[Progress], None] = lambda progress: None,
) -> Run:
    """Train as `config` says, in a new folder; `dataset` is `prepare(config)` if at hand.

    table: a data frame, or a mapping of names to columns, to train on in place of `config.data`.
    on_progress is called after each chunk of steps. A first Ctrl-C or SIGTERM is noted: the run
    saves and raises at the end of the chunk.

    Raises: ValueError for bad input, FileExistsError for a folder that holds a run, OSError for one
    that cannot be written, Stopped (a KeyboardInterrupt) after a signal, FloatingPointError for a
    loss that becomes NaN or infinite, RemoteError for an error of another process, ProcessLost if
    it no longer answers. What was saved before stays, and `resume` continues from there; a folder
    in which nothing was saved is removed.
    """
    with processes.raise_together():
        dataset = dataset or prepare(config, table=table)
        # as decided here, since a resumed run of more epochs, or elsewhere, might decide otherwise
        config, placement = trainer.resolve(config, dataset)
        record = Record.of(config, dataset, placement.mesh)
    with contextlib.ExitStack() as stack:
        folder = Path(config.out or "")
        with _raise_together_as_one(config, dataset):
            if processes.is_main():
                folder = stack.enter_context(_new_folder(config, dataset))
                record.save(folder)
        folder = Path(processes.broadcast_json(str(folder)))
        return session.train(folder, record, record.config, dataset, placement, on_progress)


@contextlib.contextmanager
def _raise_together_as_one(config: Config, dataset: Dataset) -> Iterator[None]:
    """`processes.raise_together`, once all of them are known to have the same options and data."""
    said = processes.gather_ints([digest(config, dataset)])[:, 0]
    with processes.raise_together():
        for i in np.flatnonzero(said != said[0]):
            raise ValueError(f"`config` and `data` must be those of process 0 in process {i} too")
        yield


def create(config: Config, params: dict[str, np.ndarray], *, dataset: Dataset) -> Path:
    """Make the folder of a run that begins with the weights `params`, and return it.

    They are its checkpoint of step 0, and its best model until training finds a better one.

    Raises: as `train`; ValueError for parameters of other names, shapes or values than the network.
    """
    wanted = {name: (shape, config.param_dtype) for name, shape in dataset.spec.shapes().items()}
    got = {name: (np.shape(leaf), str(np.asarray(leaf).dtype)) for name, leaf in params.items()}
    if wanted != got:
        raise ValueError(f"`params` must have the shapes and dtypes {wanted}, got {got}")
    if config.ensemble > 1:
        raise ValueError(
            f"`ensemble` must be 1 for a run that begins with given weights, got {config.ensemble}"
        )
    if config.gram == "on":
        raise ValueError("`gram` must be off for a run that begins with given weights, got on")
    config, placement = trainer.resolve(replace(config, gram="off"), dataset)
    record = Record.of(config, dataset, placement.mesh)
    with _new_folder(config, dataset) as folder, trainer.on_device(config):
        made = trainer.make_trainer(config, dataset, params, placement)
        blocks, target = dataset.validation.blocks(), dataset.encoding.target
        metrics = measure(dataset.spec, target, params, blocks).short()
        line = {"step": 0, "epoch": 0, **{f"val_{name}": v for name, v in metrics.items()}}
        with checkpoint.Writer(folder / CHECKPOINTS, config.keep) as writer:
            began = state.begin(made.params, made.optimizer)._replace(best_line=line)
            state.save(writer, folder, made.weights, began, record.identity())
        record.save(folder)  # last, so that a run without its weights is none
    return folder


def resume(
    folder: str | Path,
    *,
    table: Any = None,
    record: Record | None = None,
    dataset: Dataset | None = None,
    on_progress: Callable[[Progress], None] = lambda progress: None,
    **changed: Any,
) -> Run:
    """Resume a run from its newest checkpoint, to the bits of a run that was never stopped.

    table: that of `train`, if the run was trained on one. record, dataset: `Record.load(folder)`
    and `prepare_again(...)`, if at hand. changed: options to change from here on, of
    `config.RESUMABLE`; and `data`, if the same file is elsewhere now. On other devices, or in
    another number of processes, losses agree to rounding. A run that has ended is only loaded.

    Raises: as `train`; ValueError for another option that differs, for other data, or for files of
    the run that are damaged or were edited; FileNotFoundError for a folder that holds no run;
    BlockingIOError if another process writes it.
    """
    folder = Path(folder)
    with processes.raise_together():
        record = record or Record.load(folder)
        config = record.changed(folder, changed)
        dataset = dataset or prepare_again(folder, record, config, table=table)
        config, placement = trainer.resolve(config, dataset)
    with contextlib.ExitStack() as stack:
        with _raise_together_as_one(config, dataset):
            if processes.is_main():
                stack.enter_context(files.lock(folder))
        return session.train(folder, record, config, dataset, placement, on_progress)


def prepare_again(
    folder: str | Path,
    record: Record,
    config: Config | None = None,
    on_convert: Callable[[Conversion], None] = lambda progress: None,
    *,
    table: Any = None,
) -> Dataset:
    """Return the dataset of the run in a folder, with the encoding that it began with.

    config: its options from here on, if some change. table: as in `resume`.

    Raises: ValueError if the data are not those that it began with.
    """
    config = config or record.config
    if table is None and config.data is None and config.target is not None:
        raise ValueError(
            f"{folder}: the run was trained on a data frame, which no file holds; give it as "
            "`table` in Python"
        )
    try:
        dataset = prepare(config, record.encoding, on_convert, table=table)
    except FileNotFoundError as error:
        raise FileNotFoundError(f"{error}; if it has moved, resume with its new `data`") from None
    began, now = record.data, dataset.source
    if now["sha256"] != began["sha256"]:
        what = "`data` must be the file" if table is None else "`table` must be the one"
        raise ValueError(
            f"{what} that {folder} began with ({began['bytes']:,} bytes, sha256 "
            f"{began['sha256'][:12]}...); {now['path'] or 'this'} has {now['bytes']:,} bytes, "
            f"sha256 {now['sha256'][:12]}..."
        )
    return dataset


def evaluate_validation(folder: str | Path, *, table: Any = None) -> Metrics:
    """Return the metrics of a run's model on its own validation rows; table: as in `resume`."""
    return load(folder).measure(validation_rows(folder, table=table).blocks())


def validation_rows(folder: str | Path, *, table: Any = None) -> Rows:
    """Return a run's validation rows, encoded. Raises: as `prepare_again`."""
    return prepare_again(folder, Record.load(folder), table=table).validation


def _new_folder(config: Config, dataset: Dataset) -> contextlib.AbstractContextManager[Path]:
    if config.tensorboard:
        tensorboard.require()

    def holds_something(folder: Path) -> bool:
        return bool(checkpoint.steps(folder / CHECKPOINTS)) or (folder / METRICS).exists()

    name = dataset.source["name"].partition(".")[0]
    return new_folder(config.out, name, (*FILES, EVENTS), holds_something)
