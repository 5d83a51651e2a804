"""09: random keys, and dropout."""

from __future__ import annotations

import numpy as np

from jaxnet.exercises.exercise import Exercise, take
from jaxnet.parity.limits import RELATIVE

SHAPE = (60, 70)
SIGMAS = 6.0  # a right share of so many elements is further off once in 5e8 checks


def draw(rng):
    rate = float(rng.choice([0.2, 0.3]))
    seeds = [int(seed) for seed in rng.integers(0, 2**31, 2)]
    x = rng.uniform(0.5, 1.5, SHAPE) * rng.choice([-1, 1], SHAPE)  # no element is 0
    return [{"x": x, "rate": rate, "seeds": seeds}] * 2


def ask(module, x, rate, seeds):
    import jax
    import jax.numpy as jnp

    x, (key, other) = jnp.asarray(x), map(jax.random.key, seeds)
    pair = take(module.twice(key, x, rate), "twice", "first", "second")
    return {"dropout": module.dropout(key, x, rate), "other": module.dropout(other, x, rate)} | {
        f"twice/{name}": value for name, value in pair.items()
    }, {}


def rule(rounds, answers, facts):
    x, rate = rounds[0]["x"], rounds[0]["rate"]
    for name, got in answers[0].items():
        if hint := _one(name, got, x, rate):
            return hint
    if any(not np.array_equal(answers[0][name], answers[-1][name]) for name in answers[0]):
        return (
            "two calls with the same key differ: draw with jax.random and the key, not with NumPy "
            "or a key of your own"
        )
    masks = {name: got != 0 for name, got in answers[0].items()}
    if _are_alike(masks["dropout"], masks["other"]):
        return "two keys give the same mask: the key that is given must be the one that is used"
    first, second = masks["twice/first"], masks["twice/second"]
    if _are_alike(first, second):
        return (
            "a key is used twice: both masks of twice are the same; "
            "first, second = jax.random.split(key) makes a key for each"
        )
    if _are_alike(first, masks["dropout"]) or _are_alike(second, masks["dropout"]):
        return (
            "a key is used after it was split: twice uses `key` itself for one of its masks, which "
            "the caller's next dropout with it would repeat; use the keys that jax.random.split "
            "makes, and those alone"
        )
    spread = np.sqrt(rate * (1 - rate) / x.size)
    if abs((~first & ~second).mean() - rate**2) > SIGMAS * spread:
        return "the two masks of twice depend on one another: draw each with a key of its own"
    return ""


def _one(name, got, x, rate):
    """What is wrong with one dropout of x, apart from the key that it used."""
    if not isinstance(got, np.ndarray) or got.shape != x.shape:
        return f"{name} must be an array of shape {x.shape}, got shape {np.shape(got)}"
    mask = got != 0
    if mask.all():
        return f"{name}: nothing is set to 0: draw a mask of x's own shape"
    if not mask.any():
        return f"{name}: everything is set to 0: draw a mask of x's own shape"
    scale = np.median((got / x)[mask])
    if not np.allclose(got[mask], scale * x[mask], rtol=RELATIVE, atol=0):
        return f"{name}: what is not set to 0 must be x / (1 - rate), all by the same factor"
    for axis, lines in enumerate(("columns", "rows")):
        if (mask.all(axis=axis) | ~mask.any(axis=axis)).all():
            return f"{name}: whole {lines} are set to 0: draw a mask of x's own shape"
    spread = SIGMAS * np.sqrt(rate * (1 - rate) / x.size)
    if abs(mask.mean() - rate) < spread:
        return (
            f"{name}: the share {mask.mean():.2f} is kept, where 1 - rate = {1 - rate:.2f} is "
            "wanted: jax.random.bernoulli(key, p) is True with probability p"
        )
    if name == "twice/second" and abs(mask.mean() - (1 - rate) ** 2) < spread:
        return f"{name} is the dropout of the first, where that of x is wanted"
    if abs(mask.mean() - (1 - rate)) > spread:
        return f"{name}: the share {mask.mean():.3f} is kept, where {1 - rate:.3f} is wanted"
    if not np.isclose(scale * (1 - rate), 1, rtol=RELATIVE, atol=0):
        return (
            f"{name}: what is kept is x times {scale:.4g}, where 1 / (1 - rate) = "
            f"{1 / (1 - rate):.4g} is wanted, so that the mean stays what it was"
        )
    return ""


def _are_alike(mask, other):
    """Whether two masks are one, or nearly: independent ones agree in less than 9 of 10."""
    return (mask == other).mean() > 0.9


EXERCISE = Exercise(
    number="09",
    idea="random keys, and dropout",
    functions=("dropout", "twice"),
    draw=draw,
    ask=ask,
    want=None,
    rule=rule,
    errors=(
        (
            "(?i)PRNG|key array|dtypes key",
            (
                "jax.random functions take the key as their first argument, and a split makes an "
                "array of keys: one key for each call"
            ),
        ),
    ),
)
