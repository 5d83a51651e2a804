"""What the README and the page of conventions show is what a reader gets."""

import re
import shlex
from pathlib import Path

import pytest

from jaxnet.cli import main

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text()
FENCE = re.compile(r"```(\w*)\n(.*?)```(?:\n```\n(.*?)```)?", re.DOTALL)


def blocks(text, language):
    """Pairs of an example and the output printed below it."""
    return [(code, shown) for kind, code, shown in FENCE.findall(text) if kind == language]


def alike(printed, shown):
    """Equal line by line; ... stands for any lines, and numbers agree to their first digits."""
    number = r"-?\d[\d,]*\.?\d*(?:e[-+]\d+)?"
    pattern = re.escape(re.sub(number, "0", shown)).replace(re.escape("...\n"), r"(?:.*\n)*?")
    return re.fullmatch(pattern, re.sub(number, "0", printed))


@pytest.mark.parametrize("text", [README, (ROOT / "docs/conventions.md").read_text()], ids=len)
def test_the_examples_run_and_print_what_is_shown(text, capsys):
    for code, shown in blocks(text, "python"):
        if "import torch" not in code:
            exec(compile(code, "example", "exec"), {})
            assert alike(capsys.readouterr().out, shown) or not shown


def test_the_commands_for_a_table_print_what_is_shown(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "jaxnet").symlink_to(ROOT / "jaxnet")
    session = next(code for code, _ in blocks(README, "") if code.startswith("$ jaxnet train"))
    for part in session.split("$ jaxnet ")[1:]:
        command, shown = part.split("\n", 1)
        assert main(shlex.split(command)) == 0
        printed = capsys.readouterr().out
        assert alike(printed.partition("next:")[0], shown), printed


def test_the_files_that_the_readme_names_are_there():
    names = set(re.findall(r"\]\(([\w./]+)\)", README))
    names |= {f"scripts/{name}" for name in re.findall(r"`(\d\d_\w+\.py)`", README)}
    assert len(names) > 12
    for name in names:
        assert (ROOT / name).exists(), name
