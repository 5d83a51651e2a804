"""`convert`: a checkpoint of the reference, by a layout, as the port's leaves."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

import numpy as np

from jaxnet.parity.layouts.expression import match
from jaxnet.parity.layouts.layout import Layout, used_leaves
from jaxnet.parity.participants import Leaves


def convert(
    state_dict: Mapping[str, Any], layout: Mapping[str, Any], *, optional: Collection[str] = ()
) -> Leaves:
    """Return a checkpoint's values as a layout's own leaves: NumPy arrays, by own names.

    state_dict: torch tensors or arrays. optional: names or patterns of its entries that need not be
    used; integers, and a tied tensor under its second name, need not be either. Into an nnx module:

        values = parity.convert(torch_module.state_dict(), layout)
        state = nnx.state(module)
        for path, variable in nnx.to_flat_state(state):
            if (name := "/".join(map(str, path))) in values:
                variable[...] = values[name]
        nnx.update(module, state)

    Raises: ValueError for names that are not there, and for entries that no own leaf uses.
    """
    made = Layout(layout)
    leaves = {name: _array(value) for name, value in state_dict.items()}
    used = {name for entry in made.names(leaves).values() for name in used_leaves(*entry)}
    tied = {_memory(leaves[name]) for name in used & set(leaves)}
    for name in leaves.keys() - used:
        if _memory(leaves[name]) in tied or any(match(pattern, name) for pattern in optional):
            made.optional.add(name)
    gathered = ((own, built.gather(leaves)) for own, built in made.build(leaves))
    return {own: value for own, value in gathered if value is not None}


def _memory(array: np.ndarray) -> tuple:
    return array.__array_interface__["data"][0], array.shape, array.strides


def _array(value: Any) -> np.ndarray:
    """Return a tensor or array as NumPy's; a bfloat16 tensor, which NumPy has not, as float32."""
    if hasattr(value, "detach"):
        value = value.detach().cpu()
        value = value.float() if str(value.dtype) == "torch.bfloat16" else value
    return np.asarray(value)
