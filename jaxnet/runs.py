"""A training run as a folder: begun, killed at any moment, gone on with to the same bits, loaded.

Several processes (`processes`) call the same: process 0 alone writes, and each has the result.

run = runs.train(Config(data="wine.csv", target="class"))   # runs/wine-1
run = runs.resume("runs/wine-1", epochs=100)
runs.load("runs/wine-1").predict({"alcohol": [13.2, 12.4], ...})
"""

from __future__ import annotations

import contextlib
import logging
import signal
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh

from jaxnet import (
    checkpoint,
    description,
    forms,
    loop,
    parallel,
    placing,
    processes,
    run_folder,
    snapshot,
    tensorboard,
)
from jaxnet.config import Config
from jaxnet.description import changed_config, read_config
from jaxnet.loop import Progress
from jaxnet.mapped import MappedRows
from jaxnet.mapped_records import Conversion
from jaxnet.metrics import Metrics
from jaxnet.model import Model, encoding_from_json, load, outputs
from jaxnet.problem import Problem, batches, prepare
from jaxnet.snapshot import Snapshot
from jaxnet.spec import Batch
from jaxnet.stopping import Elsewhere, Lost, Stopped, catch_signals

__all__ = [
    "Elsewhere", "Lost", "Progress", "Run", "Stopped", "changed_config", "create",
    "evaluate_validation", "load", "prepare", "read_config", "resume", "train",
]  # fmt: skip

log = logging.getLogger("jaxnet")


@dataclass(frozen=True, eq=False, kw_only=True)
class Run(Model):
    """A run that has ended: the model of its best epoch, and where it all is.

    folder: that of the run. epoch, epochs: the model's epoch, and the epochs made. reason: why the
    run ended, "epochs", "patience" or "max_time". metrics: the model's by split, "train" and
    "validation".
    """

    folder: Path
    epoch: int
    epochs: int
    reason: str
    metrics: dict[str, dict[str, float | None]]


def train(
    config: Config,
    *,
    problem: Problem | None = None,
    on_progress: Callable[[Progress], None] = lambda progress: None,
) -> Run:
    """Train as `config` says, in a new folder; `problem` is `prepare(config)` if at hand.

    on_progress is called after each chunk of steps. A first Ctrl-C or SIGTERM is noted: the run
    saves and raises at the end of the chunk.

    Raises: ValueError for bad input, FileExistsError for a folder that holds a run, OSError for one
    that cannot be written, Stopped (a KeyboardInterrupt) after a signal, FloatingPointError for a
    loss that becomes NaN or infinite, Elsewhere for an error of another process, Lost if it no
    longer answers. What was saved before stays, and `resume` goes on from there; a folder in which
    nothing was saved is removed.
    """
    with processes.together():
        problem = problem or prepare(config)
        mesh = placing.mesh_of(config, problem)
        # as chosen, since a resumed run of more epochs, or one elsewhere, might choose otherwise
        gram, mapped = forms.use_gram(config, problem), problem.mapped
    config = replace(config, gram="on" if gram else "off", mapped="on" if mapped else "off")
    with contextlib.ExitStack() as stack:
        folder = Path(config.out or "")
        with _together_as_one(config, problem):
            if processes.is_main():
                folder, described = stack.enter_context(_new_folder(config, problem, mesh))
                run_folder.write_json(folder / run_folder.CONFIG, described)
        folder = Path(processes.broadcast_json(str(folder)))
        return _train(folder, config, problem, mesh, None, on_progress)


@contextlib.contextmanager
def _together_as_one(config: Config, problem: Problem) -> Iterator[None]:
    """`processes.together`, once all of them are known to have the same options and data."""
    said = processes.agree([description.digest(config, problem)])[:, 0]
    with processes.together():
        for i in np.flatnonzero(said != said[0]):
            raise ValueError(f"`config` and `data` must be those of process 0 in process {i} too")
        yield


def create(config: Config, params: dict[str, np.ndarray], *, problem: Problem) -> Path:
    """Make the folder of a run that begins with the weights `params`, and return it.

    They are its checkpoint of step 0, and its best model until training finds a better one.

    Raises: as `train`; ValueError for parameters of other names, shapes or values than the network.
    """
    wanted = {name: (shape, config.param_dtype) for name, shape in problem.spec.shapes().items()}
    got = {name: (np.shape(leaf), str(np.asarray(leaf).dtype)) for name, leaf in params.items()}
    if wanted != got:
        raise ValueError(f"`params` must have the shapes and dtypes {wanted}, got {got}")
    if config.gram == "on":
        raise ValueError("`gram` must be off for a run that begins with given weights, got on")
    config = replace(config, gram="off", mapped="on" if problem.mapped else "off")
    mesh = placing.mesh_of(config, problem)
    with _new_folder(config, problem, mesh) as (folder, described), on_device(config):
        form = forms.make(config, problem, params, mesh)
        metrics = _evaluate(problem, params, problem.validation).result()
        line = {"step": 0, "epoch": 0, **{f"val_{name}": v for name, v in metrics.items()}}
        with checkpoint.Writer(folder / run_folder.CHECKPOINTS, config.keep) as writer:
            began = snapshot.begin(form)._replace(best_line=line)
            snapshot.save(writer, folder, form, began, description.identity(described))
        # last, so that a run without its weights is none
        run_folder.write_json(folder / run_folder.CONFIG, described)
    return folder


def resume(
    folder: str | Path,
    *,
    problem: Problem | None = None,
    on_progress: Callable[[Progress], None] = lambda progress: None,
    **changed: Any,
) -> Run:
    """Go on with a run from its newest checkpoint, to the bits of a run that was never stopped.

    changed: options of `Config` to change from here on: epochs, learning_rate, schedule, patience,
    max_time, checkpoint_every, keep, tensorboard, device, devices, accumulate, remat, mapped; and
    `data`, if the same file is elsewhere now. On other devices, or in another number of processes,
    losses agree to rounding. A run that has ended is only loaded.

    Raises: as `train`; ValueError for another option that differs, for other data, or for files of
    the run that are damaged or were edited; FileNotFoundError for a folder that holds no run;
    BlockingIOError if another process writes it.
    """
    folder = Path(folder)
    with processes.together():
        config, before = changed_config(folder, changed), read_config(folder)
        problem = problem or prepare_again(folder, config)
        mesh = placing.mesh_of(config, problem)
    with contextlib.ExitStack() as stack:
        with _together_as_one(config, problem):
            if processes.is_main():
                stack.enter_context(run_folder.lock(folder))
        return _train(folder, config, problem, mesh, before, on_progress)


def prepare_again(
    folder: str | Path,
    config: Config,
    on_convert: Callable[[Conversion], None] = lambda progress: None,
) -> Problem:
    """The problem of a run, with the encoding that it began with.

    Raises: ValueError if the data are not those that it began with.
    """
    path = Path(folder) / run_folder.CONFIG
    described = run_folder.read_json(path)
    try:
        encoding, began = encoding_from_json(described["encoding"]), described["data"]
        size, digest = began["bytes"], began["sha256"]
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(
            f"{path}: not the description of a run ({error}); was it edited?"
        ) from None
    try:
        problem = prepare(config, encoding, on_convert)
    except FileNotFoundError as error:
        raise FileNotFoundError(f"{error}; if it has moved, resume with its new `data`") from None
    if problem.source["sha256"] != digest:
        raise ValueError(
            f"`data` must be the file that {folder} began with ({size:,} bytes, sha256 "
            f"{str(digest)[:12]}...); {problem.source['path']} has {problem.source['bytes']:,} "
            f"bytes, sha256 {problem.source['sha256'][:12]}..."
        )
    return problem


def evaluate_validation(folder: str | Path) -> Metrics:
    """The metrics of a run's model on its own validation rows."""
    model = load(folder)
    problem = prepare_again(folder, read_config(folder))
    metrics = Metrics(model.spec.loss, model.encoding.target)
    for batch in batches(problem.validation):
        metrics.update(model.outputs(batch.x), batch.y)
    return metrics


def _train(
    folder: Path,
    config: Config,
    problem: Problem,
    mesh: Mesh | None,
    before: Config | None,
    on_progress: Callable[[Progress], None],
) -> Run:
    """Train in a folder that process 0 has locked; `before` are the options so far of a run that
    goes on.
    """
    main = processes.is_main()
    identity: dict[str, Any] = {}
    writer: checkpoint.Writer | None = None
    with contextlib.ExitStack() as stack:
        stack.enter_context(_noticing(folder))
        stack.enter_context(on_device(config))
        received = stack.enter_context(catch_signals())
        checkpoints = folder / run_folder.CHECKPOINTS
        form = forms.make(config, problem, problem.spec.init(config.seed, config.param_dtype), mesh)
        now = snapshot.begin(form)
        with processes.together():
            if main:
                identity = description.identity(run_folder.read_json(folder / run_folder.CONFIG))
                now = _restore(folder, config, problem, identity, now)
                if before is not None:
                    environment = description.environment(own_device(config), mesh)
                    step = int(now.state.step)
                    description.note_resume(folder, before, config, step, environment)
                writer = stack.enter_context(checkpoint.Writer(checkpoints, config.keep))
                snapshot.write_model(folder, form, now)
        now = snapshot.share(now, form)
        try:
            now, reason = loop.run(
                config,
                problem,
                form,
                now,
                save=lambda now: snapshot.save(writer, folder, form, now, identity),
                on_line=_on_line(stack, folder, config, int(now.state.step)),
                on_progress=on_progress if main else lambda progress: None,
                signal=received,
            )
        except loop.NotFinite as error:
            raise _not_finite(folder, form, error, writer) from None
        if reason == "signal":
            if writer is not None:
                writer.wait()
            raise _stopped(folder, config, problem, now, received())
        # while the last checkpoint is written
        return _finish(folder, problem, form, snapshot.on_host(now), reason)


@contextlib.contextmanager
def _noticing(folder: Path) -> Iterator[None]:
    """`processes.noticing`, and what to do when one is lost."""
    try:
        with processes.noticing():
            yield
    except Lost as error:
        saved = checkpoint.steps(folder / run_folder.CHECKPOINTS)[-1:]
        hint = "".join(f"; --resume {folder} goes on from step {step}" for step in saved)
        raise Lost(str(error) + hint) from None


def _restore(
    folder: Path, config: Config, problem: Problem, identity: dict[str, Any], like: Snapshot
) -> Snapshot:
    """The snapshot at which the run in a folder goes on, or begins."""
    began = checkpoint.metadata(folder / run_folder.CHECKPOINTS).get("identity", identity)
    description.check_identity(folder, began, identity, problem)
    now, damaged = snapshot.restore(folder, like)
    step = int(now.state.step)
    if step > problem.steps_per_epoch * config.epochs:
        made = -(-step // problem.steps_per_epoch)
        raise ValueError(f"`epochs` must be at least {made}, those made, got {config.epochs}")
    for sentence in damaged:
        log.warning("%s; going on from step %d", sentence, step)
    return now


def _not_finite(
    folder: Path, form: forms.Form, error: loop.NotFinite, writer: checkpoint.Writer | None
) -> FloatingPointError:
    """What to raise, once the best model so far is written."""
    last, hint = snapshot.on_host(error.snapshot), ""
    if writer is not None:
        snapshot.write_model(folder, form, last)
        writer.wait()
        for saved in checkpoint.steps(folder / run_folder.CHECKPOINTS)[-1:]:
            hint = f"; --resume {folder} --learning-rate ... goes on from step {saved}"
    return FloatingPointError(str(error) + hint)


def _stopped(
    folder: Path, config: Config, problem: Problem, now: Snapshot, received: int | None
) -> Stopped:
    """What to raise after a signal, which may have been to another process."""
    number = int(processes.agree([received or 0]).max())
    step, num_steps = int(now.state.step), problem.steps_per_epoch * config.epochs
    return Stopped(
        number,
        f"stopped by {signal.Signals(number).name} at step {step} of {num_steps}, and saved: go on "
        f"with --resume {folder}",
    )


def _finish(folder: Path, problem: Problem, form: forms.Form, now: Snapshot, reason: str) -> Run:
    """Draw the curves, and return the model of the best epoch with its metrics."""
    params, metrics = form.weights(now.best), {}
    if processes.is_main():
        splits = {"train": problem.train, "validation": problem.validation}
        metrics = {name: _evaluate(problem, params, rows).result() for name, rows in splits.items()}
        if now.lines:
            _plot(folder, now.lines, problem)
    return Run(
        task=problem.task,
        spec=problem.spec,
        encoding=problem.encoding,
        params=params,
        folder=folder,
        epoch=(now.best_line or {"epoch": 0})["epoch"],
        epochs=now.lines[-1]["epoch"] if now.lines else 0,
        reason=reason,
        metrics=processes.broadcast_json(metrics),
    )


@contextlib.contextmanager
def _new_folder(
    config: Config, problem: Problem, mesh: Mesh | None
) -> Iterator[tuple[Path, dict[str, Any]]]:
    """Make and lock the folder of a new run, which is removed again if nothing is saved in it.

    Yields the folder, and what its config.json has to hold.
    """
    if config.tensorboard:
        tensorboard.require()
    described = description.describe(config, problem, own_device(config), mesh)
    folder, new = run_folder.make(config.out, Path(problem.table.path).name.split(".")[0])
    with run_folder.lock(folder):
        run_folder.check_free(folder)
        try:
            yield folder, described
        except BaseException:  # Ctrl-C too
            saved = checkpoint.steps(folder / run_folder.CHECKPOINTS)
            if not saved and not (folder / run_folder.METRICS).exists():
                run_folder.discard(folder, new)
            raise


def _on_line(stack: contextlib.ExitStack, folder: Path, config: Config, step: int) -> Callable:
    """What is done with the metrics of an evaluation: kept, and shown by TensorBoard if asked."""
    if not processes.is_main():
        return lambda line: None
    if not config.tensorboard:
        return partial(run_folder.append_metrics, folder)
    event = stack.enter_context(tensorboard.writer(folder, step))

    def on_line(line: dict[str, Any]) -> None:
        run_folder.append_metrics(folder, line)
        event(line)

    return on_line


def _evaluate(problem: Problem, params: dict[str, np.ndarray], rows: Batch | MappedRows) -> Metrics:
    metrics = Metrics(problem.spec.loss, problem.encoding.target)
    for batch in batches(rows):
        metrics.update(outputs(problem.spec, params, batch.x), batch.y)
    return metrics


@contextlib.contextmanager
def on_device(config: Config) -> Iterator[None]:
    with jax.default_device(own_device(config)), jax.enable_x64(config.dtype == "float64"):
        yield


def own_device(config: Config) -> jax.Device:
    """The first of this process's devices that the options ask for."""
    return parallel.own_device(config.device)


def _plot(folder: Path, lines: list[dict[str, Any]], problem: Problem) -> None:
    from jaxnet import plots  # matplotlib takes a second to import

    title = f"{folder.name}: {problem.task} of {problem.encoding.target.name!r}"
    plots.learning_curves(lines, problem.spec.loss, title, folder / run_folder.CURVES)
