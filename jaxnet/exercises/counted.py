"""A loss that the check hands to the reader's function, and that counts how it is called."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any


def counted() -> tuple[Callable, Callable[[], dict[str, int]]]:
    """Return loss(params, x, y), the mean squared error of x @ params["w"], and its counts.

    calls: all; eager: those with an x that is no tracer, op by op; traces: in how many traces.
    """
    calls = eager = 0
    traces: list[Any] = []

    def loss(params, x, y):
        import jax.numpy as jnp

        nonlocal calls, eager
        calls += 1
        trace = getattr(x, "_trace", None)
        eager += trace is None
        if trace is not None and all(trace is not other for other in traces):
            traces.append(trace)
        return jnp.mean(jnp.square(x @ params["w"] - y))

    return loss, lambda: {"calls": calls, "eager": eager, "traces": len(traces)}


def descend(w, batches, rates):
    """Return (w after a step of gradient descent for each batch, the losses before each)."""
    losses = []
    for (x, y), rate in zip(batches, rates, strict=True):
        rest = x @ w - y
        losses.append((rest * rest).mean())
        w = w - rate * 2 * x.T @ rest / rest.size
    return w, losses
