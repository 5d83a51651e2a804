"""Epochs of training: steps, evaluations, the best parameters, when to stop.

`judge` and `make_steps` hold the rules. `run` makes many short epochs, or a chunk of a long one, in
one call of the device; `streams.run` does the same with rows from the disk. State and losses may be
those of one network, or of many that are trained together: then each scalar is an array, with one
entry for each network, and each leaf of the parameters has the same axes first.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import cache
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from jaxnet.train import Step, TrainState, scan_steps, stack, take

NEVER = np.iinfo(np.int32).max  # a `max_wait` that is never reached
MAX_CHUNK = 5000  # steps to one call of the device
MAX_INDICES = 2**20  # row indices to one call: 4 MB
Evaluate = Callable[[Any], dict[str, jax.Array]]
CompilerOptions = tuple[tuple[str, Any], ...]


class Best(NamedTuple):
    """The parameters of the lowest loss so far, and what decides when training stops.

    loss: that loss. wait: evaluations since, or `max_wait` after a loss that is not finite. finite:
    whether all losses have been finite.
    """

    params: Any
    loss: Any = np.inf
    wait: Any = 0
    finite: Any = True


class Chunk(NamedTuple):
    """What a call made: losses (steps, ...), and of each evaluation what `evaluate` returned, and
    `wait` and `finite` of the best after it, stacked.
    """

    state: TrainState
    best: Best
    losses: np.ndarray
    evaluations: dict[str, np.ndarray]

    def by_segment(
        self, first: int, segments: list[tuple[int, bool]]
    ) -> Iterator[tuple[int, np.ndarray, dict[str, np.ndarray] | None]]:
        """Yield of each segment made the steps so far, its losses, and its evaluation if any.

        first: the steps before the call.
        """
        made = evaluated = 0
        for length, ends in segments:
            losses = self.losses[made : made + length]
            if not len(losses):  # stopped early
                return
            made += length
            values = None
            if ends:
                values = {name: leaf[evaluated] for name, leaf in self.evaluations.items()}
                evaluated += 1
            yield first + made, losses, values


def capacity(batch_size: int, every: int) -> tuple[int, int]:
    """Return the most steps, and segments, of a call; every: the steps between evaluations."""
    steps = min(MAX_CHUNK, max(1, MAX_INDICES // batch_size))
    return steps, steps // every + 2


def segments(first: int, stop: int, every: int, num_steps: int) -> list[tuple[int, bool]]:
    """Cut the steps first..stop after each that is evaluated: lengths, and whether it is.

    Evaluated are every multiple of `every`, and the last of `num_steps`.
    """
    cuts = [*range((first // every + 1) * every, stop, every), stop]
    starts = [first, *cuts[:-1]]
    ends = [cut % every == 0 or cut == num_steps for cut in cuts]
    return [(cut - start, end) for start, cut, end in zip(starts, cuts, ends, strict=True)]


def evaluations_to_wait(patience: int | None, every: int) -> int:
    """Return the `max_wait` for so many epochs of patience, or none, evaluated at each `every`."""
    return NEVER if patience is None else -(-patience // every)


def judge(best: Best, params: Any, loss: Any, max_wait: Any) -> Best:
    """Return the best after an evaluation: its parameters, or the same as before.

    Once `max_wait` evaluations in a row have found no lower loss, or a loss was not finite, the
    best stays as it is.
    """
    finite = best.finite & jnp.isfinite(loss)
    lower = finite & (loss < best.loss) & (best.wait < max_wait)
    wait = jnp.where(finite, jnp.minimum(best.wait, max_wait - 1) + 1, max_wait)

    def choose(new, old):
        at = lower.reshape(lower.shape + (1,) * (np.ndim(new) - lower.ndim))
        return jnp.where(at, new, old)

    params = jax.tree.map(choose, params, best.params)
    return Best(params, choose(loss, best.loss), choose(0, wait), finite)


def make_steps(
    step: Step, state: TrainState, losses: jax.Array, batches: Any, start: Any, stop: Any
) -> tuple[TrainState, jax.Array, jax.Array]:
    """Make the steps start..stop of stacked batches inside a compiled program, as `scan_steps`.

    Returns the state, the losses, and whether all of these steps are finite.
    """

    def watched(carry, batch):
        state, finite = carry
        state, loss = step(state, batch)
        return (state, finite & jnp.isfinite(loss)), loss

    carry: Any = state, jnp.ones(losses.shape[1:], bool)
    (state, finite), losses = scan_steps(watched, carry, losses, batches, start, stop)  # type: ignore[bad-argument-type]
    return state, losses, finite


def empty_losses(step: Step, state: TrainState, batches: Any, capacity: int) -> jax.Array:
    """Return zeros (capacity, ...) for the losses of so many steps."""
    loss = jax.eval_shape(step, state, take(batches, 0))[1]
    return jnp.zeros((capacity, *loss.shape), loss.dtype)


def run(
    step: Step,
    evaluate: Evaluate,
    state: TrainState,
    best: Best,
    batch_at: Callable[[int], Any],
    segments: list[tuple[int, bool]],
    capacity: tuple[int, int],
    max_wait: int = NEVER,
    options: CompilerOptions = (),
) -> Chunk:
    """Make the steps of the segments, and evaluate the parameters after each that ends so; stop
    early once every network has waited for `max_wait` evaluations.

    evaluate(params) returns scalars or small arrays, among them the scalar "loss"; both it and
    `step` are pytrees if they hold data. capacity: the most steps and segments of any call; it
    compiles once for each. options: as `compiler_options`. `state` and `best` are donated.
    """
    first = int(np.asarray(state.step).flat[0])
    lengths, ends = (np.zeros(capacity[1], dtype) for dtype in (np.int32, bool))
    lengths[: len(segments)], ends[: len(segments)] = zip(*segments, strict=True)
    batches = stack(batch_at, first, first + int(lengths.sum()), capacity[0])
    program = compiled(_run, ("state", "best"), options)
    made, steps, state, best, losses, evaluations = program(
        step, evaluate, state, best, batches, len(segments), lengths, ends, max_wait, capacity[0]
    )
    made, steps, losses, evaluations = jax.device_get((made, steps, losses, evaluations))
    at = np.flatnonzero(ends[:made])
    return Chunk(state, best, losses[:steps], {k: v[at] for k, v in evaluations.items()})


def compiler_options(dtype: str, platform: str) -> CompilerOptions:
    """Return XLA's options, as pairs, for programs that multiply in this dtype.

    Products in bfloat16 on a CPU take half the time by oneDNN. JAX has it from 0.12 on, as an
    experiment; in 0.10 it is slower.
    """
    if (dtype, platform) != ("bfloat16", "cpu") or jax.__version_info__ < (0, 12):
        return ()
    return (
        ("xla_cpu_experimental_onednn_custom_call", True),
        ("xla_cpu_experimental_ynn_fusion_type", ""),  # which would take the products first
    )


@cache
def compiled(function: Callable, donated: tuple[str, ...], options: CompilerOptions) -> Callable:
    """Return the function jitted, once for all its callers; its `capacity` is static."""
    return jax.jit(
        function,
        static_argnames="capacity",
        donate_argnames=donated,
        compiler_options=dict(options),
    )


def _run(step, evaluate, state, best, batches, num_segments, lengths, ends, max_wait, capacity):
    losses = empty_losses(step, state, batches, capacity)
    best = best._replace(
        loss=jnp.asarray(best.loss, jax.eval_shape(evaluate, state.params)["loss"].dtype),
        wait=jnp.asarray(best.wait, jnp.int32),
        finite=jnp.asarray(best.finite),
    )

    def evaluated(state, best):
        values = evaluate(state.params)
        best = judge(best, state.params, values["loss"], max_wait)
        return best, values | {"wait": best.wait, "finite": best.finite}

    def unfinished(carry):
        made, _, _, best, _, _ = carry
        return (made < num_segments) & jnp.any(best.wait < max_wait)

    def make_segment(carry):
        made, number, state, best, losses, evaluations = carry
        stop = number + lengths[made]
        state, losses, finite = make_steps(step, state, losses, batches, number, stop)
        best = best._replace(finite=best.finite & finite)

        def evaluation():
            after, values = evaluated(state, best)
            return after, jax.tree.map(lambda a, v: a.at[made].set(v), evaluations, values)

        best, evaluations = lax.cond(ends[made], evaluation, lambda: (best, evaluations))
        return made + 1, stop, state, best, losses, evaluations

    shapes = jax.eval_shape(evaluated, state, best)[1]
    evaluations = jax.tree.map(lambda s: jnp.zeros((len(ends), *s.shape), s.dtype), shapes)
    zero = jnp.zeros((), jnp.int32)
    return lax.while_loop(unfinished, make_segment, (zero, zero, state, best, losses, evaluations))
