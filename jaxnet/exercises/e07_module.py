"""07: a network as a class."""

from __future__ import annotations

from functools import partial

from jaxnet.exercises.exercise import Exercise, Mistake, WrongAnswerError
from jaxnet.exercises.flax_leaves import fill, leaves
from jaxnet.exercises.numpy_twins import SLOPES, VALUES

SHAPES = {
    "linear1/bias": (5,),
    "linear1/kernel": (7, 5),
    "linear2/bias": (3,),
    "linear2/kernel": (5, 3),
    "skip/kernel": (7, 3),
}


def draw(rng):
    params = {name: rng.standard_normal(shape) for name, shape in SHAPES.items()}
    return [{"params": params, "x": rng.standard_normal((6, 7)), "y": rng.standard_normal((6, 3))}]


def ask(module, params, x, y):
    import jax
    import jax.numpy as jnp
    from flax import nnx

    model = module.Net(7, 5, 3, rngs=nnx.Rngs(0))
    fill(model, params, "Net")
    graphdef, variables, rest = nnx.split(model, nnx.Param, ...)
    target = jnp.asarray(y)

    def loss(variables):
        y_pred = nnx.merge(graphdef, variables, rest)(jnp.asarray(x))
        if not hasattr(y_pred, "shape") or y_pred.shape != target.shape:
            got = getattr(y_pred, "shape", type(y_pred).__name__)
            raise WrongAnswerError(f"Net must return shape {target.shape}, got {got}")
        return jnp.square(y_pred - target).sum(), y_pred

    (_, y_pred), grads = jax.value_and_grad(loss, has_aux=True)(variables)
    return {"y_pred": y_pred, "grads": leaves(grads)}, {}


def want(params, x, y, *, activation="relu", last="none", skip=1.0, skip_of="x"):
    w1, w2, w3 = (params[f"{name}/kernel"] for name in ("linear1", "linear2", "skip"))
    h = x @ w1 + params["linear1/bias"]
    a = VALUES[activation](h)
    inner = a @ w2 + params["linear2/bias"]
    own = inner if skip_of == "inner" else inner + skip * (x @ w3)
    y_pred = VALUES[last](own) + (skip * (x @ w3) if skip_of == "inner" else 0)
    outer = 2 * (y_pred - y)
    g = outer * SLOPES[last](own)
    back = (g @ w2.T) * SLOPES[activation](h)
    grads = {
        "linear1/bias": back.sum(axis=0),
        "linear1/kernel": x.T @ back,
        "linear2/bias": g.sum(axis=0),
        "linear2/kernel": a.T @ g,
        "skip/kernel": skip * x.T @ (outer if skip_of == "inner" else g),
    }
    return {"y_pred": y_pred, "grads": grads}


EXERCISE = Exercise(
    number="07",
    idea="a network as a class",
    functions=("Net",),
    draw=draw,
    ask=ask,
    want=want,
    errors=(
        ("'Net' object is not callable", "Flax calls __call__, where PyTorch calls forward"),
        (
            r"nnx\.List|nnx\.data|pytree attribute",
            (
                "modules in a Python list are not found: give each layer a name of its own on "
                "`self`, or use nnx.List"
            ),
        ),
        (
            "trace level|TraceContextError",
            "a layer is made or changed inside __call__: make all layers in __init__",
        ),
    ),
    mistakes=(
        Mistake("skip: it is not used; add skip(x) to the result", partial(want, skip=0.0)),
        Mistake(
            "linear1: no activation after it; relu must stand between linear1 and linear2",
            partial(want, activation="none"),
        ),
        Mistake("linear1: tanh after it, where ReLU is wanted", partial(want, activation="tanh")),
        Mistake(
            "the ReLU is around the whole sum: it belongs between linear1 and linear2",
            partial(want, activation="none", last="relu"),
        ),
        Mistake(
            "there is a second ReLU, around the sum: only linear1 has one after it",
            partial(want, last="relu"),
        ),
        Mistake(
            "linear2: there is a ReLU after it; only linear1 has one",
            partial(want, last="relu", skip_of="inner"),
        ),
        Mistake("skip: it is subtracted; add it", partial(want, skip=-1.0)),
    ),
)
