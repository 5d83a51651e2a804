"""Why do two programs differ? What reproduces the numbers, of all known mistakes, names it."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np

from jaxnet.parity.causes import arithmetic, program
from jaxnet.parity.layers.locate import SINGLE
from jaxnet.parity.layers.located import OUTSIDE, Located
from jaxnet.parity.limits import MATHEMATICS
from jaxnet.parity.observe import Outputs, observe
from jaxnet.parity.participants import Leaves, Participant, map_leaves
from jaxnet.parity.points import Point
from jaxnet.parity.report import Cause

EXPLAINED = 0.1  # a replay that leaves more of the difference than this explains nothing
REPRODUCED = 1e-3  # the same inside one layer: other values of an epsilon leave more
ROUNDING = 1e-11  # as a share of the largest array of a kind: terms may have cancelled
MOST = 5  # causes that are returned
Seen = list[tuple[Point, Outputs]]
Place = tuple[Located, Point]


def find_causes(
    candidate: Participant, reference: Participant | None, seen: Seen, place: Place | None
) -> list[Cause]:
    """Rank the mistakes that reproduce what the candidate returned, the nearest first.

    seen: the points of one tier in the order in which the candidate saw them, with its outputs.
    reference: None for a recording, which cannot replay. place: the layer of the difference, and
    the point at which it was found.

    Tried in turn are mistakes of the whole program, of the layer and of the update, and what the
    numbers alone tell, until one of these reproduces the difference. A replay explains the
    difference if it leaves less than a tenth of it in every leaf.
    """
    if candidate.layout is not None and candidate.layout.torn:
        names = ", ".join(sorted(candidate.layout.torn))
        remedy = f"{names} is one leaf in the reference: share it, or sum the gradients"
        return [Cause("the copies of a shared leaf are updated apart", remedy, 0.0)]
    if seen[0][0].tier == MATHEMATICS and (single := _of_precision(candidate, seen)):
        return single
    with warnings.catch_warnings(), np.errstate(all="ignore"):
        warnings.simplefilter("ignore")  # a mistake may overflow, or leave a batch empty
        found: list[Cause] = []
        for source in (_of_program, _of_layer, _of_numbers):
            found += [c for c in source(reference, seen, place) if np.isfinite(c.distance)]
            if any(cause.distance <= REPRODUCED for cause in found):
                break
        if found:
            return _ranked(found)
    return _of_noise(candidate, seen)


def _ranked(causes: list[Cause]) -> list[Cause]:
    """Return the nearest causes; of the same mistake in several calls the nearest one.

    The nearest two, if they leave the same, give the same numbers here: they are one, "a or b".
    """
    best: dict[str, Cause] = {}
    for cause in sorted(causes, key=lambda cause: cause.distance):
        best.setdefault(cause.name.partition(" (call")[0], cause)
    ranked = list(best.values())
    first = ranked[0].distance
    same = [c for c in ranked if math.isclose(c.distance, first, rel_tol=1e-3, abs_tol=1e-12)]
    if len(same) == 2:
        names, remedies, _ = zip(*same, strict=True)
        ranked[:2] = [Cause(" or ".join(names), "; or ".join(remedies), first)]
    return ranked[:MOST]


def _of_program(reference: Participant | None, seen: Seen, place: Place | None) -> Iterator[Cause]:
    """Replay mistakes of the whole program; of its update, if nothing before it differs."""
    if reference is None:
        return
    point, got = seen[0]
    held = place[0].leaves.get(place[0].code, ()) if place and place[0].code else point.params
    leaves = {name: leaf for name, leaf in point.params.items() if name in held}
    zero = {name for (stage, name), v in got.items() if stage == "gradient" and not v.any()}
    known = program.known_mistakes(reference, leaves, zero)
    for name, remedy, participant in known:
        yield Cause(name, remedy, _distance(lambda *a, p=participant: observe(p, *a), seen))
    if place is None and reference.replay_update is not None:
        for name, remedy, update in reference.replay_update():
            yield Cause(name, remedy, _distance(_only_update(update), seen))


def _only_update(update: Callable) -> Callable[..., Outputs]:
    def run(params: Leaves, state: Leaves, batch: Any, grads: Leaves) -> Outputs:
        new_params, new_state = update(params, grads, state)
        found = {("parameters", name): leaf for name, leaf in new_params.items()}
        return found | {("optimizer", name): leaf for name, leaf in new_state.items()}

    return run


def _of_layer(reference: Participant | None, seen: Seen, place: Place | None) -> Iterator[Cause]:
    """Replay mistakes inside the layer, whose inputs are the reference's."""
    if reference is None or reference.replay_layer is None or place is None:
        return
    located, point = place
    if located.code is None and not located.reference and located.layer != OUTSIDE:
        return
    floor: dict[str, float] = {}
    for (kind, *_), (want, _) in located.compared.items():
        if want.dtype.kind == "f":
            floor[kind] = max(floor.get(kind, 0.0), ROUNDING * _size(want))
    limits = {key: floor.get(key[0], 0.0) for key in located.compared}
    whole, part = (
        pairs if sum((abs(g - w) > limits[k]).sum() for k, (w, g) in pairs.items()) > least else {}
        for pairs, least in ((located.inside(), 0), (located.essential(), 1))
    )
    given = point.params, point.batch, located.code, located.locked
    causes: list[Cause] = []
    partly: list[Cause] = []
    for name, remedy, found in reference.replay_layer(*given) if whole else []:
        causes.append(Cause(name, remedy, _unexplained(whole, found, limits, REPRODUCED)))
        left = _unexplained(part, found, limits, REPRODUCED) if part else np.inf
        partly.append(Cause(name, f"{remedy} (beside it the gradients differ)", left))
    yield from causes if any(np.isfinite(cause.distance) for cause in causes) else partly


def _of_numbers(reference: Participant | None, seen: Seen, place: Place | None) -> Iterator[Cause]:
    """Read the cause from the numbers of the layer, or of the first point that differs."""
    differing = [key for point, got in seen for key in _differing(point, got)]
    if {stage for stage, _ in differing} == {"parameters"}:
        points = [(point.step, _updates(point, got)) for point, got in seen]
        for explanation in arithmetic.explain_updates(points, {name for _, name in differing}):
            yield Cause(*explanation)
        return
    if place is not None and place[0].layer:
        located, point = place
        forward = located.direction == "forward"
        kinds = ("values", "loss", "cotangents") if forward else ("cotangents", "grads")
        named = {
            _label(*key): pair
            for key, pair in (located.essential() if forward else located.inside()).items()
            if key[0] in kinds
        }
    else:
        point, got = next((pair for pair in seen if _differing(*pair)), seen[0])
        stages = ("loss", "gradient")
        named = {f"{k[0]} {k[1]}": (point.want[k], got[k]) for k in got if k[0] in stages}
    for explanation in arithmetic.explain(named, _counts(point.batch)):
        yield Cause(*explanation)


def _label(kind: str, name: str = "", side: str = "", i: int = 0) -> str:
    """Return the name of an array of a `LayerRun` for people."""
    if kind == "loss":
        return "the loss"
    number = f" {i}" if i else ""
    text = f"the {side.removesuffix('s')}{number} of {name or 'the model'}" if side else name
    return text if kind == "values" else f"the gradient of {text}"


def _updates(point: Point, got: Outputs) -> dict[str, tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """Return (old, wanted, got) of each parameter."""
    old = point.sums({("parameters", name): leaf for name, leaf in point.params.items()})
    return {k[1]: (old[k], point.want[k], got[k]) for k in got if k[0] == "parameters"}


def _of_noise(candidate: Participant, seen: Seen) -> list[Cause]:
    """Say if the candidate draws random numbers."""
    if candidate.noise:
        remedy = f"{candidate.noise}: call module.eval(), or give both sides the same masks"
        return [Cause("active dropout", remedy, 0.0)]
    point = seen[0][0]
    first, again = (
        observe(candidate, point.params, point.state, point.batch, point.grads) for _ in range(2)
    )
    if all(np.array_equal(first[key], again[key], equal_nan=True) for key in first):
        return []
    remedy = "two calls with the same inputs do not agree: look for dropout, or random numbers"
    return [Cause("not deterministic", remedy, 0.0)]


def _distance(replay: Callable[..., Outputs], seen: Seen) -> float:
    """Return the largest share of any leaf's difference that the replay leaves unexplained.

    It is infinite as soon as it is more than `EXPLAINED`, and if a leaf that differs is not
    replayed: such a replay is not looked at further.
    """
    worst = 0.0
    for point, got in seen:
        try:
            found = point.sums(replay(point.params, point.state, point.batch, point.grads))
        except Exception:  # this reference cannot make the mistake: a batch of a fixed size, say
            return np.inf
        pairs = {key: (point.want[key], value) for key, value in got.items()}
        limits = {key: point.allowed * point.bar[key].max(initial=0) for key in got}
        worst = max(worst, _unexplained(pairs, found, limits))
        if not np.isfinite(worst):
            return np.inf
    return worst


def _unexplained(
    pairs: Mapping[Any, tuple[np.ndarray, np.ndarray]],
    found: Mapping[Any, np.ndarray],
    limits: Mapping[Any, float],
    most: float = EXPLAINED,
) -> float:
    """Return the largest share of the differences (want, got) that `found` leaves."""
    worst = 0.0
    for key, (want, got) in pairs.items():
        scale = max(_size(got - want), limits[key])
        if key not in found or found[key].shape != got.shape:
            if _size(got - want) > limits[key]:
                return np.inf
            continue
        left = _size(got - found[key])
        if not np.isfinite(left) or left > most * scale:
            return np.inf
        if left > 0:
            worst = max(worst, left / scale)
    return worst


def _size(difference: np.ndarray) -> float:
    finite = np.where(np.isfinite(difference), np.abs(difference.astype(float)), np.inf)
    return float(finite.max(initial=0))


def _of_precision(candidate: Participant, seen: Seen) -> list[Cause]:
    """Say what computes in float32, if the first difference is not larger than its rounding."""
    remedy = "keep float64 throughout, or write the function out"
    if _single(seen):
        return [Cause("computed in float32", f"switch x64 on, {remedy}", 0.0)]
    point, got = next((pair for pair in seen if _differing(*pair)), seen[0])
    errors = [
        _size(value - point.want[key]) / (_size(point.want[key]) or 1.0)
        for key, value in got.items()
        if key[0] in ("forward", "loss")
    ]
    if candidate.narrowed is None or not 0 < max(errors) < SINGLE:
        return []
    found = candidate.narrowed(point.params, point.batch)
    return [Cause(", ".join(found), remedy, 0.0)] if found else []


def _single(seen: Seen) -> bool:
    """Return whether all gradients of a float64 comparison are numbers that float32 holds."""
    pairs = [
        (value, point.want[key])
        for point, got in seen
        for key, value in got.items()
        if key[0] == "gradient"
    ]
    near = all(_size(value - want) <= 1e-4 * _size(want) for value, want in pairs)
    return (
        near
        and all(_is_single(got) for got, _ in pairs)
        and not all(_is_single(want) for _, want in pairs)
    )


def _is_single(values: np.ndarray) -> bool:
    return np.array_equal(values.astype("float32").astype(float), values)


def _differing(point: Point, got: Outputs) -> list[tuple[str, str]]:
    return [
        key
        for key, value in got.items()
        if _size(value - point.want[key]) > point.allowed * point.bar[key].max(initial=0)
    ]


def _counts(batch: Any) -> dict[str, int]:
    """Return numbers of a batch that a mean may divide by: rows, elements, marked by a mask."""
    counts: dict[str, int] = {}

    def count(leaf):
        if isinstance(leaf, np.ndarray) and leaf.ndim:
            counts.setdefault("rows", len(leaf))
            counts[f"elements of {leaf.shape}"] = leaf.size
            if leaf.dtype.kind == "b" or np.isin(leaf, (0, 1)).all():
                counts[f"ones of {leaf.shape}"] = int(leaf.sum())

    map_leaves(count, batch)
    return {name: n for name, n in counts.items() if n > 0}
