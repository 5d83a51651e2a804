"""A torch participant with one known mistake, in a layer or in its optimizer."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Any

import numpy as np
import torch

from jaxnet.parity.adapters import torch_optimizer
from jaxnet.parity.adapters.torch_module import arrays, tensors
from jaxnet.parity.adapters.torch_optimizer import make_update
from jaxnet.parity.causes.torch_replay import replays
from jaxnet.parity.causes.torch_training import training_changes
from jaxnet.parity.layers import in_torch
from jaxnet.parity.layers.calls import INPUTS, OUTPUTS, Key, LayerRun, Locks
from jaxnet.parity.participants import Leaves

MOST_SWAPS = 40  # pairs of leaves, those of one layer first
Replay = tuple[str, str, dict[tuple, np.ndarray]]  # the mistake, its remedy, and what it gives


def replay_layer(
    loaded: Callable[[Leaves], Any],
    loss: Callable[[Any, Any], torch.Tensor],
    params: Leaves,
    batch: Any,
    layer: str | None,
    locked: Iterable[Key],
) -> Iterator[Replay]:
    """Yield the runs of one module with each known mistake, its layers locked to the right values.

    layer: the module's path ("" for the whole model), or None for the loss with the model in it.
    locked: what is locked. The arrays are named as `LayerRun.arrays`, buffers beside them; calls
    and leaves have the names that they have in the whole model.
    """
    with loaded(params) as twin:
        buffers = arrays(twin.named_buffers())

        def run(*given: Any) -> dict[tuple, np.ndarray]:
            _set_buffers(twin, buffers)
            return _arrays(_renamed(in_torch.run(*given), layer or ""), twin)

        base = in_torch.run(loss, twin, tensors(batch), {})
        locks = {key: (base.values[key], base.cotangents.get(key)) for key in locked}
        locks = {k: (v, None if k[1] == INPUTS else g) for k, (v, g) in locks.items()}
        pieces: tuple[Any, ...] = loss, twin, tensors(batch), locks
        if layer is not None:
            pieces = _pieces(loss, twin, tensors(batch), base, locks, layer)
        yield from _replayed(lambda: run(*pieces))
        yield from _swapped(lambda: run(*pieces), twin, buffers, layer or "")


def _pieces(loss, twin, batch, base: LayerRun, locks: Locks, layer: str) -> tuple[Any, ...]:
    """Return what `in_torch.run` takes to run one module by itself."""
    piece = twin.get_submodule(layer)
    given = _arguments(loss, twin, piece, batch)
    calls = [layer if i == 0 else f"{layer}#{i + 1}" for i in range(len(given))]
    wanted = [[base.cotangents.get(k) for k in base.keys(call, OUTPUTS)] for call in calls]
    inner = {
        (_relative(key[0], layer), *key[1:]): lock
        for key, lock in locks.items()
        if not layer or key[0] == layer or key[0].startswith((f"{layer}.", f"{layer}#"))
    }
    return _Projection(wanted), piece, given, inner


def _replayed(run: Callable[[], dict[tuple, np.ndarray]]) -> Iterator[Replay]:
    for name, remedy, mistake in replays(run):
        try:
            with mistake:
                found = run()
        except Exception:  # the mistake cannot be made here: shapes do not fit, say
            continue
        yield name, remedy, found


def _set_buffers(twin: torch.nn.Module, values: Leaves) -> None:
    with torch._C.DisableTorchFunction(), torch.no_grad():
        for name, buffer in twin.named_buffers():
            buffer.copy_(torch.as_tensor(values[name]))


def _arrays(run: LayerRun, twin: torch.nn.Module) -> dict[tuple, np.ndarray]:
    with torch._C.DisableTorchFunction():
        new = arrays(twin.named_buffers())
    return run.arrays() | {("buffers", name): value for name, value in new.items()}


def _swapped(
    run: Callable[[], dict[tuple, np.ndarray]],
    twin: torch.nn.Module,
    buffers: Leaves,
    layer: str,
) -> Iterator[Replay]:
    """Yield the runs in which a leaf of the layer and another of its shape are swapped.

    buffers: what `run` sets them to.
    """
    parameters = dict(twin.named_parameters())

    def swap(a: str, b: str):
        if a in buffers:
            buffers[a], buffers[b] = buffers[b], buffers[a]
        else:
            one, other = parameters[a], parameters[b]
            one.data, other.data = other.data, one.data

    for a, b in _alike(parameters, buffers, layer):
        swap(a, b)
        found, other = run(), {a: b, b: a}
        swap(a, b)
        named = {
            (kind, other.get(name, name), *rest)
            if kind in ("grads", "buffers")
            else (kind, name, *rest): v
            for (kind, name, *rest), v in found.items()
        }
        yield f"{a} and {b} swapped", "compare the names in `layout`", named


def _alike(parameters: dict[str, Any], buffers: Leaves, layer: str) -> list[tuple[str, ...]]:
    """Return pairs of leaves of one shape, one of them in the layer; those of one module first."""
    shapes = {name: tuple(p.shape) for name, p in parameters.items()}
    shapes |= {name: b.shape for name, b in buffers.items() if b.dtype.kind == "f"}
    own = [name for name in shapes if not layer or name.startswith(f"{layer}.")]
    pairs = {
        tuple(sorted((a, b)))
        for a in own
        for b in shapes
        if a != b and shapes[a] == shapes[b] and (a in buffers) == (b in buffers)
    }

    def apart(pair: tuple[str, ...]) -> tuple[bool, tuple[str, ...]]:
        return len({name.rpartition(".")[0] for name in pair}) > 1, pair

    return sorted(pairs, key=apart)[:MOST_SWAPS]


class _Projection:
    """The sum of a layer's outputs, each times the gradient that it gets in the whole model."""

    def __init__(self, wanted: list[list[Any]]):
        self.wanted = wanted  # by call

    def __call__(self, module: torch.nn.Module, given: Any) -> torch.Tensor:
        terms = [torch.zeros(())]
        for (args, kwargs), wanted in zip(given, self.wanted, strict=True):
            outputs = in_torch.arrays_of(module(*args, **kwargs))
            with torch._C.DisableTorchFunction():  # these calls are not the program's
                terms += [
                    (output * torch.as_tensor(grad)).sum()
                    for output, grad in zip(outputs, wanted, strict=False)
                    if grad is not None and output.is_floating_point()
                ]
        with torch._C.DisableTorchFunction():
            return torch.stack(terms).sum()


def _arguments(loss: Callable, twin: torch.nn.Module, piece: torch.nn.Module, batch: Any) -> Any:
    """Return the arguments of each call of a module."""
    seen: list[Any] = []
    handle = piece.register_forward_pre_hook(
        lambda module, args, kwargs: seen.append((args, kwargs)), with_kwargs=True
    )
    try:
        with torch.no_grad():
            loss(twin, batch)
    finally:
        handle.remove()
    return seen


def _relative(call: str, layer: str) -> str:
    return call if not layer else call.removeprefix(layer).removeprefix(".")


def _renamed(run: LayerRun, layer: str) -> LayerRun:
    """Return a run of one module with the names of the whole model."""

    def full(name: str) -> str:
        return layer + name if name.startswith("#") else ".".join(filter(None, (layer, name)))

    def moved(arrays: dict) -> dict:
        return {(full(key[0]), *key[1:]): value for key, value in arrays.items()}

    grads = {full(name): grad for name, grad in run.grads.items()}
    return run._replace(grads=grads, values=moved(run.values), cotangents=moved(run.cotangents))


def replay_update(
    training: torch_optimizer.Training, loaded: Callable[[Leaves], Any]
) -> Iterator[tuple[str, str, Callable]]:
    """Yield (name, remedy, update) of the optimizer with each known mistake."""
    made = training.make(torch.nn.Linear(2, 2))
    optimizer, clip, scheduler, _ = training
    for name, remedy, changes in training_changes(made, optimizer, clip, scheduler):
        changed: Any = training._asdict() | changes
        yield name, remedy, make_update(torch_optimizer.Training(**changed), loaded)
