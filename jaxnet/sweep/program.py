"""One compiled program that trains networks of one shape: a single one, or a grid of them at once.

It is `epochs.run` with a step and an evaluation that are mapped over splits x settings. Rows, their
order and the initial weights belong to a split of the table; learning rate and weight decay to a
setting.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.tree_util import Partial

from jaxnet import data, optimizers
from jaxnet.engine import epochs
from jaxnet.runs import evaluation, trainer
from jaxnet.runs.config import Config
from jaxnet.runs.dataset import Dataset
from jaxnet.spec import Batch
from jaxnet.sweep.settings import Key, Setting
from jaxnet.train import TrainState, init, make_step, transpose


class Split(NamedTuple):
    """The rows of a split to train on and to validate on, and which of the latter count.

    counts: (N,) ones, and zeros for rows that only fill the shape up.
    """

    train: Batch
    validation: Batch
    counts: Any


class Program:
    """Training of networks of one shape, which differ in split and setting.

    config, dataset: those of any of them. stacked: whether it trains a grid at once; then each leaf
    has the axes (splits, settings) first, those of a split (splits,), of a setting (settings,).
    num_steps: of a whole training; every: steps between evaluations; capacity, max_wait: as
    `epochs.run` takes them.
    """

    def __init__(self, config: Config, dataset: Dataset, *, stacked: bool):
        self.config, self.spec, self.stacked = config, dataset.spec, stacked
        self.rows, self.batch_size = len(dataset.train), dataset.batch_size
        self.num_steps = dataset.steps_per_epoch * config.epochs
        self.every = dataset.steps_per_epoch * config.evaluate_every
        self.capacity = epochs.capacity(self.batch_size, self.every)
        self.max_wait = epochs.evaluations_to_wait(config.patience, config.evaluate_every)
        self.step, self.evaluate = self._step, self._evaluate
        if stacked:  # over the settings within each split, and over the splits
            step = jax.vmap(self._step, in_axes=(None, 0, 0, None))
            self.step = jax.vmap(step, in_axes=(0, None, 0, 0))
            self.evaluate = jax.vmap(jax.vmap(self._evaluate, in_axes=(None, 0)))

    def run(
        self,
        split: Split,
        settings: tuple[Setting, ...],
        keys: tuple[Key, ...],
        state: TrainState,
        best: epochs.Best,
        segments: list[tuple[int, bool]],
    ) -> epochs.Chunk:
        """Make the steps of the segments; split: the rows of all `keys` (`stack`)."""
        return epochs.run(
            Partial(self.step, split.train, self._rates(settings)),
            Partial(self.evaluate, split),
            state,
            best,
            self._rows_at(keys),
            segments,
            self.capacity,
            self.max_wait,
        )

    def begin(
        self, keys: tuple[Key, ...], settings: tuple[Setting, ...]
    ) -> tuple[TrainState, epochs.Best]:
        """Return state and best before the first step, as NumPy arrays."""
        shape = (len(keys), len(settings)) if self.stacked else ()
        drawn = [transpose(self.spec.init(key.seed, self.config.dtype)) for key in keys]
        decay = None if self.config.weight_decay is None else 0.1
        state = init(drawn[0], self._optimizer(0.1, decay))  # of any rates, which it does not hold
        state = jax.tree.map(lambda leaf: np.broadcast_to(leaf, shape + leaf.shape), state)
        params = self.stack(drawn)
        if self.stacked:
            params = jax.tree.map(
                lambda leaf: np.broadcast_to(leaf[:, None], shape + leaf.shape[1:]), params
            )
        lowest, wait = np.full(shape, np.inf, self.config.dtype), np.zeros(shape, np.int32)
        return state._replace(params=params), epochs.Best(params, lowest, wait, wait == 0)

    def stack(self, trees: list[Any]) -> Any:
        """Return the trees of the splits as one, or the only one as it is."""
        return jax.tree.map(lambda *leaves: np.stack(leaves), *trees) if self.stacked else trees[0]

    def _step(self, table, rates, state, rows):
        """A step of one network on some rows of its split."""
        step = make_step(trainer.loss_of(self.config, self.spec), self._optimizer(*rates))
        return step(state, jax.tree.map(lambda leaf: leaf[rows], table))

    def _optimizer(self, learning_rate: Any, weight_decay: Any) -> Any:
        return optimizers.scheduled(
            self.config.optimizer,
            learning_rate,
            self.num_steps,
            schedule_name=self.config.schedule,
            weight_decay=weight_decay,
            clip_norm=self.config.clip_norm,
        )

    def _evaluate(self, split, params):
        """The evaluation of one network, as `evaluation` describes it."""

        def of_row(x, y):
            return evaluation.sums(self.spec, evaluation.forward, params, x[None], y[None])

        def total(leaf):
            return jnp.sum(jnp.moveaxis(leaf, 0, -1) * split.counts, axis=-1)

        sums = jax.tree.map(total, jax.vmap(of_row)(split.validation.x, split.validation.y))
        return sums | {"loss": sums["loss"] / split.counts.sum()}

    def _rates(self, settings: tuple[Setting, ...]) -> tuple[Any, Any]:
        """Learning rates and weight decays; None for decays where none are asked for."""
        rates = np.array([setting.learning_rate for setting in settings], self.config.dtype)
        decays = None
        if self.config.weight_decay is not None:
            decays = np.array([setting.weight_decay for setting in settings], self.config.dtype)
        several = rates, decays
        return several if self.stacked else jax.tree.map(lambda leaf: leaf[0], several)

    def _rows_at(self, keys: tuple[Key, ...]) -> Callable[[int], np.ndarray]:
        """Step number -> row indices (splits, batch), or (batch,) of a network alone."""
        each = [data.row_batches(self.rows, self.batch_size, key.seed) for key in keys]
        return (lambda i: np.stack([rows_at(i) for rows_at in each])) if self.stacked else each[0]
