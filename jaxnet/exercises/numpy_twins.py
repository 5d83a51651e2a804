"""The right answers by NumPy, with switches for what may go wrong in them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from jaxnet.exercises.exercise import Answers

SLOPES: dict[str, Callable] = {
    "relu": lambda h: h >= 0,
    "none": np.ones_like,
    "tanh": lambda h: 1 - np.tanh(h) ** 2,
}
VALUES: dict[str, Callable] = {
    "relu": lambda h: np.maximum(h, 0),
    "none": lambda h: h,
    "tanh": np.tanh,
}


def draw_network(rng: np.random.Generator, bias: bool = False) -> dict[str, Any]:
    """Draw params, x (6, 7) and y (6, 3) of a network 7-5-3."""
    shapes = {"w1": (7, 5), "b1": (5,), "w2": (5, 3), "b2": (3,)}
    params = {k: rng.standard_normal(s) for k, s in shapes.items() if bias or k[0] == "w"}
    return {"params": params, "x": rng.standard_normal((6, 7)), "y": rng.standard_normal((6, 3))}


def network(
    params, x, y, *, activation="relu", last="none", residual=2.0, mask=None, value=1.0, hidden=None
) -> Answers:
    """Return {"loss": the sum of squares, "grads": ...} of x -> activation(x w1 + b1) w2 + b2.

    last: an activation after the last layer. residual: the derivative of the square. mask(h, grad):
    in place of the activation's derivative. value: a factor on both. hidden: what w2 is told to
    have had as its input.
    """
    h = x @ params["w1"] + params.get("b1", 0)
    a = VALUES[activation](h)
    out = a @ params["w2"] + params.get("b2", 0)
    rest = VALUES[last](out) - y
    grad = value * residual * rest * SLOPES[last](out)
    grads = {"w2": (a if hidden is None else hidden(h)).T @ grad}
    back = grad @ params["w2"].T
    back = back * SLOPES[activation](h) if mask is None else mask(h, back)
    grads["w1"] = x.T @ back
    if "b1" in params:
        grads |= {"b1": back.sum(axis=0), "b2": grad.sum(axis=0)}
    return {"loss": value * np.square(rest).sum(), "grads": {k: grads[k] for k in params}}
