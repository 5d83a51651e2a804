"""The layer of a difference: each layer of the candidate alone, on the reference's own values."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping

import numpy as np

from jaxnet.parity.layers.calls import INPUTS, OUTPUTS, Key, LayerRun, Locks
from jaxnet.parity.layers.located import OUTSIDE, Fault, Located, Mark, surroundings
from jaxnet.parity.layers.pairs import Pairs, pair, path_of

RELATIVE = 1e-9  # float64: what a locked array may differ by, as a share of its largest
CANCELLED = 1e-14  # and of the largest in its call, of all gradients: terms may have cancelled
NOISE = 10.0  # and as a multiple of what the reference's noise moved it
SINGLE = 5e-7  # relative: below it a difference may come from a library that computes in float32
FORWARD, BACKWARD = "forward", "backward"
SIDES = INPUTS, OUTPUTS


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
    noise: the reference on parameters moved by their rounding, or in the candidate's precision.
    buffers: (wanted, got) of those that are off, if nothing else is.

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
        self.around = surroundings(own.times)
        self.floor = CANCELLED * _largest(
            [*reference.cotangents.values(), *reference.grads.values()]
        )
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
        input_off, output_off = (self.side_error(call, side, False) for side in SIDES)
        input_grad_off, output_grad_off = (self.side_error(call, side, True) for side in SIDES)
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
            text = f"{self.paired(call)} are equal, its output is {_off(output_off)}"
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
        add = backward and side == INPUTS  # a program may pass one array twice
        totals: dict[object, tuple[tuple[Key, ...], np.ndarray]] = {}
        for key in self.own.keys(call, side):
            link = self.pairs.links.get(key)
            if link is None or key not in own or (backward and link.reordered):
                continue
            keys = link.keys if add else link.keys[:1]
            got = link.to_reference(own[key], other[keys[0]].shape)
            group = frozenset(keys) if add else key
            totals[group] = keys, got + totals[group][1] if group in totals else got
        floor = self.floor
        if not backward:
            called = self.pairs.calls[call]
            floor = CANCELLED * _largest(v for key, v in other.items() if key[0] == called)
        errors = [0.0]
        for keys, got in totals.values():
            want, moved = (np.add.reduce([run[key] for key in keys]) for run in (other, noise))
            errors.append(self.error(got, want, moved, floor))
        return max(errors)

    def error(self, got: np.ndarray, want: np.ndarray, noise: np.ndarray, floor: float) -> float:
        """Return the largest distance as a share of the largest number, 0 within the limit."""
        apart, largest = _apart(got, want), _largest([want])
        if apart <= self.relative * largest + floor + NOISE * _apart(noise, want):
            return 0.0
        return apart / largest if largest else math.inf

    def leaf_faults(self) -> Iterator[Fault]:
        """Yield the parameters' gradients that are off, at the innermost layer that has them."""
        own, other, noise = self.own.grads, self.reference.grads, self.noise.grads
        for leaf in [leaf for leaf in other if leaf in own]:
            if error := self.error(own[leaf], other[leaf], noise[leaf], self.floor):
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
        """Return the code that takes a call's output: that around, or a layer without inputs."""
        calls = [name for name, outer in self.around.items() if outer == self.around[call]]
        after = [name for name in calls[calls.index(call) + 1 :] if name in self.pairs.calls]
        free = after and self.pairs.links.keys().isdisjoint(self.own.keys(after[0], INPUTS))
        return _shown(after[0]) if free else self.outer(call)

    def paired(self, call: str) -> str:
        """Return what was the reference's when a call was made: inputs, and the layers inside."""
        inputs = all(key in self.pairs.links for key in self.own.keys(call, INPUTS))
        inside = [name in self.pairs.calls for name in self.around if call in self.above(name)]
        layers = (
            "" if not any(inside) else " and its layers" if all(inside) else " and paired layers"
        )
        return f"its {'' if inputs else 'paired '}inputs{layers}"

    def mark(self, call: str, faults: list[Fault]) -> Mark:
        name, depth = _shown(call), len(list(self.above(call)))
        paired = call in self.pairs.calls
        other = _shown(self.pairs.calls[call]) if paired else ""
        found = sorted((f for f in faults if f.layer == name), key=_order)
        if found:
            return Mark(name, other, depth, f"x {found[0].direction}", found[0].text)
        return Mark(name, other, depth, "=" if paired else ".", "" if paired else "not paired")


def _order(fault: Fault) -> tuple[bool, float]:
    return fault.direction == BACKWARD, fault.time


def _largest(arrays: Iterable[np.ndarray]) -> float:
    sizes = [np.abs(array[np.isfinite(array)]).max(initial=0) for array in arrays]
    return float(max(sizes, default=0))


def _apart(a: np.ndarray, b: np.ndarray) -> float:
    """Return the largest distance; what is not finite and not the same is infinitely far."""
    with np.errstate(all="ignore"):
        apart = np.where((a == b) | (np.isnan(a) & np.isnan(b)), 0.0, np.abs(a - b))
    return float(np.nan_to_num(apart, nan=np.inf).max(initial=0))


def _off(error: float) -> str:
    if not math.isfinite(error):
        return "not the reference's 0"
    return f"{error:.1e} off" + (", as rounding to float32 is" if error < SINGLE else "")


def _shown(call: str) -> str:
    """Return a call's name for people: the path of the model itself is empty."""
    return call if path_of(call) else f"the model{call}"
