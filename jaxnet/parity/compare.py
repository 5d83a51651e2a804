"""Locked comparison: both sides take a step from the same state, and each number has a limit."""

from __future__ import annotations

from dataclasses import replace
from typing import NamedTuple

import numpy as np

from jaxnet.parity.limits import DTYPES
from jaxnet.parity.observe import STAGES, Outputs, observe
from jaxnet.parity.participants import Leaves, Participant, cast
from jaxnet.parity.points import Point


class Leaf(NamedTuple):
    """The worst element of one leaf at one point: its ratio is its distance in bars."""

    tier: str
    step: int
    probe: str
    stage: str
    leaf: str
    count: int
    index: tuple[int, ...]
    got: float
    want: float
    bar: float
    ratio: float
    allowed: float
    inherited: bool

    @property
    def equal(self) -> bool:
        """Whether every element of the leaf is within its limit."""
        return self.ratio <= self.allowed

    @property
    def ulps(self) -> float:
        """The distance in units of the last place of the tier's dtype, at the wanted value."""
        dtype = np.dtype(DTYPES[self.tier]).type
        return abs(self.got - self.want) / float(np.spacing(dtype(abs(self.want))))


def compare(candidate: Participant, point: Point) -> tuple[list[Leaf], Outputs]:
    """Let a candidate take the point's step; return each leaf judged, and the raw outputs.

    Raises: ValueError for leaves or shapes that are not the reference's: nothing is broadcast.
    """
    inputs = cast((point.params, point.state, point.batch, point.grads), DTYPES[point.tier])
    if not any(stage == "parameters" for stage, _ in point.want):
        candidate = replace(candidate, update=None)
    params, state, batch, grads = inputs
    got = observe(candidate, params, _own_state(candidate, params, state), batch, grads)
    got = point.sums(got)
    common = _common(candidate, got, point)
    leaves, failed = [], set()
    for stage, name in common:
        inherited = bool(failed & _before(stage))
        leaf = judge(point, stage, name, got[stage, name], inherited=inherited)
        if not leaf.equal:
            failed.add(stage)
        leaves.append(leaf)
    return leaves, {key: got[key] for key in common}


def with_sums(candidate: Participant, point: Point) -> Point:
    """Return the point with sums of parameters in place of them, if the candidate holds only these.

    A sum has the name of the candidate's own leaf.
    """
    bound = None if candidate.layout is None else candidate.layout.bind(point.params)
    if bound is None or not bound.sums:
        return point
    summed = bound.summed

    def sums(outputs: Outputs) -> Outputs:
        new = {name: leaf for (stage, name), leaf in outputs.items() if stage == "parameters"}
        own = bound.to_own(new)
        kept = {k: v for k, v in outputs.items() if k[0] != "parameters" or k[1] not in summed}
        return kept | {("parameters", name): own[name] for name in bound.sums & set(own)}

    return point._replace(want=sums(point.want), bar=sums(point.bar), sums=sums)


def _before(stage: str) -> set[str]:
    """Return the stages whose fault a stage inherits; an update is given the right gradient."""
    return {"loss": {"forward"}, "gradient": {"forward", "loss"}, "buffers": {"forward"}}.get(
        stage, set()
    )


def _own_state(candidate: Participant, params: Leaves, state: Leaves) -> Leaves:
    """Return the optimizer state for a candidate; where the reference has none, its initial one.

    Raises: ValueError if its optimizer needs slots that the reference's does not have.
    """
    if candidate.init is None or candidate.update is None:
        return state
    own = candidate.init(params)
    kinds = {name.partition("/")[0] for name in state}
    other = sorted(name for name in own if "/" in name and name.partition("/")[0] not in kinds)
    if other:
        raise ValueError(
            f"not compared: the optimizer state of {candidate.name} has the leaves {other}, of "
            f"which the reference has none of {sorted(kinds - {'step'})}"
        )
    summed = () if candidate.layout is None else candidate.layout.summed
    known = [name for name in state if name in own or name.partition("/")[2] in summed]
    return own | {name: state[name] for name in [*known, "step"] if name in state}


def _common(candidate: Participant, got: Outputs, point: Point) -> list[tuple[str, str]]:
    """Return the keys to compare, in order of stage.

    Left out are stages that only one side has, and buffers and optimizer slots of one side alone.
    """
    for stage, name in point.want:
        if stage == "gradient" and (stage, name) not in got:  # the candidate does not train it
            got[stage, name] = np.zeros_like(point.params[name])
        if stage == "parameters" and ("buffers", name) in got:  # it is no parameter of this side
            got.setdefault((stage, name), got["buffers", name])
    shared = {stage for stage, _ in got} & {stage for stage, _ in point.want}
    for stage, name in point.want:
        if stage in shared - {"buffers", "optimizer"} and (stage, name) not in got:
            raise ValueError(f"not compared: {candidate.name} gives no {stage} {name}")
    for stage, name in got:
        known = (stage, name) in point.want or (stage != "forward" and name in point.params)
        if stage in shared - {"buffers", "optimizer"} and not known:
            raise ValueError(
                f"not compared: the {stage} of {candidate.name} has {name}, which the reference's "
                f"does not have: {sorted(k for s, k in point.want if s == stage)}"
            )
    keys = [key for key in point.want if key in got]
    for key in keys:
        if got[key].shape != point.want[key].shape:
            raise ValueError(
                f"not compared: {key[0]} {key[1]} of {candidate.name} has shape {got[key].shape}, "
                f"the reference's {point.want[key].shape}"
            )
    return sorted(keys, key=lambda key: STAGES.index(key[0]))


def judge(point: Point, stage: str, name: str, got: np.ndarray, *, inherited: bool = False) -> Leaf:
    """Return the worst element of a leaf, in bars; what is not finite is infinitely far."""
    want, bar = point.want[stage, name], point.bar[stage, name]
    distance = np.abs(got.astype(float) - want)
    with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
        ratio = np.where(distance == 0, 0.0, distance / bar)
    ratio = np.where(np.isfinite(got), ratio, np.inf)
    index = np.unravel_index(int(ratio.argmax()), ratio.shape) if ratio.size else ()
    worst = tuple(int(i) for i in index)

    def at(values):
        return float(values[worst]) if values.size else 0.0

    here = point.tier, point.step, point.probe, stage, name, want.size, worst
    return Leaf(*here, at(got), at(want), at(bar), at(ratio), point.allowed, inherited)
