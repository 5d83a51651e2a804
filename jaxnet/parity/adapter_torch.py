"""A torch module as a participant's functions, its state set before each call."""

from __future__ import annotations

import copy
import functools
from collections.abc import Callable
from typing import Any

import numpy as np
import torch

from jaxnet.parity.participants import SLOTS, Leaves

DTYPES = {"float32": torch.float32, "float64": torch.float64}


def make(
    module: torch.nn.Module,
    loss: Callable[[Any, Any], torch.Tensor],
    optimizer: Callable[[Any], torch.optim.Optimizer] | None,
    forward: Callable[[Any, Any], torch.Tensor] | None,
) -> dict[str, Any]:
    """Return the participant's functions for a module: it is copied, once for each dtype."""
    for name, part in module.named_modules():
        if isinstance(part, torch.nn.modules.dropout._DropoutNd) and part.training and part.p > 0:
            raise ValueError(
                f"`module` must not drop units at random: {name or 'it'} is an active "
                f"{type(part).__name__}; call module.eval() first"
            )
    copies = {
        name: copy.deepcopy(module).to(dtype).requires_grad_(True) for name, dtype in DTYPES.items()
    }

    def loaded(params: Leaves) -> torch.nn.Module:
        """The copy of that dtype, holding these values."""
        twin = copies[str(next(iter(params.values())).dtype)]
        own = dict(twin.named_parameters())
        if set(own) != set(params):
            raise ValueError(
                f"the reference's leaves {sorted(params)} are not the candidate's {sorted(own)}: "
                "declare a `layout`"
            )
        with torch.no_grad():
            for name, parameter in own.items():
                if tuple(parameter.shape) != params[name].shape:
                    raise ValueError(
                        f"leaf {name!r} must have shape {tuple(parameter.shape)}, "
                        f"got {params[name].shape}: declare a `layout`"
                    )
                parameter.copy_(torch.tensor(np.array(params[name], order="C")))
        return twin

    def value_and_grad(params, batch):
        twin = loaded(params)
        value = loss(twin, _tensors(batch))
        grads = torch.autograd.grad(value, list(twin.parameters()), materialize_grads=True)
        names = [name for name, _ in twin.named_parameters()]
        return value.detach().numpy(), {
            name: grad.numpy().copy() for name, grad in zip(names, grads, strict=True)
        }

    functions: dict[str, Any] = {"value_and_grad": value_and_grad}
    if forward is not None:

        def run_forward(params, batch):
            with torch.no_grad():
                return forward(loaded(params), _tensors(batch)).numpy().copy()

        functions["forward"] = run_forward
    if optimizer is not None:
        functions |= _optimizer_functions(optimizer, loaded)
        functions["run"] = functools.partial(_run, loaded, loss, optimizer)
    return functions


def _run(loaded, loss, make_optimizer, params, batch_at, num_steps) -> np.ndarray:
    """Train freely as a torch program does; a weight that is not used has the gradient 0."""
    twin = loaded(params)
    parameters = list(twin.parameters())
    optimizer = make_optimizer(parameters)
    losses = []
    for i in range(num_steps):
        value = loss(twin, _tensors(batch_at(i)))
        for parameter, grad in zip(
            parameters,
            torch.autograd.grad(value, parameters, materialize_grads=True),
            strict=True,
        ):
            parameter.grad = grad
        optimizer.step()
        losses.append(value.item())
    return np.asarray(losses)


def _optimizer_functions(
    make_optimizer: Callable[[Any], torch.optim.Optimizer],
    loaded: Callable[[Leaves], torch.nn.Module],
) -> dict[str, Any]:
    def init(params):
        """torch makes its state at the first step: take it from a step with zero gradients."""
        twin = loaded(params)
        state = _step(twin, make_optimizer(twin.parameters()), _zeros(params))
        return {key: np.zeros_like(value) for key, value in state.items()} | _count(0)

    def update(params, grads, state):
        twin = loaded(params)
        optimizer = make_optimizer(twin.parameters())
        count = int(state["step"])
        if count > 0:  # before, torch makes its own state, as dampening asks
            _step(twin, optimizer, _zeros(params))
            loaded(params)
            _set_state(twin, optimizer, state)
        new_state = _step(twin, optimizer, grads) | _count(count + 1)
        new_params = {name: p.detach().numpy().copy() for name, p in twin.named_parameters()}
        return new_params, new_state

    return {"init": init, "update": update}


def _zeros(params: Leaves) -> Leaves:
    return {name: np.zeros_like(value) for name, value in params.items()}


def _step(twin: torch.nn.Module, optimizer: torch.optim.Optimizer, grads: Leaves) -> Leaves:
    """Make one update with these gradients and return the optimizer's state as slots."""
    for name, parameter in twin.named_parameters():
        parameter.grad = torch.tensor(np.array(grads[name], order="C"))
    optimizer.step()
    state: Leaves = {}
    for name, parameter in twin.named_parameters():
        for field, value in optimizer.state[parameter].items():
            if isinstance(value, torch.Tensor):
                slot = SLOTS.get(field, field)
                key = slot if slot == "step" else f"{slot}/{name}"
                state[key] = value.detach().numpy().copy()
    return state


def _count(step: int) -> Leaves:
    return {"step": np.asarray(step)}  # torch's SGD keeps none


def _set_state(twin: torch.nn.Module, optimizer: torch.optim.Optimizer, state: Leaves) -> None:
    """Write slots into an optimizer that has made one step, so that its state exists."""
    for name, parameter in twin.named_parameters():
        for field, value in optimizer.state[parameter].items():
            slot = SLOTS.get(field, field)
            key = slot if slot == "step" else f"{slot}/{name}"
            if isinstance(value, torch.Tensor) and key in state:
                value.copy_(torch.tensor(np.array(state[key], order="C")))


def _tensors(tree: Any) -> Any:
    """The batch with NumPy arrays as tensors; integers become int64, as torch's indices are."""
    if isinstance(tree, dict):
        return {key: _tensors(value) for key, value in tree.items()}
    if isinstance(tree, tuple) and hasattr(tree, "_fields"):
        return type(tree)(*map(_tensors, tree))
    if isinstance(tree, (tuple, list)):
        return type(tree)(map(_tensors, tree))
    if isinstance(tree, np.ndarray) and tree.ndim:
        tensor = torch.tensor(tree)
        return tensor.long() if tree.dtype.kind in "iu" else tensor
    return tree
