"""`layout`: each of a participant's own leaves as an expression over the reference's leaves."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from dataclasses import replace
from typing import Any

import numpy as np

from jaxnet.parity.layouts.expression import (
    Built,
    Expression,
    Names,
    Place,
    as_expression,
    build,
    expand,
    fill,
)
from jaxnet.parity.participants import (
    Leaves,
    Participant,
    _flatten,
    _nest,
    cast,
    difference,
    train,
)

COPIES = 16  # ulps of a leaf's largest element that the copies of a tied leaf may round apart


class Layout:
    """A layout's entries (see `with_layout`); `bind` makes the functions between the two sides.

    own: the names of all own leaves, where they are known. optional_own: those of them that need no
    entry, nor the reference's leaves: they keep the participant's own values.

    optional: the reference's leaves that need no entry, a set to add to; integers never need one.
    summed: the reference's leaves of which the participant holds only a sum with others.
    torn: the reference's leaves whose copies in the participant have become different.
    """

    def __init__(
        self,
        entries: Mapping[str, Any],
        owner: str = "the participant",
        own: Iterable[str] | None = None,
        optional_own: Collection[str] = (),
        declared: bool = True,
    ):
        self.declared = declared
        self.entries = {name: as_expression(name, entry) for name, entry in entries.items()}
        self.owner, self.optional_own = owner, set(optional_own)
        self.optional: set[str] = set()
        self.summed: set[str] = set()
        self.torn: set[str] = set()
        self._bound: dict[Any, Bound] = {}
        self._names: Names | None = None
        if own is not None:
            own = list(own)
            self._names = expand(self.entries, own, owner, is_own=True)
            needed = [name for name in own if name not in self.optional_own]
            if text := difference(needed, self._names, own):
                raise ValueError(f"`layout` must have an entry for each leaf of {owner}: {text}")

    def bind(self, params: Leaves) -> Bound:
        """Return the layout for parameters of these names and shapes; see `build` for errors."""
        key = tuple((name, value.shape) for name, value in params.items())
        if key not in self._bound:
            self._bound[key] = Bound(self, dict(self.build(params)), dict(key))
        return self._bound[key]

    def names(self, params: Leaves) -> Names:
        """Return the entry of each own leaf that the reference has the leaves for."""
        names = self._names or expand(self.entries, params, "the reference", is_own=False)
        return {
            own: entry
            for own, entry in names.items()
            if own not in self.optional_own or set(used_leaves(*entry)) <= set(params)
        }

    def reference_names(self, own: Iterable[str]) -> frozenset[str]:
        """Return the reference's leaves that some own leaves are made of."""
        entries = self._names or {name: (entry, ()) for name, entry in self.entries.items()}
        return frozenset(name for o in own if o in entries for name in used_leaves(*entries[o]))

    def build(self, params: Leaves) -> Iterator[tuple[str, Built]]:
        """Yield each own leaf as built from the reference's.

        Raises: ValueError unless every element of every leaf that is not optional is used.
        """
        names = self.names(params)
        free = self.optional | {k for k, v in params.items() if v.dtype.kind in "iub"}
        seen = {k: np.zeros(v.shape, bool) for k, v in params.items() if k not in free}
        used = dict.fromkeys(name for entry in names.values() for name in used_leaves(*entry))
        if text := difference(seen, used, params):
            rule = "`layout` must cover the reference's leaves: {}"
            if not self.declared:
                rule = "the reference's leaves must be the candidate's: {}: declare a `layout`"
            raise ValueError(rule.format(text))
        for own, entry in names.items():
            built = build(own, *entry, {name: value.shape for name, value in params.items()})
            for place in built.places:
                if place.name in seen:
                    seen[place.name].reshape(-1)[place.reference] = True
            yield own, built
        for name, elements in seen.items():
            if left := np.argwhere(~elements).tolist():
                raise ValueError(
                    f"`layout` must cover the reference's leaves: of {name!r} {len(left)} of "
                    f"{elements.size} elements are in no entry, the first at {left[0]}"
                )


class Bound:
    """A layout for leaves of some shapes, as functions between the reference's and the own ones."""

    def __init__(self, layout: Layout, own: dict[str, Built], shapes: dict[str, tuple[int, ...]]):
        self.layout, self.own, self.shapes = layout, own, shapes
        self.summed = {name for built in own.values() for name in built.summed}
        self.sums = {k for k, made in own.items() if self.summed & {p.name for p in made.places}}
        layout.summed |= self.summed

    def to_own(self, leaves: Leaves, *, summed: bool = True) -> Leaves:
        """Return the own leaves for the reference's, those that have any.

        summed=False: for gradients and slots, which a sum has in common with each summand.
        """
        made = {name: built.gather(leaves, summed=summed) for name, built in self.own.items()}
        return {name: value for name, value in made.items() if value is not None}

    def gradient(self, own: Leaves) -> Leaves:
        """Return the reference's gradients: of a leaf that was given twice, the sum."""
        grads: Leaves = {}
        for value, place in self._places(own):
            zeros = np.zeros(self.shapes[place.name], value.dtype)
            total = grads.setdefault(place.name, zeros).reshape(-1)
            np.add.at(total, place.reference, value[place.own])
        return grads

    def new_params(self, own: Leaves, old: Leaves) -> Leaves:
        """Return the reference's parameters after an update of the own ones, before it `old`.

        Of summands only the sum is known: the first one gets the change of all.
        """
        change = {name: own[name] - self.own[name].gather(old) for name in self.sums & set(own)}
        values = self.from_own(own) | {name: old[name].copy() for name in self.summed}
        for value, place in self._places(change):
            if place.summand == 0 and place.name in self.summed:
                values[place.name].reshape(-1)[place.reference] += value[place.own]
        return values

    def from_own(self, own: Leaves) -> Leaves:
        """Return the reference's values (parameters, a slot), without those of `summed`.

        Of a leaf that was given twice the copies must be equal to rounding: elements that are not
        become NaN, which no comparison takes for equal, and the leaf's name joins `torn`.
        """
        values: Leaves = {}
        seen: dict[str, np.ndarray] = {}
        for value, place in self._places(own):
            if place.name in self.summed:
                continue
            zeros = np.zeros(self.shapes[place.name], value.dtype)
            flat = values.setdefault(place.name, zeros).reshape(-1)
            again = seen.setdefault(place.name, np.zeros(flat.size, bool))
            new = value[place.own]
            if again.any() and new.dtype.kind == "f":
                limit = COPIES * np.spacing(np.abs(new).max(initial=0))
                apart = ~(np.abs(new - flat[place.reference]) <= limit) & again[place.reference]
                self.layout.torn |= {place.name} if apart.any() else set()
                new[apart] = np.nan
            flat[place.reference] = new
            again[place.reference] = True
        return values

    def _places(self, own: Leaves) -> Iterator[tuple[np.ndarray, Place]]:
        """Yield each own leaf, flat, with each of its places."""
        owner = self.layout.owner
        needed = [name for name in own if name not in self.layout.optional_own]
        if text := difference((), needed, self.own):
            raise ValueError(f"`layout` must have an entry for each leaf of {owner}: {text}")
        for name, value in own.items():
            if name not in self.own:
                continue
            shape, places = self.own[name]
            if value.shape != shape:
                raise ValueError(
                    f"`layout[{name!r}]` must have the shape of {owner}'s own leaf, {value.shape}, "
                    f"got {shape}"
                )
            yield from ((value.reshape(-1), place) for place in places)


def with_layout(
    participant: Participant,
    layout: Mapping[str, Any] | None,
    own: Iterable[str] | None = None,
) -> Participant:
    """Return the participant under the reference's names and axes, both declared, never guessed.

    layout: each of its own leaves -> what it is of the reference's leaves, or None for no change:
        "b1", or ("w1", (1, 0)), which is np.transpose(w1, (1, 0))
        parity.leaf("in_proj")[0:8].T.reshape(8, 2, 4), a part of a leaf in another shape
        parity.stack([parity.leaf("a"), parity.leaf("b")]), or parity.concatenate([...])
        parity.leaf("bias_ih") + parity.leaf("bias_hh"), a sum
    Each * in the own name and in the leaves' stands for one piece of a path, as in
    {"blocks/*/kernel": ("blocks.*.weight", (1, 0))}; an entry for the exact name goes before it.
    own: the names of all its own leaves, if they are known.

    A leaf may be given to two own leaves (tied in the reference): their gradients are summed, each
    update is given equal copies and must leave them equal. Of a sum each summand's gradient is
    compared, and the new sum, under the own leaf's name; its optimizer slots are left out.

    Raises: ValueError unless each own leaf has an entry, and each element of the reference is used.
    """
    if layout is None and own is None:
        return participant
    own = None if own is None else list(own)
    entries = layout if layout is not None else {name: name for name in own or ()}
    made = Layout(entries, participant.name, own, participant.frozen, layout is not None)
    changes: dict[str, Any] = {"layout": made}
    if layout is not None:
        changes |= {"own": {}, "frozen": made.reference_names(participant.frozen)}
    for name, function in _functions(participant, made).items():
        if getattr(participant, name) is not None or name == "run":
            changes[name] = function
    return replace(participant, **changes)


def _functions(given: Any, layout: Layout) -> dict[str, Callable]:
    """Return the participant's functions between the reference's leaves and its own."""

    def own_params(params):
        made = layout.bind(params).to_own(params)
        dtype = next(str(value.dtype) for value in params.values() if value.dtype.kind == "f")
        return {**cast(given.own, dtype), **made}

    def value_and_grad(params, batch):
        value, grads = given.value_and_grad(own_params(params), batch)
        return value, layout.bind(params).gradient(grads)

    def update(params, grads, state):
        bound = layout.bind(params)
        state = _in_slots(state, lambda slot: bound.to_own(slot, summed=False))
        new, new_state = given.update(own_params(params), bound.to_own(grads, summed=False), state)
        return bound.new_params(new, params), _in_slots(new_state, bound.from_own)

    def layers(params, batch, locks):
        run = given.layers(own_params(params), batch, locks)
        leaves = {path: layout.reference_names(names) for path, names in run.leaves.items()}
        return run._replace(grads=layout.bind(params).gradient(run.grads), leaves=leaves)

    return {
        "value_and_grad": value_and_grad,
        "forward": lambda params, batch: given.forward(own_params(params), batch),
        "narrowed": lambda params, batch: given.narrowed(own_params(params), batch),
        "buffers": lambda params, batch: layout.bind(params).from_own(
            given.buffers(own_params(params), batch)
        ),
        "init": lambda params: _in_slots(
            given.init(own_params(params)), layout.bind(params).from_own
        ),
        "update": update,
        # in its own leaves: copies may part, and sums are whole, so no state of it has a way back
        "run": lambda params, batch_at, count, keep: train(
            given, own_params(params), batch_at, count, () if layout.declared else keep
        ),
        "layers": layers,
    }


def _in_slots(state: Leaves, change: Callable[[Leaves], Leaves]) -> Leaves:
    """Return a flat optimizer state with `change` made to the leaves of each slot."""
    return _flatten({k: change(v) if isinstance(v, dict) else v for k, v in _nest(state).items()})


def used_leaves(entry: Expression, stars: tuple[str, ...]) -> list[str]:
    """Return the reference's leaves that an entry is made of."""
    return [fill(pattern, stars) for pattern in entry.names]
