"""06: optax makes the updates, and the whole step is compiled."""

from __future__ import annotations

from functools import partial

from jaxnet import numpy_net
from jaxnet.exercises.exercise import Exercise, Mistake, take
from jaxnet.exercises.numpy_twins import draw_network, network

STEPS = 4
RATE = 0.01


def ask(module, params, x, y):
    import jax
    import jax.numpy as jnp

    params = {name: jnp.asarray(leaf) for name, leaf in params.items()}
    x, y = jnp.asarray(x), jnp.asarray(y)
    state, losses = module.init(params), []
    names = "new_params", "new_opt_state", "loss"
    first, second = (  # each by a new function, since JAX remembers what it has traced
        jax.make_jaxpr(lambda *given: module.step(*given))(params, state, x, y).eqns
        for _ in range(2)
    )
    outside = any(equation.primitive.name not in ("jit", "pjit") for equation in first)
    pairs = [] if outside else zip(first, second, strict=True)
    anew = any(a.params["jaxpr"] is not b.params["jaxpr"] for a, b in pairs)
    for _ in range(STEPS):
        found = take(module.step(params, state, x, y), "step", *names)
        params, state = found["new_params"], found["new_opt_state"]
        losses.append(found["loss"])
    return {"params": params, "losses": losses}, {"outside": outside, "anew": anew}


def want(params, x, y, *, optimizer="adam", rate=RATE, forget=False, after=False, apply=None):
    rule = numpy_net.make_optimizer(optimizer, rate)
    state, losses = rule.init(params), []
    for _ in range(STEPS):
        found = network(params, x, y)
        old = state
        new, state = rule.update(params, found["grads"], state)
        state = old if forget else state
        if apply:
            new = {k: apply(p, new[k] - p, found["grads"][k]) for k, p in params.items()}
        params = new
        losses.append(network(params, x, y)["loss"] if after else found["loss"])
    return {"params": params, "losses": losses}


def rule(rounds, answers, facts):
    if any(fact["outside"] for fact in facts):
        return (
            "the numbers are right, but the step is not compiled as a whole: put @jax.jit above it"
        )
    if any(fact["anew"] for fact in facts):
        return (
            "the numbers are right, but each call compiles anew: jax.jit is called inside step; "
            "put @jax.jit above step"
        )
    return ""


EXERCISE = Exercise(
    number="06",
    idea="optax makes the updates, and the whole step is compiled",
    functions=("init", "step"),
    draw=lambda rng: [draw_network(rng)],
    ask=ask,
    want=want,
    rule=rule,
    errors=(
        (
            "string indexing",
            "step must return (new params, new opt_state, loss), in this order",
        ),
        ("at path opt_state", "the state is what optimizer.init(params) returns"),
        (
            "(?s)Expected dict, got|dict.*tuple|not enough values to unpack",
            (
                "optimizer.update(grads, opt_state, params) returns two things: the updates, and "
                "the new state"
            ),
        ),
    ),
    mistakes=(
        Mistake(
            "Adam begins anew at each step: return the new state that optimizer.update gives, and "
            "do not call optimizer.init in the step",
            partial(want, forget=True),
        ),
        Mistake(
            "the step goes up: optax's updates have their sign already, so add them, by "
            "optax.apply_updates",
            partial(want, rate=-RATE),
        ),
        Mistake(
            "the gradients are added to the parameters: apply the updates that optimizer.update "
            "makes of them",
            partial(want, apply=lambda p, update, grad: p + grad),
        ),
        Mistake(
            "the updates are returned in the place of the parameters: "
            "optax.apply_updates(params, updates) adds them",
            partial(want, apply=lambda p, update, grad: update),
        ),
        Mistake(
            "the updates are multiplied by the rate, and subtracted, once more: optax.adam(0.01) "
            "has done both, so add them, by optax.apply_updates",
            partial(want, apply=lambda p, update, grad: p - RATE * update),
        ),
        Mistake("the rule is that of SGD: Adam is wanted", partial(want, optimizer="sgd")),
        Mistake(
            "the loss is that after the update: return the one that the gradient is of",
            partial(want, after=True),
        ),
        Mistake(
            "the parameters do not move: return what optax.apply_updates gives",
            partial(want, rate=0.0),
        ),
    ),
)
