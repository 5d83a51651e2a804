"""`jaxnet exercise`: list the exercises, start one, check what the reader wrote."""

from __future__ import annotations

import textwrap
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from tyro.conf import Positional

from jaxnet.cli import text

if TYPE_CHECKING:
    from jaxnet.exercises import Checked

ACTIONS = ("list", "start", "check")
PRINTED = 20  # lines that the file itself printed


@dataclass(frozen=True, kw_only=True)
class Exercise:
    """Practise what the scripts show: fill a gap, and have it checked.

    A file is run with your rights: do not check a stranger's file.

    The exit code of check is 0 if the file is right, else 1.

    Examples:
      jaxnet exercise list
      jaxnet exercise start 03
      jaxnet exercise check exercise_03.py
    """

    action: Positional[str] = "list"
    """list: all exercises, and their files in this folder. start: write the file of an exercise.
    check: run a file, and say what is wrong with it."""
    target: Positional[str | None] = None
    """The number of the exercise to start, or the file to check."""
    seed: int | None = None
    """Of the inputs of a check, to repeat it; by default another one each time."""
    seconds: float = 60.0
    """The time after which a file that is checked is ended."""

    def __call__(self) -> int:
        """Do it; 0 if it is done, 1 if the checked file is not right."""
        if self.action not in ACTIONS:
            raise ValueError(f"`action` must be one of {', '.join(ACTIONS)}; got {self.action!r}")
        if self.action == "list":
            if self.target is not None:
                raise ValueError(f"`target` must not be given with list, got {self.target}")
            return _list()
        if self.target is None:
            wanted = "the NUMBER of an exercise" if self.action == "start" else "a FILE"
            raise ValueError(f"`target` must be {wanted} for {self.action}, got none")
        return self._start(self.target) if self.action == "start" else self._check(self.target)

    def _start(self, number: str) -> int:
        from jaxnet import exercises

        path = exercises.start(number)
        print(f"{path}: fill the gaps (...)")
        text.print_commands(f"exercise check {text.quote(path)}")
        return 0

    def _check(self, file: str) -> int:
        from jaxnet import exercises

        found = exercises.check(file, seed=self.seed, seconds=self.seconds)
        _print(Path(file), found)
        return 0 if found.verdict.right else 1


def _list() -> int:
    from jaxnet.exercises import EXERCISES, started

    here = started()
    width = max(len(exercise.idea) for exercise in EXERCISES.values())
    for number, exercise in EXERCISES.items():
        print(f"{number}  {exercise.idea:{width}}  {', '.join(here[number])}".rstrip())
    text.print_commands("exercise start NUMBER", "exercise check FILE")
    return 0


def _print(path: Path, found: Checked) -> None:
    verdict = found.verdict
    if found.printed:
        lines = found.printed.splitlines()
        print("the file prints:")
        print(textwrap.indent("\n".join(lines[:PRINTED]), "  "))
        if len(lines) > PRINTED:
            print(f"  ... and {text.count(len(lines) - PRINTED, 'line')} more")
    said = "right" if verdict.right else "not right yet"
    print(f"{path}: {said} (exercise {found.exercise.number}, seed {found.seed})")
    if verdict.where:
        print(textwrap.fill(f"differs: {verdict.where}", 96, subsequent_indent="  "))
    for line in verdict.hint.splitlines():
        print(textwrap.fill(line, 96, initial_indent="  ", subsequent_indent="    "))
