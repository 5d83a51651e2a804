"""The training loop of a run: chunks of steps, metrics after epochs, checkpoints by the clock.

All that it knows is in the snapshot, so that a loop which begins at one makes the same bits as the
loop which wrote it.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from jaxnet.engine import epochs, processes
from jaxnet.runs.config import Config
from jaxnet.runs.dataset import Dataset
from jaxnet.runs.state import RunState
from jaxnet.runs.trainer import Trainer
from jaxnet.tables.metrics import Metrics
from jaxnet.train import check_finite

MAX_CHUNK = 5000  # steps to one call of the device
MAX_INDICES = 2**20  # row indices to one call: 4 MB
CHUNK_SECONDS = 0.2, 0.5  # what one call should take: signals and progress wait for its end
SAVING_SHARE = 20  # of the time, at most one part in so many is spent waiting for checkpoints


class Progress(NamedTuple):
    """Where a run is: steps made and to make, the last loss, the last evaluation if any.

    lines: the evaluations since the last report, as in metrics.jsonl.
    """

    step: int
    num_steps: int
    loss: float
    metrics: dict[str, Any]
    lines: list[dict[str, Any]]


def run(
    config: Config,
    dataset: Dataset,
    trainer: Trainer,
    snapshot: RunState,
    *,
    save: Callable[[RunState], None],
    on_line: Callable[[dict[str, Any]], None],
    on_progress: Callable[[Progress], None],
    signal: Callable[[], int | None],
) -> tuple[RunState, str]:
    """Train on from a snapshot; return the last one, which is saved, and why the run ended.

    The reasons: "epochs" (all are made), "patience", "max_time", "signal". on_line gets the metrics
    of each evaluation. Processes of one run do the same at the same step: a signal to any of them
    counts, and the clock of process 0.

    Raises: NotFinite for a loss that is not finite.
    """
    num_steps = dataset.steps_per_epoch * config.epochs
    capacity = min(MAX_CHUNK, max(1, MAX_INDICES // dataset.batch_size))
    length, compiled = min(capacity, 50), False
    started = saved_at = time.perf_counter()
    saved_step, pause = int(snapshot.state.step), config.checkpoint_every
    targets = _targets(dataset)

    while True:
        made, now = int(snapshot.state.step), time.perf_counter()
        late = config.max_time is not None and now - started >= config.max_time
        said = processes.gather_ints([signal() or 0, late, now - saved_at >= pause, length])
        signalled, (late, pause_is_over, length) = bool(said[:, 0].any()), said[0, 1:].tolist()
        reason = _reason(config, num_steps, snapshot, signalled, late)
        due = made % dataset.steps_per_epoch == 0 or config.checkpoint_every > 0
        if made > saved_step and (reason or (due and pause_is_over)):
            save(snapshot)
            saved_step, saved_at = made, time.perf_counter()
            pause = max(config.checkpoint_every, SAVING_SHARE * (saved_at - now))
            pause = pause if config.checkpoint_every else 0.0
        if reason:
            return snapshot, reason
        before = time.perf_counter()
        parts = _parts(config, dataset, made, length)
        chunk = _make(config, dataset, trainer, snapshot, parts, capacity)
        known = len(snapshot.lines)
        snapshot = _record(dataset, snapshot, parts, chunk, targets, on_line)
        last = snapshot.lines[-1] if snapshot.lines else {}
        made, loss = int(snapshot.state.step), float(chunk.losses[-1])
        on_progress(Progress(made, num_steps, loss, last, snapshot.lines[known:]))
        seconds = time.perf_counter() - before
        if compiled and seconds > CHUNK_SECONDS[1]:
            length = max(1, length // 2)
        elif seconds < CHUNK_SECONDS[0]:
            length = min(capacity, 2 * length)
        compiled = True


class NotFinite(FloatingPointError):
    """A loss became NaN or infinite; `snapshot` is of the last evaluation before."""

    def __init__(self, message: str, snapshot: RunState):
        super().__init__(message)
        self.snapshot = snapshot


def _reason(
    config: Config, num_steps: int, snapshot: RunState, signalled: bool, late: bool
) -> str | None:
    """Why the run should end here, if it should."""
    if int(snapshot.state.step) >= num_steps:
        return "epochs"
    evaluated = bool(snapshot.lines) and snapshot.lines[-1]["step"] == int(snapshot.state.step)
    if evaluated and _waited(snapshot) >= _max_wait(config):
        return "patience"
    if signalled:
        return "signal"
    return "max_time" if late else None


def _max_wait(config: Config) -> int:
    """The evaluations in a row without a lower loss that end the run."""
    if config.patience is None:
        return epochs.NEVER
    return math.ceil(config.patience / config.evaluate_every)


def _waited(snapshot: RunState) -> int:
    """The evaluations since that of the lowest loss."""
    best = snapshot.best_line["epoch"] if snapshot.best_line else 0
    return sum(line["epoch"] > best for line in snapshot.lines)


def _parts(config: Config, dataset: Dataset, made: int, length: int) -> list[tuple[int, bool]]:
    """The parts (`epochs.segments`) of the next call: about `length` steps.

    They end at an evaluation where they reach one, and at the end of an epoch if every epoch is to
    be saved.
    """
    per_epoch = dataset.steps_per_epoch
    num_steps, every = per_epoch * config.epochs, per_epoch * config.evaluate_every
    stop = min(made + length, num_steps)
    if config.checkpoint_every == 0:
        stop = min(stop, (made // per_epoch + 1) * per_epoch)
    elif stop < num_steps and stop // every > made // every:
        stop = stop // every * every
    return epochs.segments(made, stop, every, num_steps)


def _make(
    config: Config,
    dataset: Dataset,
    trainer: Trainer,
    snapshot: RunState,
    parts: list[tuple[int, bool]],
    capacity: int,
) -> epochs.Chunk:
    """Make the steps of the parts on the device."""
    every = dataset.steps_per_epoch * config.evaluate_every
    lowest = snapshot.best_line["val_loss"] if snapshot.best_line else np.inf
    return trainer.run(
        snapshot.state,
        epochs.Best(snapshot.best, lowest, _waited(snapshot)),
        parts,
        (capacity, capacity // every + 2),
        _max_wait(config),
    )


def _targets(dataset: Dataset) -> Metrics:
    """The validation targets, ready for the sums of any outputs."""
    metrics = Metrics(dataset.spec.loss, dataset.encoding.target)
    for batch in dataset.validation.blocks():
        metrics.update(np.zeros((len(batch.y), dataset.spec.sizes[-1])), batch.y)
    return metrics


def _record(
    dataset: Dataset,
    before: RunState,
    parts: list[tuple[int, bool]],
    chunk: epochs.Chunk,
    targets: Metrics,
    on_line: Callable[[dict[str, Any]], None],
) -> RunState:
    """The snapshot after a chunk, with a line for each of its evaluations.

    Raises: NotFinite.
    """
    snapshot = before._replace(state=chunk.state, best=chunk.best.params)
    step, number, evaluated = int(chunk.state.step) - len(chunk.losses), 0, 0
    for length, ends in parts:
        losses = chunk.losses[number : number + length]
        if not len(losses):
            break  # patience was over
        try:
            check_finite(losses, step)
            # one after the other: a sum by chunks would round as they happen to be cut
            total = float(np.cumsum([snapshot.epoch_loss, *losses], dtype=float)[-1])
            step, number = step + length, number + length
            snapshot = snapshot._replace(epoch_loss=total)
            if ends:
                values = {name: a[evaluated] for name, a in chunk.evaluations.items()}
                metrics = targets.of_sums(**values)
                snapshot = _evaluated(dataset, snapshot, step, metrics)
                evaluated += 1
                on_line(snapshot.lines[-1])
        except FloatingPointError as error:
            raise NotFinite(str(error), snapshot) from None
    return snapshot


def _evaluated(
    dataset: Dataset, snapshot: RunState, step: int, metrics: dict[str, float | None]
) -> RunState:
    """The snapshot with the line of an evaluation."""
    if not math.isfinite(metrics["loss"] or 0):
        raise FloatingPointError(
            f"the validation loss became {metrics['loss']} at step {step}: "
            "try a smaller learning rate, scaled inputs, or float64"
        )
    since = step - (snapshot.lines[-1]["step"] if snapshot.lines else 0)
    line = {
        "step": step,
        "epoch": step // dataset.steps_per_epoch,
        "train_loss": snapshot.epoch_loss / since,
        **{f"val_{name}": value for name, value in metrics.items()},
    }
    best = snapshot.best_line
    if best is None or line["val_loss"] < best["val_loss"]:
        best = line
    return snapshot._replace(best_line=best, epoch_loss=0.0, lines=[*snapshot.lines, line])
