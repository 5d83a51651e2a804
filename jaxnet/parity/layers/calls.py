"""What goes into the layers of a program in one run, what comes out, and the gradients of both."""

from __future__ import annotations

import contextlib
import copy
import itertools
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

import numpy as np

from jaxnet.parity.participants import Leaves

INPUTS, OUTPUTS = "inputs", "outputs"
Key = tuple[str, str, int]  # a call, INPUTS or OUTPUTS, the position among its arrays
# the value that an array is replaced by, and the gradient that it passes back (None: its own)
Locks = Mapping[Key, tuple[np.ndarray, np.ndarray | None]]


class LayerRun(NamedTuple):
    """One evaluation of a loss and its gradient, as plain arrays.

    grads: by leaf. times: when each call began and ended, in order of completion; a call's name is
    the layer's path, and from its second call on "path#2". values: the floats and integers among
    the arguments and the results of each call, in order, each object once. cotangents: of floats,
    the loss's gradient: the whole of an output, and the part through this call alone of an input.
    leaves: the leaves at and below each module, by path.
    """

    loss: np.ndarray
    grads: Leaves
    times: dict[str, tuple[int, int]]
    values: dict[Key, np.ndarray]
    cotangents: dict[Key, np.ndarray]
    leaves: dict[str, frozenset[str]]

    def arrays(self) -> dict[tuple, np.ndarray]:
        """Return all arrays by ("loss", ""), ("grads", leaf), ("values", *key) and so on."""
        found = {("values", *key): value for key, value in self.values.items()}
        found |= {("cotangents", *key): value for key, value in self.cotangents.items()}
        return found | {("grads", k): v for k, v in self.grads.items()} | {("loss", ""): self.loss}

    def keys(self, call: str, side: str) -> list[Key]:
        """Return the keys of a call's inputs or outputs."""
        keys = ((call, side, i) for i in itertools.count())
        return list(itertools.takewhile(self.values.__contains__, keys))


class Taps:
    """What listens in one run: it names the calls and hands each of their arrays to `touch`.

    touch(key, array) -> the array that goes on. is_array: which leaves of arguments are touched.
    """

    def __init__(self, touch: Callable[[Key, Any], Any], is_array: Callable[[Any], bool]):
        self._touch, self._is_array = touch, is_array
        self._counts: Counter[str] = Counter()
        self._ticks = itertools.count()
        self.times: dict[str, tuple[int, int]] = {}

    def live(self) -> bool:
        """Whether values at this place of the program can be recorded."""
        return True

    def call(self, path: str, function: Callable, args: Any, kwargs: Any) -> Any:
        """Call a layer's function, and return its results."""
        name, start, (args, kwargs) = self.enter(path, (args, kwargs))
        return self.leave(name, start, function(*args, **kwargs))

    def enter(self, path: str, arguments: Any) -> tuple[str, int, Any]:
        """Begin a call; return its name, its time and the arguments that it is given."""
        self._counts[path] += 1
        count = self._counts[path]
        name = path if count == 1 else f"{path}#{count}"
        return name, next(self._ticks), self._substitute(name, INPUTS, arguments)

    def leave(self, name: str, start: int, results: Any) -> Any:
        """End a call; return the results that go on."""
        results = self._substitute(name, OUTPUTS, results)
        self.times[name] = start, next(self._ticks)
        return results

    def _substitute(self, name: str, side: str, tree: Any) -> Any:
        seen: dict[int, Any] = {}

        def leaf(value: Any) -> Any:
            if not self._is_array(value):
                return value
            if id(value) not in seen:
                seen[id(value)] = self._touch((name, side, len(seen)), value)
            return seen[id(value)]

        return _map(leaf, tree)

    @contextlib.contextmanager
    def active(self) -> Iterator[None]:
        """Make `tap` report to this object."""
        _active.append(self)
        try:
            yield
        finally:
            _active.pop()


_active: list[Taps] = []


def tap(name: str, value: Any) -> Any:
    """Return `value`, and show it to a comparison as the output of the layer `name`.

    For programs without modules, in JAX or torch: `h = parity.tap("block1", h)`. It does nothing
    but while the layer of a difference is looked for, and nothing under jit, vmap or scan.
    """
    if not _active or not _active[-1].live():
        return value
    return _active[-1].call(name, lambda: value, (), {})


def _map(function: Callable[[Any], Any], tree: Any) -> Any:
    """Return nested dictionaries, tuples and lists, of their own types, with changed leaves."""
    if isinstance(tree, tuple) and hasattr(tree, "_fields"):
        return type(tree)(*(_map(function, value) for value in tree))
    if type(tree) in (tuple, list):
        return type(tree)(_map(function, value) for value in tree)
    if isinstance(tree, dict):
        changed = copy.copy(tree)  # it may be a class of its own, as a model's output
        for key, value in tree.items():
            changed[key] = _map(function, value)
        return changed
    return function(tree)
