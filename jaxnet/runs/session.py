"""One session of a run: from its last checkpoint on, or from its first step, to where it ends.

All processes of the run call the same; process 0 alone reads and writes the run's folder.
"""

from __future__ import annotations

import contextlib
import logging
import signal
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from jaxnet.engine import checkpoint, processes
from jaxnet.engine.mesh import Placement, own_device
from jaxnet.engine.signals import ProcessLost, Stopped, catch_signals
from jaxnet.files import read_json
from jaxnet.runs import loop, record, state, tensorboard
from jaxnet.runs.config import Config
from jaxnet.runs.dataset import Dataset
from jaxnet.runs.folder import CHECKPOINTS, CONFIG, CURVES, append_metrics
from jaxnet.runs.loop import Progress
from jaxnet.runs.model import Model
from jaxnet.runs.state import RunState
from jaxnet.runs.trainer import Trainer, evaluate, make_trainer, on_device

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
    folder: Path,
    config: Config,
    dataset: Dataset,
    placement: Placement,
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
        checkpoints = folder / CHECKPOINTS
        trainer = make_trainer(
            config, dataset, dataset.spec.init(config.seed, config.param_dtype), placement
        )
        now = state.begin(trainer)
        with processes.raise_together():
            if main:
                identity = record.identity(read_json(folder / CONFIG))
                now = _restore(folder, config, dataset, identity, now)
                if before is not None:
                    environment = record.environment(own_device(config.device), placement.mesh)
                    step = int(now.state.step)
                    record.note_resume(folder, before, config, step, environment)
                writer = stack.enter_context(checkpoint.Writer(checkpoints, config.keep))
                state.write_model(folder, trainer, now)
        now = state.share(now, trainer)
        try:
            now, reason = loop.run(
                config,
                dataset,
                trainer,
                now,
                save=lambda now: state.save(writer, folder, trainer, now, identity),
                on_line=_on_line(stack, folder, config, int(now.state.step)),
                on_progress=on_progress if main else lambda progress: None,
                signal=received,
            )
        except loop.NotFinite as error:
            raise _not_finite(folder, trainer, error, writer) from None
        if reason == "signal":
            if writer is not None:
                writer.wait()
            raise _stopped(folder, config, dataset, now, received())
        # while the last checkpoint is written
        return _finish(folder, dataset, trainer, state.on_host(now), reason)


@contextlib.contextmanager
def _noticing(folder: Path) -> Iterator[None]:
    """`processes.detect_loss`, and what to do when one is lost."""
    try:
        with processes.detect_loss():
            yield
    except ProcessLost as error:
        saved = checkpoint.steps(folder / CHECKPOINTS)[-1:]
        hint = "".join(f"; --resume {folder} goes on from step {step}" for step in saved)
        raise ProcessLost(str(error) + hint) from None


def _restore(
    folder: Path, config: Config, dataset: Dataset, identity: dict[str, Any], like: RunState
) -> RunState:
    """The snapshot at which the run in a folder goes on, or begins."""
    began = checkpoint.metadata(folder / CHECKPOINTS).get("identity", identity)
    record.check_identity(folder, began, identity, dataset)
    now, damaged = state.restore(folder, like)
    step = int(now.state.step)
    if step > dataset.steps_per_epoch * config.epochs:
        made = -(-step // dataset.steps_per_epoch)
        raise ValueError(f"`epochs` must be at least {made}, those made, got {config.epochs}")
    for sentence in damaged:
        log.warning("%s; going on from step %d", sentence, step)
    return now


def _not_finite(
    folder: Path, trainer: Trainer, error: loop.NotFinite, writer: checkpoint.Writer | None
) -> FloatingPointError:
    """What to raise, once the best model so far is written."""
    last, hint = state.on_host(error.snapshot), ""
    if writer is not None:
        state.write_model(folder, trainer, last)
        writer.wait()
        for saved in checkpoint.steps(folder / CHECKPOINTS)[-1:]:
            hint = f"; --resume {folder} --learning-rate ... goes on from step {saved}"
    return FloatingPointError(str(error) + hint)


def _stopped(
    folder: Path, config: Config, dataset: Dataset, now: RunState, received: int | None
) -> Stopped:
    """What to raise after a signal, which may have been to another process."""
    number = int(processes.gather_ints([received or 0]).max())
    step, num_steps = int(now.state.step), dataset.steps_per_epoch * config.epochs
    return Stopped(
        number,
        f"stopped by {signal.Signals(number).name} at step {step} of {num_steps}, and saved: go on "
        f"with --resume {folder}",
    )


def _finish(folder: Path, dataset: Dataset, trainer: Trainer, now: RunState, reason: str) -> Run:
    """Draw the curves, and return the model of the best epoch with its metrics."""
    params, metrics = trainer.weights(now.best), {}
    if processes.is_main():
        splits = {"train": dataset.train, "validation": dataset.validation}
        metrics = {name: evaluate(dataset, params, rows).result() for name, rows in splits.items()}
        if now.lines:
            _plot(folder, now.lines, dataset)
    return Run(
        task=dataset.task,
        spec=dataset.spec,
        encoding=dataset.encoding,
        params=params,
        folder=folder,
        epoch=(now.best_line or {"epoch": 0})["epoch"],
        epochs=now.lines[-1]["epoch"] if now.lines else 0,
        reason=reason,
        metrics=processes.broadcast_json(metrics),
    )


def _on_line(stack: contextlib.ExitStack, folder: Path, config: Config, step: int) -> Callable:
    """What is done with the metrics of an evaluation: kept, and shown by TensorBoard if asked."""
    if not processes.is_main():
        return lambda line: None
    if not config.tensorboard:
        return partial(append_metrics, folder)
    event = stack.enter_context(tensorboard.writer(folder, step))

    def on_line(line: dict[str, Any]) -> None:
        append_metrics(folder, line)
        event(line)

    return on_line


def _plot(folder: Path, lines: list[dict[str, Any]], dataset: Dataset) -> None:
    from jaxnet.runs import plots  # matplotlib takes a second to import

    title = f"{folder.name}: {dataset.task} of {dataset.encoding.target.name!r}"
    plots.learning_curves(lines, dataset.spec.loss, title, folder / CURVES)
