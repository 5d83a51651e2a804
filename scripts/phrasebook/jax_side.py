"""A row's JAX code as a participant of `jaxnet.parity`, or run as it stands."""

import functools
from dataclasses import replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx

from jaxnet import parity
from phrasebook.row import Row, paragraphs
from phrasebook.shared import prediction, total


def names() -> dict[str, Any]:
    """Return what the page imports, and a fresh `rngs`."""
    return {"jax": jax, "jnp": jnp, "np": np, "nnx": nnx, "optax": optax, "rngs": nnx.Rngs(0)}


def run(row: Row, code: str) -> list[np.ndarray]:
    """Execute the code once, as it stands, and return the arrays of `y`."""
    with jax.enable_x64(True):
        scope = names() | {name: jnp.asarray(value) for name, value in row.inputs().items()}
        exec(compile(code, row.slug, "exec"), scope)
        return [np.asarray(leaf) for leaf in jax.tree.leaves(scope["y"])]


def participant(row: Row, code: str) -> parity.Participant:
    """Return the participant; the leaves have torch's names."""
    if row.check == "training":
        scope = names()
        exec(compile(code, row.slug, "exec"), scope)
        found = parity.jax_participant(training_loss, scope["optimizer"])
        return replace(found, value_and_grad=_loss().value_and_grad)
    module = _module(row, code)
    same = {name: name for name, value in row.inputs().items() if value.dtype.kind == "f"}
    return parity.flax_participant(
        module,
        lambda module, batch: total(module(**batch)),
        forward=lambda module, batch: prediction(module(**batch)),
        layout={**same, **row.layout},
    )


def training_loss(params, batch):
    return ((jnp.tanh(batch["x"] @ params["w"] + params["b"]) - batch["t"]) ** 2).sum()


@functools.cache
def _loss() -> parity.Participant:
    """Return the loss, compiled once for all optimizers."""
    return parity.jax_participant(training_loss)


def _module(row: Row, code: str) -> nnx.Module:
    """Return a module that holds the row's modules and floating inputs, and calls its code."""
    before, after = paragraphs(code)
    scope, call = names(), compile(after, row.slug, "exec")
    exec(compile(before, row.slug, "exec"), scope)
    parts = {name: value for name, value in scope.items() if isinstance(value, nnx.Module)}
    floats = {name: value for name, value in row.inputs().items() if value.dtype.kind == "f"}

    class Holder(nnx.Module):
        def __init__(self):
            for name, part in parts.items():
                setattr(self, name, part)
            for name, value in floats.items():
                setattr(self, name, nnx.Param(jnp.asarray(value)))

        def __call__(self, **batch):
            own = {name: getattr(self, name) for name in parts}
            own |= {name: getattr(self, name)[...] for name in floats}
            local = {**scope, **own, **batch}
            exec(call, local)
            return local["y"]

    return Holder()
