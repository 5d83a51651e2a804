"""Optimizers by name: optax, with torch.optim's meaning and default of every hyperparameter.

optax and torch differ in the float32 accuracy of Adam's bias correction, in Adagrad's epsilon and
accumulator, in amsgrad's order, in the first step of dampening, and in where weight decay enters.
Each optimizer here equals torch's of that name to rounding (float64: 1e-12 after 50 steps).

Only the learning rate and the weight decay may be arrays: for `optax.inject_hyperparams` name the
others in its `static_args`, as `("b1", "b2", "eps")` of adam.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import cache, partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from jaxnet.spec import check_choice

Number = float | jax.Array  # a traced array () is not checked
LearningRate = Number | Callable[[Any], Any]  # a schedule maps the step, counted from 0, to a rate


class MomentumState(NamedTuple):
    """The step (int32) and torch's momentum buffer, shaped like the parameters."""

    count: jax.Array
    buf: Any


class AdamState(NamedTuple):
    """The step (int32), both moments, and the maximum of the second for amsgrad, else None."""

    count: jax.Array
    mu: Any
    nu: Any
    nu_max: Any


class AdagradState(NamedTuple):
    """The sum of squared gradients, shaped like the parameters."""

    total: Any


def _zeros(params):
    return jax.tree.map(jnp.zeros_like, params)


def trace(momentum: float, dampening: float, nesterov: bool) -> optax.GradientTransformation:
    """Return torch's momentum: buf = momentum * buf + (1 - dampening) * g, the first buf is g."""

    def init(params):
        return MomentumState(jnp.zeros((), jnp.int32), _zeros(params))

    def update(updates, state, params=None):
        gain = jnp.where(state.count == 0, 1.0, 1.0 - dampening)
        buf = jax.tree.map(lambda b, g: momentum * b + gain.astype(g.dtype) * g, state.buf, updates)
        updates = jax.tree.map(lambda g, b: g + momentum * b, updates, buf) if nesterov else buf
        return updates, MomentumState(state.count + 1, buf)

    return optax.GradientTransformation(init, update)


def _bias_correction(decay: float, count: jax.Array, dtype) -> jax.Array:
    """Return 1 - decay**count to 4e-7 in float32; written so it is 1.3e-5 off at step 1."""
    return -jnp.expm1(count.astype(dtype) * math.log(decay)) if decay > 0 else jnp.ones((), dtype)


def scale_by_adam(
    b1: float, b2: float, eps: float, amsgrad: bool = False
) -> optax.GradientTransformation:
    """Return Adam (Kingma and Ba, 2015, algorithm 1) as torch computes it.

    amsgrad takes the maximum of the raw second moments, then corrects the bias, as torch.optim.Adam
    does; optax has the other order.
    """

    def init(params):
        zeros = partial(_zeros, params)
        return AdamState(jnp.zeros((), jnp.int32), zeros(), zeros(), zeros() if amsgrad else None)

    def update(updates, state, params=None):
        count = state.count + 1
        mu = jax.tree.map(lambda m, g: b1 * m + (1 - b1) * g, state.mu, updates)
        nu = jax.tree.map(lambda v, g: b2 * v + (1 - b2) * g * g, state.nu, updates)
        nu_max = jax.tree.map(jnp.maximum, state.nu_max, nu) if amsgrad else None
        correction = cache(lambda decay, dtype: _bias_correction(decay, count, dtype))

        def direction(m, v):
            m_hat = m / correction(b1, m.dtype)
            return m_hat / (jnp.sqrt(v / correction(b2, v.dtype)) + eps)

        updates = jax.tree.map(direction, mu, nu_max if amsgrad else nu)
        return updates, AdamState(count, mu, nu, nu_max)

    return optax.GradientTransformation(init, update)


def scale_by_adagrad(eps: float) -> optax.GradientTransformation:
    """Return torch's Adagrad (Duchi et al., 2011): the sum starts at 0, eps outside the root."""

    def init(params):
        return AdagradState(_zeros(params))

    def update(updates, state, params=None):
        total = jax.tree.map(lambda s, g: s + g * g, state.total, updates)
        updates = jax.tree.map(lambda g, s: g / (jnp.sqrt(s) + eps), updates, total)
        return updates, AdagradState(total)

    return optax.GradientTransformation(init, update)


def _chain(
    learning_rate: LearningRate, weight_decay: Number, *transforms
) -> optax.GradientTransformation:
    """Chain L2 weight decay (which torch adds to the gradient), transforms and learning rate."""
    none = isinstance(weight_decay, (int, float)) and weight_decay == 0
    decay = [] if none else [optax.add_decayed_weights(weight_decay)]
    return optax.chain(*decay, *transforms, optax.scale_by_learning_rate(learning_rate))


def sgd(
    learning_rate: LearningRate,
    *,
    momentum: float = 0.0,
    dampening: float = 0.0,
    nesterov: bool = False,
    weight_decay: Number = 0.0,
) -> optax.GradientTransformation:
    """Return torch.optim.SGD; the Nesterov form needs a momentum and no dampening."""
    if nesterov and (momentum <= 0 or dampening != 0):
        raise ValueError("`nesterov` must have a momentum above 0 and no dampening, as in torch")
    transforms = [trace(momentum, dampening, nesterov)] if momentum else []
    return _chain(learning_rate, weight_decay, *transforms)


def adam(
    learning_rate: LearningRate,
    *,
    b1: float = 0.9,
    b2: float = 0.999,
    eps: float = 1e-8,
    weight_decay: Number = 0.0,
    amsgrad: bool = False,
) -> optax.GradientTransformation:
    """Return torch.optim.Adam; weight decay is L2, added to the gradient."""
    return _chain(learning_rate, weight_decay, scale_by_adam(b1, b2, eps, amsgrad))


def adamw(
    learning_rate: LearningRate,
    *,
    b1: float = 0.9,
    b2: float = 0.999,
    eps: float = 1e-8,
    weight_decay: Number = 1e-2,
    amsgrad: bool = False,
) -> optax.GradientTransformation:
    """Return torch.optim.AdamW (Loshchilov and Hutter, 2019), whose weight decay is decoupled."""
    decay = optax.add_decayed_weights(weight_decay)
    return _chain(learning_rate, 0.0, scale_by_adam(b1, b2, eps, amsgrad), decay)


def rmsprop(
    learning_rate: LearningRate,
    *,
    decay: float = 0.99,
    eps: float = 1e-8,
    momentum: float = 0.0,
    centered: bool = False,
    weight_decay: Number = 0.0,
) -> optax.GradientTransformation:
    """Return torch.optim.RMSprop: eps outside the root, the learning rate after the momentum."""
    scale = optax.scale_by_stddev if centered else optax.scale_by_rms
    transforms = [scale(decay=decay, eps=eps, eps_in_sqrt=False)]
    if momentum:
        transforms.append(trace(momentum, dampening=0.0, nesterov=False))
    return _chain(learning_rate, weight_decay, *transforms)


def adagrad(
    learning_rate: LearningRate, *, eps: float = 1e-10, weight_decay: Number = 0.0
) -> optax.GradientTransformation:
    """Return torch.optim.Adagrad without its lr_decay: pass a schedule for that."""
    return _chain(learning_rate, weight_decay, scale_by_adagrad(eps))


OPTIMIZERS: dict[str, Callable[..., optax.GradientTransformation]] = {
    "sgd": sgd,
    "momentum": partial(sgd, momentum=0.9),
    "nesterov": partial(sgd, momentum=0.9, nesterov=True),
    "adam": adam,
    "adamw": adamw,
    "rmsprop": rmsprop,
    "adagrad": adagrad,
}


def make(name: str, learning_rate: LearningRate, **hyperparameters) -> optax.GradientTransformation:
    """Return the optimizer of that name; hyperparameters keep torch's defaults.

    Raises: ValueError for an unknown name or a learning rate that is not a finite number above 0.
    """
    check_choice("optimizer", name, tuple(OPTIMIZERS))
    if not callable(learning_rate):
        check_learning_rate(learning_rate)
    return OPTIMIZERS[name](learning_rate, **hyperparameters)


def check_learning_rate(learning_rate: Number) -> None:
    """Raise ValueError unless the rate is a finite number above 0; a traced one is not checked."""
    if not isinstance(learning_rate, jax.core.Tracer) and not (
        math.isfinite(learning_rate) and learning_rate > 0
    ):
        raise ValueError(f"`learning_rate` must be a finite number above 0, got {learning_rate}")


def _cosine(t, num_steps):
    return 0.5 * (1 + jnp.cos(jnp.pi * jnp.minimum(t / num_steps, 1)))


def _warmup(t, num_steps):
    rise = jnp.minimum((t + 1) / max(1, round(0.1 * num_steps)), 1)
    return rise * _cosine(t, num_steps)


# name -> factor of the learning rate at step t (a float array) of num_steps
SCHEDULES: dict[str, Callable] = {
    "constant": lambda t, num_steps: jnp.ones_like(t),
    "cosine": _cosine,
    "warmup": _warmup,
}


def schedule(name: str, learning_rate: Number, num_steps: int) -> Callable[[Any], Any]:
    """Return the rate as a function of the step, counted from 0.

    constant: the same at every step. cosine: half a cosine from the rate to 0 over `num_steps`, as
    torch.optim.lr_scheduler.CosineAnnealingLR(T_max=num_steps). warmup: the cosine times a linear
    rise over the first tenth of the steps. It is computed in the default float dtype.

    Raises: ValueError for an unknown name, a learning rate as in `make`, or `num_steps` below 1.
    """
    check_choice("schedule", name, tuple(SCHEDULES))
    check_learning_rate(learning_rate)
    if num_steps < 1:
        raise ValueError(f"`num_steps` must be at least 1, got {num_steps}")
    return lambda step: learning_rate * SCHEDULES[name](jnp.asarray(step, float), num_steps)


def scheduled(
    name: str,
    learning_rate: Number,
    num_steps: int,
    *,
    schedule_name: str = "constant",
    weight_decay: Number | None = None,
    clip_norm: float | None = None,
) -> optax.GradientTransformation:
    """Return the optimizer of a run of `num_steps`, with schedule, weight decay and clipping.

    weight_decay: None for torch's default. clip_norm: gradients of a larger norm are scaled to it,
    before all else; None for no clipping.
    """
    decay = {} if weight_decay is None else {"weight_decay": weight_decay}
    optimizer = make(name, schedule(schedule_name, learning_rate, num_steps), **decay)
    if clip_norm is None:
        return optimizer
    return optax.chain(optax.clip_by_global_norm(clip_norm), optimizer)
