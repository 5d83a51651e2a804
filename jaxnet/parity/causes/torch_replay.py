"""Replay a torch reference with one known mistake: calls of torch functions are changed."""

from __future__ import annotations

import contextlib
import functools
import types
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from typing import Any

import torch
from torch.nn.modules.module import register_module_forward_hook
from torch.overrides import TorchFunctionMode

from jaxnet.parity.causes import (  # noqa: F401 they enter the catalogue
    torch_attention,
    torch_layers,
    torch_recurrent,
)
from jaxnet.parity.causes.torch_calls import TABLE, WHOLE, Call, Change, family

SINGLE = 8  # so many calls at most are also changed one at a time
CHECKS = ("has_torch_function", "has_torch_function_unary", "has_torch_function_variadic")
FUNCTIONAL = ("torch.functional", "torch.nn.functional")
ALIASES = {"bmm": "matmul", "mm": "matmul"}


def replays(run: Callable[[], Any]) -> Iterator[tuple[str, str, AbstractContextManager]]:
    """Yield (name, remedy, context) of each known mistake that fits the torch functions run calls.

    run: executes a piece of the reference forward, once. Inside the context the same piece makes
    the mistake; it may be executed there several times, by itself, and the context may be entered
    again. Backward may follow inside or outside. A function that is called several times is changed
    in all calls, in those with arguments of one shape, and if there are at most 8 in each alone.
    """
    record = _Mode()
    with _Replay(lambda: record):
        run()
    for name, (remedy, calls) in record.offered.items():
        for chosen in _choices([shape for _, shape in calls]):
            places = frozenset(calls[i][0] for i in chosen)
            text = name
            if len(chosen) < len(calls):
                text += f" (call {', '.join(str(i + 1) for i in chosen)} of {len(calls)})"
            yield text, remedy, _Replay(functools.partial(_Mode, name, places, record.seen))


def _choices(shapes: list[Any]) -> Iterator[list[int]]:
    """Yield which of some calls to change together: all, those of one shape, and single ones."""
    every = [*range(len(shapes))]
    yield every
    for shape in dict.fromkeys(map(str, shapes)):
        same = [i for i in every if str(shapes[i]) == shape]
        if 1 < len(same) < len(shapes):
            yield same
    if 1 < len(shapes) <= SINGLE:
        yield from ([i] for i in every)


class _Replay(AbstractContextManager):
    """A context in which torch's functions and modules report to a new mode."""

    def __init__(self, make_mode: Callable[[], _Mode]):
        self.make_mode = make_mode
        self.stack = contextlib.ExitStack()

    def __enter__(self):
        mode = self.stack.enter_context(self.make_mode())
        self.stack.callback(register_module_forward_hook(mode.module_called).remove)

    def __exit__(self, *error):
        self.stack.close()


class _Mode(TorchFunctionMode):
    """Make the change `name` in the calls at `places`; without a name, record what can be made.

    places: a function's name and which of its calls, of the `counts` in one run of the piece.
    """

    def __init__(self, name: str = "", places: frozenset = frozenset(), counts: Any = None):
        super().__init__()
        self.name, self.places, self.counts = name, places, counts
        self.seen: Counter[str] = Counter()
        self.offered: dict[str, tuple[str, list[tuple[tuple[str, int], Any]]]] = {}
        self.made: dict[int, Call] = {}
        self.attention: Any = None  # the result of the last attention inside multi-head attention
        self.inside = False

    def __torch_function__(self, func, types, args: Any = (), kwargs=None):
        kwargs, name = kwargs or {}, getattr(func, "__name__", "")
        if name == "multi_head_attention_forward":
            return self._multi_head(func, args, kwargs)
        if name not in WHOLE and _is_dispatched(func):
            with self:
                return _undispatched(func)(*args, **kwargs)
        in_place = name.endswith("_") and not name.endswith("__")
        base = name[:-1] if in_place else name
        base = ALIASES.get(base, base)
        if base not in TABLE or (self.inside and base != "scaled_dot_product_attention"):
            return func(*args, **kwargs)
        own = (args[0].clone(), *args[1:]) if in_place else args
        call = Call(base, func if own is args else None, own, kwargs, self.made)
        changed = self._visit(call)
        if changed is None:
            call.result = func(*args, **kwargs)
        else:
            call.result = args[0].copy_(changed) if in_place else changed
        self.made[id(call.result)] = call  # which keeps the result, so that the id stays its own
        if self.inside:
            self.attention = call.result
        return call.result

    def _visit(self, call: Call) -> Any:
        """Return the call's result with the change, or None for the original's."""
        n = self.seen[call.name]
        self.seen[call.name] += 1
        if not self.name:
            for name, remedy in _offers(call):
                place = (call.name, n), _shapes(call.args)
                self.offered.setdefault(name, (remedy, []))[1].append(place)
        elif (call.name, n % max(self.counts[call.name], 1)) in self.places:
            return next((make() for name, _, make in _changes(call) if name == self.name), None)
        return None

    def _multi_head(self, func, args, kwargs):
        """Run attention by `scaled_dot_product_attention`, in which its mistakes are made."""
        self.inside = True
        try:
            with self:
                out, _ = _undispatched(func)(*args, **kwargs | {"need_weights": False})
        finally:
            self.inside = False
        weights = getattr(self.attention, "weights", None)
        if not kwargs.get("need_weights", True):
            return out, None
        if weights is None:  # nothing was changed
            return out, func(*args, **kwargs)[1]
        weights = weights.mean(1) if kwargs.get("average_attn_weights", True) else weights
        return out, weights if args[0].ndim == 3 else weights.squeeze(0)

    def module_called(self, module, args, output):
        """Visit a module that is not one of torch's single layers, which are functions too."""
        single = type(module).__module__.startswith("torch.nn") and not [*module.children()]
        if single or not args or not isinstance(output, torch.Tensor):
            return None
        named = {"name": type(module).__name__, "output": output}
        return self._visit(Call("module", lambda *_, **__: output, args[:1], named, self.made))


@family("module")
def _left_out(call):
    yield f"{call['name']} left out", "apply it here", lambda: call.args[0]


def _changes(call: Call) -> Iterator[Change]:
    for changes in TABLE[call.name]:
        yield from changes(call)


@torch.no_grad()
def _offers(call: Call) -> list[tuple[str, str]]:
    """Return name and remedy of each change that a call allows: it runs, and keeps the shapes.

    A padding need not: a mean over the axes may hide it.
    """
    found, shapes = [], None
    with contextlib.suppress(Exception):  # a form of call that the catalogue does not know
        for name, remedy, make in _changes(call):
            if call.name == "batch_norm":  # each run changes its statistics; all are allowed
                found.append((name, remedy))
                continue
            shapes = _shapes(call.original()) if shapes is None else shapes
            with contextlib.suppress(Exception):
                if _shapes(make()) == shapes or "padding" in name:
                    found.append((name, remedy))
    return found


def _shapes(result: Any) -> Any:
    if isinstance(result, torch.Tensor):
        return result.shape
    return [_shapes(part) for part in result] if isinstance(result, (tuple, list)) else None


@functools.cache
def _is_dispatched(func: Callable) -> bool:
    """Return whether a function is Python that asks the mode before it calls other functions."""
    if not isinstance(func, types.FunctionType) or func.__module__ not in FUNCTIONAL:
        return False
    return bool({*CHECKS} & {*func.__code__.co_names})


@functools.cache
def _undispatched(func: types.FunctionType) -> Callable:
    """Return a copy of torch's Python function which does not ask, so that its calls are seen."""
    scope = func.__globals__ | dict.fromkeys(CHECKS, lambda *_: False)
    twin = types.FunctionType(func.__code__, scope, func.__name__, func.__defaults__)
    twin.__kwdefaults__ = func.__kwdefaults__
    return twin
