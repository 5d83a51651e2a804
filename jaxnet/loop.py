"""The training loop of a run: chunks of steps, metrics after each epoch, checkpoints by the clock.

All that it knows is in the checkpoint (`Progress` aside), so that a loop which begins at one makes
the same bits as the loop which wrote it.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
import optax

from jaxnet import checkpoint, data, model, net, optimizers, run_folder
from jaxnet.config import Config
from jaxnet.metrics import Metrics
from jaxnet.problem import Problem
from jaxnet.spec import Batch
from jaxnet.train import TrainState, init, make_step, on_rows, scan_chunk

MAX_CHUNK = 500  # steps to one call of the device
CHUNK_SECONDS = 0.2, 0.5  # what one call should take: signals and progress wait for its end
SAVING_SHARE = 20  # of the time, at most one part in so many is spent waiting for checkpoints


class Progress(NamedTuple):
    """Where a run is: steps made and to make, the last loss, the last evaluation if any."""

    step: int
    num_steps: int
    loss: float
    metrics: dict[str, Any]


class Snapshot(NamedTuple):
    """All that a run must remember.

    best: the parameters after the epoch of the lowest validation loss, whose metrics `best_line`
    has; the initial ones, and None, before the first. epoch_loss: sum of the losses of the epoch's
    steps so far. lines: of metrics.jsonl so far.
    """

    state: TrainState
    best: dict[str, np.ndarray]
    best_line: dict[str, Any] | None
    epoch_loss: float
    lines: list[dict[str, Any]]


def make_optimizer(config: Config, num_steps: int) -> optax.GradientTransformation:
    """The optimizer of a run of `num_steps`: schedule, decay, and clipping before either."""
    decay = {} if config.weight_decay is None else {"weight_decay": config.weight_decay}
    rate = optimizers.schedule(config.schedule, config.learning_rate, num_steps)
    optimizer = optimizers.make(config.optimizer, rate, **decay)
    if config.clip_norm is None:
        return optimizer
    return optax.chain(optax.clip_by_global_norm(config.clip_norm), optimizer)


def begin(config: Config, problem: Problem, params: dict[str, np.ndarray] | None) -> Snapshot:
    """The snapshot before the first step; `params` are the initial ones, by default drawn."""
    params = problem.spec.init(config.seed, config.dtype) if params is None else params
    state = init(params, make_optimizer(config, problem.steps_per_epoch * config.epochs))
    return Snapshot(state, params, None, 0.0, [])


def save(writer: checkpoint.Writer, folder: Path, snapshot: Snapshot, identity: dict) -> None:
    """Write a checkpoint, and the best parameters so far as the run's model.

    Raises: FloatingPointError for parameters that are not finite, OSError for a full disk.
    """
    step = int(snapshot.state.step)
    if not all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(snapshot.state.params)):
        raise FloatingPointError(
            f"the parameters became infinite or NaN at step {step}: "
            "try a smaller learning rate, scaled inputs, or float64"
        )
    write_model(folder, snapshot)
    run_folder.sync_metrics(folder)
    tree = {"state": snapshot.state, "best": snapshot.best}
    kept = {"best": snapshot.best_line, "epoch_loss": snapshot.epoch_loss, "identity": identity}
    writer.save(step, tree, kept | {"epochs": len(snapshot.lines)})


def write_model(folder: Path, snapshot: Snapshot) -> None:
    """Write the best parameters so far, if any epoch has ended."""
    if snapshot.best_line is not None:
        model.save_params(folder / run_folder.PARAMS, snapshot.best, snapshot.best_line)


def restore(folder: Path, like: Snapshot) -> tuple[Snapshot, tuple[str, ...]]:
    """The newest snapshot that is whole, and a sentence for each damaged one.

    metrics.jsonl and the checkpoints are cut back to it. Without a checkpoint: the first step.

    Raises: ValueError if the checkpoints have been removed, or are all damaged.
    """
    checkpoints = folder / run_folder.CHECKPOINTS
    if not checkpoints.exists() and run_folder.read_metrics(folder):
        raise ValueError(
            f"{checkpoints}: the run's checkpoints are gone, so that it cannot go on; put them "
            "back, or train a new run"
        )
    if not checkpoint.steps(checkpoints):
        run_folder.cut_metrics(folder, 0, 0)
        return like, ()
    saved = checkpoint.restore(checkpoints, {"state": like.state, "best": like.best})
    kept = saved.metadata
    lines = run_folder.cut_metrics(folder, saved.step, kept["epochs"])
    checkpoint.set_aside(checkpoints, saved.step)
    snapshot = Snapshot(
        saved.tree["state"], saved.tree["best"], kept["best"], kept["epoch_loss"], lines
    )
    return snapshot, saved.damaged


def evaluate(problem: Problem, params: Any, batch: Batch) -> Metrics:
    """The metrics of parameters on a batch."""
    metrics = Metrics(problem.spec.loss, problem.encoding.target)
    metrics.update(model.outputs(problem.spec, params, batch.x), batch.y)
    return metrics


def run(
    config: Config,
    problem: Problem,
    snapshot: Snapshot,
    *,
    folder: Path,
    save: Callable[[Snapshot], None],
    on_line: Callable[[dict[str, Any]], None],
    on_progress: Callable[[Progress], None],
    signal: Callable[[], int | None],
) -> tuple[Snapshot, str]:
    """Train on from a snapshot; return the last one, which is saved, and why the run ended.

    The reasons: "epochs" (all are made), "patience", "max_time", "signal". on_line gets the metrics
    of each epoch, which are appended to those in `folder`.

    Raises: FloatingPointError for a loss that is not finite; the best model so far is written.
    """
    num_steps = problem.steps_per_epoch * config.epochs
    rows_at = data.row_batches(len(problem.train.x), problem.batch_size, config.seed)
    loss = partial(net.loss, activation=problem.spec.activation, loss=problem.spec.loss)
    step = on_rows(make_step(loss, make_optimizer(config, num_steps)), problem.train)
    capacity = min(MAX_CHUNK, problem.steps_per_epoch)
    length, compiled = min(capacity, 50), False
    started = saved_at = time.perf_counter()
    saved_step, pause = int(snapshot.state.step), config.checkpoint_every

    while True:
        made = int(snapshot.state.step)
        reason = _reason(config, problem, snapshot, time.perf_counter() - started, signal())
        due = made % problem.steps_per_epoch == 0 or config.checkpoint_every > 0
        now = time.perf_counter()
        if made > saved_step and (reason or (due and now - saved_at >= pause)):
            save(snapshot)
            saved_step, saved_at = made, time.perf_counter()
            pause = max(config.checkpoint_every, SAVING_SHARE * (saved_at - now))
            pause = pause if config.checkpoint_every else 0.0
        if reason:
            return snapshot, reason
        before = time.perf_counter()
        number = min(length, problem.steps_per_epoch - made % problem.steps_per_epoch)
        try:
            state, losses = scan_chunk(step, snapshot.state, rows_at, number, capacity)
            # one after the other: a sum by chunks would round as they happen to be cut
            epoch_loss = float(np.cumsum([snapshot.epoch_loss, *losses], dtype=float)[-1])
            snapshot = snapshot._replace(state=state, epoch_loss=epoch_loss)
            if (made + number) % problem.steps_per_epoch == 0:
                snapshot = _end_epoch(problem, snapshot)
                run_folder.append_metrics(folder, snapshot.lines[-1])
                on_line(snapshot.lines[-1])
        except FloatingPointError:
            write_model(folder, snapshot)
            raise
        last = snapshot.lines[-1] if snapshot.lines else {}
        on_progress(Progress(made + number, num_steps, float(losses[-1]), last))
        seconds = time.perf_counter() - before
        if compiled and seconds > CHUNK_SECONDS[1]:
            length = max(1, length // 2)
        elif seconds < CHUNK_SECONDS[0]:
            length = min(capacity, 2 * length)
        compiled = True


def _reason(
    config: Config, problem: Problem, snapshot: Snapshot, seconds: float, signum: int | None
) -> str | None:
    """Why the run should end here, if it should."""
    if int(snapshot.state.step) >= problem.steps_per_epoch * config.epochs:
        return "epochs"
    if config.patience is not None and snapshot.best_line is not None:
        ended = int(snapshot.state.step) % problem.steps_per_epoch == 0
        if ended and len(snapshot.lines) - snapshot.best_line["epoch"] >= config.patience:
            return "patience"
    if signum is not None:
        return "signal"
    return "max_time" if config.max_time is not None and seconds >= config.max_time else None


def _end_epoch(problem: Problem, snapshot: Snapshot) -> Snapshot:
    """Evaluate, and keep a copy of the parameters if they are the best so far."""
    step = int(snapshot.state.step)
    validation = evaluate(problem, snapshot.state.params, problem.validation).result()
    if not math.isfinite(validation["loss"] or 0):
        raise FloatingPointError(
            f"the validation loss became {validation['loss']} at step {step}: "
            "try a smaller learning rate, scaled inputs, or float64"
        )
    line = {
        "step": step,
        "epoch": step // problem.steps_per_epoch,
        "train_loss": snapshot.epoch_loss / problem.steps_per_epoch,
        **{f"val_{name}": value for name, value in validation.items()},
    }
    best, best_line = snapshot.best, snapshot.best_line
    if best_line is None or line["val_loss"] < best_line["val_loss"]:
        best, best_line = jax.tree.map(np.array, snapshot.state.params), line
    return Snapshot(snapshot.state, best, best_line, 0.0, [*snapshot.lines, line])
