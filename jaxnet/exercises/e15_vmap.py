"""15: many networks at once."""

from __future__ import annotations

from functools import partial

import numpy as np

from jaxnet.exercises.counted import counted, descend
from jaxnet.exercises.exercise import Exercise, Mistake

STEPS = 5
SIZES = ((3, 2), (4, 6))  # starts, rates


def draw(rng):
    return [
        {
            "w": rng.standard_normal((starts, 5)),
            "rates": rng.uniform(0.02, 0.2, rates),
            "x": rng.standard_normal((7, 5)),
            "y": rng.standard_normal(7),
        }
        for starts, rates in SIZES
    ]


def ask(module, w, rates, x, y):
    import jax.numpy as jnp

    w, rates, x, y = map(jnp.asarray, (w, rates, x, y))
    one = module.train(counted()[0], {"w": w[0]}, rates[0], x, y)
    loss, counts = counted()
    many = module.train_many(loss, {"w": w}, rates, x, y)
    return {"train": one, "train_many": many}, counts()


def want(w, rates, x, y, *, steps=STEPS, sign=1, rate=None, start=None):
    def one(s, r):
        chosen = rates[r if rate is None else rate]
        w0 = w[s if start is None else start]
        new, _ = descend(w0, [(x, y)] * steps, [sign * chosen] * steps)
        return np.square(x @ new - y).mean()

    many = np.array([[one(s, r) for r in range(len(rates))] for s in range(len(w))])
    return {"train": one(0, 0), "train_many": many}


def _turned(**given):
    found = want(**given)
    return found | {"train_many": found["train_many"].T}


def _mean(axis):
    def answer(**given):
        found = want(**given)
        return found | {"train_many": found["train_many"].mean(axis=axis)}

    return answer


def _right_one(answer):
    """The mistake is in train_many alone."""
    return lambda **given: answer(**given) | {"train": want(**given)["train"]}


def rule(rounds, answers, facts):
    if facts[1]["calls"] <= facts[0]["calls"]:
        return ""
    return (
        "the numbers are right, but a Python loop over networks is left: the loss was called "
        f"{facts[0]['calls']} times for {SIZES[0][0]} x {SIZES[0][1]} networks and "
        f"{facts[1]['calls']} for {SIZES[1][0]} x {SIZES[1][1]}; use jax.vmap for "
        "both params and rates"
    )


EXERCISE = Exercise(
    number="15",
    idea="many networks at once",
    functions=("train", "train_many"),
    draw=draw,
    ask=ask,
    want=want,
    rule=rule,
    errors=(
        (
            "not a valid JAX type",
            "vmap maps arrays, and the loss is a function: let what vmap gets capture it",
        ),
        (
            "inconsistent sizes",
            (
                "one vmap over both takes start i with rate i: each pair needs two, one around the "
                "other, with in_axes that maps params in one and the rate in the other"
            ),
        ),
        (
            "vmap.*in_axes|in_axes",
            (
                "in_axes has an entry for each argument that vmap's function takes: 0 for what is "
                "mapped, None for what is the same for all"
            ),
        ),
    ),
    mistakes=(
        Mistake(
            "train_many: the axes are the wrong way round, (R, S): the outer vmap's axis comes "
            "first, so the outer one maps params",
            _turned,
        ),
        Mistake(
            "the loss is that before the last step, or a step is missing",
            partial(want, steps=STEPS - 1),
        ),
        Mistake("there is a step too many", partial(want, steps=STEPS + 1)),
        Mistake("no step is taken", partial(want, steps=0)),
        Mistake("the steps go up: subtract rate * gradient", partial(want, sign=-1)),
        Mistake("train_many: the first rate is used for all", _right_one(partial(want, rate=0))),
        Mistake("train_many: the first start is used for all", _right_one(partial(want, start=0))),
        Mistake("train_many: the rates are averaged away", _mean(1)),
        Mistake("train_many: the starts are averaged away", _mean(0)),
    ),
)
