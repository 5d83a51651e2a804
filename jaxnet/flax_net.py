"""The network as Flax nnx modules, to and from the dictionary of parameters.

Split a module once, and train its state like any other parameters, at the cost of pure functions:

    graphdef, params = nnx.split(module)
    step = train.make_step(flax_net.loss(graphdef), optimizer)

Then `nnx.update(module, state.params)` writes the result back.

Any other module, and one with running statistics or dropout, is split with a loss of your own:

    loss, params, model_state = flax_net.split(module, lambda module, batch: ...)
    step = train.make_step(loss, optimizer)
    state = train.init(params, optimizer, model_state)

Then `nnx.update(module, state.params, state.model_state)` writes the result back.
"""

from __future__ import annotations

import operator
from collections.abc import Callable
from functools import partial
from itertools import pairwise
from typing import Any

import jax
import jax.numpy as jnp
import optax
from flax import nnx
from jax import lax

from jaxnet.spec import (
    MAX_REPEATS,
    QUANTILES,
    Batch,
    Spec,
    check_forward,
    check_loss,
    check_module,
    check_params,
)


def clamp(x: jax.Array) -> jax.Array:
    """Return max(x, 0) with the derivative 1 at 0, as the tutorial's clamp(min=0): `my_relu`."""
    return jnp.where(x < 0, 0, x)


ACTIVATIONS: dict[str, Callable[[jax.Array], jax.Array]] = {
    "relu": nnx.relu,
    "my_relu": clamp,
    "tanh": nnx.tanh,
    "gelu": partial(nnx.gelu, approximate=False),  # as torch; nnx's default is by tanh
    "silu": nnx.silu,
}


def _cross_entropy(y_pred, y, weights=None, label_smoothing=0.0):
    y, num_classes = y.astype(int), y_pred.shape[1]  # a narrow integer would wrap
    in_range = (y >= 0) & (y < num_classes)  # a class out of range makes the loss NaN
    safe = jnp.where(in_range, y, 0)
    if label_smoothing:
        target = optax.smooth_labels(jax.nn.one_hot(safe, num_classes), label_smoothing)
        losses = optax.softmax_cross_entropy(y_pred, target.astype(y_pred.dtype))
    else:
        losses = optax.softmax_cross_entropy_with_integer_labels(y_pred, safe)
    return _mean(jnp.where(in_range, losses, jnp.nan), weights)


def _sum_squares(y_pred, y, weights=None, label_smoothing=0.0):
    squares = optax.squared_error(y_pred, y)
    return squares.sum() if weights is None else jnp.vdot(weights, squares.sum(axis=1))


def _mean_squares(y_pred, y, weights=None, label_smoothing=0.0):
    squares = optax.squared_error(y_pred, y)
    return squares.mean() if weights is None else _mean(squares.mean(axis=1), weights)


def _quantile(y_pred, y, weights=None, label_smoothing=0.0):
    residual = (y - y_pred).T
    level = jnp.resize(jnp.array(QUANTILES, y.dtype), (len(residual), 1))
    losses = jnp.where(residual < 0, (level - 1) * residual, level * residual)
    return _mean(losses.mean(axis=0), weights)


def _mean(of_row, weights):
    if weights is None:
        return of_row.mean()
    return jnp.vdot(weights, of_row) / jnp.where(weights.any(), weights.sum(), 1)


# name -> function of (y_pred, y, weights, label_smoothing)
LOSSES: dict[str, Callable[..., jax.Array]] = {
    "sum_squares": _sum_squares,
    "mean_squares": _mean_squares,
    "cross_entropy": _cross_entropy,
    "quantile": _quantile,
}


def linear(d_in: int, d_out: int, *, bias: bool = True, rngs: nnx.Rngs) -> nnx.Linear:
    """Return an nnx.Linear with the initial distribution of `Spec.init`, which is not nnx's."""

    def uniform(key, shape, dtype, out_sharding=None):
        return jax.random.uniform(key, shape, dtype, -(d_in**-0.5), d_in**-0.5)

    kernel_init = uniform if bias else nnx.initializers.normal(1.0)
    return nnx.Linear(
        d_in, d_out, use_bias=bias, kernel_init=kernel_init, bias_init=uniform, rngs=rngs
    )


def sequential(spec: Spec, *, rngs: nnx.Rngs) -> nnx.Sequential:
    """Return the network of `spec` as an nnx.Sequential: Linear, activation, Linear, ..."""
    layers: list[Callable] = []
    for d_in, d_out in pairwise(spec.sizes):
        layers += [linear(d_in, d_out, bias=spec.bias, rngs=rngs), ACTIVATIONS[spec.activation]]
    return nnx.Sequential(*layers[:-1])


class TwoLayerNet(nnx.Module):
    """The tutorial's module: linear1, clamp, linear2. Calls map (N, d_in) to (N, d_out)."""

    def __init__(self, d_in: int, hidden: int, d_out: int, *, rngs: nnx.Rngs):
        self.linear1 = linear(d_in, hidden, rngs=rngs)
        self.linear2 = linear(hidden, d_out, rngs=rngs)

    def __call__(self, x: jax.Array) -> jax.Array:
        return self.linear2(clamp(self.linear1(x)))


class DynamicNet(nnx.Module):
    """The tutorial's dynamic network: the middle layer is applied `repeats` times."""

    def __init__(self, d_in: int, hidden: int, d_out: int, *, rngs: nnx.Rngs):
        self.input_linear = linear(d_in, hidden, rngs=rngs)
        self.middle_linear = linear(hidden, hidden, rngs=rngs)
        self.output_linear = linear(hidden, d_out, rngs=rngs)

    def __call__(self, x: jax.Array, repeats: Any) -> jax.Array:
        """Return (N, d_out) for x (N, d_in); `repeats` may be traced: out of range it gives NaN."""
        h = clamp(self.input_linear(x))
        for i in range(MAX_REPEATS):
            h = lax.cond(i < repeats, lambda h: clamp(self.middle_linear(h)), lambda h: h, h)
        in_range = (repeats >= 0) & (repeats <= MAX_REPEATS)
        return self.output_linear(jnp.where(in_range, h, jnp.nan))


def loss(
    graphdef: nnx.GraphDef, *, loss: str = "sum_squares", label_smoothing: float = 0.0
) -> Callable[[Any, Batch], jax.Array]:
    """Return loss(params, batch) -> scalar for one of this file's modules, split by nnx.split."""

    def module_loss(params, batch):
        module = nnx.merge(graphdef, params)
        x, y = jnp.asarray(batch.x), jnp.asarray(batch.y)
        check_forward(to_params(module), x, "relu", batch.repeats)
        check_module(isinstance(module, DynamicNet), batch)
        y_pred = module(x) if batch.repeats is None else module(x, batch.repeats)
        check_loss(loss, y_pred, y, batch.weights, label_smoothing)
        return LOSSES[loss](y_pred, y, batch.weights, label_smoothing)

    return module_loss


def split(
    module: nnx.Module, loss: Callable[[Any, Any], jax.Array]
) -> tuple[Callable[..., tuple[jax.Array, nnx.State]], nnx.State, nnx.State]:
    """Split any module and its loss(module, batch) -> scalar into what `train` takes.

    Returns: loss(params, batch, model_state) -> (scalar, new model state); params, the variables
    that are trained (nnx.Param); and model_state, all others but the random keys: running
    statistics, and how many numbers each random stream has drawn. The keys are constants of the
    loss, so that the same step draws the same numbers in every run. The module is not changed. What
    a call writes to its parameters, as nnx.SpectralNorm does, or to attributes that are plain
    Python values, is not kept.

    Raises: ValueError, when the loss is first called, without a model state, and for a module that
    makes or removes variables in a call, or replaces a random key.
    """
    graphdef, own_params, keys, own_state = nnx.split(module, nnx.Param, nnx.RngKey, ...)
    own_names = _names(module)

    def module_loss(params, batch, model_state=None):
        if model_state is None:
            raise ValueError(
                "`model_state` must be given to a loss made by flax_net.split, got None: make the "
                "state by train.init(params, optimizer, model_state), the step by train.make_step"
            )
        here = nnx.merge(graphdef, params, keys, model_state, copy=True)  # which it may write to
        value = loss(here, batch)
        if changed := own_names ^ _names(here):
            raise ValueError(
                f"a call of the module must not make or remove variables, got {sorted(changed)}"
            )
        _, _, new_keys, new_state = nnx.split(here, nnx.Param, nnx.RngKey, ...)
        if any(map(operator.is_not, jax.tree.leaves(new_keys), jax.tree.leaves(keys))):
            raise ValueError("a call of the module must not replace its random keys")
        return value, new_state

    return module_loss, own_params, own_state


def _names(module: nnx.Module) -> set[str]:
    return {"/".join(map(str, path)) for path, _ in nnx.to_flat_state(nnx.state(module))}


def _linears(module: nnx.Module) -> list[nnx.Linear]:
    """Return the module's linear layers in the order of application, that of their making."""
    layers = module.layers if isinstance(module, nnx.Sequential) else vars(module).values()
    return [layer for layer in layers if isinstance(layer, nnx.Linear)]


def to_params(module: nnx.Module) -> dict[str, jax.Array]:
    """Return the dictionary `w1, b1, w2, ...` of a module of this file, without copies."""
    params = {}
    for k, layer in enumerate(_linears(module), start=1):
        params[f"w{k}"] = layer.kernel[...]
        if layer.bias is not None:
            params[f"b{k}"] = layer.bias[...]
    return params


def from_params(module: nnx.Module, params: dict[str, Any]) -> nnx.Module:
    """Write the dictionary's values and dtypes into the module, and return the module.

    Raises: ValueError if a name or a shape differs from the module's.
    """
    check_params(params)
    shapes = {name: tuple(value.shape) for name, value in params.items()}
    wanted = {name: tuple(value.shape) for name, value in to_params(module).items()}
    if shapes != wanted:
        raise ValueError(f"`params` must have the module's shapes {wanted}, got {shapes}")
    for k, layer in enumerate(_linears(module), start=1):
        layer.kernel.set_value(jnp.asarray(params[f"w{k}"]))
        if layer.bias is not None:
            layer.bias.set_value(jnp.asarray(params[f"b{k}"]))
    return module
