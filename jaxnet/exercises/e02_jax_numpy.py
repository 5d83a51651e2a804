"""02: arrays that are never written to."""

from __future__ import annotations

from functools import partial

from jaxnet.exercises.exercise import Exercise, Mistake, take
from jaxnet.exercises.numpy_twins import draw_network, network

RATE = 0.01


def ask(module, params, x, y, rate):
    import jax
    import jax.numpy as jnp

    given = {name: jnp.asarray(leaf) for name, leaf in params.items()}
    passed = dict(given)
    result = module.step(passed, jnp.asarray(x), jnp.asarray(y), rate)
    found = take(result, "step", "loss", "new_params")
    kinds = {type(a).__name__ for a in jax.tree.leaves(found) if not isinstance(a, jax.Array)}
    written = passed.keys() != given.keys() or any(passed[k] is not given[k] for k in given)
    return found, {"not of JAX": sorted(kinds), "written": written}


def want(params, x, y, rate, *, moved=("w1", "w2"), sign=-1, mask=None, twice=False):
    found = network(params, x, y, mask=mask)
    new = {k: p + sign * rate * found["grads"][k] * (k in moved) for k, p in params.items()}
    loss = network(new, x, y)["loss"] if twice else found["loss"]
    return {"loss": loss, "new_params": new}


def _gradient(params, x, y, rate):
    found = network(params, x, y)
    return {"loss": found["loss"], "new_params": found["grads"]}


def _stale(params, x, y, rate):
    """w2 is moved first, and the gradient of w1 goes back through the new one."""
    new = want(params, x, y, rate)["new_params"]
    h = x @ params["w1"]
    found = network(params, x, y)
    rest = 2 * (h * (h > 0) @ params["w2"] - y)
    new["w1"] = params["w1"] - rate * x.T @ ((rest @ new["w2"].T) * (h >= 0))
    return {"loss": found["loss"], "new_params": new}


def rule(rounds, answers, facts):
    if any(fact["written"] for fact in facts):
        return (
            "the numbers are right, but `params` was changed: an array cannot be written to, but "
            'a dictionary can, and params["w1"] -= ... puts the new array into the caller\'s; make '
            "a new dictionary"
        )
    kinds = sorted({kind for fact in facts for kind in fact["not of JAX"]})
    if not kinds:
        return ""
    return (
        f"the numbers are right, but some are of type {', '.join(kinds)}: compute with jax.numpy "
        "alone, so that the arrays stay on the device"
    )


WRITTEN = (
    "a JAX array cannot be written to: jnp.where(h < 0, 0, grad_h), or "
    "grad_h.at[h < 0].set(0), makes a new one"
)
EXERCISE = Exercise(
    number="02",
    idea="arrays that are never written to",
    functions=("step",),
    draw=lambda rng: [draw_network(rng) | {"rate": RATE} for _ in range(2)],
    ask=ask,
    want=want,
    rule=rule,
    errors=(("immutable|does not support item assignment|read-only", WRITTEN),),
    mistakes=(
        Mistake(
            "the step goes up: subtract rate * gradient, so that the loss falls",
            partial(want, sign=1),
        ),
        Mistake(
            "nothing has moved: step returns the old parameters; `w.at[...]` and `w - ...` make "
            "new arrays, which must be the ones that are returned",
            partial(want, moved=()),
        ),
        Mistake("the gradients are returned: the new parameters are w - rate * grad_w", _gradient),
        Mistake(
            "the rate is missing: the new parameters are w - rate * grad_w",
            lambda rate, **given: want(**given, rate=1.0),
        ),
        Mistake("w2 does not move", partial(want, moved=("w1",))),
        Mistake("w1 does not move", partial(want, moved=("w2",))),
        Mistake(
            "the ReLU is missing on the way back: grad_h must be 0 where h < 0",
            partial(want, mask=lambda h, grad: grad),
        ),
        Mistake(
            "the mask is the wrong way round: jnp.where(condition, a, b) takes a where the "
            "condition is true, and grad_h must be 0 where h < 0",
            partial(want, mask=lambda h, grad: grad * (h < 0)),
        ),
        Mistake(
            "the mask is that of the gradient: grad_h must be 0 where h < 0",
            partial(want, mask=lambda h, grad: grad * (grad >= 0)),
        ),
        Mistake(
            "stale order: w2 is updated before the gradient of w1 has gone back through it; "
            "compute every gradient before any update",
            _stale,
        ),
        Mistake(
            "the loss is that after the update: return the one that the gradient is of",
            partial(want, twice=True),
        ),
    ),
)
