"""Which known mistake explains a difference? Each is replayed; the nearest replay names it."""

from __future__ import annotations

import warnings

import numpy as np

from jaxnet.parity import mistakes
from jaxnet.parity.limits import MATHEMATICS
from jaxnet.parity.observe import Outputs, observe
from jaxnet.parity.participants import Participant
from jaxnet.parity.points import Point
from jaxnet.parity.report import Cause

EXPLAINED = 0.1  # a replay that leaves more of the difference than this explains nothing


def diagnose(
    reference: Participant, seen: list[tuple[Point, Outputs]], most: int = 5
) -> list[Cause]:
    """Rank the known mistakes by the distance of their replay to what the candidate returned.

    seen: the points of one tier in the order in which the candidate saw them, with its outputs.
    The list is empty when none leaves less than a tenth of the difference.
    """
    if seen[0][0].tier == MATHEMATICS and _single(seen):
        return [Cause("computed in float32", "switch x64 on, or keep float64 throughout", 0.0)]
    with warnings.catch_warnings(), np.errstate(all="ignore"):
        warnings.simplefilter("ignore")  # a mistake may overflow, or leave a batch empty
        causes = _explanations(reference, seen)
    return sorted(causes, key=lambda c: c.distance)[:most]


def _explanations(reference: Participant, seen: list[tuple[Point, Outputs]]) -> list[Cause]:
    first = seen[0][0]
    candidates = mistakes.known_mistakes(reference, first.params)
    if reference.update is not None and (factor := _rate_factor(seen)) is not None:
        candidates.append(mistakes.scaled_rate(reference, factor))
    causes = [Cause(m.name, m.remedy, _distance(m.participant, seen)) for m in candidates]
    return [c for c in causes if np.isfinite(c.distance)]


def _distance(replay: Participant, seen: list[tuple[Point, Outputs]]) -> float:
    """Return the largest share of any leaf's difference that the replay leaves unexplained.

    It is infinite as soon as it is more than `EXPLAINED`: such a replay is not looked at further.
    """
    worst = 0.0
    for point, got in seen:
        try:
            found = observe(replay, point.params, point.state, point.batch, point.grads)
        except Exception:  # this reference cannot make the mistake: a batch of a fixed size, say
            return np.inf
        for key, value in got.items():
            if key not in found or found[key].shape != value.shape:
                continue
            limit = point.allowed * point.bar[key].max(initial=0)
            scale = max(_size(value - point.want[key]), limit)
            left = _size(value - found[key])
            if not np.isfinite(left) or left > EXPLAINED * scale:
                return np.inf
            if left > 0:
                worst = max(worst, left / scale)
    return worst


def _size(difference: np.ndarray) -> float:
    finite = np.where(np.isfinite(difference), np.abs(difference.astype(float)), np.inf)
    return float(finite.max(initial=0))


def _single(seen: list[tuple[Point, Outputs]]) -> bool:
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


def _rate_factor(seen: list[tuple[Point, Outputs]]) -> float | None:
    """Return the factor on the update that fits the candidate best; None for about 1."""
    inner = squares = 0.0
    for point, got in seen:
        for (stage, name), value in got.items():
            if stage == "parameters":
                wanted = point.want[stage, name] - point.params[name]
                inner += float(((value - point.params[name]) * wanted).sum())
                squares += float((wanted**2).sum())
    factor = inner / squares if squares > 0 else 1.0
    return factor if np.isfinite(factor) and abs(factor - 1) > 1e-9 else None
