"""`check_loss`: a torch and a JAX function of the same parameters and batch, in one call."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from jaxnet.parity.adapters.makers import flax_participant, jax_participant, torch_participant
from jaxnet.parity.checks import check
from jaxnet.parity.points import Case
from jaxnet.parity.report import Report


def check_loss(
    torch_side: Any,
    jax_side: Any,
    params: Mapping[str, Any] | None,
    batch: Any,
    *,
    layout: Mapping[str, Any] | None = None,
    layers: Mapping[str, str] | None = None,
    name: str = "check_loss",
) -> Report:
    """Compare a torch module or function with its port: outputs, loss, gradients and buffers.

    torch_side: a torch.nn.Module, or function(params, batch) of tensors. jax_side: an nnx.Module,
    or function(params, batch) of arrays. A module is called with the batch: `module(*batch)` for a
    tuple, `module(**batch)` for a dictionary, else `module(batch)`. What they return is the loss,
    if it is one number; otherwise it is the prediction, and the loss is its sum with fixed random
    weights. params: under torch's names; None takes the torch module's own state_dict. layout and
    layers: see `with_layout` and `check`. There is no optimizer: `check` compares training too.

    Raises: ValueError as `check`.
    """
    is_module = _is(torch_side, "torch.nn", "Module")
    if params is None:
        if not is_module:
            raise ValueError("`params` must be given for a function, got None")
        params = torch_side.state_dict()
    reference = torch_participant(
        torch_side if is_module else _as_module(torch_side, params),
        **_keywords(_call if is_module else lambda module, batch: module(batch)),
    )
    if _is(jax_side, "flax.nnx", "Module"):
        candidate = flax_participant(jax_side, **_keywords(_call), layout=layout)
    else:
        candidate = jax_participant(**_keywords(jax_side), layout=layout)
    case = Case(name, params, lambda step: batch, (1,), 1)
    return check(candidate, against=reference, case=case, layers=layers)


def _keywords(call: Callable[[Any, Any], Any]) -> dict[str, Any]:
    return {
        "loss": lambda model, batch: _loss(call(model, batch)),
        "forward": lambda model, batch: _prediction(call(model, batch)),
    }


def _is(value: Any, module: str, name: str) -> bool:
    """Return whether a value is of a class in a package, which is not imported for it."""
    package = sys.modules.get(module)
    return package is not None and isinstance(value, getattr(package, name))


def _as_module(function: Callable, params: Mapping[str, Any]) -> Any:
    from jaxnet.parity.adapters import torch_module

    return torch_module.FunctionModule(function, params)


def _call(module: Any, batch: Any) -> Any:
    if isinstance(batch, Mapping):
        return module(**batch)
    return module(*batch) if isinstance(batch, (tuple, list)) else module(batch)


def _prediction(found: Any) -> Any:
    """Return the floating arrays or tensors of a result, in a list if there are several.

    Of one number, which is the loss itself, there is no prediction.
    """
    arrays = _floats(found)
    if not arrays:
        raise ValueError(f"`torch_side` and `jax_side` must return numbers, got {found!r}")
    if len(arrays) == 1:
        return arrays[0] if arrays[0].ndim else {}
    return arrays


def _loss(found: Any) -> Any:
    arrays = _floats(found)
    if len(arrays) == 1 and arrays[0].ndim == 0:
        return arrays[0]
    rng = np.random.default_rng(0)
    return sum((a * _like(rng.standard_normal(tuple(a.shape)), a)).sum() for a in arrays)


def _like(weights: np.ndarray, array: Any) -> Any:
    return (
        array.new_tensor(weights) if hasattr(array, "new_tensor") else weights.astype(array.dtype)
    )


def _floats(found: Any) -> list[Any]:
    if isinstance(found, Mapping):
        found = list(found.values())
    if isinstance(found, (tuple, list)):
        return [array for item in found for array in _floats(item)]
    return [found] if "float" in str(getattr(found, "dtype", "")) else []
