"""The training of a sweep's members, each as `runs.train` does it alone, to rounding."""

from __future__ import annotations

import itertools
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, ThreadPoolExecutor, wait
from functools import lru_cache
from typing import Any, NamedTuple

import jax
import numpy as np

from jaxnet import data
from jaxnet.runs.dataset import Dataset
from jaxnet.runs.trainer import on_device
from jaxnet.spec import Batch
from jaxnet.sweep import program
from jaxnet.sweep import settings as sweep_plan
from jaxnet.sweep.settings import Key, Mapping, Plan, Setting
from jaxnet.tables.metrics import Metrics
from jaxnet.train import transpose

CALL_SECONDS = 0.3  # what one call of the device should take: a signal waits for its end


class Member(NamedTuple):
    """A network that has been trained.

    reason: why it ended, "epochs", "patience" or "diverged" (a loss that is not finite). epochs:
    those made; epoch: that of the lowest validation loss, whose `metrics` these are: loss, accuracy
    or rmse and r2; none for one that diverged. losses: (evaluations, 2), training and validation.
    """

    setting: Setting
    key: Key
    reason: str
    epochs: int
    epoch: int
    metrics: dict[str, Any]
    losses: np.ndarray


class Progress(NamedTuple):
    """Where a sweep is: members that have ended, of how many, and the share of all steps made."""

    members: int
    num_members: int
    share: float


def train_members(
    plan: Plan,
    on_progress: Callable[[Progress], None] = lambda progress: None,
    signal: Callable[[], int | None] = lambda: None,
) -> Iterator[tuple[Member, dict[str, np.ndarray]]]:
    """Train all members, and yield each with its best parameters when it has ended.

    It ends early, with the members that are complete, when `signal` returns one.
    """
    ended = begun = 0

    def report(share: float) -> None:
        """share: of the steps of the program at work, whose members are the last of `begun`."""
        made = begun - members * (1 - share)
        on_progress(Progress(ended, plan.num_members, made / plan.num_members))

    for hidden in plan.architectures:
        trainer = Trainer(plan, hidden, sweep_plan.mapping(plan, hidden))
        members = len(plan.keys) * len(trainer.settings)
        begun += members
        for result in trainer.results(report, signal):
            ended += 1
            yield result
        if signal() is not None:
            return


Block = tuple[tuple[Key, ...], tuple[Setting, ...]]


class Trainer:
    """The compiled program of one architecture, with the workers that call it."""

    def __init__(self, plan: Plan, hidden: tuple[int, ...], mapping: Mapping):
        self.plan, self.mapping = plan, mapping
        self.settings = tuple(s for s in plan.settings if s.hidden == hidden)
        self.stacked = mapping.splits * mapping.settings > 1
        self.config = plan.config_of(self.settings[0], plan.keys[0])
        self.stop = threading.Event()
        self.made, self.lock = 0, threading.Lock()
        self.dataset_of = lru_cache(mapping.splits * (mapping.workers + 1))(self._dataset_of)
        self.split_of = lru_cache(mapping.workers + 1)(self._split_of)
        with on_device(self.config):
            self._compile(self.blocks()[0])
        self.steps = min(50, self.program.capacity)  # to the next call

    def _compile(self, block: Block) -> None:
        """Compile the program for blocks of the shapes of `block`."""
        dataset, split = self.dataset_of(block[0][0]), self.split_of(block[0])
        one = split if not self.stacked else jax.tree.map(lambda leaf: leaf[0], split)
        self.spec = dataset.spec
        self.program = program.make(
            self.config, self.spec, one, dataset.batch_size, stacked=self.stacked
        )
        arguments = self._begin(block), split, self._settings(block), self._rows(block, 0, 0)
        lowered = jax.jit(self.program.advance).lower(*arguments, np.int32(0), np.int32(0))
        self.advance = lowered.compile()

    def blocks(self) -> list[Block]:
        """Blocks of one size; the last may repeat members, to fill up."""
        return list(
            itertools.product(
                _parts(self.plan.keys, self.mapping.splits),
                _parts(self.settings, self.mapping.settings),
            )
        )

    def results(
        self, report: Callable[[float], None], signal: Callable[[], int | None]
    ) -> Iterator[tuple[Member, dict[str, np.ndarray]]]:
        """Train all blocks, and yield their members as they end."""
        blocks, seen = self.blocks(), set()
        self.made = 0
        self.stop.clear()
        with ThreadPoolExecutor(self.mapping.workers) as pool:
            running = {pool.submit(self._train, block) for block in blocks}
            try:
                while running:
                    done, running = wait(running, timeout=0.1, return_when=FIRST_COMPLETED)
                    for future in done:
                        for member, params in future.result():
                            if (member.setting, member.key) not in seen:
                                seen.add((member.setting, member.key))
                                yield member, params
                    report(self.made / (len(blocks) * self.program.num_steps))
                    if signal() is not None:
                        self.stop.set()
            finally:
                self.stop.set()

    def _train(self, block: Block) -> list[tuple[Member, dict[str, np.ndarray]]]:
        """Train a block to its end; nothing if it was stopped before."""
        with on_device(self.config):
            if self.stop.is_set():
                return []
            members, split = self._begin(block), self.split_of(block[0])
            settings, step, num_steps = self._settings(block), 0, self.program.num_steps
            while step < num_steps:
                if self.stop.is_set():
                    return []
                stop, began = min(step + self.steps, num_steps), time.perf_counter()
                rows = self._rows(block, step, stop)
                members = self.advance(
                    members, split, settings, rows, np.int32(step), np.int32(stop)
                )
                going = bool(np.any(members.active))  # waits for the device
                self._count(stop - step if going else num_steps - step)
                if not going:
                    break
                each = (time.perf_counter() - began) / (stop - step)
                self.steps = max(1, min(self.program.capacity, int(CALL_SECONDS / each)))
                step = stop
            return list(self._members(block, jax.device_get(members)))

    def _count(self, steps: int) -> None:
        with self.lock:
            self.made += steps

    def _members(
        self, block: Block, members: program.Member
    ) -> Iterator[tuple[Member, dict[str, np.ndarray]]]:
        keys, settings = block
        for (i, key), (j, setting) in itertools.product(enumerate(keys), enumerate(settings)):
            one = (
                jax.tree.map(lambda leaf, at=(i, j): leaf[at], members) if self.stacked else members
            )
            yield self._member(setting, key, one), transpose(one.best)

    def _member(self, setting: Setting, key: Key, one: program.Member) -> Member:
        dataset, metrics, epochs = self.dataset_of(key), {}, int(one.epochs)
        reason = "epochs" if epochs == self.config.epochs else "patience"
        if one.diverged:
            reason = "diverged"
        else:
            judge = Metrics(self.spec.loss, dataset.encoding.target)
            (held_out,) = dataset.validation.blocks()
            judge.update(one.outputs[: len(held_out.y)], held_out.y)
            metrics = judge.result()
        losses = one.losses[: -(-epochs // self.config.evaluate_every)]
        return Member(setting, key, reason, epochs, int(one.best_epoch), metrics, losses)

    def _dataset_of(self, key: Key) -> Dataset:
        return self.plan.dataset_of(self.settings[0], key)

    def _split_of(self, keys: tuple[Key, ...]) -> program.Split:
        """The splits' data on the device; where folds differ in size, the last row is repeated."""
        datasets = [self.dataset_of(key) for key in keys]
        most = max(self.dataset_of(key).validation_rows for key in self._largest(keys))
        splits = [_padded(dataset, most) for dataset in datasets]
        return jax.device_put(self._stack(splits))

    def _largest(self, keys: tuple[Key, ...]) -> tuple[Key, ...]:
        """Keys of which one has the most validation rows of all: fold 0 is never the smaller."""
        return keys if self.plan.folds is None else (Key(keys[0].seed, 0),)

    def _begin(self, block: Block) -> program.Member:
        keys, settings = block
        blank, params = self.program.blank, [self._init(key) for key in keys]
        if not self.stacked:
            members = blank._replace(state=blank.state._replace(params=params[0]), best=params[0])
            return jax.device_put(members)
        shape = len(keys), len(settings)

        def spread(leaf):  # (splits, ...) over the settings
            return np.broadcast_to(leaf[:, None], shape + leaf.shape[1:])

        params = jax.tree.map(lambda *leaves: spread(np.stack(leaves)), *params)
        blank = jax.tree.map(lambda leaf: np.broadcast_to(leaf, shape + leaf.shape), blank)
        members = blank._replace(state=blank.state._replace(params=params), best=params)
        return jax.device_put(members)

    def _init(self, key: Key) -> dict[str, np.ndarray]:
        return transpose(self.spec.init(key.seed, self.config.dtype))

    def _settings(self, block: Block) -> program.Setting:
        rates = np.array([setting.learning_rate for setting in block[1]], self.config.dtype)
        decays = None
        if self.config.weight_decay is not None:
            decays = np.array([setting.weight_decay for setting in block[1]], self.config.dtype)
        settings = program.Setting(rates, decays)
        return settings if self.stacked else jax.tree.map(lambda leaf: leaf[0], settings)

    def _rows(self, block: Block, start: int, stop: int) -> np.ndarray:
        """The row indices of the steps start..stop, filled up to the program's capacity."""
        dataset = self.dataset_of(block[0][0])
        shape = len(block[0]), self.program.capacity, dataset.batch_size
        rows = np.zeros(shape, np.int32)
        for of_split, key in zip(rows, block[0], strict=True):
            rows_at = data.row_batches(dataset.train_rows, dataset.batch_size, key.seed)
            for i in range(start, stop):
                of_split[i - start] = rows_at(i)
        return rows if self.stacked else rows[0]

    def _stack(self, trees: Sequence[Any]) -> Any:
        if not self.stacked:
            return trees[0]
        return jax.tree.map(lambda *leaves: np.stack(leaves), *trees)


def _padded(dataset: Dataset, most: int) -> program.Split:
    (split,), (batch,) = dataset.train.blocks(), dataset.validation.blocks()
    number = len(batch.y)
    places = np.minimum(np.arange(most), number - 1)
    weights = np.where(np.arange(most) < number, 1 / number, 0).astype(batch.x.dtype)
    return program.Split(split, Batch(batch.x[places], batch.y[places]), weights)


def _parts(items: tuple, size: int) -> list[tuple]:
    """Parts of one size; the last is filled up with the last item."""
    parts = [items[i : i + size] for i in range(0, len(items), size)]
    return [part + part[-1:] * (size - len(part)) for part in parts]
