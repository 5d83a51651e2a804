"""The training loop of a run: chunks of steps, metrics of epochs, checkpoints by the clock.

All that it knows is in the `RunState`, so that a loop which begins at one makes the same bits as
the loop which saved it. When to stop training is decided in `epochs`; here it is recorded.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import numpy as np

from jaxnet.engine import epochs, processes
from jaxnet.runs.config import Config
from jaxnet.runs.dataset import Dataset
from jaxnet.runs.state import RunState
from jaxnet.runs.trainer import Trainer, targets_of
from jaxnet.tables.metrics import Metrics
from jaxnet.train import check_finite

CHUNK_SECONDS = 0.2, 0.5  # what one call should take: signals and progress wait for its end
SAVING_SHARE = 20  # at most 1/20 of the time is spent on waiting for checkpoints


class Progress(NamedTuple):
    """Where a run is: steps made and to make, the last loss, the last evaluation if any.

    lines: the evaluations since the last report, as in metrics.jsonl.
    """

    step: int
    num_steps: int
    loss: float
    metrics: dict[str, Any]
    lines: list[dict[str, Any]]


class NotFinite(FloatingPointError):
    """A loss became NaN or infinite; `snapshot` is of the last evaluation before."""

    def __init__(self, message: str, snapshot: RunState):
        super().__init__(message)
        self.snapshot = snapshot


def run(
    config: Config,
    dataset: Dataset,
    trainer: Trainer,
    now: RunState,
    *,
    save: Callable[[RunState], None],
    on_line: Callable[[dict[str, Any]], None],
    on_progress: Callable[[Progress], None],
    signal: Callable[[], int | None],
) -> tuple[RunState, str]:
    """Train on from a state; return the last one, which is saved, and why the run ended.

    The reasons: "epochs" (all are made), "patience", "max_time", "signal". on_line gets the metrics
    of each evaluation. Processes of one run do the same at the same step: a signal to any of them
    counts, and the clock of process 0.

    Raises: NotFinite for a loss that is not finite.
    """
    num_steps = dataset.num_steps(config)
    max_wait = epochs.evaluations_to_wait(config.patience, config.evaluate_every)
    clock, targets = _Clock(config, dataset, int(now.state.step)), targets_of(dataset)
    while True:
        step = int(now.state.step)
        signalled = clock.agree(signal)
        reason = _reason(now, num_steps, max_wait, signalled, clock.late)
        if clock.save_is_due(step, bool(reason)):
            with clock.saving(step):
                save(now)
        if reason:
            return now, reason
        with clock.working():
            segments = _segments(config, dataset, step, clock.length)
            chunk = trainer.run(now.state, _best(now), segments, clock.capacity, max_wait)
            known = len(now.lines)
            now = _record(dataset, now, segments, chunk, targets, on_line)
            last = now.lines[-1] if now.lines else {}
            loss = float(chunk.losses[-1])
            on_progress(Progress(int(now.state.step), num_steps, loss, last, now.lines[known:]))


class _Clock:
    """How long the next call of the device is, and when to save and to stop, by the time it takes.

    length: the steps of the next call. capacity: the most steps and segments of any.
    """

    def __init__(self, config: Config, dataset: Dataset, step: int):
        self._config, self._per_epoch, self._saved_step = config, dataset.steps_per_epoch, step
        every = self._per_epoch * config.evaluate_every
        self.capacity = epochs.capacity(dataset.batch_size, every)
        self.length, self._compiled = min(self.capacity[0], 50), False
        self._started = self._saved = time.perf_counter()
        self._pause: float = config.checkpoint_every

    def agree(self, signal: Callable[[], int | None]) -> bool:
        """Take process 0's clock; whether there was a signal to any process."""
        now, limit = time.perf_counter(), self._config.max_time
        late = limit is not None and now - self._started >= limit
        pause_is_over = now - self._saved >= self._pause
        said = processes.gather_ints([signal() or 0, late, pause_is_over, self.length])
        self.late, self._pause_is_over, self.length = said[0, 1:].tolist()
        return bool(said[:, 0].any())

    def save_is_due(self, step: int, ends: bool) -> bool:
        """Whether to save at this step; `ends`: it is the last."""
        every_epoch = self._config.checkpoint_every == 0
        due = self._pause_is_over and not (every_epoch and step % self._per_epoch)
        return step > self._saved_step and (ends or due)

    @contextlib.contextmanager
    def saving(self, step: int) -> Iterator[None]:
        """Note the time that a checkpoint takes; the next one waits in proportion to it."""
        began = time.perf_counter()
        yield
        self._saved_step, self._saved = step, time.perf_counter()
        if self._config.checkpoint_every:
            waited = SAVING_SHARE * (self._saved - began)
            self._pause = max(self._config.checkpoint_every, waited)

    @contextlib.contextmanager
    def working(self) -> Iterator[None]:
        """Note the time that a call takes; the first one, which compiles, shortens none."""
        began = time.perf_counter()
        yield
        seconds = time.perf_counter() - began
        if self._compiled and seconds > CHUNK_SECONDS[1]:
            self.length = max(1, self.length // 2)
        elif seconds < CHUNK_SECONDS[0]:
            self.length = min(self.capacity[0], 2 * self.length)
        self._compiled = True


def _reason(
    now: RunState, num_steps: int, max_wait: int, signalled: bool, late: bool
) -> str | None:
    """Why the run should end here, if it should."""
    step = int(now.state.step)
    if step >= num_steps:
        return "epochs"
    evaluated = bool(now.lines) and now.lines[-1]["step"] == step
    if evaluated and _best(now).wait >= max_wait:
        return "patience"
    if signalled:
        return "signal"
    return "max_time" if late else None


def _best(now: RunState) -> epochs.Best:
    """The best so far, as the lines have it."""
    line = now.best_line or {"val_loss": np.inf, "epoch": 0}
    wait = sum(other["epoch"] > line["epoch"] for other in now.lines)
    return epochs.Best(now.best, line["val_loss"], wait)


def _segments(config: Config, dataset: Dataset, step: int, length: int) -> list[tuple[int, bool]]:
    """The segments (`epochs.segments`) of the next call: about `length` steps.

    They end at an evaluation where they reach one, and at the end of an epoch if every epoch is to
    be saved.
    """
    per_epoch = dataset.steps_per_epoch
    num_steps, every = dataset.num_steps(config), per_epoch * config.evaluate_every
    stop = min(step + length, num_steps)
    if config.checkpoint_every == 0:
        stop = min(stop, (step // per_epoch + 1) * per_epoch)
    elif stop < num_steps and stop // every > step // every:
        stop = stop // every * every
    return epochs.segments(step, stop, every, num_steps)


def _record(
    dataset: Dataset,
    before: RunState,
    segments: list[tuple[int, bool]],
    chunk: epochs.Chunk,
    targets: Metrics,
    on_line: Callable[[dict[str, Any]], None],
) -> RunState:
    """Return the state after a chunk, with a line for each evaluation. Raises: NotFinite."""
    now = before._replace(state=chunk.state, best=chunk.best.params)
    first = int(chunk.state.step) - len(chunk.losses)
    for step, losses, values in chunk.by_segment(first, segments):
        try:
            check_finite(losses, step - len(losses))
            # one after the other: a sum by chunks would round as they happen to be cut
            total = float(np.cumsum([now.epoch_loss, *losses], dtype=float)[-1])
            now = now._replace(epoch_loss=total)
            if values is not None:
                now = _evaluated(dataset, now, step, values, targets)
                on_line(now.lines[-1])
        except FloatingPointError as error:
            raise NotFinite(str(error), now) from None
    return now


def _evaluated(
    dataset: Dataset, now: RunState, step: int, values: dict[str, Any], targets: Metrics
) -> RunState:
    wait = values.pop("wait")
    if not values.pop("finite"):
        raise FloatingPointError(
            f"the validation loss became {values['loss']} at step {step}: "
            "try a smaller learning rate, scaled inputs, or float64"
        )
    line = {
        "step": step,
        "epoch": step // dataset.steps_per_epoch,
        "train_loss": now.epoch_loss / (step - (now.lines[-1]["step"] if now.lines else 0)),
        **{f"val_{name}": value for name, value in targets.of_sums(**values).items()},
    }
    best = line if wait == 0 else now.best_line
    return now._replace(best_line=best, epoch_loss=0.0, lines=[*now.lines, line])
