"""An optax optimizer as a participant's functions, with its state as slots by name."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

import jax
import numpy as np

from jaxnet.parity.adapters.jax_loss import QUICKLY, Tree, path_name, precision, trained
from jaxnet.parity.participants import SLOTS, Leaves

REFUSED = {  # a state of optax -> why the update cannot be compared by itself
    "MultiStepsState": "optax.MultiSteps does not update at each step: compare its optimizer",
    "ScaleByLBFGSState": "L-BFGS evaluates the loss inside its update",
    "LookaheadState": "optax.lookahead has two sets of parameters: compare its fast optimizer",
}


def make(
    functions: Mapping[str, Callable], optimizer: Any, tree: Tree, frozen: frozenset[str]
) -> dict[str, Any]:
    """Return init and update by optax, with its state flattened to slots, and run, which keeps it.

    functions: the participant's others. tree: the structure in which optax gets the trained leaves.
    """
    init = jax.jit(optimizer.init, compiler_options=QUICKLY)

    @functools.partial(jax.jit, compiler_options=QUICKLY)
    def update(params, grads, state):
        updates, new = optimizer.update(grads, state, params)
        return jax.tree.map(lambda p, u: p + u, params, updates), new

    def run_init(params):
        with precision(params):
            state = init(tree.build(trained(params, frozen)))
            _check_state(state)
            return _slots(state, params)

    def run_update(params, grads, state):
        leaves = trained(params, frozen)
        with precision(params):
            own = tree.build(leaves)
            own_state = _fill(init(own), leaves, state)
            new_params, new = update(own, tree.build(_whole(grads, leaves)), own_state)
            return tree.flatten(new_params), _slots(new, params)

    def step(own, state, params, grads):
        grads = _whole(grads, trained(params, frozen))
        with precision(params):
            return update(own, tree.build(grads), state)

    def start(params):
        with precision(params):
            own = tree.build(trained(params, frozen))
            return own, _wide(init(own))

    run = _make_run(functions, start, step, tree.flatten)
    return {"init": run_init, "update": run_update, "run": run}


def _make_run(
    functions: Mapping[str, Callable], start: Callable, step: Callable, flatten: Callable
) -> Callable:
    """Return run(params, batch_at, num_steps), which keeps the state as optax has it."""
    new_buffers = functions.get("buffers", lambda params, batch: {})

    def run(params, batch_at, num_steps):
        losses, (own, state) = [], start(params)
        for i in range(num_steps):
            batch = batch_at(i)
            value, grads = functions["value_and_grad"](params, batch)
            buffers = new_buffers(params, batch)
            own, state = step(own, state, params, grads)
            params = params | flatten(own) | buffers
            losses.append(float(value))
        return np.asarray(losses)

    return run


def _whole(grads: Leaves, leaves: Leaves) -> Leaves:
    """Return the gradient of all leaves: 0 of those that the loss does not use."""
    return {name: grads.get(name, np.zeros_like(leaf)) for name, leaf in leaves.items()}


def _slots(state: Any, params: Leaves) -> Leaves:
    """Return the leaves of a state of optax by "slot/leaf"."""
    paths, _ = jax.tree_util.tree_flatten_with_path(state)
    return {slot_name(path, params): np.asarray(value) for path, value in paths}


def _fill(like: Any, params: Leaves, slots: Leaves) -> Any:
    """Return a state of optax with these slots, and the values of `like` where there is none."""
    paths, structure = jax.tree_util.tree_flatten_with_path(like)
    values = [slots.get(slot_name(path, params), leaf) for path, leaf in paths]
    arrays = [jax.numpy.asarray(v, leaf.dtype) for v, (_, leaf) in zip(values, paths, strict=True)]
    return _wide(structure.unflatten(arrays))


def _wide(state: Any) -> Any:
    """Return a state whose counts are 64-bit under x64: a schedule of an int32 is in float32."""
    wide = jax.numpy.result_type(int)
    return jax.tree.map(lambda a: a.astype(wide) if a.dtype == "int32" else a, state)


def _check_state(state: Any) -> None:
    """Raise ValueError for a state of an optimizer whose update cannot be compared by itself."""
    kinds = {type(part).__name__ for part in _parts(state)}
    for kind in kinds & set(REFUSED):
        raise ValueError(f"not compared: {REFUSED[kind]}")


def _parts(state: Any) -> Iterator[Any]:
    yield state
    children = state.values() if isinstance(state, dict) else state
    if isinstance(state, (dict, tuple, list)):
        for child in children:
            yield from _parts(child)


def slot_name(path: tuple, params: Iterable[str]) -> str:
    """Name an optimizer state's leaf "slot/leaf": a known field, then the parameter's path.

    A count is "step"; what else belongs to no parameter has a name with dots, without a "/".
    """
    names = path_name(path).split("/")
    tails = {i: "/".join(names[i + 1 :]) for i in range(len(names))}
    known = [i for i, tail in tails.items() if names[i] in SLOTS and tail in params]
    if not known and names[-1] in SLOTS:
        return SLOTS[names[-1]]
    if not known:
        known = [i for i, tail in tails.items() if tail in params]
    if not known:
        return ".".join(names)
    return f"{SLOTS.get(names[known[0]], names[known[0]])}/{tails[known[0]]}"
