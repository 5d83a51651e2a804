"""`check`: a candidate against a reference, locked in both tiers, in free runs, and diagnosed."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import numpy as np

from jaxnet.parity.causes.find import find_causes
from jaxnet.parity.compare import Leaf, compare, judge, with_sums
from jaxnet.parity.layers.locate import RELATIVE, SINGLE, locate
from jaxnet.parity.layers.located import Located
from jaxnet.parity.limits import (
    DTYPES,
    MATHEMATICS,
    NOISE,
    PRECISION,
    TERMS,
    largest_output,
    rounded,
)
from jaxnet.parity.observe import Outputs
from jaxnet.parity.participants import Participant, cast
from jaxnet.parity.points import Case, Point
from jaxnet.parity.recording import Trajectory, free_run, trajectory
from jaxnet.parity.report import Cause, Report

FREE_RUN = 1e-8  # float64: what the losses of a free run may differ by, relative: they part slowly


def check(
    candidate: Participant,
    *,
    against: Participant | Trajectory,
    case: Case | None = None,
    tiers: tuple[str, ...] = tuple(DTYPES),
    layers: Mapping[str, str] | None = None,
) -> Report:
    """Compare a candidate with a reference, number by number: are they the same function?

    Both take single steps from the same states, in float64 for the mathematics and in float32 for
    the precision; then both train freely in float64. A mismatch is located and diagnosed.

    against: a participant, which needs a `case`; or a recording (`load`), which has its own.
    tiers: "mathematics", "precision" or both. layers: the candidate's layers -> the reference's,
    where names and parameters do not tell; they only help to locate.

    Raises: ValueError if nothing can be compared: the same object twice, other leaves or shapes, a
    reference that is not finite or draws random numbers, no case.
    """
    if isinstance(against, Participant):
        against = _trajectory(candidate, against, case)
    if not tiers or set(tiers) - set(DTYPES):
        raise ValueError(f"`tiers` must be of {', '.join(DTYPES)}, got {tiers}")
    _allow_frozen(candidate, against)
    leaves: list[Leaf] = []
    causes: list[Cause] = []
    place: tuple[Located, Point] | None = None
    for tier in tiers:
        found, seen = _locked(candidate, [p for p in against.points if p.tier == tier])
        if not causes and not all(leaf.equal for leaf in found):
            place = _locate(candidate, against, seen, found, layers)
            causes = find_causes(candidate, against.reference, seen, place)
        leaves += found
        if tier == MATHEMATICS and _trains(candidate, against):
            leaves.append(_free_leaf(candidate, against, all(leaf.equal for leaf in found)))
    if not leaves:
        raise ValueError(f"not compared: no points for the tiers {tiers}")
    sides = against.case.name, candidate.name, against.name
    return Report(*sides, leaves, causes, *_beside(candidate, against, leaves), place and place[0])


def _allow_frozen(candidate: Participant, against: Trajectory) -> None:
    """Let a layout leave out the reference's frozen leaves and buffers."""
    if candidate.layout is not None:
        trained = {name for stage, name in against.points[0].want if stage == "gradient"}
        candidate.layout.optional |= set(against.points[0].params) - trained


def _trains(candidate: Participant, against: Trajectory) -> bool:
    """Return whether free runs can be compared."""
    return candidate.update is not None and len(against.losses) > 0


def _trajectory(candidate: Participant, reference: Participant, case: Case | None) -> Trajectory:
    if candidate is reference or candidate.value_and_grad is reference.value_and_grad:
        raise ValueError("not compared: `candidate` and `against` are the same object")
    if case is None:
        raise ValueError("`case` must be given with a participant to compare against")
    return trajectory(reference, case)


def _locked(
    candidate: Participant, points: list[Point]
) -> tuple[list[Leaf], list[tuple[Point, Outputs]]]:
    leaves, seen = [], []
    for point in points:
        point = with_sums(candidate, point)
        judged, outputs = compare(candidate, point)
        leaves += judged
        seen.append((point, outputs))
    return leaves, seen


def _locate(
    candidate: Participant,
    against: Trajectory,
    seen: list[tuple[Point, Outputs]],
    leaves: list[Leaf],
    layers: Mapping[str, str] | None,
) -> tuple[Located, Point] | None:
    """Return the layer of the first difference before the update, if both sides have layers."""
    first = next((leaf for leaf in leaves if not leaf.equal), None)
    before = first is not None and first.stage not in ("parameters", "optimizer", "free run")
    if first is None or not before or candidate.layers is None:
        return None
    point, got = next(s for s in seen if (s[0].step, s[0].probe) == (first.step, first.probe))
    dtype = DTYPES[point.tier]
    own, given = candidate.layers, (point.params, point.batch)
    params, batch = cast(given, dtype)
    moved = (params, batch) if point.tier == PRECISION else rounded(*given, dtype)[0]
    reference = against.run_layers(point, *given)
    if reference is None:
        return None
    found = locate(
        reference,
        lambda locks: own(params, batch, locks),
        layers=layers,
        noise=against.run_layers(point, *moved),
        relative=RELATIVE if point.tier == MATHEMATICS else SINGLE,
        buffers=_buffers(point, got, leaves) if first.stage == "buffers" else None,
    )
    return found, point


def _buffers(
    point: Point, got: Outputs, leaves: list[Leaf]
) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Return (wanted, got) of the buffers that differ at a point."""
    here = point.step, point.probe, "buffers"
    wrong = [x for x in leaves if not x.equal and (x.step, x.probe, x.stage) == here]
    return {x.leaf: (point.want[x.stage, x.leaf], got[x.stage, x.leaf]) for x in wrong}


def _free_leaf(candidate: Participant, against: Trajectory, locked_equal: bool) -> Leaf:
    """Return the worst loss of the float64 free run.

    A share of the loss is allowed, and beside it the rounding of its terms, which remains once the
    network has learnt its data. If no outputs tell how large the terms are, it is what one locked
    step may be off. Training can amplify rounding: if every locked step was equal, the reference
    itself is run from parameters moved by a rounding, and NOISE times what it parts by is allowed.
    """
    steps = [p for p in against.points if p.tier == MATHEMATICS and not p.probe]
    outputs = [size for p in steps if (size := largest_output(p.want)) is not None]
    locked = min((float(p.bar["loss", "loss"]) for p in steps), default=0.0)
    floor = TERMS * max(outputs) if outputs else locked
    bar = FREE_RUN * np.abs(against.losses) + floor
    losses = free_run(candidate, against.case, "float64")
    leaf = _judge_free(against, losses, bar)
    if locked_equal and not leaf.equal and against.reference is not None:
        leaf = _judge_free(against, losses, bar + NOISE * _spread(against, against.reference))
    return leaf


def _judge_free(against: Trajectory, losses: np.ndarray, bar: np.ndarray) -> Leaf:
    key, nothing = ("free run", "loss"), {}
    run = Point(
        MATHEMATICS, 0, "", nothing, nothing, None, nothing, {key: against.losses}, {key: bar}, 1.0
    )
    leaf = judge(run, *key, losses)
    return leaf._replace(step=leaf.index[0] + 1, index=())


def _spread(against: Trajectory, reference: Participant) -> np.ndarray:
    """Return how far the reference's losses part if its parameters are moved by a rounding."""
    case = against.case
    starts = [
        replace(case, params=moved) for moved, _ in rounded(dict(case.params), None, "float64")
    ]
    runs = [free_run(reference, start, "float64") for start in starts]
    return np.max([np.abs(run - against.losses) for run in runs], axis=0)


def _drift(candidate: Participant, against: Trajectory) -> dict[str, dict[int, float]]:
    """Return how far float32 losses are from the float64 reference's, relative, at some steps."""
    want = against.losses
    steps = sorted({s for s in (1, 10, 100, len(want)) if s <= len(want)})
    runs = {candidate.name: free_run(candidate, against.case, "float32")}
    runs[f"shadow of {against.name}"] = against.shadow
    with np.errstate(divide="ignore", invalid="ignore"):
        return {
            name: {s: float(abs(losses[s - 1] / want[s - 1] - 1)) for s in steps}
            for name, losses in runs.items()
        }


def _beside(
    candidate: Participant, against: Trajectory, leaves: list[Leaf]
) -> tuple[dict[str, dict[int, float]], list[str]]:
    """Return the drift, and what is not compared."""
    compared = {(leaf.stage, leaf.leaf) for leaf in leaves}
    drift = _drift(candidate, against) if _trains(candidate, against) else {}
    return drift, _left_out(candidate, against, compared)


def _left_out(
    candidate: Participant, against: Trajectory, compared: set[tuple[str, str]]
) -> list[str]:
    """Say which stages, buffers, slots and gradients are not compared."""
    points = against.points
    wanted = {stage for stage, _ in points[0].want}
    texts = []
    if "forward" in wanted and candidate.forward is None:
        texts.append(f"forward: {candidate.name} gives none apart from its loss")
    if "parameters" in wanted and candidate.update is None:
        texts.append(f"parameters and optimizer state: {candidate.name} has no optimizer")
    if "parameters" not in wanted:
        texts.append(f"parameters and optimizer state: {against.name} has no optimizer")
    changed = {
        (stage, name)
        for point in points
        for (stage, name), value in point.want.items()
        if stage == "optimizer"
        or (stage == "buffers" and not np.array_equal(value, point.params[name]))
    }
    if candidate.update is None:
        changed = {key for key in changed if key[0] == "buffers"}
    for stage, name in sorted(changed - compared):
        texts.append(f"{stage} {name}: {candidate.name} has none")
    if candidate.init is not None and "parameters" in wanted:
        own = candidate.init(points[0].params)
        slots = {name for point in points for stage, name in point.want if stage == "optimizer"}
        for name in sorted(set(own) - slots - {"step"}):
            texts.append(f"optimizer {name}: {against.name} has none")
    trained = {name for stage, name in points[0].want if stage in ("gradient", "buffers")}
    frozen = sorted(set(points[0].params) - trained)
    if frozen:
        texts.append(f"gradient of {', '.join(frozen)}: frozen in {against.name}")
    return texts
