"""What a sweep trains, and how its members are mapped onto the device.

A member is a setting (sizes, learning rate, weight decay) on a split of the table. A seed defines a
split, or a seed and a fold.
"""

from __future__ import annotations

import itertools
import os
from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from jaxnet import data
from jaxnet.engine.mesh import own_device
from jaxnet.runs.config import Config, ScaleOptions, default_epochs
from jaxnet.runs.dataset import Dataset, check_task, fit, prepare, weighting_of
from jaxnet.tables.column import Encoding
from jaxnet.tables.rows import rows_of
from jaxnet.tables.targets import Labels, find_labels

# Measured by scripts/tools/sweep_mappings.py, on a CPU:
# multiplications in a forward pass of a batch -> members of a stack of networks below that
STACKS = {200_000: 32, 1_000_000: 16}
BUDGET = 2**30  # bytes that the members in training may take on a CPU; a quarter of it on a GPU


class Setting(NamedTuple):
    """What is tried: options of a run. weight_decay: None for torch's default."""

    hidden: tuple[int, ...]
    learning_rate: float
    weight_decay: float | None
    dropout: float = 0.0
    label_smoothing: float = 0.0


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
    labels: the rows with a target. encodings: by key, each fitted on the rows to train on, so that
    their widths may differ.
    """

    config: Config
    dataset: Dataset
    settings: tuple[Setting, ...]
    keys: tuple[Key, ...]
    folds: int | None
    labels: Labels
    encodings: dict[Key, Encoding]

    @property
    def architectures(self) -> list[tuple[int, ...]]:
        """The hidden sizes, each of which takes one program."""
        return list(dict.fromkeys(setting.hidden for setting in self.settings))

    @property
    def width(self) -> int:
        """The most network inputs of a split; the others are filled up with zeros."""
        return max(encoding.width for encoding in self.encodings.values())

    @property
    def num_members(self) -> int:
        return len(self.settings) * len(self.keys)

    def config_of(self, setting: Setting, key: Key) -> Config:
        """The options with which `runs.train` trains this member alone."""
        return replace(self.config, **setting._asdict(), seed=key.seed, ensemble=1)

    def dataset_of(self, setting: Setting, key: Key) -> Dataset:
        """Return the rows of a member, the encoding fitted on those to train on, and its network.

        With folds: the seed shuffles all rows into folds whose sizes differ by one at most. All
        train on equally many rows, so that a fold may leave one row out.
        """
        dataset, config = self.dataset, self.config_of(setting, key)
        spec = dataset.spec
        several = _rows(self.labels, config, key, self.folds)
        table, encoding = dataset.table, self.encodings[key]
        weighting = weighting_of(config, table, encoding, several[0])
        train, validation = (
            rows_of(table, encoding, config.dtype, weighting, dataset.values, rows)
            for rows in several
        )
        return dataset._replace(
            encoding=encoding,
            weighting=weighting,
            spec=replace(
                spec,
                sizes=(encoding.width, *setting.hidden, spec.sizes[-1]),
                label_smoothing=setting.label_smoothing,
            ),
            train=train,
            validation=validation,
            batch_size=config.batch_size or min(32, len(several[0])),
        )


def _rows(
    labels: Labels, config: Config, key: Key, folds: int | None
) -> tuple[np.ndarray, np.ndarray]:
    if folds is None:
        return labels.split(config.validation, key.seed)
    several = labels.folds(folds, key.seed)
    held_out, num_rows = several.pop(key.fold or 0), len(labels.rows)
    return np.concatenate(several)[: num_rows - -(-num_rows // folds)], held_out


def plan(
    config: Config,
    *,
    learning_rate: Sequence[float] = (),
    weight_decay: Sequence[float] = (),
    hidden: Sequence[Sequence[int]] = (),
    dropout: Sequence[float] = (),
    label_smoothing: Sequence[float] = (),
    seeds: int = 1,
    folds: int | None = None,
    dataset: Dataset | None = None,
) -> Plan:
    """Plan a training for each combination of options.

    learning_rate, weight_decay, hidden, dropout, label_smoothing: the values to try, by default
    that of `config`. seeds: how many, from `config.seed` on; each has its own split, initial
    weights and order of rows. folds: validate on each of so many folds of the rows in turn, rather
    than on a share of them. dataset: `prepare(config, keep_table=True)` if at hand. The members of
    an `ensemble` are no part of a sweep, whose best setting alone is trained as one.

    Raises: ValueError for bad input, before any work.
    """
    _check(config, seeds, folds)
    settings = _settings(config, hidden, learning_rate, weight_decay, dropout, label_smoothing)
    config = replace(config, **settings[0]._asdict())
    config, dataset = _in_memory(config, dataset)
    num_rows = len(dataset.train) + len(dataset.validation)
    if folds is not None and folds > num_rows:
        raise ValueError(f"`folds` must be 2..{num_rows}, the number of rows; got {folds}")
    for setting in settings:
        check_task(replace(config, **setting._asdict()), dataset.task)
    config = replace(config, epochs=config.epochs or default_epochs(len(dataset.train)))
    keys = itertools.product(range(config.seed, config.seed + seeds), range(folds or 1))
    keys = tuple(Key(seed, fold if folds else None) for seed, fold in keys)
    about = dataset.table, dataset.encoding.target.name, dataset.task
    labels = find_labels(*about)
    trained = {key: _rows(labels, config, key, folds)[0] for key in keys}
    data.row_batches(len(trained[keys[0]]), config.batch_size or 1)  # refuses a batch too large
    encodings = {key: fit(*about, rows, config) for key, rows in trained.items()}
    return Plan(config, dataset, settings, keys, folds, labels, encodings)


def _check(config: Config, seeds: int, folds: int | None) -> None:
    """Refuse options that a sweep does not have."""
    if config.max_time is not None:
        raise ValueError(f"`max_time` must not be given to a sweep, got {config.max_time}")
    for scale in fields(ScaleOptions):
        if getattr(config, scale.name) != scale.default:
            raise ValueError(
                f"`{scale.name}` must not be given to a sweep, which trains on one device"
            )
    if config.dtype == "bfloat16":
        raise ValueError("`dtype` must be float32 or float64 for a sweep, got bfloat16")
    for name, value, least in (("seeds", seeds, 1), ("folds", folds, 2)):
        if value is not None and (not isinstance(value, int) or value < least):
            raise ValueError(f"`{name}` must be an integer of at least {least}, got {value}")


def _in_memory(config: Config, dataset: Dataset | None) -> tuple[Config, Dataset]:
    """The options and the dataset, with its table. Raises: ValueError if it is not in memory."""
    on_disk = config.on_disk == "on" or bool(config.data and Path(config.data).is_dir())
    if on_disk or (dataset is not None and dataset.on_disk):
        raise ValueError("`on_disk` must be off for a sweep, which needs its table in memory")
    config = replace(config, on_disk="off")
    dataset = dataset or prepare(config, keep_table=True)
    if not len(next(iter(dataset.table.columns.values()))):
        raise ValueError(
            "`dataset` must be prepared with `keep_table` for a sweep, got an empty table"
        )
    return config, dataset


def _settings(config: Config, *tried: Sequence[Any]) -> tuple[Setting, ...]:
    """All combinations of what is tried, in the order of `Setting`. Raises: ValueError."""
    values = {
        name: tuple(several) or (getattr(config, name),)
        for name, several in zip(Setting._fields, tried, strict=True)
    }
    values["hidden"] = tuple(map(tuple, values["hidden"]))
    for name, several in values.items():
        if len(set(several)) < len(several):
            raise ValueError(f"`{name}` must be different values, got {several}")
    settings = tuple(itertools.starmap(Setting, itertools.product(*values.values())))
    for setting in settings:
        replace(config, **setting._asdict())  # checks the values
    return settings


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
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _even(number: int, most: int) -> int:
    """The size, at most `most`, of blocks of `number` members with the least left over."""
    return -(-number // -(-number // most))


def _sizes(plan: Plan, hidden: tuple[int, ...]) -> tuple[int, int, int]:
    """Multiplications in a batch's forward pass; bytes that a member and a split take."""
    dataset = plan.dataset
    sizes = (plan.width, *hidden, dataset.spec.sizes[-1])
    weights = sum(a * b for a, b in itertools.pairwise(sizes))
    itemsize = np.dtype(plan.config.param_dtype).itemsize
    rows = len(dataset.train) + len(dataset.validation)
    held = len(dataset.validation) if plan.folds is None else -(-rows // plan.folds)
    activations = (held + 2 * dataset.batch_size) * sum(sizes)
    # parameters, their best, gradients, two moments, and a copy of each
    member = itemsize * (8 * (weights + sum(sizes)) + 2 * activations)
    return weights * dataset.batch_size, member, itemsize * rows * (sizes[0] + sizes[-1])
