"""The variables of the reader's Flax modules by path: shown, and given values."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from jaxnet.exercises.exercise import WrongAnswerError


def leaves(state: Any) -> dict[str, Any]:
    """Return the arrays of an nnx.State, or any pytree, by path ("layers/0/kernel")."""
    from jaxnet.parity.adapters.jax_loss import paths

    return dict(paths(state))


def fill(module: Any, values: Mapping[str, np.ndarray], what: str) -> None:
    """Give the nnx.Params of a module these values, in the order of their paths, or by path.

    Raises: WrongAnswerError unless the module's parameters have just these paths and shapes.
    """
    import jax
    import jax.numpy as jnp
    from flax import nnx

    if not isinstance(module, nnx.Module):
        raise WrongAnswerError(f"{what} must be an nnx.Module, got a {type(module).__name__}")
    state = nnx.state(module, nnx.Param)
    own = {name: np.shape(leaf) for name, leaf in leaves(state).items()}
    wanted = {name: value.shape for name, value in values.items()}
    if own != wanted:
        raise WrongAnswerError(
            f"{what} must have the parameters {_text(wanted)}, got {_text(own)}"
            + _missing(own, wanted)
        )
    structure = jax.tree.structure(state)
    nnx.update(module, structure.unflatten([jnp.asarray(values[name]) for name in own]))


def _text(shapes: Mapping[str, tuple[int, ...]]) -> str:
    return ", ".join(f"{name} {shape}" for name, shape in sorted(shapes.items())) or "none"


def _missing(own: Mapping[str, Any], wanted: Mapping[str, Any]) -> str:
    missing, extra = sorted(set(wanted) - set(own)), sorted(set(own) - set(wanted))
    if not missing and not extra:
        return ": the sizes are not those that were asked for"
    if not extra and all(name.endswith("bias") for name in missing):
        return f": {', '.join(missing)} must be there too: without use_bias=False"
    if not missing and all(name.endswith("bias") for name in extra):
        return f": {', '.join(extra)} must not be there; use_bias=False leaves the bias out"
    if not extra:
        return ": a layer that is not given to `self`, or made in __call__, is not found"
    return ": a layer has its name on `self`, or its place in Sequential, where nnx.relu counts too"
