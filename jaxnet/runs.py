"""A training run as a folder: begun, killed at any moment, gone on with to the same bits, loaded.

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

from jaxnet import checkpoint, description, forms, loop, run_folder, snapshot, tensorboard
from jaxnet.config import RESUMABLE, Config
from jaxnet.loop import Progress
from jaxnet.mapped import MappedRows
from jaxnet.mapped_records import Conversion
from jaxnet.metrics import Metrics
from jaxnet.model import Model, encoding_from_json, load, outputs
from jaxnet.problem import Problem, batches, prepare
from jaxnet.snapshot import Snapshot
from jaxnet.spec import Batch
from jaxnet.stopping import Stopped, catch_signals

__all__ = [
    "Progress", "Run", "Stopped", "create", "evaluate_validation", "load", "prepare", "resume",
    "train",
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
    loss that becomes NaN or infinite. What was saved before stays, and `resume` goes on from there;
    a folder in which nothing was saved is removed.
    """
    problem = problem or prepare(config)
    # as chosen, since a resumed run of more epochs, or one elsewhere, might choose otherwise
    gram, mapped = forms.use_gram(config, problem), problem.mapped
    config = replace(config, gram="on" if gram else "off", mapped="on" if mapped else "off")
    with _new_folder(config, problem) as (folder, described):
        run_folder.write_json(folder / run_folder.CONFIG, described)
        return _train(folder, config, problem, None, on_progress)


def create(config: Config, params: dict[str, np.ndarray], *, problem: Problem) -> Path:
    """Make the folder of a run that begins with the weights `params`, and return it.

    They are its checkpoint of step 0, and its best model until training finds a better one.

    Raises: as `train`; ValueError for parameters of other names, shapes or values than the network.
    """
    wanted = {name: (shape, config.dtype) for name, shape in problem.spec.shapes().items()}
    got = {name: (np.shape(leaf), str(np.asarray(leaf).dtype)) for name, leaf in params.items()}
    if wanted != got:
        raise ValueError(f"`params` must have the shapes and dtypes {wanted}, got {got}")
    if config.gram == "on":
        raise ValueError("`gram` must be off for a run that begins with given weights, got on")
    config = replace(config, gram="off", mapped="on" if problem.mapped else "off")
    with _new_folder(config, problem) as (folder, described), on_device(config):
        form = forms.make(config, problem, params)
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
    max_time, checkpoint_every, keep, tensorboard, device, mapped; and `data`, if the same file is
    elsewhere now. A run that has ended is only loaded.

    Raises: as `train`; ValueError for another option that differs, for other data, or for files of
    the run that are damaged or were edited; FileNotFoundError for a folder that holds no run;
    BlockingIOError if another process writes it.
    """
    folder = Path(folder)
    config = changed_config(folder, changed)
    problem = problem or prepare_again(folder, config)
    with run_folder.lock(folder):
        return _train(folder, config, problem, read_config(folder), on_progress)


def changed_config(folder: str | Path, changed: dict[str, Any]) -> Config:
    """The options of the run in a folder, as it goes on with those `changed`.

    Raises: ValueError for an option that cannot change.
    """
    before = read_config(folder)
    config = replace(before, **changed)
    for name, value in description.changes(before, config).items():
        if name not in RESUMABLE | {"data"}:
            raise ValueError(
                f"`{name}` must stay {getattr(before, name)!r} to go on with {folder}, got "
                f"{value!r}; train a new run with it"
            )
    return config


def read_config(folder: str | Path) -> Config:
    """The options of the run in a folder."""
    folder = Path(folder)
    return description.read_config(folder, run_folder.read_json(folder / run_folder.CONFIG))


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
    before: Config | None,
    on_progress: Callable[[Progress], None],
) -> Run:
    """Train in a folder that is locked; `before` are the options so far of a run that goes on."""
    path = folder / run_folder.CONFIG
    described = run_folder.read_json(path)
    identity = description.identity(described)
    with contextlib.ExitStack() as stack:
        stack.enter_context(on_device(config))
        received = stack.enter_context(catch_signals())
        checkpoints = folder / run_folder.CHECKPOINTS
        began = checkpoint.metadata(checkpoints).get("identity", identity)
        _check_identity(folder, began, identity, problem)
        form = forms.make(config, problem, problem.spec.init(config.seed, config.dtype))
        now, damaged = snapshot.restore(folder, snapshot.begin(form))
        step = int(now.state.step)
        if step > problem.steps_per_epoch * config.epochs:
            made = -(-step // problem.steps_per_epoch)
            raise ValueError(f"`epochs` must be at least {made}, those made, got {config.epochs}")
        for sentence in damaged:
            log.warning("%s; going on from step %d", sentence, step)
        if before is not None:
            _note_resume(path, described, before, config, step)
        writer = stack.enter_context(checkpoint.Writer(checkpoints, config.keep))
        snapshot.write_model(folder, form, now)
        try:
            now, reason = loop.run(
                config,
                problem,
                form,
                now,
                save=lambda now: snapshot.save(writer, folder, form, now, identity),
                on_line=_on_line(stack, folder, config, step),
                on_progress=on_progress,
                signal=received,
            )
        except loop.NotFinite as error:
            snapshot.write_model(folder, form, error.snapshot)
            writer.wait()
            saved = checkpoint.steps(checkpoints)[-1:]
            hint = f"; --resume {folder} --learning-rate ... goes on from step {{}}"
            raise FloatingPointError(str(error) + "".join(map(hint.format, saved))) from None
        writer.wait()
        if (number := received()) is not None and reason == "signal":
            step, num_steps = int(now.state.step), problem.steps_per_epoch * config.epochs
            raise Stopped(
                number,
                f"stopped by {signal.Signals(number).name} at step {step} of {num_steps}, and "
                f"saved: go on with --resume {folder}",
            )
        return _finish(folder, problem, form.weights(now.best), now, reason)


def _finish(
    folder: Path, problem: Problem, params: dict[str, np.ndarray], now: Snapshot, reason: str
) -> Run:
    """Draw the curves, and return the model of the best epoch with its metrics."""
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
        metrics=metrics,
    )


@contextlib.contextmanager
def _new_folder(config: Config, problem: Problem) -> Iterator[tuple[Path, dict[str, Any]]]:
    """Make and lock the folder of a new run, which is removed again if nothing is saved in it.

    Yields the folder, and what its config.json has to hold.
    """
    if config.tensorboard:
        tensorboard.require()
    described = description.describe(config, problem, device_of(config.device))
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


def _check_identity(folder: Path, began: dict, now: dict, problem: Problem) -> None:
    """Refuse a config.json that is not the one of the checkpoint, and data that differ."""
    if found := description.difference(began, now):
        name, old, new = found
        raise ValueError(
            f"{folder / run_folder.CONFIG}: says {name} {new!r}, and the checkpoint {old!r}; was "
            "it edited? Set it back, or train a new run"
        )
    if list(problem.spec.sizes) != now["sizes"] or problem.source["sha256"] != now["data"]:
        raise ValueError(f"`problem` must be that of {folder}, got another")


def _note_resume(
    path: Path, described: dict[str, Any], before: Config, config: Config, step: int
) -> None:
    """Write into config.json what changes from here on, and say what may change the last bits."""
    environment = description.environment(device_of(config.device))
    for name, now in environment.items():
        if (found := description.difference(described[name], now)) and found[0] != "python":
            log.warning(
                "%s %s was %s and is %s: losses will agree to rounding, not to the bit",
                name,
                *found,
            )
    changed = description.changes(before, config)
    longer = config.epochs > before.epochs and config.schedule != "constant"
    if longer and step > 0:
        log.warning(
            "the %s schedule of the learning rate now ends after epoch %d, so it rises again from "
            "where the one over %d epochs had it", config.schedule, config.epochs, before.epochs,
        )  # fmt: skip
    if changed or environment != {name: described[name] for name in environment}:
        entry = {"step": step, "changed": changed, **environment}
        history = [*described.get("history", []), entry]
        options = described["config"] | {k: v for k, v in changed.items() if k != "data"}
        if "data" in changed:
            described["data"]["path"] = str(Path(changed["data"]).absolute())
        content = described | {"config": options, "history": history} | environment
        run_folder.write_json(path, content)


def _on_line(stack: contextlib.ExitStack, folder: Path, config: Config, step: int) -> Callable:
    """What is done with the metrics of an evaluation: kept, and shown by TensorBoard if asked."""
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
    device = device_of(config.device)
    with jax.default_device(device), jax.enable_x64(config.dtype == "float64"):
        yield


def device_of(name: str) -> jax.Device:
    try:
        return jax.devices(None if name == "auto" else name)[0]
    except RuntimeError:
        known = sorted({device.platform for device in jax.devices()} | {"auto", "cpu"})
        raise ValueError(
            f"`device` must be one of {', '.join(known)} on this machine; got {name!r}"
        ) from None


def _plot(folder: Path, lines: list[dict[str, Any]], problem: Problem) -> None:
    from jaxnet import plots  # matplotlib takes a second to import

    title = f"{folder.name}: {problem.task} of {problem.encoding.target.name!r}"
    plots.learning_curves(lines, problem.spec.loss, title, folder / run_folder.CURVES)
