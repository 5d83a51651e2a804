"""`jaxnet exercise`: exit codes, what is printed, the file that is written."""

import pytest

from jaxnet.cli import main
from jaxnet.exercises import EXERCISES

WRITTEN = '''"""Exercise 01: my own text."""

import numpy as np


def value_and_grad(params, x, y):
    print("h" * 5)
    h = np.maximum(x @ params["w1"], 0)
    rest = h @ params["w2"] - y
    back = 2 * rest @ params["w2"].T * (h > 0)
    return (rest**2).sum(), {"w1": x.T @ back, "w2": 2 * h.T @ rest}
'''


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


def call(capsys, *argv):
    """The exit code, standard output and standard error."""
    return main(["exercise", *argv]), *capsys.readouterr()


def test_start_writes_a_file_and_never_replaces_one(capsys, folder):
    code, out, err = call(capsys, "start", "3")
    assert (code, err) == (0, "")
    assert out.startswith("exercise_03.py: fill the gaps (...)\nnext:\n")
    text = (folder / "exercise_03.py").read_text()
    assert text.startswith('"""Exercise 03: ')
    assert "jaxnet exercise check exercise_03.py" in text
    (folder / "exercise_03.py").write_text("mine")
    code, out, err = call(capsys, "start", "03")
    assert (code, out) == (2, "")
    assert err.startswith("jaxnet: exercise_03.py is there, and is not replaced")
    assert (folder / "exercise_03.py").read_text() == "mine"


def test_list_shows_all_exercises_and_the_files_that_are_there(capsys, folder):
    call(capsys, "start", "02")
    (folder / "other.py").write_text(WRITTEN)
    (folder / "no_exercise.py").write_bytes(b"\xff")
    capsys.readouterr()
    code, out, err = call(capsys, "list")
    assert (code, err) == (0, "")
    lines = out.partition("next:")[0].splitlines()
    assert [line[:2] for line in lines] == list(EXERCISES)
    assert lines[0].endswith("  other.py")
    assert lines[1].endswith("  exercise_02.py")
    assert not lines[2].endswith(".py")


def test_check_says_whether_a_file_is_right_and_what_it_prints(capsys, folder):
    (folder / "one.py").write_text(WRITTEN)
    code, out, err = call(capsys, "check", "one.py", "--seed", "5")
    assert (code, err) == (0, "")
    printed = "the file prints:\n" + 3 * "  hhhhh\n"
    assert out == f"{printed}one.py: right (exercise 01, seed 5)\n"
    (folder / "one.py").write_text(WRITTEN.replace("print(", "list(").replace("2 *", ""))
    code, out, err = call(capsys, "check", "one.py", "--seed", "5")
    assert (code, err) == (1, "")
    first, where, hint = out.splitlines()[:3]
    assert first == "one.py: not right yet (exercise 01, seed 5)"
    assert where == "differs: grads/w1, grads/w2"
    assert hint.startswith("  the factor 2 is missing: your gradient is the reference's times 1/2")


def test_a_file_that_prints_much_is_shown_in_part(capsys, folder):
    (folder / "one.py").write_text(WRITTEN.replace('"h" * 5', '"h\\n" * 30'))
    _, out, _ = call(capsys, "check", "one.py")
    assert out.count("  h\n") <= 20
    assert "more\n" in out


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["begin"], "ACTION must be one of list, start, check; got 'begin'"),
        (["list", "3"], "TARGET must not be given with list, got 3"),
        (["start"], "TARGET must be the NUMBER of an exercise for start, got none"),
        (["start", "17"], "`number` must be one of 01, 02"),
        (["check"], "TARGET must be a FILE for check, got none"),
        (["check", "nothing.py"], "there is no file "),
        (["check", "."], "TARGET must be a file, got the folder "),
        (["check", "other.py"], 'other.py must begin with the line """Exercise NUMBER: ...'),
        (["check", "binary.py"], "binary.py is not a text file in UTF-8"),
        (
            ["check", "one.py", "--seconds", "0"],
            "--seconds must be above 0 and at most 864",
        ),
        (["check", "one.py", "--seconds", "nan"], "--seconds must be above 0"),
        (["check", "one.py", "--seed", "-1"], "--seed must be at least 0, got -1"),
    ],
)
def test_wrong_words_and_files_are_one_line_and_exit_code_2(capsys, folder, argv, message):
    (folder / "one.py").write_text(WRITTEN)
    (folder / "other.py").write_text("import this\n")
    (folder / "binary.py").write_bytes(b"\xff\xfe")
    code, out, err = call(capsys, *argv)
    assert (code, out) == (2, "")
    assert message in err
    assert err.count("\n") == 1
