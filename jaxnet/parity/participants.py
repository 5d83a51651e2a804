"""`Participant`: one side of a comparison, as pure functions over dictionaries of NumPy arrays."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from jaxnet import numpy_net
from jaxnet.spec import Spec

if TYPE_CHECKING:
    from jaxnet.parity.layouts.layout import Layout

Leaves = dict[str, np.ndarray]
States = dict[int, tuple[Leaves, Leaves]]  # step, counted from 1 -> parameters, optimizer state

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
    run(params, batch_at, num_steps, keep) -> the losses (num_steps,) of free training, and (params,
        state) before each of the steps `keep`, counted from 1, but the first: if there is a faster
        way than calling the functions above, which are called for states that it does not give.
    plan: given by `oracle` only: such a reference has error bars.
    layers(params, batch, locks) -> a `LayerRun`: what goes through its layers. replay_layer(params,
        batch, layer, locked keys) and replay_update(): what the layer, or the update, gives with
        each known mistake. The makers give them.
    narrowed(params, batch) -> what computes in less than float64, in words, by the function's name.
    layout: given by `with_layout` only.
    """

    name: str
    value_and_grad: Callable[[Leaves, Any], tuple[Any, Leaves]]
    forward: Callable[[Leaves, Any], Any] | None = None
    init: Callable[[Leaves], Leaves] | None = None
    update: Callable[[Leaves, Leaves, Leaves], tuple[Leaves, Leaves]] | None = None
    run: Callable[..., tuple[Any, States]] | None = field(default=None, repr=False)
    plan: Plan | None = None
    layers: Callable[[Leaves, Any, Any], Any] | None = None
    replay_layer: Callable[[Leaves, Any, str | None, Iterable], Iterator[Any]] | None = None
    replay_update: Callable[[], Iterator[tuple[str, str, Callable]]] | None = None
    buffers: Callable[[Leaves, Any], Leaves] | None = None
    own: Mapping[str, np.ndarray] = field(default_factory=dict, repr=False)
    frozen: frozenset[str] = frozenset()
    aliases: frozenset[str] = frozenset()
    noise: str = ""
    narrowed: Callable[[Leaves, Any], list[str]] | None = None
    layout: Layout | None = field(default=None, repr=False)


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
        names = {"activation": spec.activation, "loss": spec.loss}
        return numpy_net.value_and_grad(
            params, batch, label_smoothing=spec.label_smoothing, **names
        )

    def forward(params, batch):
        options = {"repeats": batch.repeats, "masks": batch.masks}
        return numpy_net.forward(params, batch.x, activation=spec.activation, **options)

    made = numpy_participant(
        value_and_grad,
        numpy_net.make_optimizer(optimizer, learning_rate, **hyperparameters),
        forward=forward,
    )
    return replace(made, plan=Plan(spec, optimizer, learning_rate, hyperparameters))


def train(
    participant: Participant,
    params: Leaves,
    batch_at: Callable[[int], Any],
    num_steps: int,
    keep: Collection[int] = (),
) -> tuple[np.ndarray, States]:
    """Return the losses (num_steps,) of free training, and the states before the steps `keep`."""
    assert participant.init is not None
    assert participant.update is not None
    kept, state, losses = {}, participant.init(params), []
    if participant.run is not None:
        values, kept = participant.run(params, batch_at, num_steps, keep)
        kept = kept | {1: (params, state)}
        if {*keep} <= kept.keys():
            return np.asarray(values, float), kept
    for i in range(num_steps):
        batch = batch_at(i)
        if i + 1 in keep:
            kept[i + 1] = params, state
        value, grads = participant.value_and_grad(params, batch)
        losses.append(float(value))
        new, state = participant.update(params, grads, state)
        buffers = {} if participant.buffers is None else participant.buffers(params, batch)
        params = params | new | buffers
    return np.asarray(losses), kept


def listing(names: Iterable[str], most: int = 8) -> str:
    """Return names as text: the first ones, and how many more."""
    names = list(names)
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(map(repr, names[:most])) + more


def difference(needed: Iterable[str], got: Iterable[str], known: Iterable[str]) -> str:
    """Say which names are missing from `got`, and which are not known, with the nearest one."""
    got, known = dict.fromkeys(got), dict.fromkeys(known)
    missing = [name for name in needed if name not in got]
    unknown = [name for name in got if name not in known]
    texts = [f"{listing(missing)} missing"] if missing else []
    for name in unknown[:8]:
        near = difflib.get_close_matches(name, missing or known, 1)
        texts.append(f"no leaf {name!r}" + (f", did you mean {near[0]!r}?" if near else ""))
    if len(unknown) > 8:
        texts.append(f"and {len(unknown) - 8} more that are none")
    return "; ".join(texts)


def check_leaves(leaves: Leaves, shapes: Mapping[str, tuple[int, ...]]) -> None:
    """Raise ValueError unless the leaves have the candidate's own names and shapes."""
    if text := difference(shapes, leaves, shapes):
        raise ValueError(
            f"the reference's leaves must be the candidate's: {text}: declare a `layout`"
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
