"""Exercises that mark themselves: `start` writes a file with a gap, `check` runs and judges it.

Each practises the idea of one script, 01 to 16. Inputs are drawn anew for every check; the file
runs in a process of its own, and what it answers is compared here with NumPy.
"""

from jaxnet.exercises.exercise import Exercise
from jaxnet.exercises.files import Checked, check, start, started
from jaxnet.exercises.judge import Verdict
from jaxnet.exercises.table import EXERCISES

__all__ = ["EXERCISES", "Checked", "Exercise", "Verdict", "check", "start", "started"]
