"""Training any loss over any parameters and batches: a step, a loop, and the loop compiled.

Everything composes over three shapes:

    loss(params, batch) -> scalar           any params pytree, any batch pytree
    step(state, batch) -> (state, loss)     jitted; the state is donated: use the returned one
    batch_at(step_number) -> batch          a pure function of the step number

As the batch is a function of the step number, the loop and the compiled scan see the same data, and
a run that goes on from a saved state repeats nothing. Both give the same losses, bit for bit, on
one device.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import lax
from jax.tree_util import Partial

Step = Callable[["TrainState", Any], tuple["TrainState", jax.Array]]


class TrainState(NamedTuple):
    """All that a run must remember: parameters, optimizer state, number of steps made (int32)."""

    params: Any
    opt_state: Any
    step: jax.Array


def init(params: Any, optimizer: optax.GradientTransformation) -> TrainState:
    """Return the state before the first step; it holds copies, so `params` stays usable."""
    return _init(params, optimizer)


@functools.partial(jax.jit, static_argnames="optimizer")
def _init(params, optimizer):
    """In one program: leaf by leaf, each shape would be compiled on its own."""
    params = jax.tree.map(jnp.array, params)
    return TrainState(params, optimizer.init(params), jnp.zeros((), jnp.int32))


def make_step(
    loss: Callable[[Any, Any], jax.Array],
    optimizer: optax.GradientTransformation,
    *,
    value_and_grad: Callable[[Callable], Callable] = jax.value_and_grad,
) -> Step:
    """Return the jitted step. It reports the loss before its update, as the tutorial does.

    value_and_grad: what makes of the loss a function to its value and gradients, if not JAX's own,
    as `gradients.accumulated`.
    """

    @functools.partial(jax.jit, donate_argnames="state")
    def step(state: TrainState, batch: Any) -> tuple[TrainState, jax.Array]:
        value, grads = value_and_grad(loss)(state.params, batch)
        updates, opt_state = optimizer.update(grads, state.opt_state, state.params)
        return TrainState(
            optax.apply_updates(state.params, updates), opt_state, state.step + 1
        ), value

    return step


def transpose(tree: Any) -> Any:
    """Transpose every matrix of a pytree: parameters (in, out) become (out, in), and back."""
    return jax.tree.map(lambda leaf: leaf.T if leaf.ndim == 2 else leaf, tree)


def transposed(loss: Callable[[Any, Any], jax.Array]) -> Callable[[Any, Any], jax.Array]:
    """Return the same loss over parameters whose matrices are transposed.

    The same mathematics, and faster on a CPU where the weights outweigh the batch: a gradient
    (out, in) is made, and read by the optimizer, in the order in which the product makes it. Train
    `transpose(params)`, and take `transpose(state.params)` in the end.
    """

    def of_transposed(params, batch):
        return loss(transpose(params), batch)

    return of_transposed


@functools.cache
def _step_on_rows(step: Step) -> Callable:
    @functools.partial(jax.jit, donate_argnames="state")
    def step_on_rows(data, state, rows):
        batch = data if rows is None else jax.tree.map(lambda a: a[rows], data)
        return step(state, batch)

    return step_on_rows


def on_rows(step: Step, data: Any) -> Step:
    """Return the step that takes row indices for a batch; the data go to the device once.

    data: a batch pytree whose every array has the rows first; what lies on devices stays there. The
    indices: (N,) integers, or None for all rows at once.
    """
    here = jax.tree.map(lambda a: a if isinstance(a, jax.Array) else jax.device_put(a), data)
    return Partial(_step_on_rows(step), here)


def fit(
    step: Step,
    state: TrainState,
    batch_at: Callable[[int], Any],
    num_steps: int,
    *,
    on_step: Callable[[TrainState, jax.Array], None] | None = None,
) -> tuple[TrainState, np.ndarray]:
    """Make `num_steps` more steps in a Python loop, for batches that do not fit on the device.

    on_step(state, loss), if given, is called after each step; `state` is valid until it returns.
    Returns the state and the losses (num_steps,).

    Raises: FloatingPointError naming the first step whose loss is NaN or infinite. Losses are
    looked at every 100 steps, since fetching each would stall the device.
    """
    first = _first_step(state, num_steps)
    fetched: list[np.ndarray] = []
    for start, stop in _chunks(first, num_steps, 100):
        losses = []
        for i in range(start, stop):
            state, loss = step(state, batch_at(i))
            losses.append(loss)
            if on_step is not None:
                on_step(state, loss)
        fetched.append(check_finite(jax.device_get(losses), start))
    return state, _concatenate(fetched)


def fit_scan(
    step: Step,
    state: TrainState,
    batch_at: Callable[[int], Any],
    num_steps: int,
    *,
    chunk: int = 500,
    on_chunk: Callable[[TrainState, np.ndarray], None] | None = None,
) -> tuple[TrainState, np.ndarray]:
    """Make `num_steps` more steps compiled, `chunk` of them to one call of the device.

    The scan's input is what `batch_at` returns, stacked over a chunk: small for a step made by
    `on_rows`, which gathers rows on the device. It compiles once for each chunk length (a shorter
    last chunk stops the same program early). on_chunk(state, losses), if given, is called after
    each chunk; `state` is valid until it returns.
    Returns the state and the losses (num_steps,).

    Raises: FloatingPointError naming the first step whose loss is NaN or infinite, at the end of
    its chunk.
    """
    first = _first_step(state, num_steps)
    if chunk < 1:
        raise ValueError(f"`chunk` must be at least 1, got {chunk}")
    capacity = min(chunk, num_steps)
    # A Partial is a pytree: its data enter the program as arguments, not as constants.
    step = step if isinstance(step, Partial) else Partial(step)
    fetched: list[np.ndarray] = []
    chunks = _chunks(first, num_steps, chunk)
    batches = stack(batch_at, *chunks[0], capacity) if chunks else None
    for i, (start, stop) in enumerate(chunks):
        state, losses = _scan(step, state, batches, stop - start, capacity)
        if i + 1 < len(chunks):  # while the device works
            batches = stack(batch_at, *chunks[i + 1], capacity)
        fetched.append(check_finite(np.asarray(losses)[: stop - start], start))
        if on_chunk is not None:
            on_chunk(state, fetched[-1])
    return state, _concatenate(fetched)


def stack(batch_at: Callable[[int], Any], start: int, stop: int, capacity: int) -> Any:
    """The batches of the steps start..stop, stacked and padded with zeros to `capacity`.

    Raises: ValueError for batches of several shapes.
    """

    def stacked(*leaves):
        shapes = sorted({np.shape(leaf) for leaf in leaves})
        if len(shapes) > 1:
            raise ValueError(f"`batch_at` must return batches of one shape, got {shapes}")
        array = np.zeros((capacity, *shapes[0]), np.asarray(leaves[0]).dtype)
        if shapes[0]:  # np.stack is three times slower: it makes a view of each
            used = array[: len(leaves)]
            np.concatenate(leaves, out=used.reshape(-1, *shapes[0][1:]))
        else:
            array[: len(leaves)] = leaves
        return array

    return jax.tree.map(stacked, *(batch_at(i) for i in range(start, stop)))


def scan_steps(
    step: Step, state: TrainState, losses: jax.Array, batches: Any, start: Any, stop: Any
) -> tuple[TrainState, jax.Array]:
    """Make the steps start..stop of stacked batches inside a compiled program.

    It is `lax.scan` with a length that may be data, and gives the same bits. losses: (capacity,),
    returned with those of the steps.
    """

    def body(i, carry):
        state, losses = carry
        state, loss = step(state, take(batches, i))
        return state, losses.at[i].set(loss)

    return lax.fori_loop(start, stop, body, (state, losses))


def take(batches: Any, i: Any) -> Any:
    """The batch of step `i` of stacked ones."""
    return jax.tree.map(lambda a: lax.dynamic_index_in_dim(a, i, keepdims=False), batches)


@functools.partial(jax.jit, static_argnames="capacity", donate_argnames="state")
def _scan(step, state, batches, num_steps, capacity):
    losses = jnp.zeros(capacity, jax.eval_shape(step, state, take(batches, 0))[1].dtype)
    return scan_steps(step, state, losses, batches, 0, num_steps)


def _first_step(state: TrainState, num_steps: int) -> int:
    if num_steps < 0:
        raise ValueError(f"`num_steps` must be at least 0, got {num_steps}")
    return int(state.step)


def _chunks(first: int, num_steps: int, size: int) -> list[tuple[int, int]]:
    stop = first + num_steps
    return [(start, min(start + size, stop)) for start in range(first, stop, size)]


def check_finite(losses, start: int) -> np.ndarray:
    """Return the losses on the host; raise FloatingPointError at the first not finite."""
    losses = np.asarray(losses)
    bad = np.flatnonzero(~np.isfinite(losses))
    if len(bad):
        i = int(bad[0])
        raise FloatingPointError(
            f"the loss became {losses[i]} at step {start + i}: "
            "try a smaller learning rate, scaled inputs, or float64"
        )
    return losses


def _concatenate(losses: list[np.ndarray]) -> np.ndarray:
    return np.concatenate(losses) if losses else np.zeros(0)
