"""Who takes part in a comparison: four pure functions over NumPy leaves, made from anything."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple

import numpy as np

from jaxnet import numpy_net
from jaxnet.spec import Spec

Leaves = dict[str, np.ndarray]

# the fields of optax's states (and of ours) and torch's -> the slot's name here
SLOTS = {
    "count": "step",
    "step": "step",
    "mu": "m",
    "exp_avg": "m",
    "nu": "v",
    "exp_avg_sq": "v",
    "square_avg": "v",
    "nu_max": "v_max",
    "max_exp_avg_sq": "v_max",
    "trace": "momentum",
    "buf": "momentum",
    "momentum_buffer": "momentum",
    "sum_of_squares": "sum",
    "total": "sum",
    "sum": "sum",
    "mean_of_grads": "mean",
    "grad_avg": "mean",
}


class Plan(NamedTuple):
    """What a network of ours is made of, so that known mistakes can be replayed inside it."""

    spec: Spec
    optimizer: str
    learning_rate: Any  # a float, or a function of the step, counted from 0
    hyperparameters: dict[str, Any]


@dataclass(frozen=True)
class Participant:
    """An implementation, as pure functions over flat dictionaries of NumPy arrays.

    This is the protocol: make one by hand for a framework that has no maker here. Each function
    computes in the dtype of the parameters that it is given, and returns that dtype.

    value_and_grad(params, batch) -> (loss, gradient by name).
    forward(params, batch) -> prediction, if the implementation has one apart from its loss.
    init(params) -> optimizer state: a flat dictionary "slot/leaf" (the slots m, v, v_max, momentum,
        sum) and the counter "step". update(params, grads, state) -> (params, state).
    run(params, batch_at, num_steps) -> the losses (num_steps,) of free training, where the
        implementation has a faster way than the functions above.
    plan: set for the NumPy oracle of one of our networks: the reference then has error bars.
    """

    name: str
    value_and_grad: Callable[[Leaves, Any], tuple[Any, Leaves]]
    forward: Callable[[Leaves, Any], Any] | None = None
    init: Callable[[Leaves], Leaves] | None = None
    update: Callable[[Leaves, Leaves, Leaves], tuple[Leaves, Leaves]] | None = None
    run: Callable[[Leaves, Callable[[int], Any], int], np.ndarray] | None = field(
        default=None, repr=False
    )
    plan: Plan | None = None


def numpy_participant(
    value_and_grad: Callable[[Leaves, Any], tuple[Any, Leaves]],
    optimizer: numpy_net.Optimizer | None = None,
    *,
    forward: Callable[[Leaves, Any], Any] | None = None,
    name: str = "numpy",
) -> Participant:
    """A participant from plain NumPy functions, and an optimizer like those of `numpy_net`."""
    if optimizer is None:
        return Participant(name, value_and_grad, forward)

    def init(params):
        return _flatten(optimizer.init(params))

    def update(params, grads, state):
        new_params, new_state = optimizer.update(params, grads, _nest(state))
        return new_params, _flatten(new_state)

    return Participant(name, value_and_grad, forward, init, update)


def oracle(
    spec: Spec, optimizer: str = "sgd", learning_rate: Any = 1e-6, **hyperparameters: Any
) -> Participant:
    """The NumPy oracle of a network of ours, with hand-derived gradients and error bars."""

    def value_and_grad(params, batch):
        return numpy_net.value_and_grad(params, batch, activation=spec.activation, loss=spec.loss)

    def forward(params, batch):
        return numpy_net.forward(params, batch.x, activation=spec.activation, repeats=batch.repeats)

    made = numpy_participant(
        value_and_grad,
        numpy_net.make_optimizer(optimizer, learning_rate, **hyperparameters),
        forward=forward,
    )
    return replace(made, plan=Plan(spec, optimizer, learning_rate, hyperparameters))


class _Layout:
    """Names and axes between a participant's own leaves and the reference's, in both directions."""

    def __init__(self, layout: Mapping[str, str | tuple[str, tuple[int, ...]]], owner: str):
        self.owner = owner
        self.pairs = {
            own: (to, None) if isinstance(to, str) else (to[0], tuple(to[1]))
            for own, to in layout.items()
        }
        self.names = [name for name, _ in self.pairs.values()]
        if len(set(self.names)) != len(self.names):
            raise ValueError(
                f"`layout` must name each leaf of the reference once, got {self.names}"
            )

    def to_own(self, leaves: Leaves) -> Leaves:
        if set(leaves) != set(self.names):
            raise ValueError(
                f"`layout` must cover the reference's leaves {sorted(leaves)}, "
                f"got {sorted(self.names)}"
            )
        return {
            own: leaves[name] if axes is None else np.transpose(leaves[name], axes)
            for own, (name, axes) in self.pairs.items()
        }

    def from_own(self, leaves: Leaves) -> Leaves:
        if set(leaves) != set(self.pairs):
            raise ValueError(
                f"`layout` must have the leaves of {self.owner}, {sorted(leaves)}; "
                f"got {sorted(self.pairs)}"
            )
        return {
            name: leaves[own] if axes is None else np.transpose(leaves[own], np.argsort(axes))
            for own, (name, axes) in self.pairs.items()
        }

    @staticmethod
    def slots(state: Leaves, change: Callable[[Leaves], Leaves]) -> Leaves:
        """An optimizer state with `change` made to the leaves of every slot."""
        slots: dict[str, Leaves] = {}
        flat: Leaves = {}
        for key, value in state.items():
            slot, _, leaf = key.partition("/")
            if leaf:
                slots.setdefault(slot, {})[leaf] = value
            else:
                flat[key] = value
        for slot, leaves in slots.items():
            flat |= {f"{slot}/{name}": value for name, value in change(leaves).items()}
        return flat


def mapped(
    participant: Participant, layout: Mapping[str, str | tuple[str, tuple[int, ...]]]
) -> Participant:
    """The same participant under the reference's names and layout, both declared, never guessed.

    layout: each of its own leaves -> the reference's name, or (name, axes) where its own array is
    `np.transpose(reference's, axes)`: {"linear1.weight": ("w1", (1, 0)), "linear1.bias": "b1"}.
    """
    own = _Layout(layout, participant.name)

    def value_and_grad(params, batch):
        value, grads = participant.value_and_grad(own.to_own(params), batch)
        return value, own.from_own(grads)

    changes: dict[str, Any] = {"value_and_grad": value_and_grad}
    if forward := participant.forward:
        changes["forward"] = lambda params, batch: forward(own.to_own(params), batch)
    if init := participant.init:
        changes["init"] = lambda params: own.slots(init(own.to_own(params)), own.from_own)
    if update := participant.update:

        def mapped_update(params, grads, state):
            state = own.slots(state, own.to_own)
            new_params, new_state = update(own.to_own(params), own.to_own(grads), state)
            return own.from_own(new_params), own.slots(new_state, own.from_own)

        changes["update"] = mapped_update
    if run := participant.run:
        changes["run"] = lambda params, batch_at, n: run(own.to_own(params), batch_at, n)
    return replace(participant, **changes)


def cast(tree: Any, dtype: str) -> Any:
    """The tree of dictionaries, tuples and arrays with every floating leaf in `dtype`."""
    if isinstance(tree, Mapping):
        return {key: cast(value, dtype) for key, value in tree.items()}
    if isinstance(tree, tuple) and hasattr(tree, "_fields"):
        return type(tree)(*(cast(value, dtype) for value in tree))
    if isinstance(tree, (tuple, list)):
        return type(tree)(cast(value, dtype) for value in tree)
    if isinstance(tree, (float, np.floating)) or getattr(tree, "dtype", np.dtype(int)).kind == "f":
        return np.asarray(tree).astype(dtype)
    return tree


def _flatten(state: Mapping[str, Any]) -> Leaves:
    flat: Leaves = {}
    for slot, value in state.items():
        if isinstance(value, Mapping):
            flat |= {f"{slot}/{name}": leaf for name, leaf in value.items()}
        else:
            flat[slot] = np.asarray(value)
    return flat


def _nest(flat: Leaves) -> dict[str, Any]:
    state: dict[str, Any] = {}
    for key, value in flat.items():
        slot, _, leaf = key.partition("/")
        if leaf:
            state.setdefault(slot, {})[leaf] = value
        else:
            state[slot] = int(value)
    return state
