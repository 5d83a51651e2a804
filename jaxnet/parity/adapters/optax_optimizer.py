"""An optax optimizer as a participant's functions, with its state as slots by name."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Any

import jax
import numpy as np

from jaxnet.parity.adapters.jax_loss import QUICKLY, Tree, path_name, paths, precision, trained
from jaxnet.parity.participants import SLOTS, Leaves

REFUSED = {  # a state of optax -> why the update cannot be compared by itself
    "MultiStepsState": "optax.MultiSteps does not update at each step: compare its optimizer",
    "ScaleByLBFGSState": "L-BFGS evaluates the loss inside its update",
    "LookaheadState": "optax.lookahead has two sets of parameters: compare its fast optimizer",
}


def make(evaluate: Callable, optimizer: Any, tree: Tree, frozen: frozenset[str]) -> dict[str, Any]:
    """Return init and update by optax, with its state flattened to slots, and run.

    evaluate: see `jax_loss.make`. tree: the structure in which optax gets the trained leaves.
    """
    programs = _Programs(optimizer, tree)

    def init(params):
        leaves = trained(params, frozen)
        with precision(params):
            return programs.slots(leaves, programs.init(leaves))

    def update(params, grads, state):
        leaves = trained(params, frozen)
        grads = {name: grads.get(name, np.zeros_like(leaf)) for name, leaf in leaves.items()}
        with precision(params):
            pairs = [*programs.pairs(leaves, programs.init(leaves))]
            values = [np.asarray(state.get(name, value), value.dtype) for name, value in pairs]
            new, values = programs.update(leaves, grads, values)
            return jax.tree.map(np.asarray, new), programs.slots(leaves, values)

    def run(params, batch_at, num_steps, keep):
        losses, kept, leaves = [], {}, trained(params, frozen)
        with precision(params):
            values = programs.init(leaves)
            for i in range(num_steps):
                if i and i + 1 in keep:
                    arrays = {name: np.asarray(leaf) for name, leaf in params.items()}
                    kept[i + 1] = arrays, programs.slots(leaves, values)
                (loss, (buffers, _)), grads = evaluate(params, batch_at(i))
                leaves, values = programs.update(leaves, grads, values)
                params = params | leaves | buffers
                losses.append(loss)
        return jax.device_get(losses), kept

    return {"init": init, "update": update, "run": run}


class _Programs:
    """optax's functions, compiled, of flat leaves and a list of the state's: jit is slow with more.

    known: by the leaves' names, the names of the state's leaves and its structure.
    """

    def __init__(self, optimizer: Any, tree: Tree):
        self.optimizer, self.tree = optimizer, tree
        self.known: dict[frozenset[str], tuple[list[str], Any]] = {}
        self.init = jax.jit(self._init, compiler_options=QUICKLY)
        self.update = jax.jit(self._update, compiler_options=QUICKLY)

    def _init(self, leaves: dict[str, Any]) -> list[Any]:
        state = _wide(self.optimizer.init(self.tree.build(leaves)))
        _check_state(state)
        found, structure = jax.tree_util.tree_flatten_with_path(state)
        self.known[frozenset(leaves)] = [slot_name(path, leaves) for path, _ in found], structure
        return [value for _, value in found]

    def _update(self, leaves: dict[str, Any], grads: dict[str, Any], values: list[Any]) -> Any:
        own, state = self.tree.build(leaves), self.known[frozenset(leaves)][1].unflatten(values)
        updates, new = self.optimizer.update(self.tree.build(grads), state, own)
        own = jax.tree.map(lambda p, u: p + u, own, updates)
        return dict(paths(own)), jax.tree.leaves(new)

    def pairs(self, leaves: dict[str, Any], values: list[Any]) -> Iterable[tuple[str, Any]]:
        """Yield the name and the value of each leaf of the state."""
        return zip(self.known[frozenset(leaves)][0], values, strict=True)

    def slots(self, leaves: dict[str, Any], values: list[Any]) -> Leaves:
        """Return the state as a participant has it."""
        return {name: np.asarray(value) for name, value in self.pairs(leaves, values)}


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
