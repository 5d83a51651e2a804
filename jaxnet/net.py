"""The network in JAX: pure `init`, `forward` and `loss`, and the tutorial's custom ReLU.

Each works under `jax.grad`, `jit`, `vmap`, `lax.scan` and `jax.checkpoint`. The names of
activations and losses are static: bind them with `functools.partial` before a transformation.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial

import jax
import jax.numpy as jnp
from jax import lax

from jaxnet.spec import MAX_REPEATS, Batch, Spec, check_forward, check_loss

Params = dict[str, jax.Array]


@jax.custom_vjp
def my_relu(x: jax.Array) -> jax.Array:
    """max(x, 0) with the tutorial's backward rule: the gradient is zeroed where x < 0.

    So it passes at 0, at -0.0 and at NaN, where `jax.nn.relu` passes nothing and `jnp.maximum` one
    half at 0. Right at second order too. A `custom_vjp` has no forward mode (`jax.jvp`,
    `jax.jacfwd`, `jax.hessian`): for those write `jnp.where(x < 0, 0, x)`, which has the same
    derivative.
    """
    return jnp.maximum(x, 0)


def _my_relu_fwd(x):
    # my_relu, not jnp.maximum: a second derivative then uses this rule again, not JAX's one half at
    # 0.
    return my_relu(x), x


def _my_relu_bwd(x, grad):
    return (jnp.where(x < 0, 0, grad),)


my_relu.defvjp(_my_relu_fwd, _my_relu_bwd)


def _gelu(x):
    return jax.nn.gelu(x, approximate=False)  # torch's default; JAX's is the tanh approximation


ACTIVATIONS: dict[str, Callable[[jax.Array], jax.Array]] = {
    "relu": jax.nn.relu,
    "my_relu": my_relu,
    "tanh": jnp.tanh,
    "gelu": _gelu,
    "silu": jax.nn.silu,
}


def _sum_squares(y_pred, y):
    return jnp.square(y_pred - y).sum()


def _mean_squares(y_pred, y):
    return jnp.square(y_pred - y).mean()


def _cross_entropy(y_pred, y):
    # A class out of range makes the loss NaN: values cannot raise under jit, and must not wrap
    # silently, nor may the number of classes in narrow integers.
    y, num_classes = y.astype(int), y_pred.shape[1]
    log_p = jax.nn.log_softmax(y_pred)
    # a sum over the one class, rather than an index, whose gradient would be a scatter
    of_class = jnp.where(y[:, None] == jnp.arange(num_classes), log_p, 0).sum(axis=1)
    return -jnp.where((y >= 0) & (y < num_classes), of_class, jnp.nan).mean()


LOSSES: dict[str, Callable[[jax.Array, jax.Array], jax.Array]] = {
    "sum_squares": _sum_squares,
    "mean_squares": _mean_squares,
    "cross_entropy": _cross_entropy,
}


def init(spec: Spec, key: jax.Array) -> Params:
    """Draw initial parameters in the default float dtype, by the distributions of `Spec.init`."""
    params = {}
    shapes = spec.shapes()
    for (name, shape), subkey in zip(
        shapes.items(), jax.random.split(key, len(shapes)), strict=True
    ):
        if spec.bias:
            bound = spec.scale(name)
            params[name] = jax.random.uniform(subkey, shape, minval=-bound, maxval=bound)
        else:
            params[name] = jax.random.normal(subkey, shape)
    return params


def forward(
    params: Params,
    x,
    *,
    activation: str = "relu",
    repeats=None,
    compute_dtype: str | None = None,
    remat: bool = False,
) -> jax.Array:
    """Return y_pred (N, D_out) for rows x (N, D_in) of the parameters' dtype.

    compute_dtype: "bfloat16", to multiply matrices in it, forwards and backwards; all else, and so
    parameters, gradients, activations and sums over rows, stays in the parameters' dtype.

    repeats: an integer array () in 0..3: the hidden-to-hidden layers are applied that many times
    with the same weights. It may be traced: one compilation serves every depth, and only the layers
    that are applied are computed. A traced value out of range gives NaN.

    remat: of n hidden layers, keep for the way back what about each sqrt(n)th gives, and compute
    what is between again, for one such part at a time (Chen et al., Training Deep Nets with
    Sublinear Memory Cost, 2016). XLA for CPUs undoes it.

    Raises: ValueError as `jaxnet.spec.check_forward` says.
    """
    x = jnp.asarray(x)
    num_layers = check_forward(params, x, activation, repeats)
    function = ACTIVATIONS[activation]

    def layer(k, h):
        h = _matmul(h, params[f"w{k}"], compute_dtype)
        return h + params[f"b{k}"] if f"b{k}" in params else h

    def several(layers, h):
        for k in layers:
            h = function(layer(k, h))
        return h

    def through(layers, h):
        size = max(1, math.isqrt(len(layers)) if remat else len(layers))
        for start in range(0, len(layers), size):
            part = partial(several, layers[start : start + size])
            h = (jax.checkpoint(part) if remat else part)(h)
        return h

    hidden = partial(through, range(2, num_layers))
    h = through(range(1, min(2, num_layers)), x)
    if repeats is None:
        return layer(num_layers, hidden(h))
    for i in range(MAX_REPEATS):
        h = lax.cond(i < repeats, hidden, lambda h: h, h)
    in_range = (repeats >= 0) & (repeats <= MAX_REPEATS)
    return layer(num_layers, jnp.where(in_range, h, jnp.nan))


def _matmul(a, b, compute_dtype):
    if compute_dtype is None:
        return a @ b
    return (a.astype(compute_dtype) @ b.astype(compute_dtype)).astype(a.dtype)


def loss(
    params: Params,
    batch: Batch,
    *,
    activation: str = "relu",
    loss: str = "sum_squares",
    compute_dtype: str | None = None,
    remat: bool = False,
) -> jax.Array:
    """Return the scalar loss: a sum of squares, a mean over elements, or a mean over rows.

    compute_dtype, remat: as in `forward`.

    Raises: ValueError as `jaxnet.spec.check_forward` and `check_loss` say.
    """
    y_pred = forward(
        params,
        batch.x,
        activation=activation,
        repeats=batch.repeats,
        compute_dtype=compute_dtype,
        remat=remat,
    )
    y = jnp.asarray(batch.y)
    check_loss(loss, y_pred, y)
    return LOSSES[loss](y_pred, y)
