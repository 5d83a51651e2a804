"""A training run as a folder: begun, killed at any moment, gone on with to the same bits, loaded.

Several processes (`processes`) call the same: process 0 alone writes, and each has the result.

run = runs.train(Config(data="wine.csv", target="class"))   # runs/wine-1
run = runs.resume("runs/wine-1", epochs=100)
runs.load("runs/wine-1").predict({"alcohol": [13.2, 12.4], ...})
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from jax.sharding import Mesh

from jaxnet.engine import checkpoint, processes
from jaxnet.engine.mesh import own_device
from jaxnet.engine.signals import ProcessLost, RemoteError, Stopped
from jaxnet.files import lock, read_json, write_json
from jaxnet.runs import record, session, state, tensorboard, trainer
from jaxnet.runs.config import Config
from jaxnet.runs.dataset import Dataset, prepare
from jaxnet.runs.folder import CHECKPOINTS, CONFIG, METRICS, check_free, discard, make
from jaxnet.runs.loop import Progress
from jaxnet.runs.model import encoding_from_json, load
from jaxnet.runs.record import changed_config, read_config
from jaxnet.runs.session import Run
from jaxnet.tables.metrics import Metrics
from jaxnet.tables.records import Conversion

__all__ = [
    "ProcessLost",
    "Progress",
    "RemoteError",
    "Run",
    "Stopped",
    "changed_config",
    "create",
    "evaluate_validation",
    "load",
    "prepare",
    "prepare_again",
    "read_config",
    "resume",
    "train",
]  # fmt: skip


def train(
    config: Config,
    *,
    dataset: Dataset | None = None,
    on_progress: Callable[[Progress], None] = lambda progress: None,
) -> Run:
    """Train as `config` says, in a new folder; `dataset` is `prepare(config)` if at hand.

    on_progress is called after each chunk of steps. A first Ctrl-C or SIGTERM is noted: the run
    saves and raises at the end of the chunk.

    Raises: ValueError for bad input, FileExistsError for a folder that holds a run, OSError for one
    that cannot be written, Stopped (a KeyboardInterrupt) after a signal, FloatingPointError for a
    loss that becomes NaN or infinite, RemoteError for an error of another process, ProcessLost if
    it no longer answers. What was saved before stays, and `resume` continues from there; a folder
    in which nothing was saved is removed.
    """
    with processes.raise_together():
        dataset = dataset or prepare(config)
        # as chosen, since a resumed run of more epochs, or one elsewhere, might choose otherwise
        config, placement = trainer.resolve(config, dataset)
    with contextlib.ExitStack() as stack:
        folder = Path(config.out or "")
        with _raise_together_as_one(config, dataset):
            if processes.is_main():
                folder, described = stack.enter_context(
                    _new_folder(config, dataset, placement.mesh)
                )
                write_json(folder / CONFIG, described)
        folder = Path(processes.broadcast_json(str(folder)))
        return session.train(folder, config, dataset, placement, None, on_progress)


@contextlib.contextmanager
def _raise_together_as_one(config: Config, dataset: Dataset) -> Iterator[None]:
    """`processes.raise_together`, once all of them are known to have the same options and data."""
    said = processes.gather_ints([record.digest(config, dataset)])[:, 0]
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
    if config.gram == "on":
        raise ValueError("`gram` must be off for a run that begins with given weights, got on")
    config, placement = trainer.resolve(replace(config, gram="off"), dataset)
    new = _new_folder(config, dataset, placement.mesh)
    with new as (folder, described), trainer.on_device(config):
        made = trainer.make_trainer(config, dataset, params, placement)
        metrics = trainer.evaluate(dataset, params, dataset.validation).result()
        line = {"step": 0, "epoch": 0, **{f"val_{name}": v for name, v in metrics.items()}}
        with checkpoint.Writer(folder / CHECKPOINTS, config.keep) as writer:
            began = state.begin(made)._replace(best_line=line)
            state.save(writer, folder, made, began, record.identity(described))
        # last, so that a run without its weights is none
        write_json(folder / CONFIG, described)
    return folder


def resume(
    folder: str | Path,
    *,
    dataset: Dataset | None = None,
    on_progress: Callable[[Progress], None] = lambda progress: None,
    **changed: Any,
) -> Run:
    """Go on with a run from its newest checkpoint, to the bits of a run that was never stopped.

    changed: options of `Config` to change from here on: epochs, learning_rate, schedule, patience,
    max_time, checkpoint_every, keep, tensorboard, device, devices, accumulate, remat, on_disk; and
    `data`, if the same file is elsewhere now. On other devices, or in another number of processes,
    losses agree to rounding. A run that has ended is only loaded.

    Raises: as `train`; ValueError for another option that differs, for other data, or for files of
    the run that are damaged or were edited; FileNotFoundError for a folder that holds no run;
    BlockingIOError if another process writes it.
    """
    folder = Path(folder)
    with processes.raise_together():
        config, before = changed_config(folder, changed), read_config(folder)
        dataset = dataset or prepare_again(folder, config)
        config, placement = trainer.resolve(config, dataset)
    with contextlib.ExitStack() as stack:
        with _raise_together_as_one(config, dataset):
            if processes.is_main():
                stack.enter_context(lock(folder))
        return session.train(folder, config, dataset, placement, before, on_progress)


def prepare_again(
    folder: str | Path,
    config: Config,
    on_convert: Callable[[Conversion], None] = lambda progress: None,
) -> Dataset:
    """The dataset of a run, with the encoding that it began with.

    Raises: ValueError if the data are not those that it began with.
    """
    path = Path(folder) / CONFIG
    described = read_json(path)
    try:
        encoding, began = encoding_from_json(described["encoding"]), described["data"]
        size, digest = began["bytes"], began["sha256"]
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(
            f"{path}: not the description of a run ({error}); was it edited?"
        ) from None
    try:
        dataset = prepare(config, encoding, on_convert)
    except FileNotFoundError as error:
        raise FileNotFoundError(f"{error}; if it has moved, resume with its new `data`") from None
    if dataset.source["sha256"] != digest:
        raise ValueError(
            f"`data` must be the file that {folder} began with ({size:,} bytes, sha256 "
            f"{str(digest)[:12]}...); {dataset.source['path']} has {dataset.source['bytes']:,} "
            f"bytes, sha256 {dataset.source['sha256'][:12]}..."
        )
    return dataset


def evaluate_validation(folder: str | Path) -> Metrics:
    """The metrics of a run's model on its own validation rows."""
    model = load(folder)
    dataset = prepare_again(folder, read_config(folder))
    metrics = Metrics(model.spec.loss, model.encoding.target)
    for batch in dataset.validation.blocks():
        metrics.update(model.outputs(batch.x), batch.y)
    return metrics


@contextlib.contextmanager
def _new_folder(
    config: Config, dataset: Dataset, mesh: Mesh | None
) -> Iterator[tuple[Path, dict[str, Any]]]:
    """Make and lock the folder of a new run, which is removed again if nothing is saved in it.

    Yields the folder, and what its config.json has to hold.
    """
    if config.tensorboard:
        tensorboard.require()
    described = record.describe(config, dataset, own_device(config.device), mesh)
    folder, new = make(config.out, Path(dataset.table.path).name.split(".")[0])
    with lock(folder):
        check_free(folder)
        try:
            yield folder, described
        except BaseException:  # Ctrl-C too
            saved = checkpoint.steps(folder / CHECKPOINTS)
            if not saved and not (folder / METRICS).exists():
                discard(folder, new)
            raise
