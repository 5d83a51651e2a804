"""What a participant is: a runner that trains on from its state, and how it is started."""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np

from .workloads import Workload

Params = dict[str, np.ndarray]


class Inapplicable(Exception):
    """The participant cannot express the workload; the message says why."""


class Runner(Protocol):
    """A network, or a sweep of them, in training.

    run(num_steps) makes that many more steps, waits for their end, and returns the losses that
    the participant tells: of each step, or means over equal groups of them; of a sweep
    (members, ...). params() are the parameters now; of a sweep each with the members first.

    A runner that times itself has seconds(num_steps) -> (seconds, steps); one that trains on data
    or weights of its own has own_results(num_steps) -> [(check.Case, losses, params)].
    """

    def run(self, num_steps: int) -> np.ndarray: ...

    def params(self) -> Params: ...


Build = Callable[[Workload, Any], Runner]


@dataclass(frozen=True)
class Participant:
    """Who takes part, and with what.

    module: where its `build` is, NAME:FUNCTION within this package. needs: packages that must be
    installed. note: what it does, for the page. sweep: it trains sweeps, and nothing else. cache:
    who keeps its compiled programs on disk, "jax", "jaxnet", "torch" or "". environment: variables
    that its process gets. adam: its form of Adam, "adam" or "adam-hat" (`check.adam_hat`). gpu: it
    runs there; only_gpu: and only there. own_data: it reads a file of its own, and is given no
    table. verdict: of a lever, whether it is kept, and why.
    """

    name: str
    module: str
    needs: tuple[str, ...]
    note: str
    sweep: bool = False
    cache: str = ""
    environment: dict[str, str] = field(default_factory=dict)
    adam: str = "adam"
    gpu: bool = True
    only_gpu: bool = False
    own_data: bool = False
    verdict: str = ""

    def missing(self) -> list[str]:
        """The packages that are not installed."""
        return [name for name in self.needs if not _found(name)]

    def build(self) -> Build:
        """The function that makes its runner; importing it imports the framework."""
        name, function = self.module.split(":")
        return getattr(importlib.import_module(f"{__package__}.{name}"), function)


def _found(name: str) -> bool:
    if name in sys.modules:
        return True
    try:
        return importlib.util.find_spec(name) is not None
    except ModuleNotFoundError:
        return False


def applies(workload: Workload, needs: dict[str, tuple[Any, ...]]) -> None:
    """Raise Inapplicable unless each of the workload's fields is one of those named."""
    for name, known in needs.items():
        if getattr(workload, name) not in known:
            raise Inapplicable(f"has no {name} {getattr(workload, name)}")
