"""The training of a sweep's members, each as `runs.train` does it alone, to rounding."""

from __future__ import annotations

import itertools
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import FIRST_COMPLETED, ThreadPoolExecutor, wait
from functools import lru_cache
from typing import Any, NamedTuple

import jax
import numpy as np

from jaxnet.engine import compile_cache, epochs
from jaxnet.runs import steps, trainer
from jaxnet.runs.dataset import Dataset
from jaxnet.sweep import settings as sweep_settings
from jaxnet.sweep.program import RATES, Program, Split
from jaxnet.sweep.settings import Key, Mapping, Plan, Setting
from jaxnet.train import transpose

CALL_SECONDS = 0.3  # what one call of the device should take: a signal waits for its end


class Member(NamedTuple):
    """A network that has been trained.

    reason: why it ended, "epochs", "patience" or "diverged" (a loss that is not finite). epochs:
    those made. epoch: that of the lowest validation loss, whose `metrics` these are: loss, accuracy
    or rmse and r2; none for one that diverged. losses: (evaluations, 2), training and validation;
    train_loss: the former at `epoch`.
    """

    setting: Setting
    key: Key
    reason: str
    epochs: int
    epoch: int
    metrics: dict[str, Any]
    losses: np.ndarray
    train_loss: float | None


Trained = tuple[Member, dict[str, np.ndarray]]  # with its best parameters
Block = tuple[tuple[Key, ...], tuple[Setting, ...]]


class SweepProgress(NamedTuple):
    """Where a sweep is: members that have ended, of how many, and the share of all steps made."""

    members: int
    num_members: int
    share: float


def train_members(
    plan: Plan,
    on_progress: Callable[[SweepProgress], None] = lambda progress: None,
    signal: Callable[[], int | None] = lambda: None,
) -> Iterator[Trained]:
    """Train all members, and yield each with its best parameters when it has ended.

    It ends early, with the members that are complete, when `signal` returns one.
    """
    ended = begun = 0

    def report(share: float) -> None:
        """share: of the steps of the program at work, whose members are the last of `begun`."""
        made = begun - members * (1 - share)
        on_progress(SweepProgress(ended, plan.num_members, made / plan.num_members))

    for hidden in plan.architectures:
        with compile_cache.bounded(object()):  # nothing else shares its programs
            workers = Workers(plan, hidden, sweep_settings.mapping(plan, hidden))
            members = len(plan.keys) * len(workers.settings)
            begun += members
            for result in workers.results(report, signal):
                ended += 1
                yield result
        if signal() is not None:
            return


class Workers:
    """The members of one architecture: a compiled program, and the threads that call it."""

    def __init__(self, plan: Plan, hidden: tuple[int, ...], mapping: Mapping):
        self.plan, self.mapping = plan, mapping
        self.settings = tuple(s for s in plan.settings if s.hidden == hidden)
        self.config = plan.config_of(self.settings[0], plan.keys[0])
        self.dataset_of = lru_cache(mapping.splits * (mapping.workers + 1))(self._dataset_of)
        self.split_of = lru_cache(mapping.workers + 1)(self._split_of)
        stacked = mapping.splits * mapping.settings > 1
        asked = {n for n in RATES if any(getattr(s, n) for s in plan.settings)}
        asked |= {"weight_decay"} if self.config.weight_decay is not None else set()
        dataset = self.dataset_of(plan.keys[0])
        widths = {key: encoding.width for key, encoding in plan.encodings.items()}
        self.program = Program(self.config, dataset, widths, asked, stacked=stacked)
        self.steps = min(50, self.program.capacity[0])  # of the next call
        self.stop = threading.Event()
        self.made: dict[Block, int] = {}  # steps
        keys, settings = self.blocks()[0]
        with trainer.on_device(self.config):  # one step compiles, before the threads need it
            begun = self.program.begin(keys, settings)
            self.program.run(self.split_of(keys), settings, keys, *begun, [(1, False)])

    def blocks(self) -> list[Block]:
        """Return blocks of one size; the last may repeat members, to fill up."""
        return list(
            itertools.product(
                _blocks(self.plan.keys, self.mapping.splits),
                _blocks(self.settings, self.mapping.settings),
            )
        )

    def results(
        self, report: Callable[[float], None], signal: Callable[[], int | None]
    ) -> Iterator[Trained]:
        """Train all blocks, and yield their members as they end."""
        blocks, seen = self.blocks(), set()
        self.made = dict.fromkeys(blocks, 0)
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
                    made = sum(self.made.values())
                    report(made / (len(blocks) * self.program.num_steps))
                    if signal() is not None:
                        self.stop.set()
            finally:
                self.stop.set()

    def _train(self, block: Block) -> list[Trained]:
        """Train a block to its end; nothing if it was stopped before."""
        (keys, settings), program, step = block, self.program, 0
        total: Any = 0.0
        lines: list[dict[str, Any]] = []
        with trainer.on_device(self.config):
            state, best = program.begin(keys, settings)
            while step < program.num_steps and np.any(best.wait < program.max_wait):
                if self.stop.is_set():
                    return []
                began, stop = time.perf_counter(), min(step + self.steps, program.num_steps)
                segments = epochs.segments(step, stop, program.every, program.num_steps)
                split = self.split_of(keys)
                chunk = program.run(split, settings, keys, state, best, segments)
                state, best = chunk.state, chunk.best
                for _, losses, values in chunk.by_segment(step, segments):
                    total = total + losses.sum(axis=0, dtype=float)
                    if values is not None:
                        lines.append(values | {"total": total})
                        total = 0.0
                each = (time.perf_counter() - began) / len(chunk.losses)
                self.steps = max(1, min(program.capacity[0], int(CALL_SECONDS / each)))
                self.made[block] = step = stop
            self.made[block] = program.num_steps  # also those that patience saves
            return list(self._members(block, lines, jax.device_get(best.params)))

    def _members(self, block: Block, lines: list[dict[str, Any]], best: Any) -> Iterator[Trained]:
        stacked = {name: np.stack([line[name] for line in lines]) for name in lines[0]}
        keys, settings = block
        for (i, key), (j, setting) in itertools.product(enumerate(keys), enumerate(settings)):
            at = (i, j) if self.program.stacked else ()
            own = {name: leaf[:, *at] for name, leaf in stacked.items()}
            params = transpose(jax.tree.map(lambda leaf, at=at: leaf[at], best))
            params["w1"] = params["w1"][: self.program.widths[key]]
            yield self._member(setting, key, own), params

    def _member(self, setting: Setting, key: Key, lines: dict[str, np.ndarray]) -> Member:
        """The member of these evaluations, up to the one that ended its training."""
        wait, finite, total = (lines.pop(name) for name in ("wait", "finite", "total"))
        ends = np.flatnonzero(wait >= self.program.max_wait)
        number = int(ends[0]) + 1 if len(ends) else len(wait)
        every = self.config.evaluate_every
        most = self.program.num_steps * every // self.program.every
        epoch = [min(n * every, most) for n in range(1, number + 1)]
        steps = np.diff([0, *epoch]) * (self.program.every // every)
        losses = np.stack([total[:number] / steps, lines["loss"][:number]], axis=1)
        lowest = np.flatnonzero(wait[:number] == 0)
        if not len(lowest) or not finite[number - 1]:
            best = epoch[lowest[-1]] if len(lowest) else 0
            return Member(setting, key, "diverged", epoch[-1], best, {}, losses, None)
        at = lowest[-1]
        targets = trainer.targets_of(self.dataset_of(key))
        metrics = targets.of_sums(**{name: leaf[at] for name, leaf in lines.items()})
        reason = "epochs" if epoch[-1] == most else "patience"
        train_loss = float(losses[at, 0])
        return Member(setting, key, reason, epoch[-1], epoch[at], metrics, losses, train_loss)

    def _dataset_of(self, key: Key) -> Dataset:
        return self.plan.dataset_of(self.settings[0], key)

    def _split_of(self, keys: tuple[Key, ...]) -> Split:
        """The splits' rows on the device; where folds differ in size, the last row is repeated."""
        # fold 0 has the most validation rows
        largest = keys if self.plan.folds is None else (Key(keys[0].seed, 0),)
        most = max(len(self.dataset_of(key).validation) for key in largest)
        width = self.program.spec.sizes[0]
        splits = [_padded(self.dataset_of(key), most, width) for key in keys]
        if "dropout" in self.program.asked:
            seeds = [steps.dropout_seed(key.seed) for key in keys]
            splits = [s._replace(seed=seed) for s, seed in zip(splits, seeds, strict=True)]
        return jax.device_put(self.program.stack(splits))


def _padded(dataset: Dataset, most: int, width: int) -> Split:
    """The rows of a split, filled up to `most` rows to validate on and `width` inputs."""
    (train,), (held_out,) = dataset.train.blocks(), dataset.validation.blocks()
    number = len(held_out.y)
    places = np.minimum(np.arange(most), number - 1)
    counts = (np.arange(most) < number).astype(held_out.x.dtype)
    lacking = ((0, 0), (0, width - train.x.shape[1]))
    train, held_out = (b._replace(x=np.pad(b.x, lacking)) for b in (train, held_out))
    return Split(train, jax.tree.map(lambda leaf: leaf[places], held_out), counts)


def _blocks(items: tuple, size: int) -> list[tuple]:
    """Blocks of one size; the last is filled up with the last item."""
    blocks = [items[i : i + size] for i in range(0, len(items), size)]
    return [block + block[-1:] * (size - len(block)) for block in blocks]
