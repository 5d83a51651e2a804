"""What parameters give on rows: outputs, and inside a compiled program sums for `Metrics`.

The sums are "loss", in the end the mean over the rows, and "hits" (rows classified right) or
"residual" (D_out,) (sums of squares), as `Metrics.of_sums` takes them. Rows with weights have
"count" too, the sum of these, by which the loss is divided in the end. There is no dropout and no
label smoothing in an evaluation.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable
from dataclasses import replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.tree_util import Partial

from jaxnet import net
from jaxnet.engine import compile_cache
from jaxnet.engine.mesh import Placement
from jaxnet.spec import QUANTILES, Batch, Spec
from jaxnet.tables.column import Column
from jaxnet.tables.metrics import Metrics, metrics_for
from jaxnet.train import transpose

ROWS = 2048  # rows to one forward pass of `outputs`, which bounds its memory
BLOCK = 8192  # rows to one forward pass, which bounds its memory


def apply(spec: Spec, params: dict[str, Any], x: Any) -> jax.Array:
    """Return the outputs (N, D_out) of a network, or what the members of an ensemble predict
    together (`net.average`), whose leaves have the axis (members,) first.
    """
    if params["w1"].ndim == 2:
        return net.forward(params, x, activation=spec.activation)
    return net.average(params, x, activation=spec.activation, loss=spec.loss)


def forward(spec: Spec, params: dict[str, Any], x: Any) -> jax.Array:
    """Return the same of transposed weights."""
    single = params["w1"].ndim == 2
    return apply(spec, (transpose if single else jax.vmap(transpose))(params), x)


def wide(spec: Spec, y: Any) -> Any:
    """Return the target as the loss compares it: numbers (N, D) once for each quantile."""
    return jnp.repeat(y, len(QUANTILES), axis=1) if spec.loss == "quantile" else y


def _middle(spec: Spec, y_pred: jax.Array) -> jax.Array:
    """Return the predicted numbers (N, D): of quantiles the median."""
    if spec.loss != "quantile":
        return y_pred
    return jnp.sort(y_pred.reshape(len(y_pred), -1, len(QUANTILES)))[..., len(QUANTILES) // 2]


def sums(spec: Spec, forward: Callable, params: Any, batch: Batch) -> dict[str, jax.Array]:
    """Return the sums over the rows of a batch; "loss" is a sum too.

    forward(spec, params, x): the outputs (N, D_out).
    """
    y_pred, y, weights = forward(spec, params, batch.x), batch.y, batch.weights
    count = len(y) if weights is None else weights.sum()
    total = {"loss": net.LOSSES[spec.loss](y_pred, wide(spec, y), weights) * count}
    if weights is not None:
        total["count"] = count
    if spec.loss == "cross_entropy":
        return total | {"hits": jnp.sum(y_pred.argmax(axis=1) == y)}
    return total | {"residual": jnp.square(_middle(spec, y_pred) - y).sum(axis=0)}


@functools.lru_cache(compile_cache.MAX_KINDS)
def block_sums(spec: Spec, placement: Placement) -> Callable:
    """Return the compiled function of (params, batch) to their sums, whole on every device."""
    return jax.jit(
        lambda params, batch: placement.replicate_inside(sums(spec, forward, params, batch))
    )


def on_rows(spec: Spec, forward: Callable, rows: Batch, placement: Placement) -> Callable:
    """Return the evaluation of parameters on rows in memory, a pytree: evaluate(params).

    rows: the x of it are the inputs to `forward`, a pytree whose arrays have the rows first.
    """
    size, number = placement.round_down(BLOCK), len(rows.y)
    whole = number // size * size
    blocks = jax.tree.map(lambda a: a[:whole].reshape(-1, size, *a.shape[1:]), rows)
    rest = jax.tree.map(lambda a: a[whole:], rows)
    blocks, rest = placement.shard(blocks, axis=1), placement.replicate(rest)
    return Partial(_evaluation(spec, forward, number, placement), blocks, rest)


@functools.lru_cache(compile_cache.MAX_KINDS)
def _evaluation(spec: Spec, forward: Callable, num_rows: int, placement: Placement) -> Callable:
    def evaluate(blocks, rest, params):
        found = []
        if len(blocks.y):
            each = lax.map(lambda block: sums(spec, forward, params, block), blocks)
            found.append(jax.tree.map(lambda a: a.sum(axis=0), each))
        if len(rest.y):
            found.append(sums(spec, forward, params, rest))
        total = jax.tree.map(lambda *a: sum(a), *found)
        loss = total["loss"] / total.pop("count", num_rows)
        return placement.replicate_inside(total | {"loss": loss})

    return evaluate


def outputs(spec: Spec, params: Any, x: np.ndarray) -> np.ndarray:
    """The outputs (N, D_out) of a network on x (N, D_in), in their dtype, some rows at a time."""
    forward = _forward(replace(spec, label_smoothing=0.0))  # which no output depends on
    parts = [np.zeros((0, spec.sizes[-1]), x.dtype)]
    with jax.enable_x64(x.dtype == np.float64):
        for i in range(0, len(x), ROWS):
            block = x[i : i + ROWS]
            # fetched before the next is sent, or all would be on their way at once
            parts.append(np.asarray(forward(params, _filled_up(block)))[: len(block)])
    return np.concatenate(parts)


def _filled_up(x: np.ndarray) -> np.ndarray:
    """Rows, and zeros up to a power of two of them: a few programs serve any number of rows."""
    size = 1 << (len(x) - 1).bit_length()
    if size == len(x):
        return x
    return np.concatenate([x, np.zeros((size - len(x), *x.shape[1:]), x.dtype)])


def measure(
    spec: Spec, target: Column, params: Any, batches: Iterable[Batch], **calibration: Any
) -> Metrics:
    """Return the metrics of a network on batches of rows, for `target` as their y.

    calibration: `temperature` and `threshold`, as `tables.metrics.metrics_for` takes them.
    """
    metrics = metrics_for(spec.loss, target, **calibration)
    for batch in batches:
        metrics.update(outputs(spec, params, batch.x), batch.y, batch.weights)
    return metrics


@functools.lru_cache(compile_cache.MAX_KINDS)
def _forward(spec: Spec):
    return jax.jit(functools.partial(apply, spec))
