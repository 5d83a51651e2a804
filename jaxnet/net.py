"""The network in JAX: pure `init`, `forward` and `loss`, and the tutorial's custom ReLU.

Each works under `jax.grad`, `jit`, `vmap`, `lax.scan` and `jax.checkpoint`. The names of activation
and loss are static: bind them by `functools.partial` before a transformation.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from jaxnet.spec import MAX_REPEATS, QUANTILES, Batch, Spec, check_forward, check_loss

Params = dict[str, jax.Array]


@jax.custom_vjp
def my_relu(x: jax.Array) -> jax.Array:
    """Return max(x, 0), with the tutorial's backward rule: the gradient is zeroed where x < 0.

    So it passes at 0, at -0.0 and at NaN, where `jax.nn.relu` passes nothing and `jnp.maximum` one
    half at 0. The second derivative is right too. A `custom_vjp` has no forward mode (`jax.jvp`,
    `jax.jacfwd`, `jax.hessian`): there write `jnp.where(x < 0, 0, x)`, of the same derivative.
    """
    return jnp.maximum(x, 0)


def _my_relu_fwd(x):
    return my_relu(x), x  # not jnp.maximum, of whose rule a second derivative would be made


def _my_relu_bwd(x, grad):
    return (jnp.where(x < 0, 0, grad),)


my_relu.defvjp(_my_relu_fwd, _my_relu_bwd)


ACTIVATIONS: dict[str, Callable[[jax.Array], jax.Array]] = {
    "relu": jax.nn.relu,
    "my_relu": my_relu,
    "tanh": jnp.tanh,
    "gelu": partial(jax.nn.gelu, approximate=False),  # as torch; JAX's default is by tanh
    "silu": jax.nn.silu,
}


def _sum_squares(y_pred, y, weights=None, label_smoothing=0.0):
    squares = jnp.square(y_pred - y)
    return squares.sum() if weights is None else (weights[:, None] * squares).sum()


def _mean_squares(y_pred, y, weights=None, label_smoothing=0.0):
    squares = jnp.square(y_pred - y)
    return squares.mean() if weights is None else _mean(squares.mean(axis=1), weights)


def _cross_entropy(y_pred, y, weights=None, label_smoothing=0.0):
    # A class out of range makes the loss NaN, since under jit no value can raise. As plain integers
    # neither the classes nor their number can wrap.
    y, num_classes = y.astype(int), y_pred.shape[1]
    log_p = jax.nn.log_softmax(y_pred)
    # a sum over one class, and no index: the gradient of an index is a scatter, which is slower
    of_class = jnp.where(y[:, None] == jnp.arange(num_classes), log_p, 0).sum(axis=1)
    of_row = jnp.where((y >= 0) & (y < num_classes), of_class, jnp.nan)
    if not isinstance(label_smoothing, (int, float)) or label_smoothing:  # it may be traced
        of_row = (1 - label_smoothing) * of_row + label_smoothing * log_p.mean(axis=1)
    return -_mean(of_row, weights)


def _quantile(y_pred, y, weights=None, label_smoothing=0.0):
    level = jnp.resize(jnp.array(QUANTILES, y_pred.dtype), y_pred.shape[1:])
    residual = y - y_pred
    return _mean((jnp.where(residual < 0, level - 1, level) * residual).mean(axis=1), weights)


def _mean(of_row, weights):
    """Return the mean of (N,), by their weights if there are such; 0 for weights that are all 0."""
    if weights is None:
        return of_row.mean()
    total = weights.sum()
    return (weights * of_row).sum() / jnp.where(total > 0, total, 1)


# name -> function of (y_pred, y, weights, label_smoothing)
LOSSES: dict[str, Callable[..., jax.Array]] = {
    "sum_squares": _sum_squares,
    "mean_squares": _mean_squares,
    "cross_entropy": _cross_entropy,
    "quantile": _quantile,
}


def dropout_masks(
    seed: Any, step: Any, rate: Any, shapes: Sequence[tuple[int, int]], dtype: Any
) -> tuple[jax.Array, ...]:
    """Draw a `Batch`'s masks: 0 at the rate, else 1 / (1 - rate), as torch.nn.Dropout.

    They are a pure function of seed and step number: a resumed run draws the same. shapes: (N, H)
    of each hidden layer. rate: at least 0 and below 1.
    """
    keys = jax.random.split(jax.random.fold_in(jax.random.key(seed), step), len(shapes))
    kept = [jax.random.bernoulli(k, 1 - rate, shape) for k, shape in zip(keys, shapes, strict=True)]
    return tuple(mask.astype(dtype) / (1 - rate) for mask in kept)


def init(spec: Spec, key: jax.Array) -> Params:
    """Draw initial parameters in the default float dtype, by the distributions of `Spec.init`."""
    params, shapes = {}, spec.shapes()
    keys = jax.random.split(key, len(shapes))
    for (name, shape), subkey in zip(shapes.items(), keys, strict=True):
        if spec.bias:
            bound = spec.scale(name)
            params[name] = jax.random.uniform(subkey, shape, minval=-bound, maxval=bound)
        else:
            params[name] = jax.random.normal(subkey, shape)
    return params


def forward(
    params, x, *, activation="relu", repeats=None, masks=None, compute_dtype=None, remat=False
) -> jax.Array:
    """Return y_pred (N, D_out) for rows x (N, D_in) of the parameters' dtype.

    repeats: apply the hidden-to-hidden layers that many times, an integer array () in 0..3. It may
    be traced: one compilation serves every depth, and only applied layers are computed. A value out
    of range gives NaN then.
    masks: the factors of each hidden layer's activations, as `Batch` has them (`dropout_masks`).
    compute_dtype: "bfloat16" multiplies matrices in it; all else keeps the parameters' dtype.
    remat: keep about sqrt(n) of n hidden activations, and compute the others again in the backward
    pass (Chen et al., 2016). XLA undoes it on CPUs. Raises: ValueError, as `spec.check_forward`.
    """
    x = jnp.asarray(x)
    num_layers = check_forward(params, x, activation, repeats, masks)
    function = ACTIVATIONS[activation]

    def layer(k, h):
        h = _matmul(h, params[f"w{k}"], compute_dtype)
        return h + params[f"b{k}"] if f"b{k}" in params else h

    def apply(layers, h):
        for k in layers:
            h = function(layer(k, h))
            h = h if masks is None else h * masks[k - 1]
        return h

    apply_all = partial(_recomputed, apply) if remat else apply
    hidden = partial(apply_all, range(2, num_layers))
    h = apply_all(range(1, min(2, num_layers)), x)
    if repeats is None:
        return layer(num_layers, hidden(h))
    for i in range(MAX_REPEATS):
        h = lax.cond(i < repeats, hidden, lambda h: h, h)
    in_range = (repeats >= 0) & (repeats <= MAX_REPEATS)
    return layer(num_layers, jnp.where(in_range, h, jnp.nan))


def average(params: Params, x, *, activation: str = "relu", loss: str) -> jax.Array:
    """Return what K networks predict together, (N, D_out); each leaf has the axis (K,) first.

    For `cross_entropy` it is the logarithm of the mean of their probabilities, so that its softmax
    are these; else the mean of their outputs.
    """
    y_pred = jax.vmap(partial(forward, activation=activation), in_axes=(0, None))(params, x)
    if loss != "cross_entropy":
        return y_pred.mean(axis=0)
    return jax.nn.logsumexp(jax.nn.log_softmax(y_pred), axis=0) - math.log(len(y_pred))


def _recomputed(apply, layers, h):
    """Apply sqrt(n) layers at a time; the backward pass computes what is inside each part again."""
    size = max(1, math.isqrt(len(layers)))
    for start in range(0, len(layers), size):
        h = jax.checkpoint(partial(apply, layers[start : start + size]))(h)
    return h


def _matmul(a, b, compute_dtype):
    if compute_dtype is None:
        return a @ b
    return (a.astype(compute_dtype) @ b.astype(compute_dtype)).astype(a.dtype)


def loss(
    params: Params,
    batch: Batch,
    *,
    loss: str = "sum_squares",
    label_smoothing: float = 0.0,
    **options,
) -> jax.Array:
    """Return the scalar loss: a sum of squares, a mean over elements, or a mean over rows.

    `batch.weights` w make it the sum of w times the squares, or the mean sum(w * loss of the row) /
    sum(w), as torch.nn.CrossEntropyLoss(weight=) has it. label_smoothing: the share of each row's
    target that all classes divide, as in torch. options: `activation`, `compute_dtype` and `remat`,
    as in `forward`.

    Raises: ValueError, as `spec.check_forward` and `spec.check_loss` do.
    """
    y_pred = forward(params, batch.x, repeats=batch.repeats, masks=batch.masks, **options)
    y = jnp.asarray(batch.y)
    check_loss(loss, y_pred, y, batch.weights, label_smoothing)
    return LOSSES[loss](y_pred, y, batch.weights, label_smoothing)
