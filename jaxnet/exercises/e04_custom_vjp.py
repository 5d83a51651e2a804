"""04: a backward rule of one's own."""

from __future__ import annotations

from functools import partial

import numpy as np

from jaxnet.exercises.exercise import Exercise, Mistake


def draw(rng):
    return [{"x": rng.uniform(-2.4, 2.4, (5, 7)), "grad": rng.standard_normal((5, 7))}]


def ask(module, x, grad):
    import jax
    import jax.numpy as jnp

    value, back = jax.vjp(module.quantize, jnp.asarray(x))
    return {"value": value, "grad": back(jnp.asarray(grad))[0]}, {}


def want(x, grad, *, rule=lambda x, grad: np.where(np.abs(x) <= 1, grad, 0), value=np.round):
    return {"value": value(x), "grad": rule(x, grad)}


EXERCISE = Exercise(
    number="04",
    idea="a backward rule of your own",
    functions=("quantize",),
    draw=draw,
    ask=ask,
    want=want,
    errors=(
        (
            "No VJP defined",
            "a jax.custom_vjp function needs its rule: quantize.defvjp(quantize_fwd, quantize_bwd)",
        ),
        (
            "(?s)bwd.*(tuple|pytree|structure)|tuple.*bwd",
            "quantize_bwd returns a tuple with one gradient for each argument: (grad,)",
        ),
        (
            "(?s)fwd.*(tuple|pair|two|structure)",
            "quantize_fwd returns a pair: the output, and what the backward rule will need",
        ),
    ),
    mistakes=(
        Mistake(
            "the gradient is 0, that of rounding: the backward rule is not used",
            partial(want, rule=lambda x, grad: 0 * grad),
        ),
        Mistake(
            "the rule does not use the gradient that comes in: it must be multiplied by it",
            partial(want, rule=lambda x, grad: 1.0 * (np.abs(x) <= 1)),
        ),
        Mistake(
            "the gradient passes everywhere: it must be 0 where |x| > 1",
            partial(want, rule=lambda x, grad: grad),
        ),
        Mistake(
            "the condition is the wrong way round: the gradient passes where |x| <= 1",
            partial(want, rule=lambda x, grad: np.where(np.abs(x) <= 1, 0, grad)),
        ),
        Mistake(
            "the condition takes x without its sign taken off: -2 is outside too; use jnp.abs(x)",
            partial(want, rule=lambda x, grad: np.where(x <= 1, grad, 0)),
        ),
        Mistake(
            "the condition is on the rounded value: keep x itself for the backward rule, not the "
            "output",
            partial(want, rule=lambda x, grad: np.where(np.abs(np.round(x)) <= 1, grad, 0)),
        ),
        Mistake(
            "the condition is on the gradient: it is x that must be within 1",
            partial(want, rule=lambda x, grad: np.where(np.abs(grad) <= 1, grad, 0)),
        ),
        Mistake(
            "the gradient is clipped: it passes as it is where |x| <= 1, and is 0 elsewhere",
            partial(want, rule=lambda x, grad: np.clip(grad, -1, 1)),
        ),
        Mistake(
            "quantize_fwd returns its pair the wrong way round: the output comes first, then what "
            "is kept",
            partial(
                want,
                rule=lambda x, grad: np.where(np.abs(np.round(x)) <= 1, grad, 0),
                value=lambda x: x,
            ),
        ),
        Mistake("the output is x: quantize must still round", partial(want, value=lambda x: x)),
    ),
)
