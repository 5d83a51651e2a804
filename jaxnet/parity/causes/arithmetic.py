"""Causes that can be read from the numbers alone: a factor, a sign, another order, other leaves."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator, Mapping
from fractions import Fraction

import numpy as np

Pairs = Mapping[str, tuple[np.ndarray, np.ndarray]]
Explanation = tuple[str, str, float]

DIFFERS = 1e-10  # leaves whose difference is a smaller share of their size are equal
EXACT = 1e-6  # the share of each leaf's difference that an explanation may leave
SIMPLE = ("2", "1/2", "4", "1/4")  # factors that one number alone may show
ROUNDING = 2.0**-52  # of float64
NOISE = 1e-13  # the share of a leaf's size that rounding may leave


def explain(pairs: Pairs, counts: Mapping[str, int] | None = None) -> list[Explanation]:
    """Return (name, remedy, distance) of what turns all that is wanted into all that was got.

    pairs: (want, got) by leaf, float64, of one stage of one layer; leaves that are equal may be
    among them. counts: numbers that a wrong mean may have divided by, {"rows": 4, "tokens": 12}.
    distance: the largest share of a leaf's difference that is left, at most 1e-6. A factor or a
    constant that is fitted to a single number is returned only if it is 2, 4, a half, a quarter,
    or what `counts` say. The list is empty where nothing explains every leaf.
    """
    pairs = {k: (np.asarray(w, float), np.asarray(g, float)) for k, (w, g) in pairs.items()}
    wrong = {k: pair for k, pair in pairs.items() if not _are_equal(*pair)}
    if not wrong or not all(np.isfinite(a).all() for pair in wrong.values() for a in pair):
        return []
    where = "all leaves" if len(wrong) == len(pairs) > 1 else ", ".join(wrong)
    found = [*_orders(wrong, where), *_swaps(wrong, pairs)]
    if all(w.shape == g.shape for w, g in wrong.values()):
        found += [*_factors(wrong, where, counts or {}), *_constants(wrong, where)]
    return found


def explain_updates(
    points: list[tuple[int, dict[str, tuple[np.ndarray, np.ndarray, np.ndarray]]]], wrong: set[str]
) -> list[Explanation]:
    """Return (name, remedy, distance) of what turns the wanted new parameters into those got.

    points: the step, and (old, want, got) of each leaf, float64. wrong: the leaves that differ.
    """

    def left(change: Callable[[int, str, np.ndarray, np.ndarray], np.ndarray]) -> float:
        worst = 0.0
        for i, (_, leaves) in enumerate(points):
            for name, (old, want, got) in leaves.items():
                off, difference = _size(got - change(i, name, old, want)), _size(got - want)
                beyond = off - 4 * ROUNDING * (_size(old) + _size(want))
                if not beyond <= EXACT * difference:
                    return math.inf
                worst = max(worst, beyond / difference if beyond > 0 else 0.0)
        return worst

    found = [*_rates(points, left)]
    where, part = ", ".join(sorted(wrong)), [[leaves[n] for n in wrong] for _, leaves in points]
    if all(np.array_equal(old, want) for leaves in part for old, want, _ in leaves):
        remedy = "freeze it: optax.set_to_zero; optax.masked passes on the gradient as it is"
        found.append((f"frozen in the reference, but moves: {where}", remedy, 0.0))
    if all(np.array_equal(old, got) for leaves in part for old, _, got in leaves):
        remedy = "is it in the optimizer, and trained?"
        found.append((f"does not move: {where}", remedy, 0.0))
    shares = [_ratio([(old, got - want) for old, want, got in leaves]) for leaves in part]
    decayed = left(lambda i, name, old, want: want + shares[i] * old * (name in wrong))
    several = any(old.size > 1 for old, *_ in part[0]) and len(wrong) < len(points[0][1])
    if several and decayed <= EXACT and len({share > 0 for share in shares}) == 1:
        no = "no " if shares[0] > 0 else ""
        found = [other for other in found if not other[0].startswith("frozen")]  # says less
        found.append((f"{no}weight decay on {where}", "compare the masks of the decay", decayed))
    return found


def _rates(points, left) -> Iterator[Explanation]:
    """Yield the factor on the whole update, or those of each step."""
    factors = [
        1 + _ratio([(want - old, got - want) for old, want, got in leaves.values()])
        for _, leaves in points
    ]
    distance = left(lambda i, name, old, want: old + factors[i] * (want - old))
    if distance > EXACT:
        return
    if np.allclose(factors, factors[0], rtol=1e-9):
        remedy = "compare the learning rates, and what multiplies them"
        yield f"learning rate times {factors[0]:.4g}", remedy, distance
        return
    steps = {step: factor for (step, _), factor in zip(points, factors, strict=True)}
    text = ", ".join(f"{factor:.4g} at step {step}" for step, factor in sorted(steps.items()))
    remedy = "compare the schedules: their first step, their length, their last value"
    yield f"another schedule: learning rate times {text}", remedy, distance


def _ratio(pairs: list[tuple[np.ndarray, np.ndarray]]) -> float:
    """Return the factor from the first to the second arrays that fits best."""
    squares = sum(float((a * a).sum()) for a, _ in pairs)
    return sum(float((a * b).sum()) for a, b in pairs) / squares if squares else 0.0


def _size(a: np.ndarray) -> float:
    return float(np.abs(a).max(initial=0))


def _are_equal(want: np.ndarray, got: np.ndarray) -> bool:
    return want.shape == got.shape and _size(got - want) <= DIFFERS * _size(want)


def _left(want: np.ndarray, got: np.ndarray, found: np.ndarray) -> float:
    """Return the share of got - want that found - got is: infinite if it is more than rounding."""
    left, size = _size(got - found), max(_size(want), _size(got))
    difference = _size(got - want) if want.shape == got.shape else size
    return left / difference if left <= EXACT * difference + NOISE * size else math.inf


def _explained(pairs: Pairs, change: Callable[[np.ndarray], np.ndarray]) -> float:
    return max(_left(want, got, change(want)) for want, got in pairs.values())


def _factors(wrong: Pairs, where: str, counts: Mapping[str, int]) -> Iterator[Explanation]:
    want, got = (np.concatenate([p[i].ravel() for p in wrong.values()]) for i in (0, 1))
    if not want.any():
        return
    if (left := _explained(wrong, np.zeros_like)) <= EXACT:
        yield f"zero: {where}", "is it frozen, detached, masked, or not returned?", left
        return
    top = np.argmax(np.abs(want))
    factor = float(got[top] / want[top])
    left = _explained(wrong, lambda a: factor * a)
    if left > EXACT:
        return
    if math.isclose(factor, -1, rel_tol=EXACT):
        yield f"sign of {where}", "look for a minus, or an ascent for a descent", left
        return
    text, reason = _fraction(factor), next(_reasons(factor, counts), "")
    if np.count_nonzero(want) > 1 or reason or text in SIMPLE:
        remedy = "compare what the loss is summed, averaged or scaled by"
        remedy = f"a mean over {reason}? {remedy}" if reason else remedy
        yield f"factor {text} on {where}", remedy, left


def _fraction(factor: float) -> str:
    near = Fraction(factor).limit_denominator(64)
    if math.isclose(near, factor, rel_tol=1e-9):
        return str(near)
    square = Fraction(factor * factor).limit_denominator(64)
    if math.isclose(square, factor * factor, rel_tol=1e-9):
        return f"{'-' * (factor < 0)}sqrt({square})"
    return f"{factor:.6g}"


def _reasons(factor: float, counts: Mapping[str, int]) -> Iterator[str]:
    known = {f"{count} {name}": count for name, count in counts.items()}
    for name, count in known.items():
        if count > 1 and math.isclose(factor, count, rel_tol=1e-9):
            yield f"1 for {name}"
        if count > 1 and math.isclose(factor, 1 / count, rel_tol=1e-9):
            yield f"{name} for 1"
    for (a, n), (b, m) in itertools.permutations(known.items(), 2):
        shapes = {name.partition("(")[2] for name in (a, b)} - {""}
        fits = n != m and min(n, m) > 1 and math.isclose(factor, n / m, rel_tol=1e-9)
        if fits and len(shapes) < 2:  # counts of two arrays would often agree by chance
            yield f"{b} for {a}"


def _constants(wrong: Pairs, where: str) -> Iterator[Explanation]:
    differences = np.concatenate([(got - want).ravel() for want, got in wrong.values()])
    constant = float(np.median(differences))
    left = _explained(wrong, lambda a: a + constant)
    if left <= EXACT and differences.size > 1:
        yield f"constant {constant:.6g} added to {where}", "look for a term or a bias", left


def _orders(wrong: Pairs, where: str) -> Iterator[Explanation]:
    """Yield another order of axes or elements, or of the slices of one axis, in every leaf."""
    found = [_leaf_orders(want, got) for want, got in wrong.values()]
    for label in found[0]:
        if all(label in orders for orders in found):
            remedy = "compare how the leaf is laid out: declare it in `layout`"
            yield f"{label}: {where}", remedy, max(orders[label] for orders in found)


def _leaf_orders(want: np.ndarray, got: np.ndarray) -> dict[str, float]:
    """Return what is left of a leaf's difference by each order that explains it."""
    orders: dict[str, float] = {}
    if not math.isclose(np.square(want).sum(), np.square(got).sum(), rel_tol=1e-5):
        return orders

    def enter(label: str, found: np.ndarray):
        if not math.isinf(left := _left(want, got, found)):
            orders.setdefault(label, left)

    if want.size == got.size and want.ndim <= 5:
        for axes in itertools.permutations(range(want.ndim)):
            turned = want.transpose(axes)
            if turned.shape == got.shape:
                enter(f"axes in the order {axes}", turned)
            elif not orders:
                straight = axes == tuple(range(want.ndim))
                text = "reshaped" if straight else f"flattened with the axes in the order {axes}"
                enter(text, turned.reshape(got.shape))
    if want.shape == got.shape:
        for axis in range(want.ndim):
            order = _order(np.moveaxis(want, axis, 0), np.moveaxis(got, axis, 0))
            if (order != np.arange(len(order))).any():
                enter(_describe(order), np.take(want, order, axis))
    return orders


def _order(want: np.ndarray, got: np.ndarray) -> np.ndarray:
    """Return the order in which the slices of `want` may be those of `got`."""
    slices = want.reshape(len(want), -1), got.reshape(len(got), -1)
    weights = np.random.default_rng(0).uniform(1, 2, slices[0].shape[1])
    order = np.empty(len(want), int)
    order[np.argsort(slices[1] @ weights)] = np.argsort(slices[0] @ weights)
    return order


def _describe(order: np.ndarray) -> str:
    n = len(order)
    if (order == np.arange(n)[::-1]).all():
        return "reversed"
    for parts in range(2, n):
        if n % parts:
            continue
        size = n // parts
        if (order == np.arange(n).reshape(parts, size).T.ravel()).all():
            return f"{parts} x {size} read as {size} x {parts} (interleaved)"
        blocks = order.reshape(parts, size)
        if parts <= 8 and (blocks - blocks[:, :1] == np.arange(size)).all():
            return f"{parts} blocks in the order {(blocks[:, 0] // size).tolist()}"
    if (order == np.roll(np.arange(n), order.argmin())).all():
        return f"moved by {order.argmin()} of {n}"
    return f"permuted, {order[:8].tolist()}{'...' * (n > 8)}"


def _swaps(wrong: Pairs, pairs: Pairs) -> Iterator[Explanation]:
    """Yield which leaf's values each wrong leaf has."""
    sources, worst = {}, 0.0
    for name, (want, got) in wrong.items():
        for other, (values, _) in pairs.items():
            same = values.shape == got.shape and values.any() and other != name
            if same and not math.isinf(left := _left(want, got, values)):
                sources[name], worst = other, max(worst, left)
                break
        else:
            return
    if all(got.size == 1 for _, got in wrong.values()):  # equal by chance
        return
    swapped = all(sources.get(other) == name for name, other in sources.items())
    pairs_text = [f"{a} and {b}" for a, b in sources.items() if a < b]
    text = f"{', '.join(pairs_text)} swapped"
    if not swapped:
        text = ", ".join(f"{name} has the values of {other}" for name, other in sources.items())
    yield text, "compare the names in `layout`, or the order of a fused weight's parts", worst
