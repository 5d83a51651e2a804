"""14: updates in place, by donation."""

from __future__ import annotations

from functools import partial

from jaxnet.exercises.exercise import Exercise, Mistake


def draw(rng):
    def one(i):
        arrays = {"buffer": (4, 3), "row": (3,), "rows": (6, 3)}
        return {name: rng.standard_normal(shape) for name, shape in arrays.items()} | {"i": i}

    return [one(2), one(5)]


def ask(module, buffer, i, row, rows):
    import jax.numpy as jnp

    given = jnp.array(buffer)
    place = given.unsafe_buffer_pointer()
    pushed = module.push(given, i, jnp.asarray(row))
    donated = given.is_deleted() and pushed.unsafe_buffer_pointer() == place
    filled = module.fill(jnp.array(buffer), jnp.asarray(rows))
    return {"pushed": pushed, "filled": filled}, {"donated": donated}


def _set(buffer, i, row):
    buffer = buffer.copy()
    buffer[i % len(buffer)] = row
    return buffer


def _add(buffer, i, row):
    return _set(buffer, i, buffer[i % len(buffer)] + row)


def _drop(buffer, i, row):
    return _set(buffer, i, row) if i < len(buffer) else buffer


def _clamp(buffer, i, row):
    return _set(buffer, min(i, len(buffer) - 1), row)


def _ignore(buffer, i, row):
    return buffer


def want(buffer, i, row, rows, *, push=_set, first=0, fill=None):
    filled = buffer
    for j, one in enumerate(rows):
        filled = (fill or push)(filled, j + first, one)
    return {"pushed": push(buffer, i, row), "filled": filled}


def _only_last(buffer, i, row, rows):
    """Each push begins from the old buffer."""
    return want(buffer, i, row, rows) | {"filled": _set(buffer, len(rows) - 1, rows[-1])}


def rule(rounds, answers, facts):
    if all(fact["donated"] for fact in facts):
        return ""
    return (
        "the numbers are right, but the buffer is not donated: two of them are in memory; "
        "jax.jit(push, donate_argnums=0) donates the first argument"
    )


EXERCISE = Exercise(
    number="14",
    idea="updates in place, by donation",
    functions=("push", "fill"),
    draw=draw,
    ask=ask,
    want=want,
    rule=rule,
    errors=(
        (
            "immutable|does not support item assignment",
            "a JAX array cannot be written to: buffer.at[i].set(row) makes a new one",
        ),
        (
            "has been deleted|donated",
            (
                "a donated buffer is used again: after push(buffer, ...) only what it returned "
                "exists, so write buffer = push(buffer, i, row)"
            ),
        ),
    ),
    mistakes=(
        Mistake(
            "a row past the end is lost: JAX drops an update out of bounds; take i modulo N",
            partial(want, push=_drop),
        ),
        Mistake(
            "a row past the end is put into the last place; take i modulo N",
            partial(want, push=_clamp),
        ),
        Mistake(
            "the buffer does not change: .at[i].set returns a new one, which must be used",
            partial(want, push=_ignore),
        ),
        Mistake("the row is added: .at[i].set replaces, .at[i].add adds", partial(want, push=_add)),
        Mistake(
            "fill: the rows past the end are lost: push each row, since push takes i modulo N",
            partial(want, fill=_drop),
        ),
        Mistake("fill: it begins at 1, and must begin at 0", partial(want, first=1)),
        Mistake("fill: the rows are not pushed", partial(want, fill=_ignore)),
        Mistake(
            "fill: only the last row is in the buffer: each push must get what the one before "
            "returned",
            _only_last,
        ),
    ),
)
