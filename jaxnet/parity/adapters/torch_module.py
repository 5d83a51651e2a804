"""A torch module as a participant's functions: parameters and state are set before each call."""

from __future__ import annotations

import contextlib
import copy
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np
import torch

from jaxnet.parity.layers import in_torch
from jaxnet.parity.participants import Leaves, cast, check_leaves, map_leaves

DTYPES = {"float32": torch.float32, "float64": torch.float64}


def make(
    module: torch.nn.Module,
    loaded: Callable[[Leaves], Any],
    loss: Callable[[Any, Any], torch.Tensor],
    forward: Callable[[Any, Any], Any] | None,
    set_to_none: bool,
) -> dict[str, Any]:
    """Return the participant's fields but its optimizer's; loaded: of `loader(module)`."""

    def value_and_grad(params, batch):
        with loaded(params) as twin:
            value = loss(twin, tensors(batch))
            grads = gradients(twin, value, set_to_none)
            return value.detach().numpy(), {k: g.numpy().copy() for k, g in grads.items()}

    def layers(params, batch, locks):
        with loaded(params) as twin:
            return in_torch.run(loss, twin, tensors(batch), locks)

    functions: dict[str, Any] = {"value_and_grad": value_and_grad, "layers": layers}
    functions["forward"] = None
    if forward is not None:

        def run_forward(params, batch):
            with loaded(params) as twin, torch.no_grad():
                return _outputs(forward(twin, tensors(batch)))

        functions["forward"] = run_forward
    return functions | _facts(module, loaded, loss)


def _facts(module: torch.nn.Module, loaded: Callable, loss: Callable) -> dict[str, Any]:
    """Return a participant's fields that tell of its leaves, and of random numbers."""

    def buffers(params, batch):
        with loaded(params) as twin, torch.no_grad():
            loss(twin, tensors(batch))
            return arrays(twin.named_buffers())

    found: dict[str, Any] = {"noise": _noise(module)}
    fixed = [(name, p) for name, p in module.named_parameters() if not p.requires_grad]
    found["own"] = arrays(fixed) | arrays(module.named_buffers())
    found["frozen"] = frozenset(found["own"])
    found["aliases"] = frozenset(module.state_dict()) - dict(module.named_parameters()).keys()
    found["aliases"] -= found["frozen"]
    if any(True for _ in module.buffers()):
        found["buffers"] = buffers
    return found


class FunctionModule(torch.nn.Module):
    """A module of function(params, batch): params are its parameters, integers its buffers."""

    def __init__(self, function: Callable[[dict[str, Any], Any], Any], params: Mapping[str, Any]):
        super().__init__()
        self.function = function
        for name, leaf in cast(dict(params), "float32").items():
            tensor = to_tensor(leaf)
            if (
                tensor.is_floating_point()
            ):  # set in place of `register_parameter`, which takes no "."
                self._parameters[name] = torch.nn.Parameter(tensor)
            else:
                self._buffers[name] = tensor

    def forward(self, batch: Any) -> Any:
        return self.function({**self._parameters, **self._buffers}, batch)


def leaf_names(module: torch.nn.Module) -> list[str]:
    """Return the names of its parameters and buffers."""
    return [name for name, _ in [*module.named_parameters(), *module.named_buffers()]]


def loader(module: torch.nn.Module) -> Callable[[Leaves], Any]:
    """Return a context with the module's copy in the dtype of some values, holding them.

    Inside it, that dtype is torch's default: `torch.zeros` in a forward pass makes it.
    """
    copies = {name: copy.deepcopy(module).to(dtype) for name, dtype in DTYPES.items()}

    @contextlib.contextmanager
    def loaded(params: Leaves) -> Iterator[torch.nn.Module]:
        floating = [value.dtype for value in params.values() if value.dtype.kind == "f"]
        twin = copies[str(floating[0])]
        own = dict(twin.named_parameters()) | dict(twin.named_buffers())
        check_leaves(params, {name: tuple(value.shape) for name, value in own.items()})
        with torch.no_grad():
            for name, value in own.items():
                value.copy_(to_tensor(params[name]))
        before = torch.get_default_dtype()
        torch.set_default_dtype(DTYPES[str(floating[0])])
        try:
            yield twin
        finally:
            torch.set_default_dtype(before)

    return loaded


def _noise(module: torch.nn.Module) -> str:
    """Name the layers that draw random numbers."""
    found = [
        f"{name or 'the module'} is an active {type(part).__name__}"
        for name, part in module.named_modules()
        if part.training
        and (
            (isinstance(part, torch.nn.modules.dropout._DropoutNd) and part.p > 0)
            or (isinstance(rate := getattr(part, "dropout", None), float) and rate > 0)
        )
    ]
    return ", ".join(found)


def gradients(
    twin: torch.nn.Module, value: torch.Tensor, set_to_none: bool
) -> dict[str, torch.Tensor]:
    """Return the gradient of each trained parameter by name; none of those that are not used."""
    named = {name: p for name, p in twin.named_parameters() if p.requires_grad}
    grads = torch.autograd.grad(
        value, list(named.values()), allow_unused=True, materialize_grads=not set_to_none
    )
    return {name: g for name, g in zip(named, grads, strict=True) if g is not None}


def to_tensor(array: np.ndarray) -> torch.Tensor:
    """Return a copy of an array as a tensor."""
    return torch.tensor(np.array(array, order="C"))


def tensors(batch: Any) -> Any:
    """Return the batch with NumPy arrays as tensors; integers as int64, like torch's indices."""

    def leaf(value):
        if not isinstance(value, np.ndarray):
            return value.item() if isinstance(value, np.floating) else value
        tensor = torch.tensor(value)
        return tensor.long() if value.dtype.kind in "iu" else tensor

    return map_leaves(leaf, batch)


def _outputs(value: Any) -> Any:
    """Return a tensor, or a structure of tensors, as NumPy arrays."""
    return map_leaves(lambda v: v.numpy().copy() if isinstance(v, torch.Tensor) else v, value)


def arrays(named: Any) -> Leaves:
    """Return named tensors as NumPy arrays."""
    return {name: value.detach().numpy().copy() for name, value in named}
