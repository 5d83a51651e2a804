"""13: precision: products in bfloat16, sums and updates in float32."""

from __future__ import annotations

from functools import partial

import numpy as np

from jaxnet.exercises.exercise import Exercise, Mistake

RATE = 0.01


def draw(rng):
    a = rng.standard_normal((6, 40)).astype("float32")
    b = rng.standard_normal((40, 5)).astype("float32")
    w = bfloat16(rng.uniform(1, 1.5, 7).astype("float32"))
    grads = -rng.uniform(0.05, 0.15, (300, 7)).astype("float32")  # each step less than an ulp of w
    return [{"a": a, "b": b, "w": w, "grads": grads, "rate": RATE}]


def ask(module, a, b, w, grads, rate):
    import jax.numpy as jnp

    product = module.product(jnp.asarray(a), jnp.asarray(b))
    weights = module.train(jnp.asarray(w, jnp.bfloat16), jnp.asarray(grads), rate)
    dtypes = {"product": product, "train": weights}
    facts = {name: str(getattr(leaf, "dtype", "")) for name, leaf in dtypes.items()}
    return {"product": product, "weights": weights}, facts


def bfloat16(values: np.ndarray) -> np.ndarray:
    """Round float32 numbers to the nearest bfloat16, which float32 holds; ties to even."""
    bits = np.asarray(values, "float32").view("uint32")
    bits = bits + 0x7FFF + ((bits >> 16) & 1)
    return (bits & 0xFFFF0000).view("float32")


def want(a, b, w, grads, rate, *, operands=(bfloat16, bfloat16), result=None, master=True, sign=-1):
    product = (operands[0](a).astype("float64") @ operands[1](b)).astype("float32")
    product = result(product) if result else product
    for grad in grads:
        w = w + np.float32(sign * rate) * grad
        w = w if master else bfloat16(w)
    return {"product": product, "weights": bfloat16(w)}


def _keep(values):
    return values


def _half(values):
    return values.astype("float16").astype("float32")


def rule(rounds, answers, facts):
    right = "the numbers are right, but "
    for name, dtype in (("product", "float32"), ("train", "bfloat16")):
        if facts[0][name] != dtype:
            return f"{right}{name} must return {dtype}, got {facts[0][name]}"
    return ""


EXERCISE = Exercise(
    number="13",
    idea="precision: bfloat16 and float32",
    functions=("product", "train"),
    draw=draw,
    ask=ask,
    want=want,
    rule=rule,
    # sums of 40 terms in float32, in any order; a rounding to bfloat16 that falls to either side
    tolerances={"product": 40 * 2.0**-23, "weights": 2.0**-7},
    mistakes=(
        Mistake(
            "product: the operands are not rounded; cast both to jnp.bfloat16 first",
            partial(want, operands=(_keep, _keep)),
        ),
        Mistake(
            "product: it is the result that is rounded to bfloat16, and not the operands: cast "
            "both first, and ask for preferred_element_type=jnp.float32",
            partial(want, operands=(_keep, _keep), result=bfloat16),
        ),
        Mistake(
            "product: the operands are rounded to float16, which has other digits than bfloat16",
            partial(want, operands=(_half, _half)),
        ),
        Mistake(
            "product: b is not rounded; with a float32 operand JAX computes in float32",
            partial(want, operands=(bfloat16, _keep)),
        ),
        Mistake(
            "product: a is not rounded; with a float32 operand JAX computes in float32",
            partial(want, operands=(_keep, bfloat16)),
        ),
        Mistake(
            "product: the result has been rounded to bfloat16: ask for "
            "preferred_element_type=jnp.float32, a later cast is too late",
            partial(want, result=bfloat16),
        ),
        Mistake(
            "train: the weights hardly move, since each update is smaller than bfloat16's spacing; "
            "add the updates to a copy in float32, and round once at the end",
            partial(want, master=False),
        ),
        Mistake("train: the steps go up: subtract rate * gradient", partial(want, sign=1)),
    ),
)
