"""What parameters give on rows: outputs, and inside a compiled program sums for `Metrics`.

The sums are "loss", in the end the mean over the rows, and "hits" (rows classified right) or
"residual" (D_out,) (sums of squares), as `Metrics.of_sums` takes them.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.tree_util import Partial

from jaxnet import net
from jaxnet.engine.mesh import Placement
from jaxnet.spec import Batch, Spec
from jaxnet.tables.column import Column
from jaxnet.tables.metrics import Metrics
from jaxnet.train import transpose

ROWS = 2048  # rows to one forward pass of `outputs`, which bounds its memory
BLOCK = 8192  # rows to one forward pass, which bounds its memory


def forward(params: dict[str, Any], x: Any, *, activation: str) -> jax.Array:
    """Return the outputs (N, D_out) of transposed weights."""
    return net.forward(transpose(params), x, activation=activation)


def sums(spec: Spec, forward: Callable, params: Any, x: Any, y: Any) -> dict[str, jax.Array]:
    """Return the sums over rows x, y; "loss" is a sum too.

    forward(params, x, activation=...): the outputs (N, D_out).
    """
    y_pred = forward(params, x, activation=spec.activation)
    total = {"loss": net.LOSSES[spec.loss](y_pred, y) * len(y)}
    if spec.loss == "cross_entropy":
        return total | {"hits": jnp.sum(y_pred.argmax(axis=1) == y)}
    return total | {"residual": jnp.square(y_pred - y).sum(axis=0)}


@functools.cache
def block_sums(spec: Spec, placement: Placement) -> Callable:
    """Return the compiled function of (params, x, y) to their sums, whole on every device."""
    return jax.jit(
        lambda params, x, y: placement.replicate_inside(sums(spec, forward, params, x, y))
    )


def on_rows(spec: Spec, forward: Callable, x: Any, y: np.ndarray, placement: Placement) -> Callable:
    """Return the evaluation of parameters on rows in memory, a pytree: evaluate(params).

    x: the inputs to `forward`, a pytree whose arrays have the rows first.
    """
    size = placement.round_down(BLOCK)
    whole = len(y) // size * size
    blocks = jax.tree.map(lambda a: a[:whole].reshape(-1, size, *a.shape[1:]), (x, y))
    rest = jax.tree.map(lambda a: a[whole:], (x, y))
    blocks, rest = placement.shard(blocks, axis=1), placement.replicate(rest)
    return Partial(_evaluation(spec, forward, len(y), placement), blocks, rest)


@functools.cache
def _evaluation(spec: Spec, forward: Callable, num_rows: int, placement: Placement) -> Callable:
    def evaluate(blocks, rest, params):
        found = []
        if len(blocks[1]):
            each = lax.map(lambda block: sums(spec, forward, params, *block), blocks)
            found.append(jax.tree.map(lambda a: a.sum(axis=0), each))
        if len(rest[1]):
            found.append(sums(spec, forward, params, *rest))
        total = jax.tree.map(lambda *a: sum(a), *found)
        return placement.replicate_inside(total | {"loss": total["loss"] / num_rows})

    return evaluate


def outputs(spec: Spec, params: Any, x: np.ndarray) -> np.ndarray:
    """The outputs (N, D_out) of a network on x (N, D_in), in their dtype, some rows at a time."""
    forward = _forward(spec.activation)
    with jax.enable_x64(x.dtype == np.float64):
        # each fetched before the next is sent, or all would be on their way at once
        parts = [np.asarray(forward(params, x[i : i + ROWS])) for i in range(0, len(x), ROWS)]
    return np.concatenate(parts) if parts else np.zeros((0, spec.sizes[-1]), x.dtype)


def measure(spec: Spec, target: Column, params: Any, batches: Iterable[Batch]) -> Metrics:
    """Return the metrics of a network on batches of rows, for `target` as their y."""
    metrics = Metrics(spec.loss, target)
    for batch in batches:
        metrics.update(outputs(spec, params, batch.x), batch.y)
    return metrics


@functools.cache
def _forward(activation: str):
    return jax.jit(functools.partial(net.forward, activation=activation))
