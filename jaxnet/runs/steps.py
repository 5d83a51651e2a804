"""The step of a run: initial weights, loss, optimizer, dropout, and the members of an ensemble.

Inside, the weights of a network are (out, in), which is faster on a CPU.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any

import jax
import numpy as np
import optax

from jaxnet import net, optimizers
from jaxnet.engine import accumulate, compile_cache, deterministic
from jaxnet.engine.mesh import Placement
from jaxnet.files import check_size
from jaxnet.runs import evaluation
from jaxnet.runs.config import Config
from jaxnet.spec import Spec
from jaxnet.train import Step, make_step, transposed

# options that decide a step, and so what is compiled
OF_STEP = ("dtype", "deterministic", "accumulate", "remat", "dropout", "ensemble")


def initial_params(config: Config, spec: Spec) -> dict[str, np.ndarray]:
    """Draw the initial weights of a run; those of an ensemble have the axis (members,) first.

    The first member is the network that the seed gives alone.

    Raises: ValueError for a network that takes more than 1/4 of the memory.
    """
    numbers = config.ensemble * sum(map(math.prod, spec.shapes().values()))
    check_size("the network", numbers * np.dtype(config.param_dtype).itemsize)
    if config.ensemble == 1:
        return spec.init(config.seed, config.param_dtype)
    seeds = [config.seed, *([config.seed, member] for member in range(1, config.ensemble))]
    drawn = [spec.init(seed, config.param_dtype) for seed in seeds]
    return {name: np.stack([params[name] for params in drawn]) for name in drawn[0]}


def transpose(params: dict[str, Any]) -> dict[str, Any]:
    """Transpose the weights (in, out) of a network, or of each member of an ensemble."""
    return {n: p.swapaxes(-1, -2) if n.startswith("w") else p for n, p in params.items()}


def loss_of(config: Config, spec: Spec, label_smoothing: Any) -> Callable[[Any, Any], jax.Array]:
    """Return the loss over transposed weights (out, in), a mean over rows."""
    half = config.dtype == "bfloat16"
    loss = partial(
        net.loss,
        activation=spec.activation,
        loss=spec.loss,
        label_smoothing=label_smoothing,
        compute_dtype="bfloat16" if half else None,
        remat=config.remat,
    )
    of_weights = transposed(
        lambda params, batch: loss(params, batch._replace(y=evaluation.wide(spec, batch.y)))
    )
    return (lambda params, batch: of_weights(_rounded(params), batch)) if half else of_weights


def _rounded(params: dict[str, jax.Array]) -> dict[str, jax.Array]:
    """Round the weights to bfloat16 before they are transposed. The products round them anyway;
    rounded here, XLA makes the gradients (out, in) at once and transposes no copy of them.
    """
    return {
        n: p.astype("bfloat16").astype(p.dtype) if n.startswith("w") else p
        for n, p in params.items()
    }


# Runs of one process with the same options have one optimizer and one step, so that they share what
# is compiled for them.
_scheduled = functools.lru_cache(compile_cache.MAX_KINDS)(optimizers.scheduled)


def optimizer_of(config: Config, num_steps: int) -> optax.GradientTransformation:
    """Return the optimizer of a run; the step clips by itself in dual form, and in an ensemble."""
    return _scheduled(
        config.optimizer,
        config.learning_rate,
        num_steps,
        schedule_name=config.schedule,
        weight_decay=config.weight_decay,
        clip_norm=None if config.gram == "on" or config.ensemble > 1 else config.clip_norm,
    )


def make(
    config: Config, spec: Spec, optimizer: optax.GradientTransformation, placement: Placement
) -> Step:
    """Return the step of a run, which is not in dual form."""
    names = [*OF_STEP, *["seed"] * bool(config.dropout), *["clip_norm"] * (config.ensemble > 1)]
    options = Config(**{name: getattr(config, name) for name in names})
    return _step(options, spec, optimizer, placement)


@functools.lru_cache(compile_cache.MAX_KINDS)
def _step(
    config: Config, spec: Spec, optimizer: optax.GradientTransformation, placement: Placement
) -> Step:
    if config.dropout:
        without = _step(replace(config, dropout=0.0), spec, optimizer, placement)
        return _with_dropout(without, config, spec)
    loss = loss_of(config, spec, spec.label_smoothing)
    if config.deterministic:
        assert placement.mesh
        return deterministic.make_step(loss, optimizer, placement.mesh, reduction="mean")
    value_and_grad: Callable = jax.value_and_grad
    if config.accumulate is not None:
        value_and_grad = partial(
            accumulate.accumulated, microbatches=config.accumulate, reduction="mean"
        )
    if config.ensemble > 1:
        value_and_grad = partial(_of_members, value_and_grad, config.clip_norm)
    return placement.step(make_step(loss, optimizer, value_and_grad=value_and_grad))


def _of_members(value_and_grad: Callable, clip_norm: float | None, loss: Callable) -> Callable:
    """Return `value_and_grad` of an ensemble: the mean of the losses, and each its own gradient."""
    clip = optax.identity() if clip_norm is None else optax.clip_by_global_norm(clip_norm)

    def of_member(params, batch):
        value, grads = value_and_grad(loss)(params, batch)
        return value, clip.update(grads, clip.init(params))[0]

    def of_all(params, batch):
        values, grads = jax.vmap(of_member, in_axes=(0, None))(params, batch)
        return values.mean(), grads

    return of_all


def dropout_seed(seed: int) -> np.uint32:
    """Return the seed of a run as JAX's keys take it."""
    return np.uint32(seed % 2**32)


def _with_dropout(step: Step, config: Config, spec: Spec) -> Step:
    """Return the step that draws the masks of its batch; the members of an ensemble share them."""

    seed = dropout_seed(config.seed)

    @functools.partial(jax.jit, donate_argnames="state")
    def with_masks(state, batch):
        shapes = [(len(batch.x), size) for size in spec.sizes[1:-1]]
        key = seed, state.step
        masks = net.dropout_masks(*key, config.dropout, shapes, batch.x.dtype)
        return step(state, batch._replace(masks=masks))

    return with_masks
