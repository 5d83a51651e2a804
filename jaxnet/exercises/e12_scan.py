"""12: the loop as one program."""

from __future__ import annotations

from functools import partial

import numpy as np

from jaxnet.exercises.counted import counted, descend
from jaxnet.exercises.exercise import Exercise, Mistake, take

STEPS = (3, 7)
RATE = 0.2


def draw(rng):
    return [
        {
            "w": rng.standard_normal(5),
            "xs": rng.standard_normal((steps, 6, 5)),
            "ys": rng.standard_normal((steps, 6)),
            "rate": RATE,
        }
        for steps in STEPS
    ]


def ask(module, w, xs, ys, rate):
    import jax
    import jax.numpy as jnp

    loss, counts = counted()
    given = {"w": jnp.asarray(w)}, jnp.asarray(xs), jnp.asarray(ys), rate
    found = take(module.fit(loss, *given), "fit", "params", "losses")
    facts = counts()
    if not facts["eager"]:
        traced = jax.make_jaxpr(lambda *arrays: module.fit(counted()[0], *arrays))
        try:
            facts["loops"] = _loops(traced(*given).jaxpr)
        except jax.errors.ConcretizationTypeError:  # Python reads a number between the steps
            facts["loops"] = 0
    if isinstance(found["losses"], list):
        found["losses"] = jnp.asarray(found["losses"])
    return found, facts


def _loops(jaxpr):
    """The number of loops in a program."""
    import jax

    count = 0
    for equation in jaxpr.eqns:
        count += equation.primitive.name in ("scan", "while")
        for value in jax.tree.leaves(list(equation.params.values())):
            inner = getattr(value, "jaxpr", value)
            count += _loops(inner) if hasattr(inner, "eqns") else 0
    return count


def want(w, xs, ys, rate, *, sign=1, carry=True, after=False, same=False, back=False):
    batches = list(zip(xs, ys, strict=True))
    batches = [batches[0]] * len(xs) if same else batches[::-1] if back else batches
    rates = [sign * rate * carry] * len(batches)
    new, losses = descend(w, batches, rates)
    if after:
        losses = []
        for batch in batches:
            w, _ = descend(w, [batch], [rate])
            losses += descend(w, [batch], [rate])[1]
    return {"params": {"w": new}, "losses": np.array(losses[::-1] if back else losses)}


def _last_loss(**given):
    found = want(**given)
    return found | {"losses": found["losses"][-1]}


def _captured(w, xs, ys, rate, mapped=False):
    """Each step begins at the first parameters."""
    found = [descend(w, [batch], [rate]) for batch in zip(xs, ys, strict=True)]
    new = np.array([step for step, _ in found])
    losses = np.array([loss for _, (loss,) in found])
    return {"params": {"w": new if mapped else new[-1]}, "losses": losses}


def rule(rounds, answers, facts):
    right = "the numbers are right, but "
    if facts[0]["eager"]:
        return right + "each step runs op by op from Python: use jax.lax.scan"
    if facts[1]["calls"] > facts[0]["calls"]:
        return right + (
            "the program grows with the steps: a Python loop under jax.jit is unrolled; use "
            "jax.lax.scan, whose body is compiled once"
        )
    if not all(fact.get("loops") for fact in facts):
        return right + (
            "Python calls a compiled step for each batch, and pays for a dispatch each time: use "
            "jax.lax.scan"
        )
    return ""


EXERCISE = Exercise(
    number="12",
    idea="the loop as one program",
    functions=("fit",),
    draw=draw,
    ask=ask,
    want=want,
    rule=rule,
    errors=(
        (
            "(?s)^TypeError: .*(scan|carry|required positional argument)",
            (
                "the body of a scan takes (carry, x) and returns (the new carry, what is "
                "collected), where x is one part of xs, here a pair; the carry keeps its "
                "structure, shapes and dtypes"
            ),
        ),
    ),
    mistakes=(
        Mistake(
            "the carry never changes: the body must return the new params as its first result",
            partial(want, carry=False),
        ),
        Mistake("the step goes up: subtract rate * gradient", partial(want, sign=-1)),
        Mistake(
            "the losses are those after the updates: collect the one that the gradient is of",
            partial(want, after=True),
        ),
        Mistake(
            "the first batch is used at each step: the body's second argument is the batch",
            partial(want, same=True),
        ),
        Mistake(
            "each step begins at the first params: the body must use those that it is given as "
            "its first argument",
            _captured,
        ),
        Mistake(
            "each batch has made a step of its own from the first params, as jax.vmap does: "
            "jax.lax.scan hands the params from step to step",
            partial(_captured, mapped=True),
        ),
        Mistake("the batches are taken from the last to the first", partial(want, back=True)),
        Mistake(
            "only the last loss is returned: what the body returns second is stacked over steps",
            _last_loss,
        ),
    ),
)
