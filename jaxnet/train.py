"""Training any loss over any parameters and batches: a step, a loop, and the loop compiled.

Everything composes over three shapes:

    loss(params, batch) -> scalar           any params pytree, any batch pytree
    step(state, batch) -> (state, loss)     jitted; the state is donated: use the returned one
    batch_at(step_number) -> batch          a pure function of the step number

A batch depends on the step number only: a run that resumes from a saved state repeats nothing, and
the loop and the compiled scan see the same data. On one device they give the same bits.

What a loss hands from step to step beside the parameters, as running statistics and the counts of
random draws, is its model state; the state of training carries it:

    loss(params, batch, model_state) -> (scalar, new model_state)
"""

from __future__ import annotations

import functools
import sys
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
    """The state of training: parameters, optimizer state, number of steps made (int32).

    model_state: any pytree, for a loss that takes one; None for a loss of parameters and batch.
    """

    params: Any
    opt_state: Any
    step: jax.Array
    model_state: Any = None


@functools.partial(jax.jit, static_argnames="optimizer")  # else each shape compiles on its own
def init(
    params: Any, optimizer: optax.GradientTransformation, model_state: Any = None
) -> TrainState:
    """Return the state before the first step; it holds copies, so what is given stays usable.

    Raises: ValueError for `params` that hold variables of Flax which are not nnx.Param.
    """
    _check_params(params)
    params, model_state = jax.tree.map(jnp.array, (params, model_state))
    return TrainState(params, optimizer.init(params), jnp.zeros((), jnp.int32), model_state)


def _check_params(params: Any) -> None:
    nnx: Any = sys.modules.get("flax.nnx")  # without it there are no variables of Flax
    if nnx is None:
        return

    def is_variable(leaf):
        return isinstance(leaf, nnx.Variable)

    for path, leaf in jax.tree_util.tree_leaves_with_path(params, is_leaf=is_variable):
        if is_variable(leaf) and not isinstance(leaf, nnx.Param):
            name = jax.tree_util.keystr(path, simple=True, separator="/")
            raise ValueError(
                f"`params` must hold nnx.Param only, got {type(leaf).__name__} {name}: take "
                "loss, params and model_state from flax_net.split(module, loss)"
            )


def make_step(
    loss: Callable[..., Any],
    optimizer: optax.GradientTransformation,
    *,
    value_and_grad: Callable[..., Callable] = jax.value_and_grad,
) -> Step:
    """Return the jitted step. It reports the loss before its update, as the tutorial does.

    loss(params, batch) -> scalar; or, for a state that has a model state, loss(params, batch,
    model_state) -> (scalar, new model state). value_and_grad(loss) -> a function of (params, batch)
    to the loss and its gradient.

    Raises: ValueError, when first called, for a model state and another `value_and_grad`.
    """

    @functools.partial(jax.jit, donate_argnames="state")
    def step(state: TrainState, batch: Any) -> tuple[TrainState, jax.Array]:
        params, opt_state, number, model_state = state
        if model_state is None:
            value, grads = value_and_grad(loss)(params, batch)
        elif value_and_grad is jax.value_and_grad:
            # what is only read would be computed before a compiled loop, with other bits
            model_state = lax.optimization_barrier(model_state)
            with_state = jax.value_and_grad(loss, has_aux=True)
            (value, model_state), grads = with_state(params, batch, model_state)
        else:
            raise ValueError(
                "`value_and_grad` must be jax.value_and_grad for a loss with a model state, got "
                f"{value_and_grad}"
            )
        updates, opt_state = optimizer.update(grads, opt_state, params)
        params = optax.apply_updates(params, updates)
        return TrainState(params, opt_state, number + 1, model_state), value

    return step


def transpose(tree: Any) -> Any:
    """Transpose every matrix of a pytree: parameters (in, out) become (out, in), and back."""
    return jax.tree.map(lambda leaf: leaf.T if leaf.ndim == 2 else leaf, tree)


def transposed(loss: Callable[..., Any]) -> Callable[..., Any]:
    """Return the same loss over parameters whose matrices are transposed.

    It is faster on a CPU where the weights are larger than the batch, since the products make their
    gradients (out, in). Train `transpose(params)`, and take `transpose(state.params)` in the end.
    """
    return lambda params, *given: loss(transpose(params), *given)


@functools.cache
def _step_on_rows(step: Step) -> Callable:
    @functools.partial(jax.jit, donate_argnames="state")
    def step_on_rows(data, state, rows):
        batch = data if rows is None else jax.tree.map(lambda a: a[rows], data)
        return step(state, batch)

    return step_on_rows


def on_rows(step: Step, data: Any) -> Step:
    """Return a step on row indices: (N,) integers, or None for all rows at once.

    data: a batch pytree whose every array has the rows first. It is put on the device once, here;
    arrays that are on devices already stay where they are.
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
    """Make `num_steps` more steps in a Python loop; return the state and the losses (num_steps,).

    on_step(state, loss) is called after each step; `state` is valid until it returns.

    Raises: FloatingPointError naming the first step whose loss is NaN or infinite. Losses are
    fetched every 100 steps, since fetching each would stall the device.
    """
    fetched: list[np.ndarray] = []
    for start, stop in _chunks(state, num_steps, 100):
        losses = []
        for i in range(start, stop):
            state, loss = step(state, batch_at(i))
            losses.append(loss)
            if on_step is not None:
                on_step(state, loss)
        fetched.append(check_finite(jax.device_get(losses), start))
    return state, np.concatenate(fetched or [np.zeros(0)])


def fit_scan(
    step: Step,
    state: TrainState,
    batch_at: Callable[[int], Any],
    num_steps: int,
    *,
    chunk: int = 500,
    on_chunk: Callable[[TrainState, np.ndarray], None] | None = None,
) -> tuple[TrainState, np.ndarray]:
    """Make `num_steps` more steps, compiled; return the state and the losses (num_steps,).

    One call of the device makes `chunk` steps, of the stacked batches that `batch_at` returns: pass
    a step made by `on_rows`, which gathers rows on the device, to keep them small. A shorter last
    chunk does not compile again. on_chunk(state, losses) is called after each chunk; `state` is
    valid until it returns.

    Raises: FloatingPointError naming the first step whose loss is NaN or infinite, at the end of
    its chunk.
    """
    if chunk < 1:
        raise ValueError(f"`chunk` must be at least 1, got {chunk}")
    chunks, capacity = _chunks(state, num_steps, chunk), min(chunk, num_steps)
    # A Partial is a pytree: its data enter the program as arguments, not as constants.
    step = step if isinstance(step, Partial) else Partial(step)
    fetched: list[np.ndarray] = []
    batches = stack(batch_at, *chunks[0], capacity) if chunks else None
    for i, (start, stop) in enumerate(chunks):
        state, losses = _scan(step, state, batches, stop - start, capacity)
        if i + 1 < len(chunks):  # stack the next while the device computes
            batches = stack(batch_at, *chunks[i + 1], capacity)
        fetched.append(check_finite(np.asarray(losses)[: stop - start], start))
        if on_chunk is not None:
            on_chunk(state, fetched[-1])
    return state, np.concatenate(fetched or [np.zeros(0)])


def stack(batch_at: Callable[[int], Any], start: int, stop: int, capacity: int) -> Any:
    """Return the batches of the steps start..stop, stacked and padded with zeros to `capacity`.

    Raises: ValueError for batches of several shapes.
    """

    def stacked(*leaves):
        shapes = sorted({np.shape(leaf) for leaf in leaves})
        if len(shapes) > 1:
            raise ValueError(f"`batch_at` must return batches of one shape, got {shapes}")
        array = np.zeros((capacity, *shapes[0]), np.asarray(leaves[0]).dtype)
        if shapes[0]:  # np.stack is three times slower
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

    It gives the bits of `lax.scan`, whose length cannot be data. losses: (capacity,), returned with
    those of the steps written into it.
    """

    def body(i, carry):
        state, losses = carry
        state, loss = step(state, take(batches, i))
        return state, losses.at[i].set(loss)

    return lax.fori_loop(start, stop, body, (state, losses))


def take(batches: Any, i: Any) -> Any:
    """Return batch `i` of stacked ones."""
    return jax.tree.map(lambda a: lax.dynamic_index_in_dim(a, i, keepdims=False), batches)


@functools.partial(jax.jit, static_argnames="capacity", donate_argnames="state")
def _scan(step, state, batches, num_steps, capacity):
    losses = jnp.zeros(capacity, jax.eval_shape(step, state, take(batches, 0))[1].dtype)
    return scan_steps(step, state, losses, batches, 0, num_steps)


def _chunks(state: TrainState, num_steps: int, size: int) -> list[tuple[int, int]]:
    """Return the first step and the end of each chunk of the next `num_steps`."""
    if num_steps < 0:
        raise ValueError(f"`num_steps` must be at least 0, got {num_steps}")
    first = int(state.step)
    stop = first + num_steps
    return [(start, min(start + size, stop)) for start in range(first, stop, size)]


def check_finite(losses, start: int) -> np.ndarray:
    """Return the losses on the host. Raises: FloatingPointError naming the first not finite."""
    losses = np.asarray(losses)
    bad = np.flatnonzero(~np.isfinite(losses))
    if len(bad):
        i = int(bad[0])
        raise FloatingPointError(
            f"the loss became {losses[i]} at step {start + i}: "
            "try a smaller learning rate, scaled inputs, or float64"
        )
    return losses
