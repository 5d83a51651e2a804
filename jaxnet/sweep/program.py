"""One compiled program that trains networks of one shape: a single one, or a grid of them at once.

A grid is splits x settings: the data, the order of the rows and the initial weights belong to a
split of the table, learning rate and weight decay to a setting. All epochs, the evaluation on the
validation rows after each, the best weights so far and the early stop are inside the program.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from jaxnet import net, optimizers, train
from jaxnet.runs.config import Config
from jaxnet.spec import Batch, Spec

MAX_ROWS = 2**20  # row indices to one call of the device


class Split(NamedTuple):
    """The rows of one split: to train on, to validate on, and the weight of each of the latter.

    weights: (N,) floats whose sum is 1; rows that only fill the shape up have weight 0.
    """

    train: Batch
    validation: Batch
    weights: Any


class Setting(NamedTuple):
    """What is mapped within a split: scalars (); weight_decay is None where none is asked for."""

    learning_rate: Any
    weight_decay: Any


class Member(NamedTuple):
    """A network in training, its weights held (out, in).

    sum_losses: of the steps since the last evaluation. active: it goes on. diverged: a loss was not
    finite. epochs: how many were made. best: the parameters after the epoch `best_epoch` of the
    lowest validation loss `best_loss`, `waited` evaluations ago; outputs (N, D_out): what they say
    of the validation rows. losses: (evaluations, 2), of training and validation.
    """

    state: train.TrainState
    sum_losses: Any
    active: Any
    diverged: Any
    epochs: Any
    best: Any
    best_loss: Any
    best_epoch: Any
    waited: Any
    outputs: Any
    losses: Any


class Program(NamedTuple):
    """The program's function, what it begins with, and the steps whose rows it takes at once.

    advance(members, split, setting, rows, start, stop) -> members makes the steps start..stop, or
    fewer if all members stop early; rows (capacity, batch) int32, of which the first is that of
    step `start`. blank: a member before its first step, but for its parameters, as arrays (NumPy).
    """

    advance: Callable[..., Member]
    blank: Member
    capacity: int
    num_steps: int


def make(config: Config, spec: Spec, split: Split, batch_size: int, *, stacked: bool) -> Program:
    """Make the program for splits of the shapes of `split` and networks of `spec`.

    stacked: for a grid, where the members' leaves have the axes (splits, settings) first, those of
    the split, the parameters and the rows (splits,), those of the setting (settings,).
    """
    steps_per_epoch = len(split.train.x) // batch_size
    num_steps, every = steps_per_epoch * config.epochs, steps_per_epoch * config.evaluate_every
    capacity = max(1, min(num_steps, MAX_ROWS // batch_size))
    evaluate = partial(_evaluate, config, spec, steps_per_epoch)

    def optimizer(setting: Setting):
        return optimizers.scheduled(
            config.optimizer,
            setting.learning_rate,
            num_steps,
            schedule_name=config.schedule,
            weight_decay=setting.weight_decay,
            clip_norm=config.clip_norm,
        )

    def one_step(state, split, setting, rows):
        loss = partial(net.loss, activation=spec.activation, loss=spec.loss)
        step = train.make_step(train.transposed(loss), optimizer(setting))
        return step(state, Batch(split.train.x[rows], split.train.y[rows]))

    step_all = _map_all(one_step, (0, None, 0, None), (0, 0, None, 0)) if stacked else one_step
    evaluate_all = _map_all(evaluate, (0, None, None), (0, 0, None)) if stacked else evaluate

    def advance(members, split, setting, rows, start, stop):
        def one(i, carry):
            state, sum_losses = carry
            rows_i = lax.dynamic_index_in_dim(rows, i - start, axis=-2, keepdims=False)
            state, loss = step_all(state, split, setting, rows_i)
            return state, sum_losses + loss

        def epoch(carry):
            i, members = carry
            end = jnp.minimum(stop, (i // every + 1) * every)
            state, sum_losses = lax.fori_loop(i, end, one, (members.state, members.sum_losses))
            members = members._replace(state=state, sum_losses=sum_losses)
            due = (end % every == 0) | (end == num_steps)
            return end, lax.cond(due, lambda m: evaluate_all(m, split, end), lambda m: m, members)

        def goes_on(carry):
            return (carry[0] < stop) & jnp.any(carry[1].active)

        return lax.while_loop(goes_on, epoch, (start, members))[1]

    decay = None if config.weight_decay is None else 0.1  # any: only the state's shapes are wanted
    blank = _blank(config, spec, len(split.validation.x), optimizer(Setting(0.1, decay)))
    return Program(advance, blank, capacity, num_steps)


def _blank(config: Config, spec: Spec, num_rows: int, optimizer: Any) -> Member:
    params = {name: np.zeros(shape[::-1], config.dtype) for name, shape in spec.shapes().items()}
    number, count = np.zeros((), config.dtype), np.zeros((), np.int32)
    return Member(
        state=jax.tree.map(np.asarray, train.init(params, optimizer)),
        sum_losses=number,
        active=np.ones((), bool),
        diverged=np.zeros((), bool),
        epochs=count,
        best=params,
        best_loss=np.full((), np.inf, config.dtype),
        best_epoch=count,
        waited=count,
        outputs=np.zeros((num_rows, spec.sizes[-1]), config.dtype),
        losses=np.zeros((-(-config.epochs // config.evaluate_every), 2), config.dtype),
    )


def _map_all(function: Callable, settings: tuple, splits: tuple) -> Callable:
    """Map over the settings within each split, and over the splits."""
    return jax.vmap(jax.vmap(function, in_axes=settings), in_axes=splits)


def _evaluate(
    config: Config, spec: Spec, steps_per_epoch: int, member: Member, split: Split, step: Any
) -> Member:
    """Evaluate a member after `step` steps: keep the best, stop it if it diverged or has waited.

    The same rules as those of an ordinary run.
    """
    every = steps_per_epoch * config.evaluate_every
    number = (step - 1) // every  # of the evaluation, from 0 on
    epoch = step // steps_per_epoch
    params = train.transpose(member.state.params)
    outputs = net.forward(params, split.validation.x, activation=spec.activation)
    of_row = jax.vmap(lambda y_pred, y: net.LOSSES[spec.loss](y_pred[None], y[None]))
    loss = (of_row(outputs, split.validation.y) * split.weights).sum()
    train_loss = member.sum_losses / (step - number * every)
    active, finite = member.active, jnp.isfinite(loss) & jnp.isfinite(train_loss)
    better = active & finite & (loss < member.best_loss)
    waited = jnp.where(better, 0, member.waited + 1)
    goes_on = finite
    if config.patience is not None:
        goes_on &= waited < math.ceil(config.patience / config.evaluate_every)
    line = jnp.where(active, jnp.stack([train_loss, loss]), member.losses[number])
    return member._replace(
        sum_losses=jnp.zeros_like(member.sum_losses),
        active=active & goes_on,
        diverged=member.diverged | (active & ~finite),
        epochs=jnp.where(active, epoch, member.epochs),
        best=jax.tree.map(partial(jnp.where, better), member.state.params, member.best),
        best_loss=jnp.where(better, loss, member.best_loss),
        best_epoch=jnp.where(better, epoch, member.best_epoch),
        waited=waited,
        outputs=jnp.where(better, outputs, member.outputs),
        losses=member.losses.at[number].set(line),
    )
