"""Options that several commands share, and how they become a `Config`."""

from __future__ import annotations

import logging
from abc import ABC, abstractmethod
from collections import ChainMap
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import Any, Self

from tyro.conf import Positional

from jaxnet.runs.config import (
    Config,
    DataOptions,
    NetworkOptions,
    RunOptions,
    ScaleOptions,
    TrainingOptions,
)
from jaxnet.runs.folder import BEST, CONFIG, SWEEP


@dataclass(frozen=True, kw_only=True)
class Cached:
    """A command that compiles programs."""

    cache: bool = True
    """Keep compiled programs in your cache folder, so that the next start is faster."""


@dataclass(frozen=True, kw_only=True)
class ModelCommand(Cached):
    """A command that applies the model of a run to data."""

    run: Positional[Path]
    """The folder of a run, or of a sweep, whose best run is taken."""
    unseen: str = "error"
    """What to do with a category that training did not have: stop with an error, or zero: encode
    it as zeros, as none of the known ones."""
    threshold: str | None = None
    """Of two classes, predict the second where its probability is at least this; or balance: the
    threshold at which both classes are found equally often on the validation rows."""
    delimiter: str | None = None
    """The character between the columns of a CSV, or tab; by default as in training."""
    encoding: str | None = None
    """The encoding of a CSV, as latin-1 or utf-8; by default as in training."""

    @property
    def folder(self) -> Path:
        return run_of(self.run)


@dataclass(frozen=True, kw_only=True)
class TrainingCommand(Cached, ABC):
    """A command with all the options of a run; another run may provide their defaults."""

    data: DataOptions = field(default_factory=DataOptions)
    network: NetworkOptions = field(default_factory=NetworkOptions)
    training: TrainingOptions = field(default_factory=TrainingOptions)
    run: RunOptions = field(default_factory=RunOptions)
    scale: ScaleOptions = field(default_factory=ScaleOptions)

    @property
    @abstractmethod
    def options_from(self) -> Path | None:
        """The folder of the run whose options are the defaults."""

    def config(self) -> Config:
        """Raises: ValueError naming a wrong option."""
        return make_config(self.data, self.network, self.training, self.run, self.scale)

    def with_options(self, config: Config) -> Self:
        """This command with the options of `config` in place of its own."""
        groups = {}
        for name in ("data", "network", "training", "run", "scale"):
            kind = type(getattr(self, name))
            groups[name] = kind(**{one.name: getattr(config, one.name) for one in fields(kind)})
        return replace(self, **groups)


def run_of(folder: Path) -> Path:
    """The folder of a run: this one, or that of the best run of a sweep, which is said.

    Raises: FileNotFoundError for a sweep without one.
    """
    if not (folder / SWEEP).exists():
        return folder
    best = folder / BEST
    if not (best / CONFIG).exists():
        raise FileNotFoundError(f"{folder}: this sweep has no best run, it diverged or was stopped")
    logging.getLogger("jaxnet").warning("%s is a sweep: its best run is taken, %s", folder, best)
    return best


def parse_threshold(word: str | None) -> float | str | None:
    """A threshold as `Model.predict` takes it; what is no number stays a word, to be refused."""
    try:
        return None if word is None else float(word)
    except ValueError:
        return word


def make_config(*groups: Any, **changes: Any) -> Config:
    """The `Config` of groups of options, with `changes` to them."""
    return Config(**dict(ChainMap(changes, *map(asdict, groups))))
