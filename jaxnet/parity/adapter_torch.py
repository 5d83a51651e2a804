"""A torch module as a participant's functions: parameters and state are set before each call."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import torch

from jaxnet.parity.participants import SLOTS, Leaves, check_leaves, map_leaves

DTYPES = {"float32": torch.float32, "float64": torch.float64}


def make(
    module: torch.nn.Module,
    loss: Callable[[Any, Any], torch.Tensor],
    optimizer: Callable[[Any], torch.optim.Optimizer] | None,
    forward: Callable[[Any, Any], torch.Tensor] | None,
) -> dict[str, Any]:
    """Return the participant's functions for a module, which is copied once for each dtype.

    Raises: ValueError for a module that holds an active Dropout.
    """
    _check_dropout(module)
    loaded = _loader(module)

    def value_and_grad(params, batch):
        twin = loaded(params)
        value = loss(twin, _tensors(batch))
        grads = {name: g.numpy().copy() for name, g in _gradients(twin, value).items()}
        return value.detach().numpy(), grads

    functions: dict[str, Any] = {"value_and_grad": value_and_grad}
    if forward is not None:

        def run_forward(params, batch):
            with torch.no_grad():
                return forward(loaded(params), _tensors(batch)).numpy().copy()

        functions["forward"] = run_forward
    if optimizer is not None:
        functions |= _optimizer_functions(loss, optimizer, loaded)
    return functions


def _loader(module: torch.nn.Module) -> Callable[[Leaves], torch.nn.Module]:
    """Return a function to the module's copy in the dtype of some values, holding them."""
    copies = {
        name: copy.deepcopy(module).to(dtype).requires_grad_(True) for name, dtype in DTYPES.items()
    }

    def loaded(params: Leaves) -> torch.nn.Module:
        twin = copies[str(next(iter(params.values())).dtype)]
        own = dict(twin.named_parameters())
        check_leaves(params, {name: tuple(parameter.shape) for name, parameter in own.items()})
        with torch.no_grad():
            for name, parameter in own.items():
                parameter.copy_(_tensor(params[name]))
        return twin

    return loaded


def _check_dropout(module: torch.nn.Module) -> None:
    for name, part in module.named_modules():
        if isinstance(part, torch.nn.modules.dropout._DropoutNd) and part.training and part.p > 0:
            raise ValueError(
                f"`module` must not drop units at random: {name or 'it'} is an active "
                f"{type(part).__name__}; call module.eval() first"
            )


def _gradients(twin: torch.nn.Module, value: torch.Tensor) -> dict[str, torch.Tensor]:
    """Return the gradient of each parameter by name, 0 where it is not used."""
    named = dict(twin.named_parameters())
    grads = torch.autograd.grad(value, list(named.values()), materialize_grads=True)
    return dict(zip(named, grads, strict=True))


def _optimizer_functions(
    loss: Callable[[Any, Any], torch.Tensor],
    make_optimizer: Callable[[Any], torch.optim.Optimizer],
    loaded: Callable[[Leaves], torch.nn.Module],
) -> dict[str, Any]:
    def init(params):
        twin = loaded(params)
        optimizer = make_optimizer(twin.parameters())
        _make_state(twin, optimizer)
        state = {key: np.zeros_like(value.numpy()) for key, value in _slots(twin, optimizer)}
        return state | {"step": np.asarray(0)}

    def update(params, grads, state):
        twin = loaded(params)
        optimizer = make_optimizer(twin.parameters())
        count = int(state["step"])
        if count > 0:  # at the first step torch makes its own state, on which dampening depends
            _make_state(twin, optimizer)
            loaded(params)
            for key, value in _slots(twin, optimizer):
                if key in state:
                    value.copy_(_tensor(state[key]))
        _step(twin, optimizer, {name: _tensor(grad) for name, grad in grads.items()})
        new_state = {key: value.numpy().copy() for key, value in _slots(twin, optimizer)}
        new_state["step"] = np.asarray(count + 1)  # torch's SGD keeps none
        new_params = {name: p.detach().numpy().copy() for name, p in twin.named_parameters()}
        return new_params, new_state

    def run(params, batch_at, num_steps):
        twin = loaded(params)
        optimizer, losses = make_optimizer(twin.parameters()), []
        for i in range(num_steps):
            value = loss(twin, _tensors(batch_at(i)))
            _step(twin, optimizer, _gradients(twin, value))
            losses.append(value.item())
        return np.asarray(losses)

    return {"init": init, "update": update, "run": run}


def _step(
    twin: torch.nn.Module, optimizer: torch.optim.Optimizer, grads: dict[str, torch.Tensor]
) -> None:
    """Make one update with these gradients."""
    for name, parameter in twin.named_parameters():
        parameter.grad = grads[name]
    optimizer.step()


def _make_state(twin: torch.nn.Module, optimizer: torch.optim.Optimizer) -> None:
    """Let torch make its state, which it does at the first step: one with zero gradients."""
    _step(twin, optimizer, {k: torch.zeros_like(p) for k, p in twin.named_parameters()})


def _slots(
    twin: torch.nn.Module, optimizer: torch.optim.Optimizer
) -> Iterator[tuple[str, torch.Tensor]]:
    """Yield each tensor of the optimizer's state under its name "slot/leaf", or "step"."""
    for name, parameter in twin.named_parameters():
        for field, value in optimizer.state[parameter].items():
            slot = SLOTS.get(field, field)
            if isinstance(value, torch.Tensor):
                yield (slot if slot == "step" else f"{slot}/{name}"), value


def _tensor(array: np.ndarray) -> torch.Tensor:
    return torch.tensor(np.array(array, order="C"))


def _tensors(batch: Any) -> Any:
    """Return the batch with NumPy arrays as tensors; integers as int64, like torch's indices."""

    def leaf(value):
        if not isinstance(value, np.ndarray) or not value.ndim:
            return value
        tensor = torch.tensor(value)
        return tensor.long() if value.dtype.kind in "iu" else tensor

    return map_leaves(leaf, batch)
