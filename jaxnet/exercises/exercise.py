"""What an exercise is: inputs that are drawn, the reader's answer to them, and the right one."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np

from jaxnet.spec import Spec

Inputs = dict[str, Any]
Answers = dict[str, Any]


class Mistake(NamedTuple):
    """A known mistake: what to say of it, and what a file that makes it answers."""

    hint: str
    answer: Callable[..., Answers]


class WrongAnswerError(Exception):
    """The reader's function returned what is no answer: the text says what is wrong."""


@dataclass(frozen=True)
class Exercise:
    """One exercise, and how it is checked.

    functions: what the reader's file must define. draw(rng) -> the inputs of each round.
    ask(module, **inputs) -> (answers, facts): runs in the reader's process; the answers are a
    dictionary of trees of arrays, facts are what was observed beside them: counts, names.
    want(**inputs) -> the right answers, by NumPy; None if there are several, and `rule` says which.
    mistakes: tried in order; the first that gives the reader's numbers is named.
    rule(rounds, answers, facts) -> what to say if something else than the numbers is wrong.
    errors: (pattern, hint): what to say of an exception whose "Type: text" has the pattern.
    spec, rate: of the network whose oracle has the same loss and gradient ("loss", "grads"), so
    that `parity.check` can name more mistakes. counts: numbers that a wrong mean may divide by.
    tolerances: of an answer, as a share of its largest element, where it is not that of float64.
    """

    number: str
    idea: str
    functions: tuple[str, ...]
    draw: Callable[[np.random.Generator], list[Inputs]]
    ask: Callable[..., tuple[Answers, dict[str, Any]]]
    want: Callable[..., Answers] | None
    mistakes: tuple[Mistake, ...] = ()
    rule: Callable[[list[Inputs], list[Answers], list[dict[str, Any]]], str] | None = None
    errors: tuple[tuple[str, str], ...] = ()
    spec: Spec | None = None
    rate: float = 0.0
    counts: Mapping[str, int] = field(default_factory=dict)
    tolerances: Mapping[str, float] = field(default_factory=dict)
    environment: Mapping[str, str] = field(default_factory=dict)


def take(result: Any, function: str, *names: str) -> dict[str, Any]:
    """Return what a function of the reader returned, by name.

    Raises: WrongAnswerError unless it is a tuple of so many.
    """
    if not isinstance(result, (tuple, list)) or len(result) != len(names):
        size = f" of {len(result)}" if isinstance(result, (tuple, list)) else ""
        kind = type(result).__name__ + size
        raise WrongAnswerError(
            f"{function} must return a tuple ({', '.join(names)}), got a {kind}"
            if result is not None
            else f"{function} must return a tuple ({', '.join(names)}), got None: is a "
            "`return` missing?"
        )
    return dict(zip(names, result, strict=True))


def flatten(tree: Any, name: str = "") -> dict[str, Any]:
    """Return the leaves of dictionaries and lists by path: "grads/w1", "losses/0"."""
    if not isinstance(tree, (Mapping, list, tuple)):
        return {name: tree}
    items = tree.items() if isinstance(tree, Mapping) else enumerate(tree)
    leaves: dict[str, Any] = {}
    for key, value in items:
        leaves |= flatten(value, f"{name}/{key}" if name else str(key))
    return leaves
