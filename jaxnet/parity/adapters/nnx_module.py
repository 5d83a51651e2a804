"""A Flax nnx module as a loss of flat leaves: its variables are set before each call."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from jaxnet.parity.adapters.jax_loss import Tree, paths
from jaxnet.parity.participants import Leaves, check_leaves


class Split(NamedTuple):
    """A module in parts.

    trained: the structure of the trained variables. others: the structure of all others but random
    keys, which are the module's buffers. own: their values. shapes: of every leaf by name.
    """

    merge: Callable[[dict[str, Any]], Any]
    trained: Tree
    others: Tree
    own: Leaves
    shapes: dict[str, tuple[int, ...]]


def split(module: Any, wrt: Any) -> Split:
    """Split an nnx module into trained variables (those of the filter `wrt`) and all others.

    `merge` makes a module of flat leaves, in the dtype of the leaves: what was made to compute in
    float32 computes in float64 if its parameters are float64, as `module.double()` does in torch.
    """
    graphs = {"float32": nnx.split(module)[0], "float64": nnx.split(_double(module))[0]}
    _, trained, keys, others = nnx.split(module, wrt, nnx.RngState, ...)
    trees = Tree(trained), Tree(others)
    shapes = trees[0].shapes | trees[1].shapes

    def merge(leaves: dict[str, Any]) -> Any:
        check_leaves(leaves, shapes)
        arrays = {name: jnp.asarray(leaf) for name, leaf in leaves.items()}
        states = [tree.build({name: arrays[name] for name in tree.shapes}) for tree in trees]
        double = any(leaf.dtype == jnp.float64 for leaf in leaves.values())
        fresh = jax.tree.map(lambda key: key, keys)  # variables of this trace
        return nnx.merge(graphs["float64" if double else "float32"], *states, fresh)

    concrete = all(hasattr(leaf, "__array__") for leaf in jax.tree.leaves(others))
    own = {name: np.asarray(leaf) for name, leaf in paths(others)} if concrete else {}
    return Split(merge, *trees, own, shapes)


def make_loss(
    parts: Split, loss: Callable[[Any, Any], Any]
) -> Callable[[dict[str, Any], Any], tuple[Any, dict[str, Any]]]:
    """Return loss(flat leaves, batch) -> (loss, the buffers after it)."""
    names = list(parts.others.shapes)

    def flat_loss(leaves, batch):
        module = parts.merge(leaves)
        value = loss(module, batch)
        state = nnx.state(module, lambda path, _: "/".join(map(str, path)) in names)
        return value, dict(zip(names, jax.tree.leaves(state), strict=True))

    return flat_loss


def noise(module: Any) -> str:
    """Name the active dropout layers, which draw units at random."""
    found = [
        "/".join(map(str, path)) or "the module"
        for path, node in nnx.iter_graph(module)
        if isinstance(node, nnx.Dropout) and not node.deterministic and node.rate > 0
    ]
    return f"{', '.join(found)} is an active Dropout" if found else ""


def _double(module: Any) -> Any:
    """Return a copy whose layers compute in float64 where they computed in float32."""
    copy = nnx.clone(module)
    for _, node in nnx.iter_graph(copy):
        if isinstance(node, nnx.Module):
            for name in ("dtype", "param_dtype"):
                if getattr(node, name, None) in (jnp.float32, np.dtype("float32"), "float32"):
                    setattr(node, name, jnp.float64)
    return copy
