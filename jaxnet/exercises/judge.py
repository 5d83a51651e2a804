"""Judge what a reader's file answered: right, or what is wrong with it, by name."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np

from jaxnet.exercises.errors import ERRORS
from jaxnet.exercises.exercise import Answers, Exercise, Inputs, flatten
from jaxnet.exercises.wire import Other
from jaxnet.parity import Case, Participant, check, oracle
from jaxnet.parity.causes import arithmetic
from jaxnet.parity.limits import MATHEMATICS, RELATIVE
from jaxnet.spec import Batch

EXACT = 1e-4  # what a cause may leave of the difference; where there is none, of its limit
NEAR = 1e-4  # a difference of this share of the largest element is a matter of precision


class Verdict(NamedTuple):
    """Whether the answer is right; else where it differs, if that is known, and why."""

    right: bool
    where: str = ""
    hint: str = ""


def judge(exercise: Exercise, rounds: list[Inputs], reply: Any) -> Verdict:
    """Compare the reply of the reader's process to these rounds with the right answers."""
    if "failed" in reply:
        return Verdict(False, "", _with_hint(exercise, reply))
    answers, facts = reply.get("answers"), reply.get("facts")
    if not _are_whole(answers, facts, len(rounds)):
        return Verdict(False, "", "the answer is incomplete: does the file write to its channel?")
    if exercise.want is not None:
        wanted = [exercise.want(**inputs) for inputs in rounds]
        for verdict in _of_numbers(exercise, rounds, answers, wanted):
            return verdict
    hint = exercise.rule(rounds, answers, facts) if exercise.rule else ""
    return Verdict(not hint, "", hint)


def _with_hint(exercise: Exercise, reply: dict[str, Any]) -> str:
    """What failed, and what the exercise says of such an error."""
    failed, error = str(reply["failed"]), str(reply.get("error", ""))
    if re.search("ellipsis", error, re.I):
        return f"{failed}\na gap (...) is not filled"
    for pattern, hint in (*exercise.errors, *ERRORS):
        if re.search(pattern, error):
            return f"{failed}\n{hint}"
    return failed


def _are_whole(answers: Any, facts: Any, count: int) -> bool:
    return all(
        isinstance(found, list) and len(found) == count and all(isinstance(a, dict) for a in found)
        for found in (answers, facts)
    )


def _of_numbers(
    exercise: Exercise, rounds: list[Inputs], answers: list[Answers], wanted: list[Answers]
) -> Iterator[Verdict]:
    """Yield what is wrong with the numbers, the surest first; nothing if they are right."""
    wrong = [
        name
        for got, want in zip(answers, wanted, strict=True)
        for name in _differing(exercise, got, want)
    ]
    if not wrong:
        return
    where = ", ".join(dict.fromkeys(wrong))
    for mistake in exercise.mistakes:
        made = [mistake.answer(**inputs) for inputs in rounds]
        if not any(_differing(exercise, a, m) for a, m in zip(answers, made, strict=True)):
            yield Verdict(False, where, mistake.hint)
    for got, want in zip(answers, wanted, strict=True):
        if hint := _form(got, want):
            yield Verdict(False, where, hint)
    if rounds[-1] is rounds[0] and _differing(exercise, answers[-1], answers[0]):
        yield Verdict(
            False,
            where,
            "two calls with the same inputs answer differently: does the "
            "file draw random numbers, or keep something from call to call?",
        )
    for hint in _causes(exercise, rounds, answers, wanted):
        yield Verdict(False, where, hint)
    yield Verdict(False, where, _first(exercise, answers, wanted))


def _differing(exercise: Exercise, got: Answers, want: Answers) -> list[str]:
    """Return the names of the leaves that are not those wanted, up to rounding."""
    own, other = flatten(got), flatten(want)
    names = [*other, *(name for name in own if name not in other)]
    return [name for name in names if not _is_equal(exercise, name, own, other)]


def _is_equal(exercise: Exercise, name: str, own: Answers, other: Answers) -> bool:
    if name not in own or name not in other:
        return False
    got, want = own[name], np.asarray(other[name])
    if not _is_array(got) or np.shape(got) != want.shape:
        return False
    tolerance = exercise.tolerances.get(name.partition("/")[0], RELATIVE)
    limit = tolerance * np.abs(want).max(initial=0)
    with np.errstate(all="ignore"):
        return bool(np.all(np.abs(np.asarray(got, float) - want) <= limit))


def _is_array(value: Any) -> bool:
    return isinstance(value, (np.ndarray, int, float)) and not isinstance(value, Other)


def _form(got: Answers, want: Answers) -> str:
    """Say which answer has another structure, shape or kind than it must have."""
    own, other = flatten(got), flatten(want)
    for name in other:
        shape = np.shape(other[name])
        if name not in own:
            top = name.partition("/")[0]
            found = _describe(got.get(top))
            return f"{top} must be {_describe(want[top])}, got {found}"
        if not _is_array(own[name]):
            return f"{name} must be {_describe(other[name])}, got {_describe(own[name])}"
        if np.shape(own[name]) != shape:
            turned = len(shape) > 1 and np.shape(own[name]) == shape[::-1]
            hint = ": it is transposed" if turned else ""
            return f"{name} must have shape {shape}, got {np.shape(own[name])}{hint}"
        if not np.isfinite(own[name]).all():
            return f"{name} is not finite"
    extra = [name for name in own if name not in other]
    return f"{', '.join(extra)} must not be there" if extra else ""


def _describe(value: Any) -> str:
    if isinstance(value, dict):
        return "{" + ", ".join(f"{k}: {_describe(v)}" for k, v in value.items()) + "}"
    if isinstance(value, list):
        return f"[{', '.join(map(_describe, value))}]"
    if isinstance(value, Other):
        kinds = {"ellipsis": "the gap (...)", "function": "a function: is it not called?"}
        return kinds.get(value, f"an object of type {value}")
    if value is None:
        return "None: is a `return` missing?"
    if not _is_array(value):
        return repr(value)
    return f"an array {np.shape(value)}" if np.shape(value) else "a number"


def _causes(
    exercise: Exercise, rounds: list[Inputs], answers: list[Answers], wanted: list[Answers]
) -> Iterator[str]:
    """Yield what parity says of the numbers."""
    if exercise.spec is not None and (hint := _of_parity(exercise, rounds, answers)):
        yield hint
    pairs = {}
    for got, want in zip(answers, wanted, strict=True):
        if not pairs and _differing(exercise, got, want):
            own = flatten(got)
            pairs = {name: (value, own[name]) for name, value in flatten(want).items()}
    for name, remedy, _ in arithmetic.explain(pairs, exercise.counts)[:1]:
        yield f"{_in_words(name)}; {remedy}"
    worst = max(_distance(own, value) for value, own in pairs.values())
    if worst < NEAR:
        yield (
            f"nearly right: off by {worst:.0e} of the largest number, more than rounding in "
            "float64: is a part computed in float32, or by finite differences?"
        )


def _in_words(cause: str) -> str:
    found = re.fullmatch(r"factor (\S+) (?:on (.*)|\((.*)\))", cause)
    if not found:
        return cause
    where = found[2] or found[3]
    return f"your {where} {'are' if ',' in where else 'is'} the reference's times {found[1]}"


def _of_parity(exercise: Exercise, rounds: list[Inputs], answers: list[Answers]) -> str:
    """Ask `parity.check` with the oracle of the network; return the cause that it names, if any."""
    assert exercise.spec is not None
    places = [(dict(r["params"]), _batch(r)) for r in rounds]

    def recorded(params, batch):
        for got, (leaves, own) in zip(answers, places, strict=True):
            same = np.array_equal(own.x, batch.x) and own.repeats == batch.repeats
            if same and all(np.array_equal(leaves[k], params[k]) for k in leaves):
                return np.asarray(got["loss"]), got["grads"]
        raise ValueError("not asked")

    (params, first), *others = places
    probes = {f"round {i}": place for i, place in enumerate(others, start=2)}
    case = Case(exercise.number, params, lambda step: first, (1,), 1, probes)
    reference = oracle(exercise.spec, "sgd", exercise.rate or 1e-6)
    report = check(
        Participant("your file", recorded), against=reference, case=case, tiers=(MATHEMATICS,)
    )
    known = report.cause not in ("", "unknown", "ambiguous")
    known = known and report.causes[0].distance <= EXACT
    return f"{_in_words(report.cause)}; {report.remedy}" if known else ""


def _batch(inputs: Inputs) -> Batch:
    return Batch(inputs["x"], inputs["y"], inputs.get("repeats"))


def _distance(got: Any, want: Any) -> float:
    size = np.abs(want).max(initial=0)
    return float(np.abs(np.asarray(got, float) - want).max(initial=0) / (size or 1.0))


def _first(exercise: Exercise, answers: list[Answers], wanted: list[Answers]) -> str:
    """Show the element that is furthest off, of the first leaf that differs."""
    for got, want in zip(answers, wanted, strict=True):
        for name in _differing(exercise, got, want):
            value, right = np.asarray(flatten(got)[name]), np.asarray(flatten(want)[name])
            distance = np.abs(value.astype(float) - right)
            at = np.unravel_index(int(distance.argmax()), distance.shape)
            index = f"[{', '.join(map(str, at))}]" if at else ""
            return (
                f"no known mistake: {name}{index} is {value[at]:.6g}, and must be {right[at]:.6g}"
            )
    return "no known mistake"
