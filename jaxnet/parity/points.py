"""A case and its points: the states from which both sides take one step, with their limits."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np

from jaxnet.parity.limits import DTYPES, Scales, find_scales, make_bars
from jaxnet.parity.observe import Outputs, check_pure, evaluate, observe
from jaxnet.parity.participants import Leaves, Participant, States, cast, train


@dataclass(frozen=True)
class Case:
    """What is compared: initial parameters, the batch of each step, and the locked steps.

    params: the leaves under the reference's names, buffers among them: NumPy or JAX arrays or torch
    tensors (a state_dict) of any floating dtype; floats become float64. Buffers and frozen leaves
    that are missing keep the values that the reference itself holds. batch_at(i): the batch of step
    i, counted from 0: arrays, tensors, numbers and None in dictionaries, tuples and lists. steps:
    the steps that are compared, counted from 1. num_steps: the length of the free run. probes:
    further (params, batch) by name, compared before the first step. For a reference that is not an
    oracle the probe "ties" is added at the end, in which units are exactly 0.
    """

    name: str
    params: Mapping[str, Any]
    batch_at: Callable[[int], Any]
    steps: tuple[int, ...] = (1, 2, 3, 10, 100)
    num_steps: int = 100
    probes: Mapping[str, tuple[Leaves, Any]] = field(default_factory=dict)

    def __post_init__(self):
        if not self.params:
            raise ValueError("`case.params` must hold at least one leaf, got none")
        object.__setattr__(self, "params", cast(dict(self.params), "float64"))
        for name, leaf in self.params.items():
            if not isinstance(leaf, np.ndarray) or leaf.dtype.kind not in "fiub":
                raise ValueError(f"`case.params[{name!r}]` must hold numbers, got {leaf!r}")
            if not np.isfinite(leaf).all():
                raise ValueError(f"`case.params[{name!r}]` must be finite")
        if not self.steps or min(self.steps) < 1 or self.num_steps < 1:
            raise ValueError(f"`steps` must be 1 or more, got {self.steps} and {self.num_steps}")


def _no_sums(outputs: Outputs) -> Outputs:
    return outputs


class Point(NamedTuple):
    """One state from which both sides take a step: inputs, the reference's outputs, their bars.

    sums(outputs) has sums of parameters in place of them, where a candidate holds only these.

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
    sums: Callable[[Outputs], Outputs] = _no_sums


def points(reference: Participant, case: Case) -> tuple[list[Point], np.ndarray]:
    """Return the points of a case, and the losses (num_steps,) of the reference's float64 run.

    The precision tier takes the same states rounded to float32; the reference is computed in
    float64 from the rounded values.

    Raises: ValueError if the reference is not finite, if two equal calls of it do not agree, or if
    there is nothing to compare.
    """

    def point(step, probe, params, batch, state=None):
        state = _initial(reference, params) if state is None else state
        state = {"step": np.asarray(step - 1)} | state  # not every optimizer counts
        inputs = params, state, batch
        return [_point(reference, tier, step, probe, *inputs, scales) for tier in DTYPES]

    params, first = complete(reference, case.params), cast(case.batch_at(0), "float64")
    scales = find_scales(reference, params, first, check_pure(reference, params, first))
    made = []
    for name, (leaves, batch) in case.probes.items():
        made += point(1, name, params | leaves, batch)
    ties = _ties(reference, case, params)
    losses, states = _train(reference, case, params)
    for step in sorted(case.steps if reference.update else {1} & {*case.steps}):
        leaves, state = states[step]
        made += point(step, "", leaves, cast(case.batch_at(step - 1), "float64"), state)
    for leaves, batch in ties:
        made += point(1, "ties", leaves, batch)
    bad = np.flatnonzero(~np.isfinite(losses[: case.num_steps]))
    if bad.size:
        raise ValueError(f"not compared: the reference's loss is not finite at step {bad[0] + 1}")
    if not made:
        raise ValueError("not compared: without an optimizer only step 1 exists; put 1 in `steps`")
    return made, losses[: case.num_steps]


@np.errstate(all="ignore")  # a number that is not finite is refused at its point
def _train(reference: Participant, case: Case, params: Leaves) -> tuple[np.ndarray, States]:
    """Return the losses of the free run, and the states before the steps to compare."""
    if reference.update is None:
        return np.zeros(0), {1: (params, {})}
    count = max(*case.steps, case.num_steps)
    return train(
        reference, params, lambda i: cast(case.batch_at(i), "float64"), count, keep=case.steps
    )


def _initial(reference: Participant, params: Leaves) -> Leaves:
    return {} if reference.init is None else reference.init(params)


def complete(participant: Participant, params: Mapping[str, Any]) -> Leaves:
    """Return a copy of a case's parameters, in float64, with the leaves that it leaves out."""
    given = {name: leaf for name, leaf in params.items() if name not in participant.aliases}
    return cast({**participant.own, **given}, "float64")


def plant_ties(reference: Participant, params: Leaves) -> Leaves:
    """Return the parameters with zeros planted, so that some units are exactly 0 for every row.

    The first and the last unit of every bias and scale, and the weights into the first unit along
    the first axis, or into the last along the last axis: whichever axis is the output's.
    """

    def planted(leaf):
        leaf = leaf.copy()
        if leaf.ndim and leaf.shape[0] > 1:
            leaf[0] = 0
        if leaf.ndim and leaf.shape[-1] > 1 + (leaf.ndim == 1):
            leaf[..., -1] = 0
        return leaf

    trained = set(params) - reference.frozen
    return {k: planted(p) if k in trained else p for k, p in params.items()}


def _ties(reference: Participant, case: Case, params: Leaves) -> list[tuple[Leaves, Any]]:
    """Return the inputs with ties, unless the case has its own or the reference is not finite."""
    if reference.plan is not None or "ties" in case.probes or 1 not in case.steps:
        return []
    ties, batch = plant_ties(reference, params), cast(case.batch_at(0), "float64")
    found, _ = evaluate(reference, ties, batch)
    return [(ties, batch)] if all(np.isfinite(value).all() for value in found.values()) else []


def _point(
    reference: Participant,
    tier: str,
    step: int,
    probe: str,
    params: Leaves,
    state: Leaves,
    batch: Any,
    scales: Scales,
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
    bar, allowed = make_bars(reference, tier, params, state, batch, want, scales)
    return Point(tier, step, probe, params, state, batch, grads, want, bar, allowed)
