"""What a participant is: a runner that trains on from its state, and how it is started."""

from __future__ import annotations

import functools
import importlib
import subprocess
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
    runs there; only_gpu: and only there. half: its products may be in bfloat16. elsewhere: it
    is of the other interpreter. own_data: it reads a file of its own, and is given no table.
    verdict: of a lever, whether it is kept, and why.
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
    half: bool = False
    elsewhere: bool = False
    own_data: bool = False
    verdict: str = ""

    def python(self, other: str) -> str | None:
        """The interpreter that has its packages: this one, or the other; None if neither has."""
        return other if self.elsewhere else interpreter(self.needs, other)

    def build(self) -> Build:
        """The function that makes its runner; importing it imports the framework."""
        name, function = self.module.split(":")
        return getattr(importlib.import_module(f"{__package__}.{name}"), function)


@functools.cache
def interpreter(packages: tuple[str, ...], other: str) -> str | None:
    """The first that finds all of the packages: this one, or the other; "" is none."""
    find = "import sys, importlib.util as u; sys.exit(not all(map(u.find_spec, sys.argv[1:])))"
    for python in filter(None, (sys.executable, other)):
        if not subprocess.run([python, "-c", find, *packages], check=False).returncode:
            return python
    return None


def applies(workload: Workload, needs: dict[str, tuple[Any, ...]]) -> None:
    """Raise Inapplicable unless each of the workload's fields is one of those named."""
    for name, known in needs.items():
        if getattr(workload, name) not in known:
            raise Inapplicable(f"has no {name} {getattr(workload, name)}")
