"""A layout's entries: expressions over the reference's leaves, `leaf("a")[0:8].T`, and patterns."""

from __future__ import annotations

import difflib
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import pairwise
from math import prod
from typing import Any, NamedTuple

import numpy as np

from jaxnet.parity.participants import listing

Look = Callable[[str], np.ndarray]


class Expression:
    """An array built from the reference's leaves: made by `leaf`, `stack` and `concatenate`.

    It has what is needed of an array: `e[0:8]`, `e.T`, `e.transpose(1, 0)`, `e.reshape(8, 2, 4)`,
    and `a + b`, the sum of two of one shape. Its repr is the code that makes it.

    names: of the leaves, each * for one piece of a path. index(look) -> the flat positions of its
    elements among the leaves, (summands, *shape), -1 for none, where look(name) gives a leaf's.
    """

    __iter__ = None  # by `__getitem__` alone a loop would not end

    def __init__(self, text: str, names: tuple[str, ...], index: Callable[[Look], np.ndarray]):
        self.text, self.names, self.index = text, names, index

    def __repr__(self) -> str:
        return self.text

    def __getitem__(self, key: Any) -> Expression:
        keys = key if isinstance(key, tuple) else (key,)
        return self._each(f"[{', '.join(map(_key_text, keys))}]", lambda a: a[keys])

    def __add__(self, other: Expression) -> Expression:
        def index(look):
            both = self.index(look), other.index(look)
            if both[0].shape[1:] != both[1].shape[1:]:
                raise ValueError(f"no sum of shapes {both[0].shape[1:]} and {both[1].shape[1:]}")
            return np.concatenate(both)

        return Expression(f"({self} + {other})", self.names + other.names, index)

    @property
    def T(self) -> Expression:
        return self._each(".T", np.transpose)

    def transpose(self, *axes: int) -> Expression:
        return self._each(f".transpose{axes}", lambda a: np.transpose(a, axes))

    def reshape(self, *shape: int) -> Expression:
        return self._each(f".reshape{shape}", lambda a: a.reshape(shape))

    def _each(self, text: str, change: Callable[[np.ndarray], np.ndarray]) -> Expression:
        def index(look):
            return np.stack([change(summand) for summand in self.index(look)])

        return Expression(self.text + text, self.names, index)


def leaf(name: str) -> Expression:
    """Return a leaf of the reference; each * in the name stands for one piece of its path."""
    return Expression(f"parity.leaf({name!r})", (name,), lambda look: look(name)[None])


def stack(parts: Sequence[Expression], axis: int = 0) -> Expression:
    """Return expressions of one shape along a new axis."""
    return _join(np.stack, parts, axis)


def concatenate(parts: Sequence[Expression], axis: int = 0) -> Expression:
    """Return expressions one after the other along an axis."""
    return _join(np.concatenate, parts, axis)


def _join(function: Any, parts: Sequence[Expression], axis: int) -> Expression:
    def index(look):
        arrays = [part.index(look) for part in parts]
        count = max(len(array) for array in arrays)
        arrays = [np.concatenate([a, np.full((count - len(a), *a.shape[1:]), -1)]) for a in arrays]
        return np.stack([function(summands, axis) for summands in zip(*arrays, strict=True)])

    text = f"parity.{function.__name__}([{', '.join(map(str, parts))}], axis={axis})"
    return Expression(text, tuple(name for part in parts for name in part.names), index)


def _key_text(key: Any) -> str:
    if isinstance(key, slice):
        ends = ["" if end is None else str(end) for end in (key.start, key.stop, key.step)]
        return ":".join(ends[: 2 + (key.step is not None)])
    return "..." if key is Ellipsis else repr(key)


class Place(NamedTuple):
    """Where elements of a leaf of the reference are in an own leaf, as flat positions in both.

    summand: that of the own leaf, counted from 0.
    """

    name: str
    summand: int
    own: np.ndarray
    reference: np.ndarray


class Built(NamedTuple):
    """The shape of an own leaf, and where its elements come from."""

    shape: tuple[int, ...]
    places: list[Place]

    @property
    def summed(self) -> set[str]:
        """The leaves of the reference with elements that are added to others."""
        more = np.zeros(prod(self.shape), bool)
        for place in self.places:
            more[place.own] |= place.summand > 0
        return {place.name for place in self.places if more[place.own].any()}

    def gather(self, leaves: Mapping[str, np.ndarray], *, summed: bool = True) -> np.ndarray | None:
        """Return the own leaf from the reference's, of which missing ones are 0; None without any.

        summed: add the summands, as for parameters; otherwise take the first that is there.
        """
        there = [place for place in self.places if place.name in leaves]
        if not there:
            return None
        first = min(place.summand for place in there)
        flat = np.zeros(prod(self.shape), np.result_type(*(leaves[p.name].dtype for p in there)))
        for place in there:
            if summed or place.summand == first:
                flat[place.own] += leaves[place.name].ravel()[place.reference]
        return flat.reshape(self.shape)


def build(
    own: str, expression: Expression, stars: Sequence[str], shapes: Mapping[str, tuple[int, ...]]
) -> Built:
    """Evaluate an expression over leaves of these shapes.

    Raises: ValueError, which names the own leaf, where the shapes do not allow it.
    """
    names = list(dict.fromkeys(fill(name, stars) for name in expression.names))
    ends = np.cumsum([0, *(prod(shapes[name]) for name in names)])
    spans = dict(zip(names, pairwise(ends), strict=True))

    def look(pattern):
        name = fill(pattern, stars)
        return np.arange(*spans[name]).reshape(shapes[name])

    try:
        index = expression.index(look)
    except (ValueError, IndexError) as error:
        text = ", ".join(f"{name} {shapes[name]}" for name in names)
        raise ValueError(
            f"`layout[{own!r}]` must fit the reference's leaves {text}, got {expression}: {error}"
        ) from None
    places = []
    for summand, flat in enumerate(index.reshape(len(index), -1)):
        for name, (start, stop) in spans.items():
            found = np.flatnonzero((flat >= start) & (flat < stop))
            if found.size or not flat.size:
                places.append(Place(name, summand, found, flat[found] - start))
    return Built(index.shape[1:], places)


Names = dict[str, tuple[Expression, tuple[str, ...]]]  # own leaf -> and what its stars stand for


def fill(pattern: str, stars: Sequence[str]) -> str:
    """Return a pattern with its stars replaced, in order."""
    for star in stars:
        pattern = pattern.replace("*", star, 1)
    return pattern


def match(pattern: str, name: str) -> tuple[str, ...] | None:
    """Return what each * of a pattern stands for in a name: one piece between / or dots."""
    found = re.fullmatch(re.escape(pattern).replace(r"\*", "([^/.]+)"), name)
    return found.groups() if found else None


def as_expression(own: str, entry: Any) -> Expression:
    """Return an entry as an expression.

    Raises: ValueError for what is none, and for a None that `propose_layout` left to decide.
    """
    if isinstance(entry, tuple) and len(entry) == 2 and isinstance(entry[0], str):
        made = leaf(entry[0]).transpose(*entry[1])
    else:
        made = leaf(entry) if isinstance(entry, str) else entry
    if not isinstance(made, Expression):
        undecided = ": decide what it is of the reference's leaves" if entry is None else ""
        raise ValueError(
            f"`layout[{own!r}]` must be a name, (name, axes) or an expression over `parity.leaf`, "
            f"got {entry!r}{undecided}"
        )
    for name in made.names:
        if name.count("*") != own.count("*"):
            raise ValueError(
                f"`layout[{own!r}]` must name leaves with as many * as {own!r}, got {name!r}"
            )
    return made


def expand(
    entries: Mapping[str, Expression], leaves: Iterable[str], owner: str, *, is_own: bool
) -> Names:
    """Return the entry of each own leaf; patterns are matched with the leaves of `owner`.

    Raises: ValueError for a pattern that matches none, and for a leaf that two patterns match.
    """
    exact: Names = {own: (entry, ()) for own, entry in entries.items() if "*" not in own}
    found: Names = {}
    for own in (own for own in entries if own not in exact):
        pattern = own if is_own else entries[own].names[0]
        matches = dict.fromkeys(stars for name in leaves if (stars := match(pattern, name)))
        if not matches:
            near = difflib.get_close_matches(pattern, leaves, 3, 0.0)
            raise ValueError(
                f"`layout` must have patterns that match, got {pattern!r}, which matches no leaf "
                f"of {owner}; near it are {listing(near)}"
            )
        for stars in matches:
            name = fill(own, stars)
            if name in found and name not in exact:
                raise ValueError(f"`layout` must give {name!r} once, got two patterns for it")
            found[name] = entries[own], stars
    return found | exact
