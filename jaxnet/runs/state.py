"""All that a run must remember, and its way to the run's folder and back."""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np

from jaxnet.engine import checkpoint, mesh, processes
from jaxnet.runs import model
from jaxnet.runs.folder import CHECKPOINTS, PARAMS, cut_metrics, read_metrics, sync_metrics
from jaxnet.runs.trainer import Trainer
from jaxnet.train import TrainState, init


class RunState(NamedTuple):
    """All that a run must remember.

    best: the parameters at the evaluation of the lowest validation loss, whose metrics `best_line`
    has; the initial ones, and None, before the first. They have the trainer of those in `state`.
    epoch_loss: sum of the losses since the last evaluation. lines: of metrics.jsonl so far.
    """

    state: TrainState
    best: Any
    best_line: dict[str, Any] | None
    epoch_loss: float
    lines: list[dict[str, Any]]


def begin(trainer: Trainer) -> RunState:
    """The snapshot before the first step."""
    return RunState(init(trainer.params, trainer.optimizer), trainer.params, None, 0.0, [])


def save(
    writer: checkpoint.Writer | None,
    folder: Path,
    trainer: Trainer,
    snapshot: RunState,
    identity: dict[str, Any],
) -> None:
    """Write a checkpoint, and the best parameters so far as the run's model.

    All processes of the run call it; writer: None where another one writes.

    Raises: FloatingPointError for parameters that are not finite, OSError for a full disk.
    """
    snapshot = on_host(snapshot)
    step = int(snapshot.state.step)
    if not all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(snapshot.state.params)):
        raise FloatingPointError(
            f"the parameters became infinite or NaN at step {step}: "
            "try a smaller learning rate, scaled inputs, or float64"
        )
    if writer is None:
        return
    write_model(folder, trainer, snapshot)
    sync_metrics(folder)
    tree = {"state": snapshot.state, "best": snapshot.best}
    kept = {"best": snapshot.best_line, "epoch_loss": snapshot.epoch_loss, "identity": identity}
    writer.save(step, tree, kept | {"evaluations": len(snapshot.lines)})


def on_host(snapshot: RunState) -> RunState:
    """The snapshot with whole NumPy arrays; all processes of the run call it."""
    state, best = mesh.to_host((snapshot.state, snapshot.best))
    return snapshot._replace(state=state, best=best)


def share(snapshot: RunState, trainer: Trainer) -> RunState:
    """Process 0's snapshot in all processes, put where the trainer wants it.

    In each of them it has arrays of the same shapes and dtypes.
    """
    state, best = snapshot.state, snapshot.best
    if jax.process_count() > 1:
        state, best = processes.broadcast((state, best))
    known = processes.broadcast_json([snapshot.best_line, snapshot.epoch_loss, snapshot.lines])
    return RunState(trainer.place(state), trainer.place(best), *known)


def write_model(folder: Path, trainer: Trainer, snapshot: RunState) -> None:
    """Write the best parameters so far, if there has been an evaluation."""
    if snapshot.best_line is not None:
        params = trainer.weights(snapshot.best)
        model.save_params(folder / PARAMS, params, snapshot.best_line)


def restore(folder: Path, like: RunState) -> tuple[RunState, tuple[str, ...]]:
    """The newest snapshot that is whole, and a sentence for each damaged one.

    metrics.jsonl and the checkpoints are cut back to it. Without a checkpoint: the first step.

    Raises: ValueError if the checkpoints have been removed, or are all damaged.
    """
    checkpoints = folder / CHECKPOINTS
    if not checkpoints.exists() and read_metrics(folder):
        raise ValueError(
            f"{checkpoints}: the run's checkpoints are gone, so that it cannot go on; put them "
            "back, or train a new run"
        )
    if not checkpoint.steps(checkpoints):
        cut_metrics(folder, 0, 0)
        return like, ()
    saved = checkpoint.restore(checkpoints, {"state": like.state, "best": like.best})
    kept = saved.metadata
    lines = cut_metrics(folder, saved.step, kept["evaluations"])
    checkpoint.set_aside(checkpoints, saved.step)
    snapshot = RunState(
        saved.tree["state"], saved.tree["best"], kept["best"], kept["epoch_loss"], lines
    )
    return snapshot, saved.damaged
