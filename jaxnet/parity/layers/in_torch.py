"""The layers of a torch module, by hooks on its modules, and by `tap`."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch

from jaxnet.parity.layers.calls import Key, LayerRun, Locks, Taps
from jaxnet.parity.participants import map_leaves


def run(
    loss: Callable[[Any, Any], torch.Tensor],
    module: torch.nn.Module,
    batch: Any,
    locks: Locks | None = None,
) -> LayerRun:
    """Return every layer call of loss(module, batch).

    The module holds the parameters, the batch holds tensors. locks: None records values only; with
    {} or locks there are gradients too. What is recorded of a locked array is what came by itself.
    """
    taps = _Taps(locks or {})
    handles = _hook(module, taps)
    try:
        with taps.active():
            value = loss(module, batch)
    finally:
        for handle in handles:
            handle.remove()
    named = {name: p for name, p in module.named_parameters() if p.requires_grad}
    grads: dict[str, np.ndarray] = {}
    if locks is not None and value.requires_grad:
        taps.backward = True
        found = torch.autograd.grad(value, [*named.values(), taps.token], allow_unused=True)
        grads = {k: _array(g) for k, g in zip(named, found, strict=False) if g is not None}
    floats = {key: array for key, array in taps.values.items() if array.dtype.kind == "f"}
    cotangents = {key: np.zeros_like(array) for key, array in floats.items()} | taps.grads
    return LayerRun(_array(value), grads, taps.times, taps.values, cotangents, _leaves(module))


class _Taps(Taps):
    """Records values as they pass, and their gradients on the way back."""

    def __init__(self, locks: Locks):
        super().__init__(self._record, _is_array)
        self.values: dict[Key, np.ndarray] = {}
        self.grads: dict[Key, np.ndarray] = {}
        self.backward = False  # until the loss is known: a gradient inside it is passed through
        self.token = torch.zeros((), requires_grad=True)  # so that data have gradients too
        self._locks = locks

    def _record(self, key: Key, x: Any) -> torch.Tensor:
        with torch._C.DisableTorchFunction():  # these calls are not the program's
            self.values[key] = _array(x)
            value, grad = self._locks.get(key, (None, None))
            value = x if value is None else torch.tensor(value, dtype=x.dtype)
            if not x.is_floating_point():
                return value
            x.locked = _Lock.apply(x, self.token, value, grad, self, key)
            return x.locked


class _Lock(torch.autograd.Function):
    """Returns `value`; gives x the gradient `grad`, or what arrives, which is recorded."""

    @staticmethod
    def forward(ctx: Any, x: Any, token: Any, value: Any, grad: Any, taps: _Taps, key: Key) -> Any:
        ctx.rest = grad, taps, key
        return value.clone()  # what is done in place later must not change another's value

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Any) -> Any:
        (arrived,), (grad, taps, key) = grad_outputs, ctx.rest
        if taps.backward:
            taps.grads[key] = _array(arrived)
            arrived = arrived if grad is None else torch.tensor(grad, dtype=arrived.dtype)
        return arrived, None, None, None, None, None


def _is_array(value: Any) -> bool:
    return isinstance(value, torch.Tensor) and (
        value.is_floating_point() or value.dtype in (torch.int32, torch.int64)
    )


def _array(tensor: torch.Tensor) -> np.ndarray:
    known = tensor.float() if tensor.dtype == torch.bfloat16 else tensor
    return known.detach().numpy().copy()


def _hook(module: torch.nn.Module, taps: Taps) -> list[Any]:
    """Let the calls of all its modules go through the taps; return the handles."""
    begun: list[tuple[str, int]] = []
    handles = []
    for path, part in module.named_modules():

        def before(_, args, kwargs, path=path):
            name, start, arguments = taps.enter(path, (args, kwargs))
            begun.append((name, start))
            return arguments

        def after(_, args, kwargs, results):
            return taps.leave(*begun.pop(), results)

        handles.append(part.register_forward_pre_hook(before, with_kwargs=True))
        handles.append(part.register_forward_hook(after, with_kwargs=True))
    return handles


def _leaves(module: torch.nn.Module) -> dict[str, frozenset[str]]:
    def tensors(part):
        return [*part.named_parameters(), *part.named_buffers()]

    names = {id(tensor): name for name, tensor in tensors(module)}
    return {
        path: frozenset(names[id(tensor)] for _, tensor in tensors(part))
        for path, part in module.named_modules()
    }


def arrays_of(results: Any) -> list[torch.Tensor]:
    """Return the tensors of a layer's results in the order of its keys."""
    found: dict[int, torch.Tensor] = {}
    map_leaves(
        lambda value: found.setdefault(id(value), value) if _is_array(value) else value, results
    )
    return list(found.values())
