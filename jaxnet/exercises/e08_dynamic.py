"""08: a depth that is data, under jit."""

from __future__ import annotations

from functools import cache, partial

import numpy as np

from jaxnet import numpy_net
from jaxnet.exercises.exercise import Exercise, Mistake, WrongAnswerError
from jaxnet.spec import Batch, Spec

SPEC = Spec((7, 5, 5, 3))
NAMES = "w1", "w2", "w3"


def draw(rng):
    found = []
    for repeats in range(4):
        shapes = SPEC.shapes()
        params = {name: rng.standard_normal(shapes[name]) for name in NAMES}
        x, y = rng.standard_normal((6, 7)), rng.standard_normal((6, 3))
        found.append({"params": params, "x": x, "y": y, "repeats": repeats})
    return found


def ask(module, params, x, y, repeats):
    import jax.numpy as jnp

    value, grads = _compiled(module.forward)(params, x, y, jnp.asarray(repeats))
    return {"loss": value, "grads": grads}, {}


@cache  # one program for all depths
def _compiled(forward):
    import jax
    import jax.numpy as jnp

    def loss(params, x, y, repeats):
        y_pred = forward(params, x, repeats)
        if getattr(y_pred, "shape", None) != y.shape:
            got = getattr(y_pred, "shape", type(y_pred).__name__)
            raise WrongAnswerError(f"forward must return shape {y.shape}, got {got}")
        return jnp.square(y_pred - y).sum()

    return jax.jit(jax.value_and_grad(loss))


def want(params, x, y, repeats):
    rules = numpy_net.ACTIVATIONS["relu"], numpy_net.LOSSES["sum_squares"]
    loss, grads = numpy_net.backpropagate(params, Batch(x, y, repeats), *rules)
    return {"loss": loss, "grads": grads}


def _at(depth):
    return lambda repeats, **given: want(**given, repeats=depth(repeats))


def _without_relu(params, x, y, repeats, only_last=False):
    """No ReLU after the middle layer; or after its last use alone."""
    w1, w2, w3 = (params[name] for name in NAMES)
    hs, passed = [np.maximum(x @ w1, 0)], [x @ w1 >= 0]
    for i in range(repeats):
        h = hs[-1] @ w2
        linear = not only_last or i == repeats - 1
        hs.append(h if linear else np.maximum(h, 0))
        passed.append(np.ones_like(h) if linear else h >= 0)
    rest = hs[-1] @ w3 - y
    grad = 2 * rest
    grads = {"w1": None, "w2": np.zeros_like(w2), "w3": hs[-1].T @ grad}
    back = grad @ w3.T * passed[-1]
    for i in reversed(range(repeats)):
        grads["w2"] += hs[i].T @ back
        back = back @ w2.T * passed[i]
    return {"loss": np.square(rest).sum(), "grads": grads | {"w1": x.T @ back}}


LOOP = (
    "under jit `repeats` has no value yet, so Python's range and if cannot read it: loop over "
    "range(3), and let jax.lax.cond or jnp.where decide whether i < repeats"
)
EXERCISE = Exercise(
    number="08",
    idea="a depth that is data, under jit",
    functions=("forward",),
    draw=draw,
    ask=ask,
    want=want,
    spec=SPEC,
    errors=(
        ("TracerIntegerConversion|ConcretizationType|TracerBoolConversion", LOOP),
        (
            "Reverse-mode differentiation does not work",
            (
                "a loop whose length is data cannot be differentiated backwards: loop 3 times, and "
                "let jax.lax.cond or jnp.where decide whether i < repeats"
            ),
        ),
    ),
    mistakes=(
        Mistake("w2 is applied 3 times whatever repeats is", _at(lambda repeats: 3)),
        Mistake("w2 is applied once whatever repeats is", _at(lambda repeats: 1)),
        Mistake("w2 is never applied", _at(lambda repeats: 0)),
        Mistake(
            "w2 is applied once too often: the condition is i < repeats, counted from 0",
            _at(lambda repeats: min(repeats + 1, 3)),
        ),
        Mistake("w2 is applied once too often", _at(lambda repeats: repeats + 1)),
        Mistake(
            "w2 is applied once too rarely: the condition is i < repeats, counted from 0",
            _at(lambda repeats: max(repeats - 1, 0)),
        ),
        Mistake(
            "w2 is applied where it must not be: jax.lax.cond(condition, if_true, if_false, h), "
            "jnp.where(condition, if_true, if_false)",
            _at(lambda repeats: 3 - repeats),
        ),
        Mistake(
            "w2 is applied once at most: decide 3 times, for i = 0, 1, 2",
            _at(lambda repeats: min(repeats, 1)),
        ),
        Mistake("w2 is never applied 3 times", _at(lambda repeats: min(repeats, 2))),
        Mistake("w2: there is no ReLU after the middle layer", _without_relu),
        Mistake(
            "w2: there is no ReLU after the last use of the middle layer",
            partial(_without_relu, only_last=True),
        ),
    ),
)
