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
    traced = jax.make_jaxpr(module.step)(params, state, x, y)
    outside = {equation.primitive.name for equation in traced.eqns}
    for _ in range(STEPS):
        found = take(module.step(params, state, x, y), "step", *names)
        params, state = found["new_params"], found["new_opt_state"]
        losses.append(found["loss"])
    return {"params": params, "losses": losses}, {"products outside": "dot_general" in outside}


def want(params, x, y, *, optimizer="adam", rate=RATE, forget=False, after=False, raw=False):
    rule = numpy_net.make_optimizer(optimizer, rate)
    state, losses = rule.init(params), []
    for _ in range(STEPS):
        found = network(params, x, y)
        old = state
        new, state = rule.update(params, found["grads"], state)
        state = old if forget else state
        params = {k: p + found["grads"][k] for k, p in params.items()} if raw else new
        losses.append(network(params, x, y)["loss"] if after else found["loss"])
    return {"params": params, "losses": losses}


def rule(rounds, answers, facts):
    if not any(fact["products outside"] for fact in facts):
        return ""
    return "the numbers are right, but the step is not compiled as a whole: put @jax.jit above it"


EXERCISE = Exercise(
    number="06",
    idea="optax makes the updates, and the whole step is compiled",
    functions=("init", "step"),
    draw=lambda rng: [draw_network(rng)],
    ask=ask,
    want=want,
    rule=rule,
    errors=(
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
            partial(want, raw=True),
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
