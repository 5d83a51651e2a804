"""11: compile once, not at every step."""

from __future__ import annotations

from functools import partial

from jaxnet.exercises.counted import counted, descend
from jaxnet.exercises.exercise import Exercise, Mistake, take

ROWS = (6, 6, 6, 6, 6, 6, 4)
RATES = (0.3, 0.2, 0.1, 0.3, 0.2, 0.1, 0.3)  # with the shapes there are 4 kinds of steps
KINDS = len(set(zip(ROWS, RATES, strict=True)))


def draw(rng):
    batches = [(rng.standard_normal((n, 5)), rng.standard_normal(n)) for n in ROWS]
    return [{"w": rng.standard_normal(5), "batches": batches, "rates": list(RATES)}]


def ask(module, w, batches, rates):
    import jax.numpy as jnp

    loss, counts = counted()
    batches = [tuple(map(jnp.asarray, batch)) for batch in batches]
    result = module.fit(loss, {"w": jnp.asarray(w)}, batches, list(rates))
    return take(result, "fit", "params", "losses"), counts()


def want(w, batches, rates, *, sign=1, after=False, moved=True, rate=None, last=None):
    rates = [sign * (r if rate is None else rate) * moved for r in rates][:last]
    batches = batches[:last]
    new, losses = descend(w, batches, rates)
    if after:
        losses = []
        for batch, r in zip(batches, rates, strict=True):
            w, _ = descend(w, [batch], [r])
            losses += descend(w, [batch], [r])[1]
    return {"params": {"w": new}, "losses": losses}


def _captured(w, batches, rates):
    """The step captures params: those of when each shape was compiled."""
    kept, losses, w0 = {}, [], w
    for batch, rate in zip(batches, rates, strict=True):
        start = kept.setdefault(len(batch[1]), w0)
        w0, (loss,) = descend(start, [batch], [rate])
        losses.append(loss)
    return {"params": {"w": w0}, "losses": losses}


def rule(rounds, answers, facts):
    count, shapes, steps = facts[0]["traces"], len(set(ROWS)), len(ROWS)
    right = f"the numbers are right, but the loss is compiled {count} times, where {shapes} are"
    right += " enough: "
    if facts[0]["eager"]:
        return (
            f"the numbers are right, but the loss ran {facts[0]['eager']} times without jax.jit: "
            "compile the step"
        )
    if count <= shapes:
        return ""
    if count >= steps:
        return right + (
            "once for each step; jax.jit is called anew at each, or the rate is captured by a new "
            "function each time: make the step once, before the loop"
        )
    if count == KINDS:
        return right + (
            "once for each rate and shape; the rate is a constant of the program: pass it as an "
            "ordinary argument, neither captured nor static"
        )
    return right + "make the step once, and pass all that changes as arguments"


EXERCISE = Exercise(
    number="11",
    idea="compile once, not at every step",
    functions=("fit",),
    draw=draw,
    ask=ask,
    want=want,
    rule=rule,
    errors=(
        (
            "not a valid JAX type|as an abstract array|Non-hashable|unhashable",
            (
                "what jax.jit is given must be arrays, numbers, or trees of them: capture the "
                "loss, which never changes, and pass the rest"
            ),
        ),
    ),
    mistakes=(
        Mistake(
            "the step goes up: subtract rate * gradient, so that the losses fall",
            partial(want, sign=-1),
        ),
        Mistake("the losses are those after the updates", partial(want, after=True)),
        Mistake(
            "params never changes: give the new params to the next step",
            partial(want, moved=False),
        ),
        Mistake(
            f"the rate of the first step, {RATES[0]}, is used at each: a number that a compiled "
            "function captures is a constant of it; pass the rate as an argument",
            partial(want, rate=RATES[0]),
        ),
        Mistake(
            "the compiled step captures params, which stay as they were when it was compiled: pass "
            "them as an argument",
            _captured,
        ),
        Mistake("the smaller last batch is left out", partial(want, last=-1)),
    ),
)
