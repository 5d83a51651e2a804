"""The commands on a run's folder, as they are typed one after the other."""

import itertools
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

import jaxnet
from jaxnet.cli import main
from jaxnet.export import torch_weights
from jaxnet.runs.folder import read_metrics
from jaxnet.runs.model import load

SOURCE = Path(jaxnet.__file__).parent.parent
RNG = np.random.default_rng(0)
ROWS = [(a, b, "xyz"[i % 3]) for i, (a, b) in enumerate(RNG.random((60, 2)).tolist())]
TABLE = "a,b,word,y\n" + "".join(f"{a},{b},{w},{'no' if a < b else 'yes'}\n" for a, b, w in ROWS)
TRAIN = ["train", "--data", "table.csv", "--target", "y", "--epochs", "3", "--hidden", "5"]


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A folder with a table and a run on it, and what the run printed, by a real process."""
    path = tmp_path_factory.mktemp("commands")
    (path / "table.csv").write_text(TABLE)
    return path, run(path, [sys.executable, "-m", "jaxnet", *TRAIN])


@pytest.fixture
def folder(trained, monkeypatch, tmp_path):
    """The current folder, with the run runs/table-1."""
    monkeypatch.chdir(trained[0])
    return trained[0]


def run(folder, command):
    path = os.pathsep.join([str(SOURCE), os.environ.get("PYTHONPATH", "")])
    done = subprocess.run(
        command,
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=120,
        env=os.environ | {"PYTHONPATH": path, "JAX_PLATFORMS": "cpu"},
    )
    assert (done.returncode, done.stderr) == (0, ""), done.stdout + done.stderr
    return done.stdout


def call(capsys, *argv):
    code = main([str(word) for word in argv])
    return code, *capsys.readouterr()


def test_the_commands_that_a_run_prints_work_as_printed(trained):
    folder, out = trained
    lines = out.partition("next:\n")[2].splitlines()
    assert [re.search(r" (show|evaluate|predict|export) ", line)[1] for line in lines] == [  # type: ignore
        "show",
        "evaluate",
        "predict",
        "export",
    ]
    for line in lines:
        assert run(folder, shlex.split(line)), line
    assert (folder / "predictions.csv").read_text().startswith('"y","p_no","p_yes"\n')
    assert (folder / "runs/table-1/model/model.stablehlo").exists()


def test_a_run_prints_plain_lines_where_there_is_no_terminal(trained):
    out = trained[1]
    assert set(re.findall(r"[^ -~]", out)) == {"\n"}
    number = r"\d[0-9.e+-]*"
    for step in (1, 2, 3):
        line = rf"(?m)^step {step}/3  loss {number}  val_loss {number}  val_accuracy {number}%"
        assert re.search(line, out), out
    assert re.search(rf"(?m)^validation +{number}( +\d+\.\d\d%){{2}} +{number}$", out)
    assert re.search(r"(?m)^calibration: (the )?temperature ", out)
    files = "checkpoints/, config.json, loss.png, metrics.jsonl, model/"
    assert f"\nruns/table-1: {files}\nnext:\n" in out


def test_the_commands_after_a_resume_name_a_file_that_is_free(folder, capsys):
    (folder / "predictions.csv").touch()
    code, out, err = call(capsys, "train", "--resume", "runs/table-1")
    assert (code, err) == (0, "")
    assert "--out predictions-2.csv" in out


def test_resume_takes_the_runs_options_and_the_epochs_asked_for(folder, capsys):
    assert call(capsys, *TRAIN, "--out", "more", "--schedule", "constant")[0] == 0
    code, out, err = call(capsys, "train", "--resume=more", "--epochs", "5")
    assert (code, err) == (0, "")
    assert "network 5-5-2 relu, adam, batch 32" in out
    assert "done after 5 epochs" in out
    assert len(read_metrics(folder / "more")) == 5


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (("--hidden", "6"), r"--hidden must stay \(5,\) to resume runs/table-1, got \(6,\)"),
        (("--optimizer", "sgd"), "--optimizer must stay 'adam'"),
        (("--out", "other"), "--out must not be given with --resume, got other"),
        (("--resume", "none"), "none: this is not the folder of a run"),
    ],
)
def test_what_resume_refuses_is_one_line_before_any_work(folder, capsys, argv, message):
    code, out, err = call(capsys, "train", "--resume", "runs/table-1", *argv)
    assert (code, out) == (2, "")
    assert re.fullmatch(rf"jaxnet: {message}.*\n", err), err


def test_evaluate_measures_the_validation_rows_and_new_data(folder, capsys):
    code, out, _ = call(capsys, "evaluate", "runs/table-1")
    assert code == 0
    best = min(read_metrics(folder / "runs/table-1"), key=lambda line: line["val_loss"])
    assert f"{best['val_accuracy']:.2%}" in out
    assert (folder / "runs/table-1/confusion-validation.png").read_bytes().startswith(b"\x89PNG")
    code, out, _ = call(capsys, "evaluate", "runs/table-1", "--data", "table.csv")
    assert code == 0
    assert re.search(r"(?m)^table.csv +60 ", out)


def test_weights_come_back_from_pytorchs_layout_to_the_same_predictions(folder, capsys, tmp_path):
    call(capsys, "export", "runs/table-1", "--format", "pytorch", "--out", tmp_path)
    weights = tmp_path / "model.safetensors"
    code, out, err = call(
        capsys, "import", weights, "--like", "runs/table-1", "--out", tmp_path / "run"
    )
    assert (code, err) == (0, "")
    assert f"train --resume {tmp_path / 'run'}" in out
    one, other = load("runs/table-1"), load(tmp_path / "run")
    for name, value in one.folded().params.items():
        np.testing.assert_array_equal(other.params[name], value)
    assert one.encoding == other.encoding
    assert call(capsys, "train", "--resume", tmp_path / "run")[0] == 0
    assert len(read_metrics(tmp_path / "run")) == 3


def test_import_takes_the_sizes_of_the_file_and_refuses_others(folder, capsys, tmp_path):
    weights = tmp_path / "model.safetensors"
    sizes = (5, 4, 3, 2)
    params = {}
    for k, (d_in, d_out) in enumerate(itertools.pairwise(sizes), start=1):
        params[f"w{k}"] = RNG.random((d_in, d_out), np.float32)
        params[f"b{k}"] = RNG.random(d_out, np.float32)
    weights.write_bytes(torch_weights.save([params]))
    data = ("--data", "table.csv", "--target", "y")
    code, out, err = call(capsys, "import", weights, *data, "--out", tmp_path / "run")
    assert (code, err) == (0, "")
    assert "network 5-4-3-2 relu" in out
    assert "\nlayers: 0, 2, 4\n" in out
    for argv, message in (
        (("--hidden", "7"), r"--hidden must be \(4, 3\), as in .*, got \(7,\)"),
        (("--drop", "word"), "must have 2 inputs and 2 outputs, as the data, got 5 and 2"),
        (("--layers", "9"), ".*9"),
    ):
        code, _, err = call(capsys, "import", weights, *data, *argv)
        assert code == 2
        assert re.fullmatch(rf"jaxnet: .*{message}.*\n", err), err
    code, _, err = call(capsys, "import", "none.safetensors", *data)
    assert (code, err) == (
        2,
        "jaxnet: none.safetensors: there is no such file\n",
    )


def test_import_asks_for_the_order_of_layers_by_the_line_to_type(folder, capsys, tmp_path):
    sizes = {"a_in": (5, 4), "later": (4, 4), "deep": (4, 4), "out": (4, 2)}
    tensors = {f"{name}.weight": RNG.random(size[::-1], np.float32) for name, size in sizes.items()}
    save_file(tensors, tmp_path / "m")
    argv = ("import", tmp_path / "m", "--data", "table.csv", "--target", "y")
    code, out, err = call(capsys, *argv, "--out", tmp_path / "run")
    assert (code, out) == (2, "")
    assert "say which it is: --layers a_in deep later out, or --layers a_in later deep out\n" in err
    code, out, err = call(capsys, *argv, "--out", tmp_path / "run", "--layers", *sizes)
    assert (code, err) == (0, "")
    assert "\nlayers: a_in, later, deep, out\n" in out
    w2 = load(tmp_path / "run").params["w2"]
    np.testing.assert_array_equal(w2, tensors["later.weight"].T)


def test_several_runs_are_shown_side_by_side(folder, capsys, tmp_path):
    assert call(capsys, *TRAIN, "--out", tmp_path / "other", "--activation", "tanh")[0] == 0
    png = tmp_path / "all.png"
    code, out, _ = call(capsys, "show", "runs/table-1", tmp_path / "other", "--png", png)
    assert code == 0
    assert re.search(r"(?m)^table-1 +5-5-2 ", out)
    assert png.read_bytes().startswith(b"\x89PNG")


def test_without_tensorboardx_it_is_refused_before_any_work(folder, capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "tensorboardX", None)
    code, _, err = call(capsys, *TRAIN, "--out", "events", "--tensorboard")
    assert code == 2
    assert err == (
        "jaxnet: --tensorboard needs the package tensorboardX: pip install 'jaxnet[tensorboard]'\n"
    )
    assert not (folder / "events").exists()


def test_a_reader_that_leaves_early_is_no_error(trained):
    folder, _ = trained
    command = f"{shlex.quote(sys.executable)} -m jaxnet evaluate runs/table-1 --no-cache | head -1"
    path = os.pathsep.join([str(SOURCE), os.environ.get("PYTHONPATH", "")])
    done = subprocess.run(
        ["bash", "-c", command],
        cwd=folder,
        capture_output=True,
        text=True,
        env=os.environ | {"PYTHONPATH": path, "JAX_PLATFORMS": "cpu", "PYTHONUNBUFFERED": "1"},
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.count("\n") == 1


def test_a_path_whose_bytes_are_not_utf_8_costs_no_work(folder, capsys, tmp_path):
    name = tmp_path / os.fsdecode(b"r\xff")
    name.mkdir()
    data = name / "table.csv"
    data.write_text(TABLE)
    on_disk = ["--on-disk", "on", "--out", name / "second"]
    for argv in (
        [*TRAIN, "--data", data, "--out", name],
        [*TRAIN, "--data", data, *on_disk],
        ["train", "--resume", name, "--epochs", "4"],
        ["show", name],
        ["show", name, "runs/table-1", "--png", name / "both.png"],
        ["evaluate", name],
        ["predict", name, "--data", "table.csv", "--out", name / "out.csv"],
        ["predict", name, "--data", "table.csv", "--out", name / "out.parquet"],
        ["export", name, "--format", "pytorch"],
    ):
        code, out, err = call(capsys, *argv)
        assert (code, "Traceback" in out + err) == (0, False), out + err
    for file in ("loss.png", "both.png", "confusion-validation.png", "out.csv", "out.parquet"):
        assert (name / file).stat().st_size > 100


def printed(capsys, *argv):
    _, out, _ = call(capsys, *argv)
    return str(out)


def test_exports_of_earlier_weights_are_named(folder, capsys, tmp_path):
    run = tmp_path / "run"
    call(capsys, *TRAIN, "--out", run)
    assert call(capsys, "export", run, "--format", "stablehlo", "pytorch")[0] == 0
    assert "note:" not in printed(capsys, "show", run)
    files = f"{run}/model/model.stablehlo, {run}/model/model.safetensors"
    line = f"note: {files} are of earlier weights: jaxnet export {run} writes anew\n"
    more = ["--epochs", "9", "--learning-rate", "0.1", "--schedule", "constant"]
    assert line in printed(capsys, "train", "--resume", run, *more)
    assert line in printed(capsys, "show", run)
    call(capsys, "export", run, "--format", "stablehlo")
    one = f"note: {run}/model/model.safetensors is of earlier weights"
    assert one in printed(capsys, "show", run)
    call(capsys, "export", run, "--format", "pytorch")
    assert "note:" not in printed(capsys, "show", run)
