"""Where two programs part: the layer, what was compared there, and a mark for every other layer."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np

from jaxnet.parity.layers.calls import INPUTS, OUTPUTS, Key
from jaxnet.parity.layers.pairs import path_of

OUTSIDE = "the loss function"  # the code around all layers


class Fault(NamedTuple):
    """A difference that is not inherited. time: when it was met, on the way back below 0."""

    direction: str
    time: float
    layer: str
    error: float
    text: str


class Mark(NamedTuple):
    """A line of the tree of the candidate's layers. mark: "=", "x forward", "x backward" or "."."""

    layer: str
    reference: str
    depth: int
    mark: str
    text: str


@dataclass(frozen=True)
class Located:
    """Where two programs part. layer: "" if every layer is equal; direction: forward or backward.

    text: what is equal there and what is not. marks: all layers of the candidate, in the order in
    which they begin. notes: what was not paired, and why. path: of the reference's layer, None if
    there is none. code: the path of the reference's module whose code can be compared: the same, or
    the one around a layer whose outputs have other shapes. compared: (wanted, got) as in `inside`.
    locked: the reference's arrays whose values the candidate's layers were given. leaves: of the
    reference's modules.
    """

    layer: str
    reference: str
    direction: str
    text: str
    marks: list[Mark]
    notes: list[str]
    path: str | None = None
    code: str | None = None
    compared: dict[tuple, tuple[np.ndarray, np.ndarray]] = field(default_factory=dict)
    locked: frozenset[Key] = frozenset()
    leaves: dict[str, frozenset[str]] = field(default_factory=dict)

    def inside(self) -> dict[tuple, tuple[np.ndarray, np.ndarray]]:
        """Return (wanted, got) of all that the layer's code makes, named as `LayerRun.arrays`."""
        if self.code is None:
            return self.compared
        own, outside = self.leaves.get(self.code, frozenset()), set[str]()
        for path, leaves in self.leaves.items():
            if not _is_below(path, self.code) and not _is_below(self.code, path):
                outside |= leaves

        def made(kind, name, side="", *_):
            if kind in ("loss", "grads", "buffers"):
                return name in own - outside
            given = INPUTS if kind == "values" else OUTPUTS
            path = path_of(name)
            return _is_below(path, self.code) and (path != self.code or side != given)

        return {key: pair for key, pair in self.compared.items() if made(*key)}

    def essential(self) -> dict[tuple, tuple[np.ndarray, np.ndarray]]:
        """Return what of `inside` no other fault can have moved: forward, no gradient of leaves."""

        def kept(kind, name="", side="", *_):
            given = self.code is None and path_of(name) == "" and side == OUTPUTS
            return kind in ("values", "loss", "buffers") or (kind == "cotangents" and given)

        found = self.inside() if self.direction == "forward" else {}
        return {key: pair for key, pair in found.items() if kept(*key)}

    def headline(self) -> str:
        """The layer, and what is wrong there, on one line."""
        if not self.marks:
            return 'layer: unknown: name the layers of a function by h = parity.tap("name", h)'
        renamed = self.reference not in ("", self.layer)
        other = f" ({self.reference} in the reference)" if renamed else ""
        where = f"{self.layer}{other}, {self.direction}: " if self.layer else ""
        return f"layer: {where}{self.text}"

    def tree(self) -> list[str]:
        """Every layer on a line of its own, with a mark; then what was not paired."""
        if not self.marks:
            return []
        lines = [f"  {m.mark:10}  {'  ' * m.depth}{m.layer}  {m.text}" for m in self.marks]
        return ["layers, each on the reference's inputs:", *map(str.rstrip, lines), *self.notes]

    def to_dict(self) -> dict[str, Any]:
        """The same as plain data."""
        plain = ("layer", "reference", "direction", "text", "notes")
        return {n: getattr(self, n) for n in plain} | {"marks": [m._asdict() for m in self.marks]}


def _is_below(path: str, above: str) -> bool:
    return not above or path == above or path.startswith(f"{above}.")


def surroundings(times: Mapping[str, tuple[int, int]]) -> dict[str, str | None]:
    """Return the call around each call, None outside of all; in the order in which they begin."""
    around: dict[str, str | None] = {}
    stack: list[str] = []
    for name, (start, _) in sorted(times.items(), key=lambda item: item[1]):
        while stack and times[stack[-1]][1] < start:
            stack.pop()
        around[name] = stack[-1] if stack else None
        stack.append(name)
    return around
