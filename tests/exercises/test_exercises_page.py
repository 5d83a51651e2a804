"""The page of the exercises shows what a reader gets, and all exercises."""

import re
import shlex
from pathlib import Path

from jaxnet.cli import main
from jaxnet.exercises import EXERCISES

PAGE = (Path(__file__).parents[2] / "docs/exercises.md").read_text()
BLOCKS = re.findall(r"```(\w*)\n(.*?)```", PAGE, re.DOTALL)


def test_the_exercise_on_the_page_goes_as_shown(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    file, head, sessions = tmp_path / "exercise_03.py", "", 0
    for language, text in BLOCKS:
        if language == "python" and not head:  # the end of the file as it was written
            assert file.read_text().endswith(text)
            head = file.read_text().removesuffix(text)
        elif language == "python":
            file.write_text(head + text)
        elif text.startswith("$ "):
            command, shown = text.removeprefix("$ jaxnet ").split("\n", 1)
            main(shlex.split(command))
            assert capsys.readouterr().out.partition("next:")[0] == shown
            sessions += 1
    assert sessions == 4


def test_the_page_lists_all_exercises():
    rows = [
        (number, exercise.idea, ", ".join(f"`{name}`" for name in exercise.functions))
        for number, exercise in EXERCISES.items()
    ]
    assert re.findall(r"^\| (\d\d) \| (.*) \| (.*) \|$", PAGE, re.MULTILINE) == rows
