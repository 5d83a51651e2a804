"""Exercises as files in the reader's folder: start one, find those that are there, check one."""

from __future__ import annotations

import ast
import re
import secrets
from pathlib import Path
from typing import NamedTuple

import numpy as np

from jaxnet import files
from jaxnet.exercises import runner
from jaxnet.exercises.exercise import Exercise
from jaxnet.exercises.judge import Verdict, judge
from jaxnet.exercises.table import EXERCISES
from jaxnet.spec import check_choice

DAY = 86_400
STARTERS = Path(__file__).parent / "starters"


class Checked(NamedTuple):
    """What `check` found. printed: by the file itself; seed: of the inputs that were drawn."""

    exercise: Exercise
    verdict: Verdict
    printed: str
    seed: int
    seconds: float


def start(number: str, folder: str | Path = ".") -> Path:
    """Write an exercise's file, "exercise_03.py" for "03" or "3", and return its path.

    Raises: ValueError for an unknown number; FileExistsError if the file is there, OSError if it
    cannot be written.
    """
    number = number.zfill(2)
    check_choice("number", number, tuple(EXERCISES))
    path = Path(folder) / f"exercise_{number}.py"
    text = (STARTERS / f"{number}.txt").read_text(encoding="utf-8")
    try:
        with files.replacing(path, new=True) as part:
            part.write_text(text.replace("THIS FILE", path.name), encoding="utf-8")
    except FileExistsError:
        raise FileExistsError(
            f"{path} is there, and is not replaced: move it, or give it another name, to start anew"
        ) from None
    return path


def started(folder: str | Path = ".") -> dict[str, list[str]]:
    """Return the names of the files in a folder by the number of the exercise that each is of."""
    found: dict[str, list[str]] = {number: [] for number in EXERCISES}
    for path in sorted(Path(folder).glob("*.py")):
        try:
            number = _number(path.read_text(encoding="utf-8", errors="replace"))
        except OSError:
            continue
        if number in found:
            found[number].append(path.name)
    return found


def check(path: str | Path, *, seed: int | None = None, seconds: float = 60.0) -> Checked:
    """Run a file in a process of its own, and judge what its functions answer.

    seed: of the inputs; by default another one each time. seconds: after which the file is ended.

    Raises: ValueError if the file is no exercise; OSError if it cannot be read.
    """
    if not 0 < seconds <= DAY:
        raise ValueError(f"`seconds` must be above 0 and at most {DAY}, got {seconds}")
    if seed is not None and seed < 0:
        raise ValueError(f"`seed` must be at least 0, got {seed}")
    path = Path(path).absolute()
    exercise, source = _read(path)
    seed = secrets.randbelow(2**32) if seed is None else seed
    if fault := _gap(source, path):
        return Checked(exercise, Verdict(False, "", fault), "", seed, 0.0)
    rounds = exercise.draw(np.random.default_rng(seed))
    found = runner.run(exercise, path, source, rounds, seconds)
    verdict = judge(exercise, rounds, found.reply)
    return Checked(exercise, verdict, found.printed, seed, found.seconds)


def _read(path: Path) -> tuple[Exercise, str]:
    if path.is_dir():
        raise ValueError(f"`target` must be a file, got the folder {path}")
    try:
        source = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise FileNotFoundError(f"there is no file {path}") from None
    except UnicodeDecodeError:
        raise ValueError(f"{path} is not a text file in UTF-8") from None
    number = _number(source)
    if number not in EXERCISES:
        raise ValueError(
            f'{path} must begin with the line """Exercise NUMBER: ..., as `jaxnet exercise start` '
            "writes it: that says which exercise it is"
        )
    return EXERCISES[number], source


def _number(source: str) -> str:
    found = re.match(r'\s*(?:"""|\'\'\')\s*Exercise (\d\d)\b', source)
    return found[1] if found else ""


def _gap(source: str, path: Path) -> str:
    """Say what cannot be run: a syntax error, or a gap that is not filled."""
    try:
        tree = ast.parse(source, str(path))
    except (SyntaxError, ValueError) as error:
        line = getattr(error, "lineno", None)
        text = (getattr(error, "text", None) or "").strip()
        where = f"line {line}: {text}\n" if line else ""
        return f"{where}{type(error).__name__}: {getattr(error, 'msg', None) or error}"
    inside = [node.slice for node in ast.walk(tree) if isinstance(node, ast.Subscript)]
    allowed = {id(part) for index in inside for part in ast.walk(index)}  # x[..., 0]
    allowed |= {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr)}
    gaps = [
        node
        for node in ast.walk(tree)
        if isinstance(node, ast.Constant) and node.value is Ellipsis and id(node) not in allowed
    ]
    numbers = sorted({gap.lineno for gap in gaps})
    where = f"line{'s' * (len(numbers) > 1)} {', '.join(map(str, numbers))}"
    return f"a gap (...) is not filled: {where}" if numbers else ""
