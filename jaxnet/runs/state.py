"""All that a run must remember, and its way to the run's folder and back."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
import optax

from jaxnet.engine import checkpoint, processes
from jaxnet.engine.mesh import to_host
from jaxnet.runs.folder import CHECKPOINTS, PARAMS, cut_metrics, read_metrics, sync_metrics
from jaxnet.runs.params import save_params
from jaxnet.tables.from_json import arguments
from jaxnet.train import TrainState, init


class RunState(NamedTuple):
    """All that a run must remember.

    best: the parameters at the evaluation of the lowest validation loss, whose metrics `best_line`
    has; the initial ones, and None, before the first evaluation. They have the structure of those
    in `state`. epoch_loss: the sum of the losses since the last evaluation. lines: those of
    metrics.jsonl so far.
    """

    state: TrainState
    best: Any
    best_line: dict[str, Any] | None
    epoch_loss: float
    lines: list[dict[str, Any]]


class Kept(NamedTuple):
    """What a checkpoint holds beside its arrays: of `RunState`; identity: `Record.identity`."""

    best: dict[str, int | float | None] | None
    epoch_loss: float
    identity: dict
    evaluations: int


def begin(params: Any, optimizer: optax.GradientTransformation) -> RunState:
    """Return the state of a run before its first step."""
    return RunState(init(params, optimizer), params, None, 0.0, [])


def save(
    writer: checkpoint.Writer | None,
    folder: Path,
    weights: Callable[[Any], dict[str, np.ndarray]],
    now: RunState,
    identity: dict[str, Any],
) -> None:
    """Write a checkpoint, and the best parameters so far as the run's model.

    All processes of the run call it; only that with a `writer` writes.

    Raises: FloatingPointError for parameters that are not finite, OSError for a full disk.
    """
    now = on_host(now)
    step = int(now.state.step)
    if not all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(now.state.params)):
        raise FloatingPointError(
            f"the parameters became infinite or NaN at step {step}: "
            "try a smaller learning rate, scaled inputs, or float64"
        )
    if writer is None:
        return
    write_model(folder, weights, now)
    if now.lines:
        sync_metrics(folder)
    metadata = Kept(now.best_line, now.epoch_loss, identity, len(now.lines))
    writer.save(step, {"state": now.state, "best": now.best}, metadata._asdict())


def on_host(now: RunState) -> RunState:
    """Return the state with whole NumPy arrays; all processes of the run call it."""
    state, best = to_host((now.state, now.best))
    return now._replace(state=state, best=best)


def share(now: RunState, place: Callable[[Any], Any]) -> RunState:
    """Return process 0's state in every process, put on its devices by `place`.

    Its arrays have the same shapes and dtypes in every process.
    """
    state, best = now.state, now.best
    if jax.process_count() > 1:
        state, best = processes.broadcast((state, best))
    known = processes.broadcast_json([now.best_line, now.epoch_loss, now.lines])
    return RunState(place(state), place(best), *known)


def write_model(
    folder: Path,
    weights: Callable[[Any], dict[str, np.ndarray]],
    now: RunState,
    calibration: dict[str, float] | None = None,
) -> None:
    """Write the best parameters so far, if there has been an evaluation.

    weights: what turns the trainer's parameters into those of `Spec`, as NumPy arrays. calibration:
    `Model`'s temperature and balance, which are known at the end.
    """
    if now.best_line is not None:
        save_params(folder / PARAMS, weights(now.best), now.best_line | (calibration or {}))


def restore(folder: Path, like: RunState) -> tuple[RunState, tuple[str, ...]]:
    """Return the newest state that is whole, and a sentence for each damaged checkpoint.

    metrics.jsonl and the checkpoints are cut back to it. Without a checkpoint it is `like`.

    Raises: ValueError if the checkpoints have been removed, or are all damaged.
    """
    checkpoints = folder / CHECKPOINTS
    if not checkpoint.steps(checkpoints):
        if not checkpoints.exists() and read_metrics(folder):
            raise ValueError(
                f"{checkpoints}: the run's checkpoints are gone, so it cannot be resumed; put them "
                "back, or train a new run"
            )
        cut_metrics(folder, 0, 0)
        return like, ()
    saved = checkpoint.restore(checkpoints, {"state": like.state, "best": like.best})
    try:
        kept = Kept(**arguments(Kept, "metadata", saved.metadata))
        if saved.step != int(saved.tree["state"].step):
            raise ValueError(f"it is of step {int(saved.tree['state'].step)}")
    except ValueError as error:
        path = checkpoints / str(saved.step)
        raise ValueError(f"{path}: not a checkpoint of a run ({error}); was it edited?") from None
    lines = cut_metrics(folder, saved.step, kept.evaluations)
    if saved.damaged:
        checkpoint.set_aside(checkpoints, saved.step)
    state, best = saved.tree["state"], saved.tree["best"]
    return RunState(state, best, kept.best, kept.epoch_loss, lines), saved.damaged
