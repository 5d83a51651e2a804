import io
import json
import os
import subprocess
import sys

import pytest
from matplotlib.image import imread
from run_helpers import write_run

from jaxnet import files
from jaxnet.cli import curve, main, run_text
from jaxnet.runs import folder as run_folder


@pytest.fixture
def data(tmp_path):
    path = tmp_path / "wine.csv"
    rows = "".join(f"{i + 0.5},{i * i % 7},{'red' if i % 2 else 'white'}\n" for i in range(12))
    path.write_text("acid,sugar,colour\n" + rows)
    return path


@pytest.fixture
def run(tmp_path, data):
    """Write a run and return its folder; options change its config.json."""

    def make(name, target="colour", **changes):
        folder = tmp_path / name
        write_run(folder, data, target)
        path = folder / run_folder.CONFIG
        described = files.read_json(path)
        for key, value in changes.items():
            described[key] = described[key] | value if isinstance(value, dict) else value
        files.write_json(path, described)
        return folder

    return make


def command(*argv):
    """The exit code of `jaxnet show`."""
    return main(["show", *map(str, argv)])


def rewrite(folder, lines):
    (folder / run_folder.METRICS).write_text("".join(json.dumps(line) + "\n" for line in lines))


def test_a_run_is_shown_with_all_that_it_is(run, capsys):
    folder = run(
        "a[b]",
        config={
            "epochs": 9,
            "hidden": [5],
            "drop": ["my col"],
            "learning_rate": 0.01,
            "seed": 4,
            "patience": 2,
        },
        device={"platform": "cpu", "kind": "cpu", "processors": 2},
        versions={"jax": "0.10.2"},
        history=[{"step": 14, "changed": {"epochs": 9}}, {"step": 21, "changed": {}}],
    )
    assert command(folder) == 0
    out = capsys.readouterr().out
    for text in (
        f"{folder}\n",
        "wine.csv: 12 rows to train on, 0 to validate on",
        "classification of 'colour'",
        "2-5-2 relu, 27 parameters",
        "adam, learning rate 0.01, cosine schedule",
        "seed       4\n",
        "device     cpu, 2 processors\n",
        "jax 0.10.2",
        "4 of 9, ended by its patience\n",
        "from step 14 on epochs 9\n",
        "best      2    14       0.625      1.25        50.00%",
        "last      4    28      0.6875     1.375        50.00%",
        f"\n{folder / run_folder.CURVES}\n",
    ):
        assert text in out
    for option in ("--epochs 9", "--hidden 5", "--drop 'my col'", "--learning-rate 0.01"):
        assert option in " ".join(out.split())
    assert max(map(len, out.replace(str(folder), "").splitlines())) <= 80
    assert "\x1b" not in out
    assert imread(folder / run_folder.CURVES).ndim == 3


def test_a_null_metric_is_a_dash(run, capsys):
    folder = run("r", "acid")
    lines = run_folder.read_metrics(folder)
    rewrite(folder, [line | {"val_r2": None} for line in lines])
    command(folder)
    out = capsys.readouterr().out
    assert "val_rmse  val_r2\n" in out
    assert "1.5       -\n" in out


@pytest.mark.parametrize("metrics", [None, "", '{"step": 7, "ep'])
def test_a_run_before_its_first_epoch_is_shown(run, capsys, metrics):
    folder = run("r")
    (folder / run_folder.METRICS).unlink()
    if metrics is not None:
        (folder / run_folder.METRICS).write_text(metrics)
    assert command(folder) == 0
    assert capsys.readouterr().out.endswith("no epoch finished yet\n")
    assert not (folder / run_folder.CURVES).exists()


def test_a_torn_last_line_is_not_shown(run, capsys):
    folder = run("r")
    with (folder / run_folder.METRICS).open("a") as file:
        file.write('{"step": 35, "epoch": 5, "train_lo')
    assert command(folder) == 0
    assert "epochs     4 of 4\n" in capsys.readouterr().out


def test_the_picture_is_drawn_again_only_if_the_metrics_are_newer(run, capsys):
    folder = run("r")
    metrics, picture = folder / run_folder.METRICS, folder / run_folder.CURVES
    picture.write_bytes(b"as it was")
    time = picture.stat().st_mtime_ns
    os.utime(metrics, ns=(time, time))
    command(folder)
    assert picture.read_bytes() == b"as it was"
    os.utime(metrics, ns=(time + 1, time + 1))
    command(folder)
    assert imread(picture).ndim == 3
    assert capsys.readouterr().out.count(f"\n{picture}\n") == 2


def test_a_folder_that_cannot_be_written_is_a_note(run, capsys, monkeypatch, tmp_path):
    def refuse(path, content):
        raise PermissionError(13, "Permission denied", str(path))

    folder = run("r")
    with monkeypatch.context() as patch:
        patch.setattr(files, "write", refuse)
        assert command(folder) == 0
        out = capsys.readouterr().out
        assert "best      2" in out
        assert f"note: {folder / 'loss.png'} cannot be written (Permission denied); --png" in out
        assert command(folder, "--png", tmp_path / "x.png") == 2
        assert "--png must be a file that can be written, got" in capsys.readouterr().err
    command(folder, "--png", tmp_path / "x.png")
    assert imread(tmp_path / "x.png").ndim == 3
    assert not (folder / run_folder.CURVES).exists()


def falling(number, start=2.0, end=0.01):
    ratio = (end / start) ** (1 / max(number - 1, 1))
    names = ("epoch", "train_loss", "val_loss")
    rows = [(i + 1, start * ratio**i / 2, start * ratio**i) for i in range(number)]
    return [dict(zip(names, row, strict=True)) for row in rows]


CURVES = {
    "one epoch": falling(1),
    "two": falling(2),
    "many": falling(3000),
    "flat": [{"epoch": e, "train_loss": 1.0, "val_loss": 1.0} for e in (1, 2, 3)],
    "zero": [{"epoch": e, "train_loss": 0.0, "val_loss": 0.0} for e in (1, 2)],
    "not finite": [*falling(3), {"epoch": 4, "train_loss": float("inf"), "val_loss": float("nan")}],
    "large": falling(9, 1e30, 1e-30),
}


@pytest.mark.parametrize("unicode", [True, False])
@pytest.mark.parametrize("width", [40, 80, 133])
@pytest.mark.parametrize("lines", CURVES.values(), ids=CURVES)
def test_a_curve_fits_its_width_and_shows_both_losses(lines, width, unicode):
    text = curve.draw(lines, width, unicode=unicode)
    assert max(map(len, text.splitlines())) <= width
    assert len(text.splitlines()) == curve.HEIGHT + 4
    assert text.isascii() == (not unicode)
    drawn = "\n".join(text.splitlines()[1 : 1 + curve.HEIGHT])
    assert any(mark in drawn for mark in ("▀▄█" if unicode else "o"))
    assert f"best {run_text.best(lines)['epoch']}" in text.splitlines()[-1]


def test_a_curve_falls_from_the_left_and_the_best_epoch_is_under_its_place():
    text = curve.draw(falling(50), 60, unicode=False).splitlines()
    assert text[0] == "loss, log scale: .. train, oo validation"
    assert "log" not in curve.draw(falling(5, 2.0, 1.0), 60)
    drawn = [line.partition("|")[2] for line in text[1 : 1 + curve.HEIGHT]]
    firsts = [line.index("o") for line in drawn if "o" in line]
    assert firsts == sorted(firsts)
    assert firsts[0] == 0
    assert (text[1].split()[0], text[curve.HEIGHT].split()[0]) == ("2", "0.005")
    assert text[-2].index("^") == max(map(len, text)) - 1  # the last epoch is the best
    rising = curve.draw(falling(50)[::-1], 60, unicode=False).splitlines()
    assert rising[-1].split()[0] == "50"


def test_the_curve_is_ascii_where_the_terminal_is_not_utf_8(run, monkeypatch):
    folder = run("nämé")
    for encoding, is_ascii in (("ascii", True), ("utf-8", False), ("UTF8", False)):
        raw = io.BytesIO()
        monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(raw, encoding=encoding))
        assert command(folder) == 0
        assert raw.getvalue().isascii() == is_ascii


def test_runs_are_compared_in_a_table_and_a_picture(run, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    first, second = run("first"), run("second", config={"optimizer": "sgd"})
    lines = run_folder.read_metrics(second)
    rewrite(second, [line | {"val_loss": 0.5, "val_accuracy": 0.25} for line in lines[:3]])
    assert command("first", second) == 0
    out = capsys.readouterr().out.splitlines()
    assert " ".join(out[1].split()) == "first 2-5-2 adam 0.001 4/4 2 1.25 50.00% *"
    assert " ".join(out[2].split()) == "second 2-5-2 sgd 0.001 3/4 1 0.5 * 25.00%"
    assert out[3:] == ["* the best, each run at its best epoch", "comparison.png"]
    assert imread("comparison.png").ndim == 3
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    assert command(first, second) == 0  # beside the runs, not here
    assert capsys.readouterr().out.endswith(f"\n{tmp_path / 'comparison.png'}\n")
    assert list((tmp_path / "elsewhere").iterdir()) == []
    assert not (first / run_folder.CURVES).exists()


def test_a_dozen_runs_stay_within_the_width(run, capsys, tmp_path):
    folders = [run(f"{'long-' * (i % 3)}{i}", config={"seed": i}) for i in range(14)]
    picture = tmp_path / "all.png"
    assert command(*folders, "--png", picture) == 0
    table, _, rest = capsys.readouterr().out.partition("* the best")
    assert max(map(len, table.splitlines())) <= 80
    assert len(table.splitlines()) == 1 + 14
    assert "different rows" in rest
    assert rest.endswith(f"{picture}\n")


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"target": "acid"}, "task and target and loss"),
        ({"data": {"sha256": "1"}}, "data"),
    ],
)
def test_runs_that_cannot_be_compared_are_shown_and_none_is_the_best(
    run, capsys, tmp_path, changes, reason
):
    folders = run("a"), run("b", **changes)
    assert command(*folders, "--png", tmp_path / "x.png") == 0
    out = capsys.readouterr().out
    assert f"note: these runs differ in {reason}, so none is marked" in out
    assert "*" not in out
    assert imread(tmp_path / "x.png").ndim == 3


def test_a_run_without_an_epoch_is_compared_by_what_it_has(run, capsys, tmp_path):
    folders = run("a"), run("b")
    (folders[1] / run_folder.METRICS).unlink()
    command(*folders, "--png", tmp_path / "x.png")
    rows = [" ".join(line.split()) for line in capsys.readouterr().out.splitlines()]
    assert "b 2-5-2 adam 0.001 0/4 - - -" in rows
    (folders[0] / run_folder.METRICS).unlink()
    command(*folders)
    assert capsys.readouterr().out.endswith("no epoch finished yet\n")


def test_a_name_too_long_for_the_table_is_folded_and_whole(run):
    long = "abcdefghij" * 8
    table = run_text.comparison([run_text.read(run(long)), run_text.read(run("other"))])
    assert max(map(len, table.splitlines())) <= 80
    assert long in "".join(line.split()[0] for line in table.splitlines())


def test_runs_of_one_name_are_told_apart(run):
    runs = [run_text.read(run(name)) for name in ("x/digits", "y/digits", "other")]
    assert run_text.names(runs) == [str(runs[0].folder), str(runs[1].folder), "other"]


OLD = ("old", '{"config": {}, "versions": {"jaxnet": "0.1.0"}}')


def test_what_is_not_a_run_is_refused_by_name_before_anything_is_shown(
    run, data, capsys, tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    run("good")
    for name, content in (("text", "{"), ("list", "[]"), ("other", '{"config": {}}'), OLD):
        (tmp_path / name).mkdir()
        (tmp_path / name / run_folder.CONFIG).write_text(content)
    for name, content in (("torn", "{\n{}\n"), ("lossless", '{"step": 1, "epoch": 1}\n')):
        (run(name) / run_folder.METRICS).write_text(content)
    cases = {
        (): "RUNS must name the folder of at least one run, got none",
        ("good", "./good"): "RUNS must be different folders, got good twice",
        ("good", "wine.csv"): "wine.csv: must be the folder of a run, got a file",
        ("good", "nowhere"): "nowhere: this is not the folder of a run",
        ("good", "text"): "text/config.json: not readable as JSON",
        ("good", "list"): "list/config.json: must hold a JSON object, got list",
        ("good", "other"): "other/config.json: not the record of a run; was it edited?",
        ("good", "old"): "old: this run was made by jaxnet 0.1.0, and jaxnet",
        ("good", "torn"): "torn/metrics.jsonl: line 1 is not a line of metrics",
        ("good", "lossless"): "lossless/metrics.jsonl: line 1 has no train_loss and val_loss",
    }
    for folders, message in cases.items():
        assert command(*folders) == 2
        out, err = capsys.readouterr()
        assert (out, err.count("\n")) == ("", 1)
        assert err.startswith(f"jaxnet: {message}")
    for png in ("nowhere/x.png", "x.pdf", "x"):
        assert command("good", "--png", png) == 2
        assert "--png must be a .png file in a folder that exists" in capsys.readouterr().err
    assert not (tmp_path / "good" / run_folder.CURVES).exists()


def test_a_look_needs_no_jax(run, tmp_path):
    code = (
        "import sys; sys.modules['jax'] = None; from jaxnet.cli import main;"
        "assert 'matplotlib' not in sys.modules;"
        "sys.exit(main(['show', *sys.argv[1:], '--png', 'x.png']))"
    )
    argv = [sys.executable, "-W", "error", "-c", code, str(run("a")), str(run("b"))]
    path = os.pathsep.join(p for p in sys.path if p)
    subprocess.run(argv, check=True, cwd=tmp_path, env=os.environ | {"PYTHONPATH": path})
    assert imread(tmp_path / "x.png").ndim == 3
