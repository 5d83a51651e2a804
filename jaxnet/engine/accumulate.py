"""Loss and gradients of a batch, one microbatch after the other, in the memory of one of them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from jaxnet.engine.mesh import check_batch
from jaxnet.spec import check_choice
from jaxnet.train import take

Loss = Callable[[Any, Any], jax.Array]
ValueAndGrad = Callable[[Any, Any], tuple[jax.Array, Any]]
REDUCTIONS = ("sum", "mean")  # what a loss does over rows


def accumulated(loss: Loss, *, microbatches: int, reduction: str) -> ValueAndGrad:
    """Return `jax.value_and_grad(loss)`, computed in microbatches; equal to rounding.

    For `train.make_step`: value_and_grad=partial(accumulated, microbatches=4, reduction="mean").

    Each array of the batch has the rows first, or no axis. A microbatch is every
    `microbatches`-th row, so that it lies on all devices on which the batch lies. reduction: "sum"
    or "mean", what the loss does over rows.

    Raises: ValueError for another reduction, fewer than 1 microbatch, and, when called, for rows
    that do not divide.
    """
    check_choice("reduction", reduction, REDUCTIONS)
    if microbatches < 1:
        raise ValueError(f"`microbatches` must be at least 1, got {microbatches}")

    def interleaved(leaf):
        rows = leaf.reshape(leaf.shape[0] // microbatches, microbatches, *leaf.shape[1:])
        return jnp.moveaxis(rows, 1, 0)

    def value_and_grad(params, batch):
        check_rows(batch, microbatches, "the microbatches")
        stacked = split(batch, microbatches, interleaved)
        shapes = jax.eval_shape(jax.value_and_grad(loss), params, take(stacked, 0))
        zeros = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), shapes)

        def add(total, batch):
            return jax.tree.map(jnp.add, total, jax.value_and_grad(loss)(params, batch)), None

        return reduce(lax.scan(add, zeros, stacked)[0], microbatches, reduction)

    return value_and_grad


def check_rows(batch: Any, divisor: int, what: str) -> None:
    """Raise ValueError unless the rows of each array divide by `divisor`, which is `what`."""
    for leaf in jax.tree.leaves(batch):
        if np.ndim(leaf):
            check_batch(leaf.shape[0], divisor, what)


def split(batch: Any, number: int, rows: Callable[[Any], Any]) -> Any:
    """Return a batch in `number` pieces, stacked: rows(leaf) of arrays; each has all scalars."""
    return jax.tree.map(
        lambda leaf: rows(leaf) if np.ndim(leaf) else jnp.broadcast_to(leaf, (number,)), batch
    )


def reduce(total: Any, number: int, reduction: str) -> Any:
    """Return loss and gradients of a batch, from their sum over its `number` pieces."""
    return jax.tree.map(lambda leaf: leaf / number, total) if reduction == "mean" else total
