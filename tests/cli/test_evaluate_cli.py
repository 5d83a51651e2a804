"""`jaxnet evaluate` and `predict`: JSON, thresholds, importance, standard output."""

import json

import numpy as np
import pytest
from matplotlib.image import imread
from run_helpers import write_run, write_table

from jaxnet import files
from jaxnet.cli import evaluate, main
from jaxnet.runs import folder
from jaxnet.runs.importance import Importance, Importances
from jaxnet.runs.model import load
from jaxnet.runs.params import save_params


@pytest.fixture(autouse=True)
def run(tmp_path, monkeypatch):
    """An untrained run of two classes in the current folder, with a temperature and a balance."""
    monkeypatch.chdir(tmp_path)
    write_table(tmp_path / "data.csv")
    model = write_run(tmp_path / "run", tmp_path / "data.csv", "y")
    line = {"step": 14, "epoch": 2, "temperature": 1.25, "balance": 0.4375}
    save_params(tmp_path / "run" / folder.PARAMS, model.params, line)
    return load(tmp_path / "run")


def call(capsys, *argv):
    """The exit code, standard output and standard error."""
    return main([str(word) for word in argv]), *capsys.readouterr()


def test_json_is_all_that_is_printed_and_nothing_is_drawn(run, capsys, tmp_path):
    before = sorted(tmp_path.rglob("*"))
    argv = ("evaluate", "run", "--data", "data.csv", "--json", "--importance")
    code, out, err = call(capsys, *argv)
    assert (code, err) == (0, "")
    assert sorted(tmp_path.rglob("*")) == before
    found = json.loads(out)
    names = ["log_loss", "accuracy", "balanced_accuracy", "roc_auc", "precision", "recall"]
    assert {*names, "expected_calibration_error", "confusion_matrix", "support"} <= set(found)
    assert (found["rows"], found["temperature"], found["classes"]) == (200, 1.25, ["no", "yes"])
    assert {one["name"] for one in found["importance"]["columns"]} == {"a", "b"}
    assert list(found["importance"]["columns"][0]) == ["name", "mean", "std"]
    code, _, err = call(capsys, *argv, "--png", "a.png")
    assert (code, err) == (2, "jaxnet: --png must not be given with --json, got a.png\n")


def test_the_balance_of_the_run_is_the_threshold_that_is_named_so(run, capsys):
    assert run.balance == 0.4375
    outs = []
    for threshold in ("balance", "0.4375"):
        code, out, err = call(
            capsys, "evaluate", "run", "--data", "data.csv", "--threshold", threshold
        )
        assert (code, err) == (0, "")
        assert "\n'yes' is predicted from the probability 0.4375 on\n" in out
        outs.append(out)
    assert outs[0] == outs[1]
    for wrong in ("1.1", "often"):
        code, out, err = call(capsys, "evaluate", "run", "--threshold", wrong)
        assert (code, out) == (2, "")
        assert err.startswith("jaxnet: --threshold must be a number 0..1, or balance; got ")


def test_the_temperature_is_said_and_the_importance_is_a_table_and_a_picture(capsys):
    code, out, err = call(capsys, "evaluate", "run", "--data", "data.csv", "--importance")
    assert (code, err) == (0, "")
    assert "\ncalibration: the temperature 1.25 takes the log loss from " in out
    lines = out.splitlines()
    at = next(i for i, line in enumerate(lines) if line.startswith("importance: "))
    assert lines[at + 1].split() == ["column", "rise", "std"]
    assert {line.split()[0] for line in lines[at + 2 : at + 4]} == {"a", "b"}
    assert lines[-1] == "run/importance-data.png"
    assert imread("run/importance-data.png").std() > 0
    assert max(map(len, lines)) <= 100


def test_of_many_columns_the_most_important_are_printed():
    columns = [Importance(f"column {i}", 1.0 / (i + 1), 0.0) for i in range(25)]
    text = evaluate.importance_text(Importances(columns, "log loss", 10, 0.5)).splitlines()
    assert len(text) == 2 + evaluate.MAX_SHOWN + 1
    assert text[-1] == "... and 5 columns more, which --json shows"


def test_predictions_on_standard_output_are_csv_and_nothing_else(run, capfdbinary, tmp_path):
    before = sorted(path.name for path in tmp_path.iterdir())
    argv = ["predict", "run", "--data", "data.csv", "--out", "-", "--keep", "all"]
    assert main([*argv, "--threshold", "0"]) == 0
    out, err = capfdbinary.readouterr()
    assert err == b""
    lines = out.decode().splitlines()
    assert lines[0] == '"a","b","y","y_predicted","p_no","p_yes"'
    assert len(lines) == 201
    assert all(line.split(",")[3] == '"yes"' for line in lines[1:])
    assert sorted(path.name for path in tmp_path.iterdir()) == before
    data = np.genfromtxt("data.csv", delimiter=",", skip_header=1, usecols=(0, 1))
    written = np.array([line.split(",")[-1] for line in lines[1:]], float)
    expected = run.probabilities({"a": data[:, 0], "b": data[:, 1]})[:, 1]
    np.testing.assert_allclose(written, expected, rtol=1e-5)  # float32, by blocks


def test_predict_says_which_columns_it_wrote(capsys):
    code, out, _ = call(
        capsys, "predict", "run", "--data", "data.csv", "--out", "o.csv", "--keep", "y", "a"
    )
    assert (code, out) == (0, "o.csv: 200 rows: y, a, y_predicted, p_no, p_yes\n")


def test_a_picture_that_cannot_be_written_is_a_note(capsys, monkeypatch):
    def refuse(path, content):
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(files, "write", refuse)
    code, out, err = call(capsys, "evaluate", "run", "--data", "data.csv")
    assert (code, err) == (0, "")
    for name in ("confusion", "calibration"):
        assert f"note: run/{name}-data.png cannot be written (Permission denied)" in out
