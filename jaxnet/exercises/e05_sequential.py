"""05: layers that hold parameters, split from the code."""

from __future__ import annotations

from functools import partial

from jaxnet.exercises.exercise import Exercise, Mistake, take
from jaxnet.exercises.flax_leaves import fill, leaves
from jaxnet.exercises.numpy_twins import draw_network, network
from jaxnet.spec import Spec

PATHS = {
    "layers/0/kernel": "w1",
    "layers/0/bias": "b1",
    "layers/2/kernel": "w2",
    "layers/2/bias": "b2",
}
MEAN = 1 / 18  # of the 6 x 3 elements of y


def ask(module, params, x, y):
    import jax.numpy as jnp
    from flax import nnx

    model = module.make_model(7, 5, 3, nnx.Rngs(0))
    fill(model, {path: params[name] for path, name in PATHS.items()}, "make_model's model")
    found = module.value_and_grad(model, jnp.asarray(x), jnp.asarray(y))
    found = take(found, "value_and_grad", "loss", "grads")
    grads = leaves(found["grads"])
    return {"loss": found["loss"], "grads": {PATHS.get(k, k): g for k, g in grads.items()}}, {}


EXERCISE = Exercise(
    number="05",
    idea="layers that hold parameters, split from the code",
    functions=("make_model", "value_and_grad"),
    draw=lambda rng: [draw_network(rng, bias=True)],
    ask=ask,
    want=network,
    spec=Spec((7, 5, 3), bias=True),
    errors=(
        (
            "trace level|TraceContextError",
            "the loss uses the model from outside: inside it, merge one from graphdef and params",
        ),
        (
            "scalar-output|only defined for scalar",
            "jax.grad differentiates a scalar: the loss must end in .sum()",
        ),
    ),
    mistakes=(
        Mistake("the mean of the squares: it must be the sum", partial(network, value=MEAN)),
        Mistake("half of the sum, as optax.l2_loss", partial(network, value=0.5)),
        Mistake(
            "layer 1: the activation is tanh, where ReLU is wanted",
            partial(network, activation="tanh"),
        ),
        Mistake(
            "layer 1: no activation; nnx.relu must stand between the two Linear layers",
            partial(network, activation="none"),
        ),
        Mistake(
            "layer 3: a ReLU after the second Linear, which must be the last layer",
            partial(network, last="relu"),
        ),
        Mistake(
            "the gradient is zero: the loss does not depend on the params that it is given; use "
            "nnx.merge(graphdef, params) inside it",
            lambda **given: (
                network(**given) | {"grads": {name: 0 * p for name, p in given["params"].items()}}
            ),
        ),
    ),
)
