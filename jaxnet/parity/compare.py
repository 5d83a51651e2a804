"""Locked comparison: both sides take a step from the same state, and each number has a limit."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple

import numpy as np

from jaxnet.parity import bars
from jaxnet.parity.participants import Leaves, Participant, cast

STAGES = ("forward", "loss", "gradient", "parameters", "optimizer", "free run")
MATHEMATICS, PRECISION = "mathematics", "precision"
DTYPES = {MATHEMATICS: "float64", PRECISION: "float32"}
RELATIVE = 1e-10  # float64: what a locked element may differ by, as a share of its leaf's largest
ROUNDING = 8 * 2.0**-53  # float64: the share of a parameter that adding its update may round away
PEER = 10.0  # float32 without an oracle: multiples of the error of the reference's own float32 run

Outputs = dict[tuple[str, str], np.ndarray]


@dataclass(frozen=True)
class Case:
    """What is compared: initial parameters, the batch of each step, and the locked steps.

    params: float64 leaves under the reference's names. batch_at(i): the batch of step i, counted
    from 0, floats in float64. steps: the steps that are compared, counted from 1. num_steps: the
    length of the free run. probes: further (params, batch) by name, compared before the first step.
    """

    name: str
    params: Leaves
    batch_at: Callable[[int], Any]
    steps: tuple[int, ...] = (1, 2, 3, 10, 100)
    num_steps: int = 500
    probes: Mapping[str, tuple[Leaves, Any]] = field(default_factory=dict)

    def __post_init__(self):
        if not self.params:
            raise ValueError("`case.params` must hold at least one leaf, got none")
        for name, leaf in self.params.items():
            if np.asarray(leaf).dtype != np.float64:
                raise ValueError(
                    f"`case.params[{name!r}]` must be float64, got {np.asarray(leaf).dtype}"
                )
            if not np.isfinite(leaf).all():
                raise ValueError(f"`case.params[{name!r}]` must be finite")
        if not self.steps or min(self.steps) < 1 or self.num_steps < 1:
            raise ValueError(f"`steps` must be 1 or more, got {self.steps} and {self.num_steps}")


class Point(NamedTuple):
    """One state from which both sides take a step: inputs, the reference's outputs, their bars.

    A candidate's element may differ from `want` by `allowed` times `bar`. grads: the reference's
    gradient, which both sides' updates are given.
    """

    tier: str
    step: int
    probe: str
    params: Leaves
    state: Leaves
    batch: Any
    grads: Leaves
    want: Outputs
    bar: Outputs
    allowed: float


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


def points(reference: Participant, case: Case) -> tuple[list[Point], np.ndarray]:
    """Return the points of a case, and the losses (num_steps,) of the reference's float64 run.

    The precision tier takes the same states rounded to float32; the reference is computed in
    float64 from the rounded values.

    Raises: ValueError if the reference is not finite, or there is nothing to compare.
    """

    def point(step, probe, params, state, batch):
        state = {"step": np.asarray(step - 1)} | state  # not every optimizer counts
        return [_point(reference, tier, step, probe, params, state, batch) for tier in DTYPES]

    def initial(params):
        return {} if reference.init is None else reference.init(params)

    update = reference.update
    made = []
    for name, (params, batch) in case.probes.items():
        made += point(1, name, params, initial(params), batch)
    params = cast(case.params, "float64")  # a copy: an update may work in place
    state = initial(params)
    losses = []
    for i in range(1 if update is None else max(*case.steps, case.num_steps)):
        batch = cast(case.batch_at(i), "float64")
        if i + 1 in case.steps:
            made += point(i + 1, "", params, state, batch)
        if update is not None:
            loss, grads = reference.value_and_grad(params, batch)
            losses.append(float(loss))
            params, state = update(params, grads, state)
    if not np.isfinite(losses[: case.num_steps]).all():
        bad = int(np.flatnonzero(~np.isfinite(losses))[0])
        raise ValueError(f"not compared: the reference's loss is not finite at step {bad + 1}")
    if not made:
        raise ValueError("not compared: without an optimizer only step 1 exists; put 1 in `steps`")
    return made, np.asarray(losses[: case.num_steps])


@np.errstate(all="ignore")  # a result that is not finite is judged, and needs no warning
def observe(
    participant: Participant, params: Leaves, state: Leaves, batch: Any, grads: Leaves
) -> Outputs:
    """Return all outputs of one step, whose update is given `grads`."""
    found: Outputs = {}
    if participant.forward is not None:
        found["forward", "y_pred"] = np.asarray(participant.forward(params, batch))
    value, own = participant.value_and_grad(params, batch)
    found["loss", "loss"] = np.array(value)  # copies: an implementation may use its arrays again
    found |= {("gradient", name): np.array(leaf) for name, leaf in own.items()}
    if participant.update is not None:
        new_params, new_state = participant.update(*copy.deepcopy((params, grads, state)))
        found |= {("parameters", name): np.asarray(leaf) for name, leaf in new_params.items()}
        found |= {
            ("optimizer", name): np.asarray(leaf) for name, leaf in new_state.items() if "/" in name
        }
    return found


def compare(candidate: Participant, point: Point) -> tuple[list[Leaf], Outputs]:
    """Let a candidate take the point's step; return each leaf judged, and the raw outputs.

    Raises: ValueError for leaves or shapes that are not the reference's: nothing is broadcast.
    """
    inputs = cast((point.params, point.state, point.batch, point.grads), DTYPES[point.tier])
    if ("parameters", next(iter(point.params))) not in point.want:
        candidate = replace(candidate, update=None)
    _check_slots(candidate, inputs[0], point.state)
    got = observe(candidate, *inputs)
    common = _check_outputs(candidate, got, point)
    leaves, failed = [], set()
    for stage, name in common:
        inherited = bool(failed & _before(stage))
        leaf = judge(point, stage, name, got[stage, name], inherited=inherited)
        if not leaf.equal:
            failed.add(stage)
        leaves.append(leaf)
    return leaves, {key: got[key] for key in common}


def _before(stage: str) -> set[str]:
    """Return the stages whose fault a stage inherits; an update is given the right gradient."""
    return {"loss": {"forward"}, "gradient": {"forward", "loss"}}.get(stage, set())


def _point(
    reference: Participant,
    tier: str,
    step: int,
    probe: str,
    params: Leaves,
    state: Leaves,
    batch: Any,
) -> Point:
    dtype = DTYPES[tier]  # in float64 are compared the numbers that this dtype holds
    params, state, batch = cast(cast((params, state, batch), dtype), "float64")
    _, grads = reference.value_and_grad(params, batch)
    grads = cast(cast(grads, dtype), "float64")
    want = observe(reference, params, state, batch, grads)
    for (stage, name), value in want.items():
        if not np.isfinite(value).all():
            where = f"probe {probe}" if probe else f"step {step}"
            text = f"not compared: the reference's {stage} {name} is not finite at {where}"
            raise ValueError(text)
    bar, allowed = _bars(reference, tier, params, state, batch, grads, want)
    return Point(tier, step, probe, params, state, batch, grads, want, bar, allowed)


def _bars(reference, tier, params, state, batch, grads, want) -> tuple[Outputs, float]:
    bar: Outputs = {}
    if tier == MATHEMATICS:
        for (stage, name), value in want.items():
            largest = np.abs(value).max(initial=0)
            if stage == "parameters":  # of the step that was made: a small rate hides nothing
                change = np.abs(value - params[name]).max(initial=0)
                largest = change + ROUNDING / RELATIVE * largest
            bar[stage, name] = np.full(value.shape, RELATIVE * largest)
        return bar, 1.0
    for (stage, name), new in want.items():
        if stage in ("parameters", "optimizer"):
            old = params[name] if stage == "parameters" else state.get(name, np.zeros_like(new))
            bar[stage, name] = bars.update_bar(old, new)
    if reference.plan is not None:
        network = bars.network_bars(reference.plan.spec, params, batch)
        return bar | network, bars.LIMIT
    peer = observe(reference, *cast((params, state, batch, grads), "float32"))
    for key in want:
        if key not in bar:
            error = np.abs(peer[key].astype(float) - want[key]).max(initial=0)
            scale = np.abs(want[key]).max(initial=0)
            bar[key] = np.full(want[key].shape, max(error, bars.U * scale))
    return bar, PEER


def _check_slots(candidate: Participant, params: Leaves, state: Leaves) -> None:
    """Raise ValueError if the candidate's optimizer needs slots that the reference's has not."""
    if candidate.init is not None and candidate.update is not None:
        own = {name for name in candidate.init(params) if "/" in name}
        if not own <= set(state):
            raise ValueError(
                f"not compared: the optimizer state of {candidate.name} has the leaves "
                f"{sorted(own)}, the reference's {sorted(state)}"
            )


def _check_outputs(candidate: Participant, got: Outputs, point: Point) -> list[tuple[str, str]]:
    """Return the keys to compare, in order of stage, without stages that only one side has."""
    shared = {stage for stage, _ in got} & {stage for stage, _ in point.want}
    for stage in shared:
        ours = {name for s, name in got if s == stage}
        theirs = {name for s, name in point.want if s == stage}
        if ours != theirs:
            raise ValueError(
                f"not compared: the {stage} of {candidate.name} has the leaves {sorted(ours)}, "
                f"the reference's {sorted(theirs)}"
            )
    keys = [key for key in point.want if key[0] in shared]
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
    with np.errstate(divide="ignore", invalid="ignore"):
        ratio = np.where(distance == 0, 0.0, distance / bar)
    ratio = np.where(np.isfinite(got), ratio, np.inf)
    index = np.unravel_index(int(ratio.argmax()), ratio.shape) if ratio.size else ()
    worst = tuple(int(i) for i in index)

    def at(values):
        return float(values[worst]) if values.size else 0.0

    here = point.tier, point.step, point.probe, stage, name, want.size, worst
    return Leaf(*here, at(got), at(want), at(bar), at(ratio), point.allowed, inherited)
