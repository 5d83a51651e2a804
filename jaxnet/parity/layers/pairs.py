"""Which layer of a candidate is which of the reference, and how the axes of their arrays lie."""

from __future__ import annotations

import itertools
import operator
import re
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from jaxnet.parity.layers.calls import INPUTS, OUTPUTS, Key, LayerRun, Locks

CLOSE = 0.1  # relative: arrays further apart are tried with their last axis in another order
SAME = 1e-6  # relative: a second array this near is the reference's same one
TINY = 1e-12  # relative: distances below this do not count
PLAIN = 10.0  # another order of arrays or axes must be this many times nearer than the plain one
WIDEST, MOST_AXES = 4096, 5  # of more, no other order is tried

Index = np.ndarray | None  # of the elements of a flat array; None: all in order
Axes = tuple[Any, ...]  # the number of axes on both sides, and their order


class Link(NamedTuple):
    """Where a candidate's array lies in the reference's: reference.flat = own.flat[index].

    keys: the reference's array, and after it the others of its call that hold the same values.
    axes: in which order they lie. plain: the index with the last axis in order. distance: of
    the free values.
    """

    keys: tuple[Key, ...]
    shape: tuple[int, ...]
    axes: Axes
    index: Index
    plain: Index
    distance: float

    @property
    def reordered(self) -> bool:
        """Whether the last axis is in another order."""
        return self.index is not self.plain

    def to_reference(
        self, array: np.ndarray, shape: tuple[int, ...], *, plain: bool = False
    ) -> np.ndarray:
        """Return an own array in the reference's order and shape; plain: its last axis as it is."""
        return _ordered(array, self.plain if plain else self.index).reshape(shape)

    def to_own(self, array: np.ndarray) -> np.ndarray:
        """Return an array of the reference in the own order and shape."""
        own = array.ravel()
        if self.index is not None:
            own = np.empty_like(own)
            own[self.index] = array.ravel()
        return own.reshape(self.shape)


class Pairs(NamedTuple):
    """calls: the candidate's paired calls -> the reference's. links: of their arrays.

    unlike: calls that belong together but have no outputs whose shapes fit. notes: says so.
    """

    calls: dict[str, str]
    links: dict[Key, Link]
    unlike: dict[str, str]
    notes: list[str]

    def locks(self, reference: LayerRun) -> Locks:
        """Return what the candidate's arrays are replaced by."""
        count = Counter(frozenset(link.keys) for key, link in self.links.items())
        made = {}
        for key, link in self.links.items():
            grad = reference.cotangents.get(link.keys[0])
            # of equal inputs, or equal columns, it is not known which has which gradient
            known = key[1] == OUTPUTS or len(link.keys) == count[frozenset(link.keys)] == 1
            known = known and not link.reordered
            own = link.to_own(grad) if grad is not None and known else None
            made[key] = link.to_own(reference.values[link.keys[0]]), own
        return made


def pair(
    reference: LayerRun, candidate: LayerRun, layers: Mapping[str, str] | None = None
) -> Pairs:
    """Pair the calls of two runs, and link their arrays.

    Modules pair if they hold the same leaves, which both runs name as the reference does; else, as
    taps do, if they have the same name inside the same pair. Among several, order and values
    decide. layers: own name -> the reference's, which goes before.

    Raises: ValueError if `layers` names a layer that was not called.
    """
    own, others = _calls(candidate), _calls(reference)
    layers = dict(layers or {})
    for name, known in [(n, own) for n in layers] + [(n, others) for n in layers.values()]:
        if name not in known:
            raise ValueError(
                f"`layers` must name layers that are called: {list(known)}, got {name!r}"
            )
    made, usual = Pairs({}, {}, {}, []), frozenset[Axes]()
    for path, other in _pair_paths(reference, candidate, layers).items():
        for names in zip(own[path], others[other], strict=False):
            inputs = _links(candidate, reference, *names, INPUTS, usual)
            usual = frozenset(x.axes for x in inputs.values() if x.distance < SAME) or usual
            outputs = _links(candidate, reference, *names, OUTPUTS, usual)
            if outputs:
                made.calls[names[0]] = names[1]
                made.links.update(outputs | inputs)
            else:
                made.unlike[names[0]] = names[1]
                made.notes.append(f"{names[0]} and {names[1]} are not paired: their shapes differ")
    return made


def path_of(call: str) -> str:
    """Return the path of the layer that a call is of."""
    return call.partition("#")[0]


def _calls(run: LayerRun) -> dict[str, list[str]]:
    """Return the calls of each layer, in order of completion."""
    calls: dict[str, list[str]] = {}
    for name in run.times:
        calls.setdefault(path_of(name), []).append(name)
    return calls


def _parts(path: str) -> tuple[str, ...]:
    return tuple(re.split("[./]", path)) if path else ()


def _last(path: str) -> tuple[str, ...]:
    return _parts(path)[-1:]


def _pair_paths(
    reference: LayerRun, candidate: LayerRun, layers: Mapping[str, str]
) -> dict[str, str]:
    runs = candidate, reference
    paths = [list(_calls(run)) for run in runs]
    held, wanted = (frozenset().union(*run.leaves.values()) for run in runs)
    found = dict(layers)
    if "" in paths[0] and "" in paths[1]:
        found.setdefault("", "")

    def likeness(own: str, other: str) -> float:
        links, same = _links(candidate, reference, own, other, OUTPUTS), _last(own) == _last(other)
        near = max((1 - link.distance for link in links.values()), default=0.0)
        return 1 + 2 * max(near, 0.0) + same if links else same / 100

    def pair_by(key: Callable[[int, str], object]) -> None:
        groups: dict[object, tuple[list[str], list[str]]] = {}
        taken = set(found), set(found.values())
        for side in (0, 1):
            for path in paths[side]:
                if path not in taken[side] and (value := key(side, path)):
                    groups.setdefault(value, ([], []))[side].append(path)
        for group in groups.values():
            found.update(_align(*group, likeness))

    def leaves(side: int, path: str) -> object:
        return runs[side].leaves.get(path, frozenset()) & held & wanted

    def place(side: int, path: str) -> object:
        """The reference's name of the nearest paired layer around, and the path from there."""
        known = {_parts(names[side]): names[1] for names in found.items()}
        parts = _parts(path)
        above = next((n for n in reversed(range(len(parts))) if parts[:n] in known), 0)
        return known.get(parts[:above]), parts[above:]

    pair_by(leaves)
    pair_by(place)
    return found


def _align(
    own: list[str], others: list[str], likeness: Callable[[str, str], float]
) -> dict[str, str]:
    """Return the pairs, in the order of both lists, of which the likeness adds up to most.

    At the ends of nested modules are the innermost and the outermost, which belong together.
    """
    best: dict[tuple[int, int], tuple[float, dict[str, str]]] = {}
    for i, j in itertools.product(range(len(own) + 1), range(len(others) + 1)):
        options = [best[k] for k in ((i - 1, j), (i, j - 1)) if k in best] or [(0.0, {})]
        if i and j and (like := likeness(own[i - 1], others[j - 1])):
            ends = (i == j == 1) + (i == len(own) and j == len(others))
            total, pairs = best[i - 1, j - 1]
            options.append((total + like + ends / 2, pairs | {own[i - 1]: others[j - 1]}))
        best[i, j] = max(options, key=lambda option: option[0])
    return best[len(own), len(others)][1]


def _links(
    candidate: LayerRun,
    reference: LayerRun,
    own: str,
    other: str,
    side: str,
    usual: frozenset[Axes] = frozenset(),
) -> dict[Key, Link]:
    """Link each array with the nearest of the reference's whose shape fits, in order if alike.

    usual: orders of axes that are more likely than the plain one.
    """
    wanted = {key: reference.values[key] for key in reference.keys(other, side)}
    links: dict[Key, Link] = {}
    used: set[Key] = set()
    for key in candidate.keys(own, side):
        array, options = candidate.values[key], []
        for other_key, want in wanted.items():
            likely = {axes for axes in usual if axes[:2] == (array.ndim, want.ndim)}
            for axes, index in _orders(array, want):
                distance = _distance(_ordered(array, index), want.ravel())
                plain = axes in likely if likely else index is None
                cost = (distance + TINY) * PLAIN ** ((key[2] != other_key[2]) + (not plain))
                if other_key not in used or distance < SAME:
                    options.append((other_key in used, cost, other_key, axes, index))
        if options:
            *_, other_key, axes, index = min(options, key=lambda option: option[:2])
            used.add(other_key)
            links[key] = _link(array, wanted, other_key, axes, index)
    return links


def _link(
    array: np.ndarray, wanted: dict[Key, np.ndarray], key: Key, axes: Axes, index: Index
) -> Link:
    want, plain = wanted[key], index
    distance = _distance(_ordered(array, index), want.ravel())
    if distance > CLOSE and (order := _last_order(_ordered(array, index), want)) is not None:
        index = order if index is None else index[order]
        distance = _distance(_ordered(array, index), want.ravel())
    equal = [k for k, value in wanted.items() if k != key and np.array_equal(value, want)]
    return Link((key, *equal), array.shape, axes, index, plain, distance)


def _last_order(flat: np.ndarray, want: np.ndarray) -> Index:
    """Return the order in which the last axis has the reference's values, if there is one."""
    width = want.shape[-1] if want.ndim else 1
    if not 1 < width <= WIDEST or not (np.isfinite(flat).all() and np.isfinite(want).all()):
        return None
    columns, wanted = (a.reshape(-1, width).astype(float) for a in (flat, want))
    apart, order = (columns**2).sum(0) - 2 * wanted.T @ columns, []
    for row in apart:  # columns may be equal: each is taken once
        order.append(int(row.argmin()))
        apart[:, order[-1]] = np.inf
    index = np.arange(flat.size).reshape(-1, width)[:, order].ravel()
    nearer = PLAIN * _distance(flat[index], want.ravel()) < _distance(flat, want.ravel())
    return index if nearer else None


def _ordered(array: np.ndarray, index: Index) -> np.ndarray:
    return array.ravel() if index is None else array.ravel()[index]


def _distance(got: np.ndarray, want: np.ndarray) -> float:
    """Return the mean distance as a share of the mean size, at most a large number."""
    with np.errstate(all="ignore"):
        apart = np.where(got == want, 0.0, np.abs(got - want)).sum()
        return float(min(np.nan_to_num(apart / np.abs(want).sum() if apart else 0.0, nan=1e9), 1e9))


def _orders(own: np.ndarray, want: np.ndarray) -> Iterator[tuple[Axes, Index]]:
    """Yield each order of own elements that has the wanted shape: axes moved, merged or split."""
    if own.size != want.size or own.dtype.kind != want.dtype.kind:
        return
    a, b = (tuple(n for n in array.shape if n != 1) for array in (own, want))
    sizes = own.ndim, want.ndim
    if a == b or _merges(a, b) or _merges(b, a):
        yield (*sizes, None), None
    if max(len(a), len(b)) > MOST_AXES:
        return
    places = np.arange(own.size)
    for axes in itertools.islice(itertools.permutations(range(len(a))), 1, None):
        if _merges([a[i] for i in axes], b):
            yield (*sizes, axes), places.reshape(a).transpose(axes).ravel()
    for axes in itertools.islice(itertools.permutations(range(len(b))), 1, None):
        if len(b) > len(a) and _merges([b[i] for i in axes], a):
            yield (*sizes, axes, "split"), places.reshape(b).transpose(axes).ravel().argsort()


def _merges(shape: Sequence[int], merged: Sequence[int]) -> bool:
    """Whether the second shape is the first with neighbouring axes merged."""
    ends = set(itertools.accumulate(merged, operator.mul))
    return ends <= set(itertools.accumulate(shape, operator.mul))
