"""Epochs of training in one compiled program: steps, evaluations, the best parameters, patience.

A call of the device covers many short epochs, or a part of a long one; how a run is cut into calls
changes no bit of it.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from jaxnet.train import Step, TrainState, scan_steps, stack, take

NEVER = np.iinfo(np.int32).max  # evaluations to wait for a lower loss


class Best(NamedTuple):
    """The parameters of the lowest loss so far, that loss, and how many evaluations ago it was."""

    params: Any
    loss: Any
    wait: Any


class Chunk(NamedTuple):
    """What a call made: losses (steps,), and the evaluations, each leaf stacked, one after each
    segment that had one.
    """

    state: TrainState
    best: Best
    losses: np.ndarray
    evaluations: dict[str, np.ndarray]


def segments(first: int, stop: int, every: int, num_steps: int) -> list[tuple[int, bool]]:
    """Cut the steps first..stop after each that is evaluated: lengths, and whether it is.

    Evaluated are every multiple of `every`, and the last of `num_steps`.
    """
    cuts = [*range((first // every + 1) * every, stop, every), stop]
    starts = [first, *cuts[:-1]]
    ends = [cut % every == 0 or cut == num_steps for cut in cuts]
    return [(cut - start, end) for start, cut, end in zip(starts, cuts, ends, strict=True)]


def run(
    step: Step,
    evaluate: Callable[[Any], dict[str, jax.Array]],
    state: TrainState,
    best: Best,
    batch_at: Callable[[int], Any],
    parts: list[tuple[int, bool]],
    capacity: tuple[int, int],
    max_wait: int = NEVER,
) -> Chunk:
    """Make the steps of the `parts` (see `segments`), evaluating the parameters after each that
    says so; stop early once `max_wait` evaluations in a row have found no lower loss.

    evaluate(params) returns scalars or small arrays, among them the scalar "loss"; both it and
    `step` are pytrees if they hold data. capacity: the most steps and parts of any call; it
    compiles once for each. `state` and `best` are donated.
    """
    first = int(state.step)
    lengths, ends = (np.zeros(capacity[1], dtype) for dtype in (np.int32, bool))
    lengths[: len(parts)], ends[: len(parts)] = zip(*parts, strict=True)
    batches = stack(batch_at, first, first + int(lengths.sum()), capacity[0])
    made, number, state, losses, best, evaluations = _run(
        step, evaluate, state, best, batches, len(parts), lengths, ends, max_wait, capacity[0]
    )
    made, number, losses, evaluations = jax.device_get((made, number, losses, evaluations))
    at = np.flatnonzero(ends[:made])
    return Chunk(state, best, losses[:number], {k: v[at] for k, v in evaluations.items()})


@partial(jax.jit, static_argnames="capacity", donate_argnames=("state", "best"))
def _run(step, evaluate, state, best, batches, num_parts, lengths, ends, max_wait, capacity):
    shapes = jax.eval_shape(evaluate, state.params)
    evaluations = jax.tree.map(lambda s: jnp.zeros((len(ends), *s.shape), s.dtype), shapes)
    losses = jnp.zeros(capacity, jax.eval_shape(step, state, take(batches, 0))[1].dtype)

    def goes_on(carry):
        part, _, _, _, best, _ = carry
        return (part < num_parts) & (best.wait < max_wait)

    def go_on(carry):
        part, number, state, losses, best, evaluations = carry
        stop = number + lengths[part]
        state, losses = scan_steps(step, state, losses, batches, number, stop)

        def evaluated():
            values = evaluate(state.params)
            put = jax.tree.map(lambda a, v: a.at[part].set(v), evaluations, values)
            return _better(best, state.params, values["loss"]), put

        best, evaluations = lax.cond(ends[part], evaluated, lambda: (best, evaluations))
        return part + 1, stop, state, losses, best, evaluations

    zero = jnp.zeros((), jnp.int32)
    best = Best(best.params, jnp.asarray(best.loss, shapes["loss"].dtype), zero + best.wait)
    return lax.while_loop(goes_on, go_on, (zero, zero, state, losses, best, evaluations))


def _better(best, params, loss):
    """The best of the old and the new; NaN is never better."""
    lower = loss < best.loss
    params = jax.tree.map(partial(jnp.where, lower), params, best.params)
    return Best(params, jnp.where(lower, loss, best.loss), jnp.where(lower, 0, best.wait + 1))
