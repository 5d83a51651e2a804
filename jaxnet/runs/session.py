"""One start of a run to its end: from its first step, or from its newest checkpoint.

All processes of the run call the same; process 0 alone reads and writes the run's folder.
"""

from __future__ import annotations

import contextlib
import logging
import signal
from collections.abc import Callable, Hashable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from jaxnet import files
from jaxnet.engine import checkpoint, compile_cache, processes
from jaxnet.engine.mesh import Placement
from jaxnet.engine.signals import Stopped, catch_signals
from jaxnet.runs import drawing, loop, state, tensorboard
from jaxnet.runs.config import Config
from jaxnet.runs.dataset import Dataset
from jaxnet.runs.folder import CHECKPOINTS, CONFIG, CURVES, REPORT, append_metrics
from jaxnet.runs.loop import Progress
from jaxnet.runs.model import Model, fit_calibration
from jaxnet.runs.record import Record, environment
from jaxnet.runs.state import RunState
from jaxnet.runs.steps import initial_params
from jaxnet.runs.trainer import Trainer, make_trainer, on_device

log = logging.getLogger("jaxnet")


@dataclass(frozen=True, eq=False, kw_only=True)
class Run(Model):
    """A run that has ended: the model of its best epoch, and where it all is.

    folder: that of the run. epoch, epochs: the model's epoch, and the epochs made. reason: why the
    run ended, "epochs", "patience" or "max_time". metrics: the model's by split, "train" and
    "validation". calibration: what the temperature changes on the validation rows, as
    `ClassMetrics.calibration`; nothing for a regression.
    """

    folder: Path
    epoch: int
    epochs: int
    reason: str
    metrics: dict[str, dict[str, float | None]]
    calibration: dict[str, Any]


def train(
    folder: Path,
    record: Record,
    config: Config,
    dataset: Dataset,
    placement: Placement,
    on_progress: Callable[[Progress], None],
) -> Run:
    """Train in a folder that process 0 has locked, from the newest checkpoint if there is one.

    record: the run's so far; config: its options from here on.
    """
    main = processes.is_main()
    writer: checkpoint.Writer | None = None
    with contextlib.ExitStack() as stack, compile_cache.bounded(_kind(config, dataset, placement)):
        stack.enter_context(processes.detect_loss(partial(_how_to_resume, folder)))
        stack.enter_context(on_device(config))
        received = stack.enter_context(catch_signals())
        trainer = make_trainer(config, dataset, initial_params(config, dataset.spec), placement)
        now = state.begin(trainer.params, trainer.optimizer)
        with processes.raise_together():
            if main:
                now, record = _restore(folder, record, config, dataset, placement, now)
                writer = stack.enter_context(checkpoint.Writer(folder / CHECKPOINTS, config.keep))
                state.write_model(folder, trainer.weights, now)
        now = state.share(now, trainer.place)
        run = partial(loop.run, config, dataset, trainer)
        save = partial(_save, writer, folder, record, trainer.weights)
        on_line = _on_line(stack, folder, config, now)
        report = on_progress if main else lambda progress: None
        try:
            now, reason = run(now, save=save, on_line=on_line, on_progress=report, signal=received)
        except loop.NotFinite as error:
            raise _not_finite(folder, trainer, error, writer) from None
        if reason == "signal":
            where = f"step {int(now.state.step)} of {dataset.num_steps(config)}"
            raise _stopped(folder, writer, received(), where)
        # the last checkpoint is written meanwhile
        return _finish(folder, dataset, trainer, state.on_host(now), reason)


def _kind(config: Config, dataset: Dataset, placement: Placement) -> Hashable:
    """Equal for trainings that share their compiled programs."""
    rows = len(dataset.train), len(dataset.validation)
    return replace(config, out=None, seed=0), dataset.spec, rows, placement


def _how_to_resume(folder: Path) -> str:
    """What to add to the error for a lost process."""
    saved = checkpoint.steps(folder / CHECKPOINTS)[-1:]
    hint = "".join(f"; --resume {folder} continues from step {step}" for step in saved)
    again = f"; nothing is saved yet: remove {folder} if it is there, and start all processes again"
    return hint or again


def _restore(
    folder: Path,
    record: Record,
    config: Config,
    dataset: Dataset,
    placement: Placement,
    like: RunState,
) -> tuple[RunState, Record]:
    """Return the newest state of a run, or `like` before its first step, and its updated record."""
    began = checkpoint.metadata(folder / CHECKPOINTS).get("identity")
    # what is none is refused as the checkpoint is read
    record.check(folder, began if isinstance(began, dict) else record.identity(), dataset)
    now, damaged = state.restore(folder, like)
    step = int(now.state.step)
    if step > dataset.num_steps(config):
        made = -(-step // dataset.steps_per_epoch)
        raise ValueError(f"`epochs` must be at least {made}, those made, got {config.epochs}")
    for sentence in damaged:
        log.warning("%s; resuming from step %d", sentence, step)
    resumed = record.resumed(config, step, environment(config, placement.mesh))
    if resumed is not record:
        resumed.save(folder)
    return now, resumed


def _save(
    writer: checkpoint.Writer | None,
    folder: Path,
    record: Record,
    weights: Callable[[Any], dict[str, Any]],
    now: RunState,
) -> None:
    """Save a state; also the record, if it was removed meanwhile."""
    if writer is not None and folder.exists() and not (folder / CONFIG).exists():
        log.warning("%s: the file was removed, and is written again", folder / CONFIG)
        record.save(folder)
    state.save(writer, folder, weights, now, record.identity())


def _not_finite(
    folder: Path, trainer: Trainer, error: loop.NotFinite, writer: checkpoint.Writer | None
) -> FloatingPointError:
    """Write the best model so far, and return the error with a hint how to continue."""
    last, hint = state.on_host(error.snapshot), ""
    if writer is not None:
        state.write_model(folder, trainer.weights, last)
        writer.wait()
        for saved in checkpoint.steps(folder / CHECKPOINTS)[-1:]:
            hint = f"; --resume {folder} --learning-rate ... continues from step {saved}"
    return FloatingPointError(str(error) + hint)


def _stopped(
    folder: Path, writer: checkpoint.Writer | None, received: int | None, where: str
) -> Stopped:
    """Return what to raise after a signal, which another process may have received, once the last
    checkpoint is written.
    """
    if writer is not None:
        writer.wait()
    number = int(processes.gather_ints([received or 0]).max())
    what = f"stopped by {signal.Signals(number).name} at {where}, and saved"
    return Stopped(number, f"{what}: resume with --resume {folder}")


def _finish(folder: Path, dataset: Dataset, trainer: Trainer, now: RunState, reason: str) -> Run:
    """Draw the curves, and return the model of the best epoch with its metrics."""
    model = Model(
        task=dataset.task,
        spec=dataset.spec,
        encoding=dataset.encoding,
        weighting=dataset.weighting,
        params=trainer.weights(now.best),
    )
    fitted: dict[str, Any] = {}
    metrics, calibration = {}, {}
    if processes.is_main():
        if now.lines:
            drawing.ask(*_curves(folder, now.lines, dataset))
        fitted |= fit_calibration(model, dataset.validation.blocks())
        state.write_model(folder, trainer.weights, now, fitted)
        model = replace(model, **fitted)
        for name, rows in (("train", dataset.train), ("validation", dataset.validation)):
            measured = model.measure(rows.blocks())
            metrics[name], calibration = measured.result(), measured.calibration
        if now.lines:
            _plot(folder, now.lines, dataset)
            report = {"epoch": (now.best_line or {})["epoch"], **metrics}
            files.write_json(folder / REPORT, report | {"calibration": calibration})
    fitted, metrics, calibration = processes.broadcast_json([fitted, metrics, calibration])
    return Run(
        **vars(model) | fitted,
        folder=folder,
        epoch=(now.best_line or {"epoch": 0})["epoch"],
        epochs=now.lines[-1]["epoch"] if now.lines else 0,
        reason=reason,
        metrics=metrics,
        calibration=calibration,
    )


def _on_line(stack: contextlib.ExitStack, folder: Path, config: Config, now: RunState) -> Callable:
    """Return the function by which process 0 keeps the metrics of an evaluation."""
    main, first, events = processes.is_main(), not now.lines, None
    if main and config.tensorboard:
        events = stack.enter_context(tensorboard.writer(folder, int(now.state.step)))

    def on_line(line: dict[str, Any]) -> None:
        nonlocal first
        if main:
            append_metrics(folder, line, first=first)
            first = False
        if events is not None:
            events(line)

    return on_line


def _plot(folder: Path, lines: list[dict[str, Any]], dataset: Dataset) -> None:
    drawing.learning_curves(*_curves(folder, lines, dataset))


def _curves(folder: Path, lines: list[dict[str, Any]], dataset: Dataset) -> tuple[Any, ...]:
    title = f"{folder.name}: {dataset.task} of {dataset.encoding.target.name!r}"
    return lines, dataset.spec.loss, title, str(folder / CURVES)
