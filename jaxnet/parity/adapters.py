"""Participants from JAX, Flax and PyTorch; their optimizer states get the same names."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

import numpy as np

from jaxnet.parity.layout import with_layout
from jaxnet.parity.participants import SLOTS, Leaves, Participant, check_leaves


def jax_participant(
    loss: Callable[[Any, Any], Any],
    optimizer: Any = None,
    *,
    forward: Callable[[Any, Any], Any] | None = None,
    like: Any = None,
    layout: Mapping[str, Any] | None = None,
    name: str = "jax",
) -> Participant:
    """Return a participant from a pure JAX loss(params, batch) and an optax optimizer.

    like: a pytree with the structure of `params`, if that is not a flat dictionary; its leaves are
    named by their paths ("layers/0/kernel"). forward(params, batch) -> prediction. layout: see
    `with_layout`. x64 is switched on inside for float64 parameters: no flag need be set.
    """
    import jax

    tree = _Tree(like)
    value_and_grad = jax.jit(jax.value_and_grad(loss))

    def run_value_and_grad(params, batch):
        with _precision(params):
            value, grads = value_and_grad(tree.build(params), batch)
            return np.asarray(value), tree.flatten(grads)

    functions: dict[str, Any] = {}
    if forward is not None:
        jitted = jax.jit(forward)

        def run_forward(params, batch):
            with _precision(params):
                return np.asarray(jitted(tree.build(params), batch))

        functions["forward"] = run_forward
    if optimizer is not None:
        functions |= _optax_functions(loss, optimizer, tree)
    return with_layout(Participant(name, run_value_and_grad, **functions), layout, tree.names())


def flax_participant(
    module: Any,
    loss: Callable[[Any, Any], Any],
    optimizer: Any = None,
    *,
    forward: Callable[[Any, Any], Any] | None = None,
    layout: Mapping[str, Any] | None = None,
    name: str = "flax",
) -> Participant:
    """Return a participant from an nnx module and loss(module, batch).

    Its leaves are its `nnx.Param`s, named by their paths in the module ("linear1/kernel"); all else
    (statistics, random keys) keeps its value. forward(module, batch) -> prediction. layout: see
    `with_layout`.

    Raises: ValueError for a module that holds an active Dropout: call `module.eval()` first.
    """
    from flax import nnx

    for path, part in nnx.iter_graph(module):
        if isinstance(part, nnx.Dropout) and not part.deterministic and part.rate > 0:
            raise ValueError(
                f"`module` must not drop units at random: {'/'.join(map(str, path)) or 'it'} is an "
                "active Dropout; call module.eval() first"
            )
    graphdef, params, rest = nnx.split(module, nnx.Param, ...)

    def merged(function):
        return lambda params, batch: function(nnx.merge(graphdef, params, rest), batch)

    return jax_participant(
        merged(loss),
        optimizer,
        forward=None if forward is None else merged(forward),
        like=params,
        layout=layout,
        name=name,
    )


def torch_participant(
    module: Any,
    loss: Callable[[Any, Any], Any],
    optimizer: Callable[[Any], Any] | None = None,
    *,
    forward: Callable[[Any, Any], Any] | None = None,
    layout: Mapping[str, Any] | None = None,
    name: str = "torch",
) -> Participant:
    """Return a participant from a torch module, loss(module, batch of tensors), and its optimizer.

    Its leaves are the module's named parameters ("linear1.weight"). optimizer(parameters) -> a
    torch.optim optimizer. The module itself is copied, never changed.

    Raises: ValueError for a module that holds an active Dropout: call `module.eval()` first.
    """
    from jaxnet.parity import adapter_torch

    functions = adapter_torch.make(module, loss, optimizer, forward)
    own = [name for name, _ in module.named_parameters()]
    return with_layout(Participant(name, **functions), layout, own)


class _Tree:
    """A pytree as a flat dictionary of NumPy arrays, named by path, and back."""

    def __init__(self, like: Any):
        self.like = like

    def names(self) -> list[str] | None:
        """Return the leaves' names, where the structure is known."""
        import jax

        if self.like is None:
            return None
        return [_path(path) for path, _ in jax.tree_util.tree_flatten_with_path(self.like)[0]]

    def flatten(self, tree: Any) -> Leaves:
        import jax

        if self.like is None:
            return {str(key): np.asarray(value) for key, value in tree.items()}
        paths, _ = jax.tree_util.tree_flatten_with_path(tree)
        return {_path(path): np.asarray(value) for path, value in paths}

    def build(self, leaves: Leaves) -> Any:
        import jax

        if self.like is None:
            return {key: jax.numpy.asarray(value) for key, value in leaves.items()}
        paths, structure = jax.tree_util.tree_flatten_with_path(self.like)
        shapes = {_path(path): np.shape(leaf) for path, leaf in paths}
        check_leaves(leaves, shapes)
        return structure.unflatten([jax.numpy.asarray(leaves[name]) for name in shapes])


@contextlib.contextmanager
def _precision(params: Leaves) -> Iterator[None]:
    """Switch x64 on for float64 parameters, and TF32 and bfloat16 products off."""
    import jax

    double = any(value.dtype == np.float64 for value in params.values())
    with jax.enable_x64(double), jax.default_matmul_precision("highest"):
        yield


def _optax_functions(loss: Callable, optimizer: Any, tree: _Tree) -> dict[str, Any]:
    """Return init, update and run by optax, with its state flattened to slots."""
    import jax

    init = jax.jit(optimizer.init)

    @jax.jit
    def update(params, grads, state):
        updates, new = optimizer.update(grads, state, params)
        return jax.tree.map(lambda p, u: p + u, params, updates), new

    def slots(state, params: Leaves) -> Leaves:
        paths, _ = jax.tree_util.tree_flatten_with_path(state)
        return {_slot(path, params): np.asarray(value) for path, value in paths}

    def build(params, flat):
        paths, structure = jax.tree_util.tree_flatten_with_path(init(params))
        names = tree.flatten(params)
        leaves = [jax.numpy.asarray(flat[_slot(path, names)], leaf.dtype) for path, leaf in paths]
        return structure.unflatten(leaves)

    def run_init(params):
        with _precision(params):
            return slots(init(tree.build(params)), params)

    def run_update(params, grads, state):
        with _precision(params):
            tree_params = tree.build(params)
            new_params, new = update(tree_params, tree.build(grads), build(tree_params, state))
            return tree.flatten(new_params), slots(new, params)

    return {"init": run_init, "update": run_update, "run": _free_run(loss, optimizer, tree)}


def _free_run(loss: Callable, optimizer: Any, tree: _Tree) -> Callable:
    import jax

    from jaxnet import train

    step = train.make_step(loss, optimizer)

    def run(params, batch_at, num_steps):
        with _precision(params):
            state, losses = train.init(tree.build(params), optimizer), []
            for i in range(num_steps):
                state, loss = step(state, batch_at(i))
                losses.append(loss)
            return np.asarray(jax.device_get(losses))

    return run


def _name(key: Any) -> str:
    for attribute in ("key", "name", "idx"):
        if hasattr(key, attribute):
            return str(getattr(key, attribute))
    return str(key)


def _path(path: tuple) -> str:
    """Return a leaf's path as text, without the `value` of an nnx variable at its end."""
    wrapped = path and getattr(path[-1], "name", None) == "value"
    return "/".join(_name(key) for key in (path[:-1] if wrapped else path))


def _slot(path: tuple, params: Iterable[str]) -> str:
    """Name an optimizer state's leaf "slot/leaf": a known field, then the parameter's path."""
    names = _path(path).split("/")
    known = [i for i, name in enumerate(names) if name in SLOTS]
    known = [i for i in known if "/".join(names[i + 1 :]) in params] or known[-1:]
    if not known:
        return "/".join(names)
    return "/".join([SLOTS[names[known[0]]], *names[known[0] + 1 :]])
