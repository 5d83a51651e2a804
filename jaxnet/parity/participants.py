"""`Participant`: one side of a comparison, as pure functions over dictionaries of NumPy arrays."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple

import numpy as np

from jaxnet import numpy_net
from jaxnet.spec import Spec

Leaves = dict[str, np.ndarray]

# a field of an optimizer's state (optax's, jaxnet's or torch's) -> the name of its slot here
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
    "exp_inf": "v",
    "e_g": "v",
    "e_x": "change",
    "acc_delta": "change",
}


class Plan(NamedTuple):
    """How one of jaxnet's networks is made, so that known mistakes can be replayed inside it."""

    spec: Spec
    optimizer: str
    learning_rate: Any  # a float, or a function of the step, counted from 0
    hyperparameters: dict[str, Any]


@dataclass(frozen=True)
class Participant:
    """An implementation, as pure functions over flat dictionaries of NumPy arrays.

    Make one by hand for a framework that has no maker here. Each function computes in the dtype of
    the parameters that it is given, and returns that dtype.

    value_and_grad(params, batch) -> (loss, gradient by name). A leaf that the loss does not use, or
        that is not trained, may be missing from the gradient: the update then leaves it alone.
    forward(params, batch) -> prediction, if the implementation has one apart from its loss: an
        array, or a tuple, list or dictionary of arrays.
    buffers(params, batch) -> the new values of the leaves that a step changes without a gradient,
        as running statistics; they are leaves of `params` like any other.
    own: the values of its own leaves that a case may leave out: buffers and frozen parameters.
    frozen: the names of the leaves that are not trained, buffers among them.
    aliases: further names of shared leaves, which a case may hold and which are not used.
    noise: what in it may draw random numbers, for the message if two equal calls do not agree.
    init(params) -> optimizer state: a flat dictionary "slot/leaf" (the slots m, v, v_max, momentum,
        sum) and the counter "step". update(params, grads, state) -> (params, state).
    run(params, batch_at, num_steps) -> the losses (num_steps,) of free training, if there is a
        faster way than calling the functions above.
    plan: given by `oracle` only: such a reference has error bars.
    layers(params, batch, locks) -> a `LayerRun`: what goes through its layers. replay_layer(params,
        batch, layer) and replay_update(): the same with each known mistake. The makers give them.
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
    layers: Callable[[Leaves, Any, Any], Any] | None = None
    replay_layer: Callable[[Leaves, Any, str | None], Iterator[Any]] | None = None
    replay_update: Callable[[], Iterator[tuple[str, str, Callable]]] | None = None
    buffers: Callable[[Leaves, Any], Leaves] | None = None
    own: Mapping[str, np.ndarray] = field(default_factory=dict, repr=False)
    frozen: frozenset[str] = frozenset()
    aliases: frozenset[str] = frozenset()
    noise: str = ""


def numpy_participant(
    value_and_grad: Callable[[Leaves, Any], tuple[Any, Leaves]],
    optimizer: numpy_net.Optimizer | None = None,
    *,
    forward: Callable[[Leaves, Any], Any] | None = None,
    name: str = "numpy",
) -> Participant:
    """Return a participant from NumPy functions, and an optimizer like those of `numpy_net`."""
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
    """Return the NumPy oracle of a network: gradients derived by hand, and error bars."""

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
    """Renames and transposes leaves, from the reference's to a participant's own and back."""

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


def with_layout(
    participant: Participant, layout: Mapping[str, str | tuple[str, tuple[int, ...]]] | None
) -> Participant:
    """Return the participant under the reference's names and axes, both declared, never guessed.

    layout: each of its own leaves -> the reference's name, or (name, axes) where its own array is
    `np.transpose(reference's, axes)`: {"linear1.weight": ("w1", (1, 0)), "linear1.bias": "b1"}.
    None: the names and axes are the reference's already.

    Raises: ValueError unless the layout names every leaf of both sides once.
    """
    if layout is None:
        return participant
    own = _Layout(layout, participant.name)

    def value_and_grad(params, batch):
        value, grads = participant.value_and_grad(own.to_own(params), batch)
        return value, own.from_own(grads)

    changes: dict[str, Any] = {"value_and_grad": value_and_grad}
    if forward := participant.forward:
        changes["forward"] = lambda params, batch: forward(own.to_own(params), batch)
    if init := participant.init:
        changes["init"] = lambda params: _in_slots(init(own.to_own(params)), own.from_own)
    if update := participant.update:

        def own_update(params, grads, state):
            state = _in_slots(state, own.to_own)
            new_params, new_state = update(own.to_own(params), own.to_own(grads), state)
            return own.from_own(new_params), _in_slots(new_state, own.from_own)

        changes["update"] = own_update
    if run := participant.run:
        changes["run"] = lambda params, batch_at, n: run(own.to_own(params), batch_at, n)
    return replace(participant, **changes)


def _in_slots(state: Leaves, change: Callable[[Leaves], Leaves]) -> Leaves:
    """Return a flat optimizer state with `change` made to the leaves of each slot."""
    return _flatten({k: change(v) if isinstance(v, dict) else v for k, v in _nest(state).items()})


def check_leaves(leaves: Leaves, shapes: Mapping[str, tuple[int, ...]]) -> None:
    """Raise ValueError unless the leaves have the candidate's own names and shapes."""
    if set(shapes) != set(leaves):
        raise ValueError(
            f"the reference's leaves {sorted(leaves)} are not the candidate's {sorted(shapes)}: "
            "declare a `layout`"
        )
    for name, shape in shapes.items():
        if leaves[name].shape != shape:
            raise ValueError(
                f"leaf {name!r} must have shape {shape}, got {leaves[name].shape}: "
                "declare a `layout`"
            )


def map_leaves(function: Callable[[Any], Any], tree: Any) -> Any:
    """Apply a function to every leaf of nested dictionaries, tuples (also named) and lists."""
    if isinstance(tree, Mapping):
        return {key: map_leaves(function, value) for key, value in tree.items()}
    if isinstance(tree, tuple) and hasattr(tree, "_fields"):
        return type(tree)(*(map_leaves(function, value) for value in tree))
    if isinstance(tree, (tuple, list)):
        return type(tree)(map_leaves(function, value) for value in tree)
    return function(tree)


def cast(tree: Any, dtype: str) -> Any:
    """Return a tree of dictionaries, tuples and arrays with every floating array in `dtype`.

    JAX arrays and torch tensors become NumPy arrays; Python numbers, text and None stay.
    """

    def cast_leaf(leaf):
        if hasattr(leaf, "detach"):
            leaf = leaf.detach().cpu()
            leaf = (leaf.float() if str(leaf.dtype) == "torch.bfloat16" else leaf).numpy()
        elif hasattr(leaf, "__array__") and not isinstance(leaf, np.generic):
            leaf = np.asarray(leaf)
        if getattr(leaf, "dtype", np.dtype(int)).kind in "fV":  # V: bfloat16, JAX's own dtype
            return leaf.astype(dtype)
        return leaf

    return map_leaves(cast_leaf, tree)


def _flatten(state: Mapping[str, Any]) -> Leaves:
    """Return {slot: {leaf: array}} as {"slot/leaf": array}."""
    flat: Leaves = {}
    for slot, value in state.items():
        if isinstance(value, Mapping):
            flat |= {f"{slot}/{name}": leaf for name, leaf in value.items()}
        else:
            flat[slot] = np.asarray(value)
    return flat


def _nest(flat: Leaves) -> dict[str, Any]:
    """Undo `_flatten`; what is in no slot, as the step, becomes a plain number."""
    state: dict[str, Any] = {}
    for key, value in flat.items():
        slot, _, leaf = key.partition("/")
        if leaf:
            state.setdefault(slot, {})[leaf] = value
        else:
            state[slot] = value.item() if np.ndim(value) == 0 else value
    return state
