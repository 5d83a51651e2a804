"""10: state beside the parameters: BatchNorm's running statistics."""

from __future__ import annotations

from functools import partial
from typing import Any

import numpy as np

from jaxnet.exercises.exercise import Exercise, Mistake
from jaxnet.exercises.flax_leaves import fill, leaves

MOMENTUM, EPSILON, RATE = 0.9, 1e-5, 0.01
SHAPES = {"linear/bias": (3,), "linear/kernel": (7, 3), "norm/bias": (7,), "norm/scale": (7,)}


def draw(rng):
    params = {name: rng.standard_normal(shape) for name, shape in SHAPES.items()}
    x = 2 + 3 * rng.standard_normal((6, 7))
    return [{"params": params, "x": x, "y": rng.standard_normal((6, 3)), "rate": RATE}]


def ask(module, params, x, y, rate):
    import jax.numpy as jnp
    from flax import nnx

    class Net(nnx.Module):
        def __init__(self, rngs):
            self.norm = nnx.BatchNorm(7, momentum=MOMENTUM, epsilon=EPSILON, rngs=rngs)
            self.linear = nnx.Linear(7, 3, rngs=rngs)

        def __call__(self, x):
            return self.linear(self.norm(x))

    model: Any = Net(nnx.Rngs(0))
    fill(model, params, "the model")
    # in float64, as the parameters
    nnx.update(model, nnx.State({"norm": {"mean": jnp.zeros(7), "var": jnp.ones(7)}}))
    loss = module.step(model, jnp.asarray(x), jnp.asarray(y), rate)
    found = {name: np.asarray(leaf) for name, leaf in leaves(nnx.state(model)).items()}
    statistics = {name: found.pop(f"norm/{name}") for name in ("mean", "var")}
    return {"loss": loss, "params": found, "statistics": statistics}, {}


def want(
    params, x, y, rate, *, kept=MOMENTUM, calls=1, running=False, moved=True, after=False, sign=-1
):
    mean, var = (np.zeros(7), np.ones(7)) if running else (x.mean(axis=0), x.var(axis=0))
    n = (x - mean) / np.sqrt(var + EPSILON)

    def forward(params):
        h = n * params["norm/scale"] + params["norm/bias"]
        return h, h @ params["linear/kernel"] + params["linear/bias"] - y

    h, rest = forward(params)
    grad = 2 * rest
    back = grad @ params["linear/kernel"].T
    grads = {"linear/bias": grad.sum(axis=0), "linear/kernel": h.T @ grad}
    grads |= {"norm/bias": back.sum(axis=0), "norm/scale": (back * n).sum(axis=0)}
    new = {k: p + sign * rate * grads[k] * moved for k, p in params.items()}
    share = kept**calls
    statistics = {"mean": (1 - share) * mean, "var": share + (1 - share) * var}
    loss = np.square(forward(new)[1] if after else rest).sum()
    return {"loss": loss, "params": new, "statistics": statistics}


EXERCISE = Exercise(
    number="10",
    idea="state beside the parameters: BatchNorm",
    functions=("step",),
    draw=draw,
    ask=ask,
    want=want,
    errors=(
        (
            "trace level|TraceContextError",
            (
                "a variable from outside is changed inside jax.grad: call a model there that has "
                "its own, nnx.merge(graphdef, params, stats, copy=True), and return its new "
                "statistics beside the loss"
            ),
        ),
        (
            "expected Mapping",
            "nnx.update takes states, not a model: hand out nnx.state(merged, nnx.BatchStat)",
        ),
        (
            "(?i)has_aux|aux",
            "with has_aux=True the loss returns a pair: the loss, and what is handed out",
        ),
        (
            "requires real- or complex-valued inputs",
            "the gradient is of the parameters alone: split the model into nnx.Param and the rest",
        ),
    ),
    mistakes=(
        Mistake(
            "norm: the running statistics stay as they were; hand out nnx.state(merged, "
            "nnx.BatchStat) beside the loss, and give it to the model too",
            partial(want, kept=1.0),
        ),
        Mistake(
            "norm: the statistics are updated twice; call the model once in a step",
            partial(want, calls=2),
        ),
        Mistake(
            "norm: the model is in evaluation mode, and uses its running statistics; in training "
            "it uses those of the batch",
            partial(want, running=True, kept=1.0),
        ),
        Mistake(
            "the parameters stay as they were; give the new ones to the model: "
            "nnx.update(model, params, stats), where stats holds no parameters",
            partial(want, moved=False),
        ),
        Mistake(
            "neither the parameters nor the statistics of the model have changed: "
            "nnx.update(model, params, stats)",
            partial(want, moved=False, kept=1.0),
        ),
        Mistake(
            "the step goes up: subtract rate * gradient, so that the loss falls",
            partial(want, sign=1),
        ),
        Mistake(
            "the loss is that after the update, and the statistics are updated twice: return the "
            "loss that the gradient is of",
            partial(want, after=True, calls=2),
        ),
    ),
)
