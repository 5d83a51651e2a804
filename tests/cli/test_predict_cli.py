"""`jaxnet predict` and `jaxnet evaluate`: what they print, and the confusion matrix as text."""

import os
import re
from pathlib import Path

import numpy as np
import pytest
from matplotlib.image import imread
from run_helpers import write_run

from jaxnet.cli import main
from jaxnet.cli.evaluate import confusion_text

ROWS = [(f"{i:03}", i / 3, ("red", "blue", "ägg")[i % 3]) for i in range(12)]
TARGETS = {"class": ['say "b"', "a, c", "c", "dé"], "price": [1.5, 2.25, 8.0, 3.0]}


def write_table(path, target, rows=ROWS):
    lines = []
    for i, (key, length, colour) in enumerate(rows):
        value = str(TARGETS[target][i % 4]).replace('"', '""')
        lines.append(f'{key},{length},{colour},"{value}"')
    path.write_text("\n".join([f"id,length,colour,{target}", *lines]) + "\n", encoding="utf-8")


@pytest.fixture(params=TARGETS)
def target(request, tmp_path, monkeypatch):
    """The target of the run in `run`, which is untrained, in the current folder with its table."""
    monkeypatch.chdir(tmp_path)
    write_table(tmp_path / "data.csv", request.param)
    write_run(tmp_path / "run", tmp_path / "data.csv", request.param)
    return request.param


def call(capsys, *argv):
    """The exit code, standard output and standard error."""
    return main([str(word) for word in argv]), *capsys.readouterr()


def test_predict_says_what_it_wrote(target, capsys):
    code, out, err = call(
        capsys, "predict", "run", "--data", "data.csv", "--out", "out.csv", "--keep", "id"
    )
    assert (code, err) == (0, "")
    names = {"class": 'id, class, p_a, c, ..., p_say "b"', "price": "id, price"}
    assert out == f"out.csv: 12 rows: {names[target]}\n"


def test_evaluate_prints_the_metrics_and_draws_the_confusion(target, capsys, tmp_path):
    code, out, err = call(capsys, "evaluate", "run", "--data", "data.csv")
    lines, png = out.splitlines(), tmp_path / "run" / "confusion-data.png"
    assert (code, err) == (0, "")
    assert lines[1].split()[:2] == ["data.csv", "12"]
    assert png.exists() == (target == "class")
    if target == "price":
        assert lines[0].split() == ["rows", "loss", "rmse", "r2"]
        assert len(lines) == 2
        code, _, err = call(capsys, "evaluate", "run", "--png", "a.png")
        assert code == 2
        assert err == "jaxnet: --png must be given for classes only: run predicts numbers\n"
    else:
        assert lines[0].split() == ["rows", "loss", "accuracy"]
        assert " ".join(lines[2].split()) == 'true \\ predicted a, c c dé say "b" recall'
        assert lines[-1] == "run/confusion-data.png"
        assert imread(png).std() > 0


@pytest.mark.parametrize("command", ["evaluate", "predict"])
@pytest.mark.parametrize("target", ["class"], indirect=True)
def test_an_unseen_category_is_refused_by_naming_an_option_that_helps(
    target, capsys, tmp_path, command
):
    write_table(tmp_path / "new.csv", target, [*ROWS[:2], ("003", 1.0, "mauve")])
    argv = [command, "run", "--data", "new.csv", *["--out", "o.csv"] * (command == "predict")]
    code, _, err = call(capsys, *argv)
    assert code == 2
    assert re.fullmatch(r"jaxnet: new\.csv: row 3, column 'colour': 'mauve' .*--unseen zero\n", err)
    assert call(capsys, *argv, "--unseen", "zero")[0] == 0


def test_a_place_for_the_picture_that_is_not_there_is_refused(target, capsys):
    code, _, err = call(capsys, "evaluate", "run", "--data", "data.csv", "--png", "none/a.png")
    assert (code, err) == (2, "jaxnet: --png must be in a folder that exists, got none/a.png\n")


def test_a_confusion_matrix_is_aligned_with_recall_and_precision():
    counts = np.array([[10, 2, 0], [0, 3, 0], [0, 0, 0]])
    lines = confusion_text(counts, ["cat", "a dog", "x"]).splitlines()
    assert lines == [
        r"true \ predicted     cat  a dog  x  recall",
        "cat                   10      2  0   83.3%",
        "a dog                  0      3  0  100.0%",
        "x                      0      0  0       -",
        "precision         100.0%  60.0%  -",
    ]


def test_many_classes_list_the_most_frequent_confusions():
    counts = np.diag(np.arange(1, 26))
    counts[3, 7], counts[24, 0], counts[5, 5] = 4, 9, 0
    lines = confusion_text(counts, [f"class {i}" for i in range(25)]).splitlines()
    assert lines == [
        "25 classes; confusions: 2",
        "true      predicted  rows  of the true class",
        "class 24    class 0     9              26.5%",
        "class 3     class 7     4              50.0%",
    ]
    assert confusion_text(np.eye(25, dtype=int), list("a" * 25)) == "25 classes; confusions: 0"
    lines = confusion_text(np.ones((25, 25), int), list("a" * 25)).splitlines()
    assert lines[0] == "25 classes; confusions: the 20 most frequent of 600"
    assert len(lines) == 22


def test_long_names_of_classes_are_cut():
    assert "a" * 15 + "…" in confusion_text(np.eye(2, dtype=int), ["a" * 17, "b" * 16])


@pytest.mark.parametrize("target", ["class"], indirect=True)
def test_a_run_that_can_only_be_read_is_evaluated_and_predicted_from(
    target, capsys, monkeypatch, tmp_path
):
    usual = os.open

    def refuse(path, flags, *args, **options):
        if "run" in Path(path).parts and flags & (os.O_WRONLY | os.O_RDWR):
            raise OSError(30, "Read-only file system", str(path))
        return usual(path, flags, *args, **options)

    monkeypatch.setattr(os, "open", refuse)
    code, out, err = call(capsys, "evaluate", "run", "--data", "data.csv")
    assert (code, err) == (0, "")
    note = "note: run/confusion-data.png cannot be written (Read-only file system); --png FILE"
    assert note in out
    code, _, err = call(capsys, "evaluate", "run", "--data", "data.csv", "--png", "run/a.png")
    assert (code, err.count("\n")) == (2, 1)
    assert call(capsys, "predict", "run", "--data", "data.csv", "--out", "out.csv")[0] == 0
    assert call(capsys, "show", "run")[0] == 0
