"""One compiled program that trains networks of one shape: a single one, or a grid of them at once.

It is `epochs.run` with a step and an evaluation that are mapped over splits x settings. Rows, their
order, the initial weights and the seed of dropout belong to a split of the table; learning rate,
weight decay, dropout and label smoothing to a setting.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.tree_util import Partial

from jaxnet import data, net, optimizers
from jaxnet.engine import epochs
from jaxnet.runs import evaluation, steps
from jaxnet.runs.config import Config
from jaxnet.runs.dataset import Dataset
from jaxnet.spec import Batch
from jaxnet.sweep.settings import Key, Setting
from jaxnet.train import TrainState, init, make_step, transpose


class Split(NamedTuple):
    """The rows of a split to train on and to validate on, and which of the latter count.

    counts: (N,) ones, and zeros for rows that only fill the shape up. seed: of dropout, if any.
    """

    train: Batch
    validation: Batch
    counts: Any
    seed: Any = None


RATES = ("learning_rate", "weight_decay", "dropout", "label_smoothing")  # of a setting


class Program:
    """Training of networks of one shape, which differ in split and setting.

    config, dataset: those of any of them. widths: the inputs of each split, which are filled up
    with zeros to the most of them, as the first weights are. asked: the RATES that differ from
    none. stacked: whether it trains a grid at once; then each leaf has the axes (splits, settings)
    first, those of a split (splits,), of a setting (settings,). num_steps: of a whole training;
    every: steps between evaluations; capacity, max_wait: as `epochs.run` takes them.
    """

    def __init__(
        self,
        config: Config,
        dataset: Dataset,
        widths: Mapping[Key, int],
        asked: set[str],
        *,
        stacked: bool,
    ):
        sizes = max(widths.values()), *dataset.spec.sizes[1:]
        self.spec, self.widths = replace(dataset.spec, sizes=sizes), widths
        self.config, self.stacked, self.asked = config, stacked, asked
        self.rows, self.batch_size = len(dataset.train), dataset.batch_size
        self.num_steps = dataset.num_steps(config)
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
            Partial(self.step, (split.train, split.seed), self._rates(settings)),
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
        drawn = [transpose(self._init(key)) for key in keys]
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

    def _init(self, key: Key) -> dict[str, np.ndarray]:
        """Return the initial weights of a network alone, with zeros for the inputs it lacks."""
        spec = replace(self.spec, sizes=(self.widths[key], *self.spec.sizes[1:]))
        params = spec.init(key.seed, self.config.dtype)
        lacking = self.spec.sizes[0] - self.widths[key]
        return params | {"w1": np.pad(params["w1"], ((0, lacking), (0, 0)))}

    def stack(self, trees: list[Any]) -> Any:
        """Return the trees of the splits as one, or the only one as it is."""
        return jax.tree.map(lambda *leaves: np.stack(leaves), *trees) if self.stacked else trees[0]

    def _step(self, table, rates, state, rows):
        """A step of one network on some rows of its split."""
        train, seed = table
        batch = jax.tree.map(lambda leaf: leaf[rows], train)
        if rates["dropout"] is not None:
            shapes = [(len(batch.x), size) for size in self.spec.sizes[1:-1]]
            given = rates["dropout"], shapes, batch.x.dtype
            batch = batch._replace(masks=net.dropout_masks(seed, state.step, *given))
        smoothing = rates["label_smoothing"]
        loss = steps.loss_of(self.config, self.spec, 0.0 if smoothing is None else smoothing)
        optimizer = self._optimizer(rates["learning_rate"], rates["weight_decay"])
        return make_step(loss, optimizer)(state, batch)

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

        def of_row(row):
            row = jax.tree.map(lambda leaf: leaf[None], row)
            return evaluation.sums(self.spec, evaluation.forward, params, row)

        def total(leaf):
            return jnp.sum(jnp.moveaxis(leaf, 0, -1) * split.counts, axis=-1)

        sums = jax.tree.map(total, jax.vmap(of_row)(split.validation))
        count = sums.pop("count") if "count" in sums else split.counts.sum()
        return sums | {"loss": sums["loss"] / count}

    def _rates(self, settings: tuple[Setting, ...]) -> dict[str, Any]:
        """The numbers of each setting by name; None for those that no setting asks for."""
        rates: dict[str, Any] = {}
        for name in RATES:
            several = np.array([getattr(setting, name) for setting in settings], self.config.dtype)
            rates[name] = (several if self.stacked else several[0]) if name in self.asked else None
        return rates

    def _rows_at(self, keys: tuple[Key, ...]) -> Callable[[int], np.ndarray]:
        """Step number -> row indices (splits, batch), or (batch,) of a network alone."""
        each = [data.row_batches(self.rows, self.batch_size, key.seed) for key in keys]
        return (lambda i: np.stack([rows_at(i) for rows_at in each])) if self.stacked else each[0]
