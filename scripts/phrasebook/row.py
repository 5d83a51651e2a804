"""One row of the phrasebook: PyTorch, JAX, the trap, and what is compared."""

import re
import textwrap
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

CHECKS = {"gradient": "value, gradient", "value": "value", "training": "training"}


@dataclass(frozen=True)
class Row:
    """Code of both frameworks, which is shown as it stands and executed as it stands.

    title: its heading, by which a test is named. torch, jax: code that sets `y`, one array or
    several. In a row with modules, the lines before the first blank line make them, once; those
    after it are each call. trap: one or two sentences. naive: the JAX code of who falls into the
    trap; it must give other numbers than torch, or raise `raises`.

    given: inputs by name: a shape, for numbers from N(0, 1), or a list. What is floating gets a
    gradient. layout: the leaves of JAX's modules, as `parity.with_layout` has it.

    check: "gradient"; "value", where there is no gradient: the code runs once, as it stands; or
    "training": the code sets `optimizer`, for the parameters w and b (torch: `params`) of
    `training_loss`. A second paragraph of torch's sets `scheduler`, or clips before each step.
    """

    title: str
    torch: str
    jax: str
    trap: str = ""
    naive: str = ""
    raises: type[Exception] | None = None
    given: Mapping[str, Any] = field(default_factory=dict)
    layout: Mapping[str, Any] = field(default_factory=dict)
    check: str = "gradient"

    def __post_init__(self):
        for name in ("torch", "jax", "naive"):
            object.__setattr__(self, name, textwrap.dedent(getattr(self, name)).strip())
        if self.check not in CHECKS:
            raise ValueError(f"`check` must be of {', '.join(CHECKS)}, got {self.check!r}")
        if self.naive and not self.trap:
            raise ValueError(f"`trap` must say what `naive` does, got none: {self.title}")

    @property
    def slug(self) -> str:
        """The anchor of its heading, as GitHub and myst make it."""
        return re.sub(r"[^\w\- ]", "", self.title.lower()).replace(" ", "-")

    def inputs(self) -> dict[str, np.ndarray]:
        """Return the inputs as arrays, floats in float64; the same in every call."""
        rng = np.random.default_rng(0)
        return {
            name: rng.standard_normal(value) if isinstance(value, tuple) else np.array(value)
            for name, value in self.given.items()
        }


def paragraphs(code: str) -> tuple[str, str]:
    """Return the code before the first blank line, and after it; without one all is after it."""
    before, blank, after = code.partition("\n\n")
    return (before, after) if blank else ("", before)
