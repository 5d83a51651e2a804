"""The layer of a difference: each layer of the candidate alone, on the reference's own values."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np

from jaxnet.parity.layers import INPUTS, OUTPUTS, Key, LayerRun, Locks
from jaxnet.parity.pairs import Pairs, pair, path_of

RELATIVE = 1e-9  # float64: what a locked array may differ by, as a share of its largest
CANCELLED = 1e-14  # and as a share of the largest beside it, whose terms may have cancelled
NOISE = 10.0  # and as a multiple of what the reference's noise moved it
SINGLE = 5e-7  # relative: below it a difference may come from a library that computes in float32
FORWARD, BACKWARD, EQUAL, UNPAIRED = "forward", "backward", "=", "."
OUTSIDE = "the loss function"  # the code around all layers


class Fault(NamedTuple):
    """A difference that is not inherited. time: when it was met, on the way back below 0."""

    direction: str
    time: float
    layer: str
    error: float
    text: str


class Mark(NamedTuple):
    """A line of the tree of the candidate's layers. mark: "=", "x forward", "x backward" or "."."""

    layer: str
    reference: str
    depth: int
    mark: str
    text: str


@dataclass(frozen=True)
class Located:
    """Where two programs part. layer: "" if every layer is equal; direction: forward or backward.

    text: what is equal there and what is not. marks: all layers of the candidate, in the order in
    which they begin. notes: what was not paired, and why. path: of the reference's layer, None if
    there is none. code: the path of the reference's module whose code can be compared: the same, or
    the one around a layer whose outputs have other shapes. compared: (wanted, got) as in `inside`.
    locked: the reference's arrays whose values the candidate's layers were given. leaves: of the
    reference's modules.
    """

    layer: str
    reference: str
    direction: str
    text: str
    marks: list[Mark]
    notes: list[str]
    path: str | None = None
    code: str | None = None
    compared: dict[tuple, tuple[np.ndarray, np.ndarray]] = field(default_factory=dict)
    locked: frozenset[Key] = frozenset()
    leaves: dict[str, frozenset[str]] = field(default_factory=dict)

    def inside(self) -> dict[tuple, tuple[np.ndarray, np.ndarray]]:
        """Return (wanted, got) of all that the layer's code makes, named as `LayerRun.arrays`."""
        if self.code is None:
            return self.compared
        own, outside = self.leaves.get(self.code, frozenset()), set[str]()
        for path, leaves in self.leaves.items():
            if not _is_below(path, self.code) and not _is_below(self.code, path):
                outside |= leaves

        def made(kind, name, side="", *_):
            if kind in ("loss", "grads", "buffers"):
                return name in own - outside
            given = INPUTS if kind == "values" else OUTPUTS
            path = path_of(name)
            return _is_below(path, self.code) and (path != self.code or side != given)

        return {key: pair for key, pair in self.compared.items() if made(*key)}

    def essential(self) -> dict[tuple, tuple[np.ndarray, np.ndarray]]:
        """Return what of `inside` no other fault can have moved: forward, no gradient of leaves."""

        def kept(kind, name="", side="", *_):
            given = self.code is None and path_of(name) == "" and side == OUTPUTS
            return kind in ("values", "loss", "buffers") or (kind == "cotangents" and given)

        found = self.inside() if self.direction == FORWARD else {}
        return {key: pair for key, pair in found.items() if kept(*key)}

    def headline(self) -> str:
        """The layer, and what is wrong there, on one line."""
        if not self.marks:
            return 'layer: unknown: name the layers of a function by h = parity.tap("name", h)'
        renamed = self.reference not in ("", self.layer)
        other = f" ({self.reference} in the reference)" if renamed else ""
        where = f"{self.layer}{other}, {self.direction}: " if self.layer else ""
        return f"layer: {where}{self.text}"

    def tree(self) -> list[str]:
        """Every layer on a line of its own, with a mark; then what was not paired."""
        if not self.marks:
            return []
        lines = [f"  {m.mark:10}  {'  ' * m.depth}{m.layer}  {m.text}" for m in self.marks]
        return ["layers, each on the reference's inputs:", *map(str.rstrip, lines), *self.notes]

    def to_dict(self) -> dict[str, Any]:
        """The same as plain data."""
        plain = ("layer", "reference", "direction", "text", "notes")
        return {n: getattr(self, n) for n in plain} | {"marks": [m._asdict() for m in self.marks]}


def locate(
    reference: LayerRun,
    run: Callable[[Locks | None], LayerRun],
    *,
    layers: Mapping[str, str] | None = None,
    noise: LayerRun | None = None,
    relative: float = RELATIVE,
    buffers: Mapping[str, tuple[np.ndarray, np.ndarray]] | None = None,
) -> Located:
    """Return the layer in which a candidate parts from a reference.

    run(locks) -> the candidate's run, with leaves and their gradients named as the reference's: it
    is called with None, to pair the layers, then with locks. layers: names that are paired first.
    noise: the reference on parameters moved by their rounding, or in another precision. buffers:
    (wanted, got) of those that are off, if nothing else is.

    It tells where, never whether: two layers that are paired wrongly only look different.
    """
    pairs = pair(reference, run(None), layers)
    own = run(pairs.locks(reference))
    return _Judge(reference, own, pairs, noise or reference, relative, buffers or {}).found()


class _Judge:
    """Judges the locked run of a candidate."""

    def __init__(
        self,
        reference: LayerRun,
        own: LayerRun,
        pairs: Pairs,
        noise: LayerRun,
        relative: float,
        buffers: Mapping[str, tuple[np.ndarray, np.ndarray]],
    ):
        self.reference, self.own, self.pairs = reference, own, pairs
        self.noise, self.relative, self.buffers = noise, relative, buffers
        self.around = _around(own.times)
        self.drop_unused()

    def drop_unused(self):
        """Forget gradients that are 0 and come before all that is trained: nothing needs them."""
        owners = [owner for leaf in self.reference.grads for owner in self.owners(leaf) or [""]]
        trained = min((self.own.times.get(name, (0, 0))[0] for name in owners), default=0)
        at = {INPUTS: 0, OUTPUTS: 1}
        needed = {
            key: grad
            for key, grad in self.own.cotangents.items()
            if grad.any() or self.own.times[key[0]][at[key[1]]] >= trained
        }
        self.own = self.own._replace(cotangents=needed)

    def found(self) -> Located:
        faults = [fault for name in self.pairs.calls for fault in self.call_faults(name)]
        faults += [*self.leaf_faults(), *self.loss_faults(), *self.buffer_faults()]
        marks = [self.mark(name, faults) for name in self.around]
        rest = marks, self.pairs.notes
        if not faults:
            return Located("", "", "", "every layer is equal on the reference's values", *rest)
        worst: dict[str, float] = {}
        for fault in faults:
            worst[fault.layer] = max(fault.error, worst.get(fault.layer, 0.0))
        first = min(faults, key=lambda f: (worst[f.layer] < SINGLE, *_order(f)))
        names = {_shown(own): other for own, other in self.pairs.calls.items()}
        unlike = {_shown(own): own for own in self.pairs.unlike}
        call = code = names.get(first.layer)
        if first.layer in unlike:
            own = unlike[first.layer]
            call, code = self.pairs.unlike[own], names.get(self.outer(own))
        own = next((own for own in self.pairs.calls if _shown(own) == first.layer), "")
        if own and first.direction == BACKWARD and path_of(own) not in self.own.leaves:
            code = names.get(self.outer(own))  # a tap has no inputs, whose gradients would differ
        return Located(
            first.layer,
            "" if call is None else _shown(call),
            first.direction,
            first.text,
            *rest,
            None if call is None else path_of(call),
            None if code is None else path_of(code),
            self.compared(),
            frozenset(x.keys[0] for x in self.pairs.links.values() if not x.reordered),
            self.reference.leaves,
        )

    def compared(self) -> dict[tuple, tuple[np.ndarray, np.ndarray]]:
        """Return (wanted, got) of every array, by the reference's names: see `LayerRun.arrays`."""
        found: dict[tuple, tuple[np.ndarray, np.ndarray]] = {}
        own, other = self.own.arrays(), self.reference.arrays()
        for key, link in self.pairs.links.items():
            for kind in ("values", "cotangents"):
                wanted = other.get((kind, *link.keys[0]))
                alone = not link.reordered and (kind == "values" or len(link.keys) == 1)
                if wanted is not None and alone and (kind, *key) in own:
                    got = link.to_reference(own[kind, *key], wanted.shape, plain=True)
                    found[kind, *link.keys[0]] = wanted, got
        rest = [key for key in other if key[0] in ("loss", "grads") and key in own]
        found |= {("buffers", name): pair for name, pair in self.buffers.items()}
        return found | {key: (other[key], own[key]) for key in rest}

    def call_faults(self, call: str) -> Iterator[Fault]:
        name, outer = _shown(call), self.outer(call)
        start, stop = self.own.times[call]
        errors = [
            self.side_error(call, s, back) for back in (False, True) for s in (INPUTS, OUTPUTS)
        ]
        input_off, output_off, input_grad_off, output_grad_off = errors
        if input_off:
            text = f"what comes before {name}: its input is {_off(input_off)}"
            yield self.moved(Fault(FORWARD, start, outer, input_off, text))
        if output_off and self.is_moved(call, INPUTS):
            text = f"the input of {name} has the reference's numbers in another order"
            yield self.moved(Fault(FORWARD, stop, outer, output_off, text))
        elif output_off and (shapes := self.unlike(call, self.pairs.calls[call], INPUTS)):
            text = f"what comes before {name}: its input has the shape {shapes}"
            yield self.moved(Fault(FORWARD, start, outer, output_off, text))
        elif output_off:
            text = f"its inputs{self.contents(call)} are equal, its output is {_off(output_off)}"
            yield self.moved(Fault(FORWARD, stop, name, output_off, text))
        if output_grad_off:
            text = f"the gradient of the output of {name} is {_off(output_grad_off)}"
            yield Fault(BACKWARD, -stop, self.user(call), output_grad_off, text)
        if input_grad_off:
            text = f"its output's gradient is equal, its input's is {_off(input_grad_off)}"
            yield Fault(BACKWARD, -start, name, input_grad_off, text)

    def side_error(self, call: str, side: str, backward: bool) -> float:
        """Return how far a call's inputs or outputs, or the gradients of them, are off."""
        own, other, noise = (
            run.cotangents if backward else run.values
            for run in (self.own, self.reference, self.noise)
        )
        floor = CANCELLED * _largest(v for k, v in other.items() if k[0] == self.pairs.calls[call])
        errors = [0.0]
        for keys, members in self.groups(call, side, backward):
            want, moved = (np.add.reduce([run[key] for key in keys]) for run in (other, noise))
            links = {key: self.pairs.links[key] for key in members}
            got = [link.to_reference(own[key], want.shape) for key, link in links.items()]
            errors.append(self.error(np.add.reduce(got), want, moved, floor))
        return max(errors)

    def groups(
        self, call: str, side: str, backward: bool
    ) -> Iterator[tuple[tuple[Key, ...], list[Key]]]:
        """Yield the reference's arrays and the own ones whose sums must be equal.

        The gradients of inputs that are equal are added: a program may pass one array twice.
        """
        shared: dict[tuple[Key, ...], list[Key]] = {}
        for key in self.own.keys(call, side):
            link = self.pairs.links.get(key)
            unknown = backward and (key not in self.own.cotangents or (link and link.reordered))
            if link is None or unknown:
                continue
            keys = link.keys
            if backward and side == INPUTS:
                shared.setdefault(tuple(sorted(keys)), []).append(key)
            else:
                yield keys[:1], [key]
        yield from shared.items()

    def error(self, got: np.ndarray, want: np.ndarray, noise: np.ndarray, floor: float) -> float:
        """Return the largest distance as a share of the largest number, 0 within the limit."""
        with np.errstate(invalid="ignore", over="ignore"):
            same = (got == want) | (np.isnan(got) & np.isnan(want))
            apart = np.abs(np.nan_to_num(np.where(same, 0.0, got - want), nan=np.inf)).max(
                initial=0
            )
            moved = np.where(noise == want, 0.0, noise - want)
        largest = _largest([want])
        if apart <= self.relative * largest + floor + NOISE * _largest([moved]):
            return 0.0
        return float(apart / largest) if largest else math.inf

    def leaf_faults(self) -> Iterator[Fault]:
        """Yield the parameters' gradients that are off, at the innermost layer that has them."""
        own, other, noise = self.own.grads, self.reference.grads, self.noise.grads
        floor = CANCELLED * _largest(other.values())
        for leaf in [leaf for leaf in other if leaf in own]:
            if error := self.error(own[leaf], other[leaf], noise[leaf], floor):
                owners = self.owners(leaf)
                time = -max((self.own.times[name][0] for name in owners), default=0)
                layer = " or ".join(map(_shown, owners)) or OUTSIDE
                text = f"its output's gradient is equal, that of {leaf} is {_off(error)}"
                yield Fault(BACKWARD, time, layer, error, text)

    def loss_faults(self) -> Iterator[Fault]:
        if error := self.error(self.own.loss, self.reference.loss, self.noise.loss, 0.0):
            text = f"every layer's output is equal, the loss is {_off(error)}"
            yield self.moved(Fault(FORWARD, math.inf, OUTSIDE, error, text))

    def buffer_faults(self) -> Iterator[Fault]:
        for leaf, (want, got) in self.buffers.items():
            owners = self.owners(leaf)
            error = self.error(got, want, want, 0.0)
            time = min((self.own.times[name][1] for name in owners), default=0)
            text = f"its inputs and outputs are equal, the new {leaf} is {_off(error)}"
            yield Fault(FORWARD, time, " or ".join(map(_shown, owners)) or OUTSIDE, error, text)

    def owners(self, leaf: str) -> list[str]:
        """Return the innermost paired layers that hold a leaf."""
        holding = [n for n in self.pairs.calls if leaf in self.own.leaves.get(path_of(n), ())]
        outer = {path_of(above) for name in holding for above in self.above(name)}
        return [name for name in holding if path_of(name) not in outer and path_of(name) == name]

    def is_moved(self, call: str, side: str) -> bool:
        links = [self.pairs.links.get(key) for key in self.own.keys(call, side)]
        return any(link.reordered for link in links if link)

    def moved(self, fault: Fault) -> Fault:
        """Blame instead the layer inside whose output is in another order, if there is one."""
        for name in self.pairs.calls:
            if self.outer(name) == fault.layer and self.is_moved(name, OUTPUTS):
                text = "its output has the reference's numbers in another order"
                return self.moved(fault._replace(layer=_shown(name), text=text))
        for name, other in self.pairs.unlike.items():
            before = self.own.times[name][1] <= fault.time
            shapes = self.unlike(name, other, OUTPUTS)
            if shapes and before and self.outer(name) == fault.layer:
                text = f"its output has the shape {shapes}"
                return fault._replace(layer=_shown(name), text=text)
        return fault

    def unlike(self, call: str, other: str, side: str) -> str:
        """Return the first two shapes that do not fit each other, as text."""
        linked = {link.keys[0] for link in self.pairs.links.values()}
        own = [key for key in self.own.keys(call, side) if key not in self.pairs.links]
        others = [key for key in self.reference.keys(other, side) if key not in linked]
        if not own or not others:
            return ""
        return f"{self.own.values[own[0]].shape}, not {self.reference.values[others[0]].shape}"

    def above(self, call: str) -> Iterator[str]:
        """Yield the calls around a call, the nearest first."""
        while (outer := self.around[call]) is not None:
            yield outer
            call = outer

    def outer(self, call: str) -> str:
        """Return the code around a call, for people."""
        return next((_shown(above) for above in self.above(call)), OUTSIDE)

    def user(self, call: str) -> str:
        """Return the code that takes a call's output: that before the next tap, or that around."""
        calls = [name for name, outer in self.around.items() if outer == self.around[call]]
        after = calls[calls.index(call) + 1 :]
        if after and path_of(after[0]) not in self.own.leaves:
            return _shown(after[0])
        return self.outer(call)

    def contents(self, call: str) -> str:
        inside = [name in self.pairs.calls for name in self.around if call in self.above(name)]
        return "" if not any(inside) else " and its layers" if all(inside) else " and paired layers"

    def mark(self, call: str, faults: list[Fault]) -> Mark:
        name, depth = _shown(call), len(list(self.above(call)))
        if call not in self.pairs.calls:
            return Mark(name, "", depth, UNPAIRED, "not paired")
        other = _shown(self.pairs.calls[call])
        found = sorted((f for f in faults if f.layer == name), key=_order)
        if not found:
            return Mark(name, other, depth, EQUAL, "")
        return Mark(name, other, depth, f"x {found[0].direction}", found[0].text)


def _order(fault: Fault) -> tuple[bool, float]:
    return fault.direction == BACKWARD, fault.time


def _around(times: Mapping[str, tuple[int, int]]) -> dict[str, str | None]:
    """Return the call around each call, None outside of all; in the order in which they begin."""
    around: dict[str, str | None] = {}
    stack: list[str] = []
    for name, (start, _) in sorted(times.items(), key=lambda item: item[1]):
        while stack and times[stack[-1]][1] < start:
            stack.pop()
        around[name] = stack[-1] if stack else None
        stack.append(name)
    return around


def _largest(arrays: Iterable[np.ndarray]) -> float:
    sizes = [np.abs(array[np.isfinite(array)]).max(initial=0) for array in arrays]
    return float(max(sizes, default=0))


def _off(error: float) -> str:
    if not math.isfinite(error):
        return "not the reference's 0"
    return f"{error:.1e} off" + (", as rounding to float32 is" if error < SINGLE else "")


def _is_below(path: str, above: str) -> bool:
    return not above or path == above or path.startswith(f"{above}.")


def _shown(call: str) -> str:
    """Return a call's name for people: the path of the model itself is empty."""
    return call if path_of(call) else f"the model{call}"
