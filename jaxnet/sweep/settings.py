"""The members of a sweep: which they are, and how they are mapped onto the device.

A member is a setting (learning rate, weight decay, sizes) on a split of the table, which a seed and
maybe a fold define.
"""

from __future__ import annotations

import itertools
import os
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np

from jaxnet import data
from jaxnet.engine.mesh import own_device
from jaxnet.runs.config import Config
from jaxnet.runs.dataset import Dataset
from jaxnet.tables.encoding import encode, fit_encoding
from jaxnet.tables.rows import ArrayRows

# Measured by scripts/tools/sweep_mappings.py, on a CPU:
# multiplications in a forward pass of a batch -> members of a stack of networks below that
STACKS = {200_000: 32, 1_000_000: 16}
BUDGET = 2**30  # bytes that the members in training may take on a CPU; a quarter of it on a GPU


class Setting(NamedTuple):
    """What is tried. weight_decay: None for torch's default."""

    hidden: tuple[int, ...]
    learning_rate: float
    weight_decay: float | None


class Key(NamedTuple):
    """What defines a split of the table, and the initial weights: fold is None without folds."""

    seed: int
    fold: int | None


class Mapping(NamedTuple):
    """How the members of one program are trained: blocks of splits x settings, by some workers."""

    splits: int
    settings: int
    workers: int
    reason: str


@dataclass(frozen=True)
class Plan:
    """All that a sweep has to do.

    config: the options that all members share. dataset: that of the first seed without folds.
    """

    config: Config
    dataset: Dataset
    settings: tuple[Setting, ...]
    keys: tuple[Key, ...]
    folds: int | None

    @property
    def architectures(self) -> list[tuple[int, ...]]:
        """The hidden sizes, each of which takes one program."""
        return list(dict.fromkeys(setting.hidden for setting in self.settings))

    @property
    def num_members(self) -> int:
        """The networks to train."""
        return len(self.settings) * len(self.keys)

    def config_of(self, setting: Setting, key: Key) -> Config:
        """The options with which `runs.train` trains this member alone."""
        return replace(self.config, **setting._asdict(), seed=key.seed)

    def dataset_of(self, setting: Setting, key: Key) -> Dataset:
        """The rows, the encoding fitted on those to train on, and the network of a member.

        With folds: the seed shuffles all rows into folds whose sizes differ by one at most. All
        train on equally many rows, so that a fold may leave one row out.
        """
        dataset, config = self.dataset, self.config_of(setting, key)
        spec = dataset.spec
        num_rows = dataset.train_rows + dataset.validation_rows
        several = _rows(num_rows, config, key, self.folds)
        target = dataset.encoding.target.name
        encoding = fit_encoding(dataset.table, target, dataset.task, several[0], config.categorical)
        train, validation = (
            ArrayRows(*encode(dataset.table, encoding, config.dtype, rows)) for rows in several
        )
        return dataset._replace(
            encoding=encoding,
            spec=replace(spec, sizes=(spec.sizes[0], *setting.hidden, spec.sizes[-1])),
            train=train,
            validation=validation,
            batch_size=config.batch_size or min(32, len(several[0])),
        )


def _rows(
    num_rows: int, config: Config, key: Key, folds: int | None
) -> tuple[np.ndarray, np.ndarray]:
    """The rows to train on and to validate on."""
    if folds is None:
        rows, held_out = data.split(num_rows, config.validation, key.seed)
        return np.asarray(rows), np.asarray(held_out)
    parts = np.array_split(np.random.default_rng(key.seed).permutation(num_rows), folds)
    held_out = parts.pop(key.fold or 0)
    return np.concatenate(parts)[: num_rows - -(-num_rows // folds)], held_out


def mapping(plan: Plan, hidden: tuple[int, ...]) -> Mapping:
    """Choose how the members of an architecture are trained, by the device, the size and memory.

    Tiny networks are stacked, since a call costs more than their arithmetic; a GPU stacks all.
    Larger ones are trained one by one, by each processor its own.
    """
    device = own_device(plan.config.device)
    settings = sum(setting.hidden == hidden for setting in plan.settings)
    work, member_bytes, split_bytes = _sizes(plan, hidden)
    size, workers, budget = settings * len(plan.keys), 1, 0
    if device.platform == "cpu":
        workers, budget = _processors(), BUDGET
        size = min(_stack(work, plan.config), -(-size // workers))
    else:
        budget = (device.memory_stats() or {}).get("bytes_limit", 4 * BUDGET) // 4
    size = max(1, min(size, (budget // workers - split_bytes) // member_bytes))
    block = _even(settings, size)
    splits = _even(len(plan.keys), max(1, size // block))
    blocks = -(-settings // block) * -(-len(plan.keys) // splits)
    fit = max(1, budget // (splits * (block * member_bytes + split_bytes)))
    workers = min(workers, blocks, fit)
    how = f"stacks of {splits * block}" if splits * block > 1 else "one by one"
    why = "a GPU" if device.platform != "cpu" else f"{work:,} multiplications a batch"
    return Mapping(splits, block, workers, f"{how}, {workers} at a time ({why})")


def _stack(work: int, config: Config) -> int:
    """The members of a stack on a CPU; of larger networks none waits for another's patience."""
    size = next((size for limit, size in STACKS.items() if work < limit), 1)
    return 1 if size < max(STACKS.values()) and config.patience is not None else size


def _processors() -> int:
    """Those that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _even(number: int, most: int) -> int:
    """The size, at most `most`, of the parts into which `number` falls with the least left over."""
    return -(-number // -(-number // most))


def _sizes(plan: Plan, hidden: tuple[int, ...]) -> tuple[int, int, int]:
    """Multiplications in a batch's forward pass; bytes that a member and a split take."""
    dataset = plan.dataset
    sizes = (dataset.spec.sizes[0], *hidden, dataset.spec.sizes[-1])
    weights = sum(a * b for a, b in itertools.pairwise(sizes))
    itemsize = np.dtype(plan.config.param_dtype).itemsize
    rows = dataset.train_rows + dataset.validation_rows
    held = dataset.validation_rows if plan.folds is None else -(-rows // plan.folds)
    activations = (held + 2 * dataset.batch_size) * sum(sizes)
    # parameters, their best, gradients, two moments, and a copy of each
    member = itemsize * (8 * (weights + sum(sizes)) + 2 * activations)
    return weights * dataset.batch_size, member, itemsize * rows * (sizes[0] + sizes[-1])
