"""Runs of torch and Flax models with their layers, for tests of `locate`."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import torch
from flax import nnx

from jaxnet.parity.layers import in_jax, in_torch

torch.set_num_threads(1)


class Part(NamedTuple):
    """A leaf as a part of the reference's: of its rows, then split, transposed and reshaped."""

    leaf: str
    axes: tuple[int, ...] | None = None
    shape: tuple[int, ...] | None = None
    rows: slice = slice(None)
    split: tuple[int, ...] | None = None

    def take(self, params):
        value = params[self.leaf][self.rows]
        value = value.reshape(self.split or value.shape)
        value = value.transpose(self.axes or range(value.ndim))
        return value.reshape(self.shape or value.shape)


KERNEL = (1, 0)


def linear(own, other):
    return {f"{own}/kernel": Part(f"{other}.weight", KERNEL), f"{own}/bias": Part(f"{other}.bias")}


def norm(own, other):
    return {f"{own}/scale": Part(f"{other}.weight"), f"{own}/bias": Part(f"{other}.bias")}


def conv(own, other):
    return linear(own, other) | {f"{own}/kernel": Part(f"{other}.weight", (2, 3, 1, 0))}


def reference_grads(layout, params, grads):
    """The gradient of each of the reference's leaves: the sum over what is taken from it."""
    places = {leaf: np.arange(value.size).reshape(value.shape) for leaf, value in params.items()}
    total = {leaf: np.zeros(value.size) for leaf, value in params.items()}
    for name, part in layout.items():
        np.add.at(total[part.leaf], part.take(places), grads[name])
    return {leaf: total[leaf].reshape(value.shape) for leaf, value in params.items()}


def renamed(run, layout, params):
    """A run with the leaves and the gradients under the reference's names."""
    leaves = {
        path: frozenset(layout[name].leaf for name in names if name in layout)
        for path, names in run.leaves.items()
    }
    grads = reference_grads(layout, params, run.grads) if run.grads else {}
    return run._replace(leaves=leaves, grads=grads)


def torch_params(module):
    named = module.named_parameters()
    return {name: p.detach().numpy().copy() for name, p in named if p.requires_grad}


def torch_run(module, loss, batch):
    """A function from locks to the run of a torch module."""
    tensors = {name: torch.tensor(value) for name, value in batch.items()}
    return lambda locks: in_torch.run(loss, module, tensors, locks)


def jax_run(loss, layout, params, batch, build=dict):
    """A function from locks to the run of a JAX function with the reference's parameters."""
    own = {name: part.take(params) for name, part in layout.items()}
    return lambda locks: renamed(in_jax.run(loss, own, batch, build, locks), layout, params)


def undrawn(make):
    """An nnx module with zeros in float64 for values, undrawn: to draw compiles for each shape."""

    def value(leaf):
        if jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key):
            return jax.random.key(0)
        floating = jnp.issubdtype(leaf.dtype, jnp.floating)
        return jnp.zeros(leaf.shape, jnp.float64 if floating else leaf.dtype)

    with jax.enable_x64(True):
        graph, state = nnx.split(nnx.eval_shape(lambda: make(nnx.Rngs(0))))
        return nnx.merge(graph, jax.tree.map(value, state))


def flax_run(make, loss, layout, params, batch):
    """A function from locks to the run of an nnx module with the reference's parameters."""
    graph, variables, rest = nnx.split(undrawn(make), nnx.Param, ...)

    def build(leaves):
        named = ((path, "/".join(map(str, path)), v) for path, v in nnx.to_flat_state(variables))
        flat: Any = [(path, v.replace(leaves[name])) for path, name, v in named]
        return nnx.merge(graph, nnx.from_flat_state(flat), rest, copy=True)

    return jax_run(loss, layout, params, batch, build)


def marks(found):
    """The names of the layers by their mark."""
    by_mark: dict[str, list[str]] = {}
    for mark in found.marks:
        by_mark.setdefault(mark.mark, []).append(mark.layer)
    return by_mark
