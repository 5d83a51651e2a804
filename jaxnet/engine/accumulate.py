"""Loss and gradients of a batch, made part by part: the memory of one part is enough.

step = train.make_step(loss, optimizer, value_and_grad=partial(accumulated, parts=4, ...))
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from jaxnet.engine.mesh import check_batch

Loss = Callable[[Any, Any], jax.Array]
ValueAndGrad = Callable[[Any, Any], tuple[jax.Array, Any]]
REDUCTIONS = ("sum", "mean")  # how the loss of a batch follows from those of equal parts


def accumulated(loss: Loss, *, parts: int, reduction: str) -> ValueAndGrad:
    """Return the function as `jax.value_and_grad(loss)`, which computes one part after the other.

    Equal to the whole batch to rounding. reduction: "sum" or "mean", what the loss does over rows.
    Each array of the batch has the rows first, or no axis. A part is every `parts`-th row, so that
    it lies on all devices on which the batch lies.

    Raises: ValueError for another reduction, fewer than 1 part, and, when called, for rows that do
    not divide by `parts`.
    """
    check_reduction(reduction)
    if parts < 1:
        raise ValueError(f"`parts` must be at least 1, got {parts}")

    def interleaved(leaf):
        part = leaf.reshape(leaf.shape[0] // parts, parts, *leaf.shape[1:])
        return jnp.moveaxis(part, 1, 0)

    def value_and_grad(params, batch):
        check_rows(batch, parts, "the `parts` of a batch")
        batches = split(batch, parts, interleaved)
        shapes = jax.eval_shape(jax.value_and_grad(loss), params, first(batches))
        zeros = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), shapes)

        def add(total, batch):
            return jax.tree.map(jnp.add, total, jax.value_and_grad(loss)(params, batch)), None

        return reduce(lax.scan(add, zeros, batches)[0], parts, reduction)

    return value_and_grad


def check_reduction(reduction: str) -> None:
    """Raise ValueError unless it is one of `REDUCTIONS`."""
    if reduction not in REDUCTIONS:
        raise ValueError(f"`reduction` must be one of {', '.join(REDUCTIONS)}; got {reduction!r}")


def check_rows(batch: Any, parts: int, what: str) -> None:
    """Raise ValueError unless the rows of a batch divide by `parts`, which are `what`."""
    for leaf in jax.tree.leaves(batch):
        if np.ndim(leaf):
            check_batch(leaf.shape[0], parts, what)


def split(batch: Any, parts: int, rows: Callable[[Any], Any]) -> Any:
    """The parts of a batch, stacked: rows(leaf) of arrays with rows; others belong to each part."""

    def each(leaf):
        return rows(leaf) if np.ndim(leaf) else jnp.broadcast_to(leaf, (parts,))

    return jax.tree.map(each, batch)


def first(batches: Any) -> Any:
    """The first of stacked batches."""
    return jax.tree.map(lambda leaf: leaf[0], batches)


def reduce(total: Any, parts: int, reduction: str) -> Any:
    """Loss and gradients of a batch from their sum over its parts."""
    return jax.tree.map(lambda leaf: leaf / parts, total) if reduction == "mean" else total
