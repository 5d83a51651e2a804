"""A loss that the check hands to the reader's function, and that counts how it is called."""

from __future__ import annotations

from typing import Any


class Counted:
    """loss(params, x, y): the mean squared error of x @ params["w"].

    calls: all; eager: those with an x that is no tracer, op by op; traces: in how many traces.
    """

    def __init__(self):
        self.calls = self.eager = 0
        self._traces: list[Any] = []

    def __call__(self, params, x, y):
        import jax.numpy as jnp

        self.calls += 1
        trace = getattr(x, "_trace", None)
        self.eager += trace is None
        if trace is not None and all(trace is not other for other in self._traces):
            self._traces.append(trace)
        return jnp.mean(jnp.square(x @ params["w"] - y))

    def counts(self) -> dict[str, int]:
        """What was counted, as plain data."""
        return {"calls": self.calls, "eager": self.eager, "traces": len(self._traces)}


def descend(w, batches, rates):
    """Return (w after a step of gradient descent for each batch, the losses before each)."""
    losses = []
    for (x, y), rate in zip(batches, rates, strict=True):
        rest = x @ w - y
        losses.append((rest * rest).mean())
        w = w - rate * 2 * x.T @ rest / rest.size
    return w, losses
