"""Every exercise: right answers pass in several styles, and each wrong one gets its own hint."""

import os
import subprocess
import sys
import warnings

import numpy as np
import pytest
import quick_code
from exercises.solutions import RIGHT, WRONG, source

from jaxnet.exercises import EXERCISES, child, wire
from jaxnet.exercises.judge import judge

MANY_DEVICES = "16"  # it needs a process of its own
CODE = """
import sys
from jaxnet.exercises import EXERCISES, child, wire
path, found = "exercise.py", []
for text, rounds in wire.unpack(sys.stdin.buffer.read()):
    found.append(child.answer(EXERCISES[sys.argv[1]], path, text, rounds))
sys.stdout.buffer.write(wire.pack(found))
"""


def ask(number, asked):
    """The replies to (source, rounds), as they come through the wire."""
    found = []
    for text, rounds in wire.unpack(wire.pack(asked)):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            found.append(child.answer(EXERCISES[number], "exercise.py", text, rounds))
    return wire.unpack(wire.pack(found))


def ask_elsewhere(number, asked):
    own = {"JAX_PLATFORMS": "cpu", "JAX_ENABLE_X64": "1"} | quick_code.ENVIRONMENT
    environment = os.environ | own | dict(EXERCISES[number].environment)
    command = [sys.executable, "-c", CODE, number]
    done = subprocess.run(command, input=wire.pack(asked), env=environment, stdout=-1, check=True)
    return wire.unpack(done.stdout)


@pytest.mark.parametrize("number", EXERCISES)
@pytest.mark.usefixtures("x64")
def test_right_answers_pass_and_each_wrong_one_gets_its_own_hint(number):
    exercise = EXERCISES[number]
    answers = [(answer, None) for answer in RIGHT[number]] + WRONG[number]
    rounds = [exercise.draw(np.random.default_rng(seed)) for seed in range(len(answers))]
    texts = [source(number, answer) for answer, _ in answers]
    asked = list(zip(texts, rounds, strict=True))
    replies = (ask_elsewhere if number == MANY_DEVICES else ask)(number, asked)
    for (answer, hint), given, reply in zip(answers, rounds, replies, strict=True):
        found = judge(exercise, given, reply)
        assert found.right == (hint is None), (answer, found)
        assert (hint or "") in found.hint, (answer, found)


def test_every_exercise_has_two_styles_or_three_mistakes_at_least():
    assert RIGHT.keys() == WRONG.keys() == EXERCISES.keys()
    for number in EXERCISES:
        assert RIGHT[number]
        assert len({hint for _, hint in WRONG[number]}) >= 3


@pytest.mark.parametrize("number", EXERCISES)
def test_the_mistakes_of_an_exercise_answer_differently(number):
    exercise = EXERCISES[number]
    if exercise.want is None:
        return
    rounds = exercise.draw(np.random.default_rng(0))
    named = [mistake.hint for mistake in exercise.mistakes]
    assert len(set(named)) == len(named)
    for mistake in exercise.mistakes:
        answers = [mistake.answer(**inputs) for inputs in rounds]
        reply = wire.unpack(wire.pack({"answers": answers, "facts": [{}] * len(rounds)}))
        assert judge(exercise, rounds, reply).hint == mistake.hint
