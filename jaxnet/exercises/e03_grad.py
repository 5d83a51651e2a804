"""03: jax.grad of a pure function."""

from __future__ import annotations

from functools import partial

import numpy as np

from jaxnet.exercises.exercise import Exercise, Mistake
from jaxnet.exercises.numpy_twins import VALUES, draw_network, network
from jaxnet.spec import Spec

MEAN = 1 / 18  # of the 6 x 3 elements of y


def ask(module, params, x, y):
    loss, grads = module.loss(params, x, y), module.gradient(params, x, y)
    return {"loss": loss, "grads": grads}, {}


def _by_inputs(params, x, y):
    """The gradient with respect to x."""
    h = x @ params["w1"]
    rest = 2 * (VALUES["relu"](h) @ params["w2"] - y)
    grads = ((rest @ params["w2"].T) * (h >= 0)) @ params["w1"].T
    return {"loss": network(params, x, y)["loss"], "grads": grads}


def _with_value(params, x, y):
    found = network(params, x, y)
    return {"loss": found["loss"], "grads": [found["loss"], found["grads"]]}


def _constant(params, x, y):
    """The parameters are cut off from the loss."""
    zeros = {name: np.zeros_like(p) for name, p in params.items()}
    return network(params, x, y) | {"grads": zeros}


EXERCISE = Exercise(
    number="03",
    idea="jax.grad of a pure function",
    functions=("loss", "gradient"),
    draw=lambda rng: [draw_network(rng)],
    ask=ask,
    want=network,
    spec=Spec((7, 5, 3)),
    errors=(
        (
            "scalar-output|only defined for scalar",
            "jax.grad differentiates a scalar: the loss must end in .sum()",
        ),
        (
            "Expected a callable",
            "jax.grad takes the function, not its value: jax.grad(loss)(params, x, y)",
        ),
        (
            "requires real- or complex-valued inputs|argnums",
            "jax.grad differentiates the first argument by default: params must be the first",
        ),
    ),
    mistakes=(
        Mistake("the loss is the mean: it must be the sum", partial(network, value=MEAN)),
        Mistake(
            "the loss is half of the sum, as optax.l2_loss: your loss and gradient are the "
            "reference's times 1/2",
            partial(network, value=0.5),
        ),
        Mistake("there is no ReLU between the two layers", partial(network, activation="none")),
        Mistake(
            "there is a ReLU after the second layer: only the hidden layer has one",
            partial(network, last="relu"),
        ),
        Mistake(
            "the gradient is that with respect to x: jax.grad differentiates the argument "
            "`argnums`, the first one by default, which must be params",
            _by_inputs,
        ),
        Mistake(
            "gradient returns the loss and the gradient: jax.grad returns the gradient alone, "
            "jax.value_and_grad both",
            _with_value,
        ),
        Mistake(
            "the gradient is zero: the loss does not depend on the params that it is given; does "
            "it use others, from outside, or jax.lax.stop_gradient, or .item()?",
            _constant,
        ),
    ),
)
