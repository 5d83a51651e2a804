import re

import pytest

from jaxnet.cli import main, sweep
from jaxnet.runs.folder import read_metrics
from jaxnet.sweep.settings import Setting
from jaxnet.sweep.sweep import Row


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    """A folder with a table of 20 rows."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "80")
    rows = "".join(f"{i / 4},{i * i % 7},{i % 2},{1.37 * i}\n" for i in range(20))
    (tmp_path / "t.csv").write_text("a,b,y,price\n" + rows)
    return tmp_path


def call(capsys, *argv):
    """The exit code, standard output and standard error of `jaxnet sweep` on the table."""
    given = ("sweep", "--data", "t.csv", "--target", "y", "--drop", "price", "--epochs", "2")
    return main([*given, *argv]), *capsys.readouterr()


def test_it_says_what_it_trains_and_ends_with_a_table_and_the_next_commands(capsys, folder):
    options = ("--learning-rate", "1e-3:1e-1:3", "--seeds", "2", "--hidden", "5", "4,3")
    code, out, err = call(capsys, *options)
    assert (code, err) == (0, "")
    assert set(re.findall(r"[^ -~]", out)) == {"\n"}
    lines = out.splitlines()
    assert lines[0] == "t.csv: 20 rows, held out: 4"
    assert lines.pop(1) == "columns: 2 numbers"
    assert lines[1].startswith("classification of 'y', since it has 2 distinct integers")
    what = "12 networks: 6 settings x 2 seeds; relu, adam, batch 16, 2 epochs, in 2 programs:"
    assert lines[2] == what
    assert re.fullmatch(r"  2-5-2: .* at a time \(.*\)", lines[3])
    number = r"\d[0-9.e+-]*"
    row = rf"(?m)^(5|4,3) +0\.0?0?1 +default +{number} \+- {number} +\d+\.\d\d% \+- \d+\.\d\d%$"
    assert len(re.findall(row, out)) == 6
    assert "\nruns/t-sweep-1: best/, sweep.csv, sweep.json, sweep.png\n" in out
    best = float(re.search(r"(?m)^(?:5|4,3) +(\S+)", out)[1])  # type: ignore
    note = "note: the best learning rate, 0.1, is the highest that was tried; a better one may lie "
    assert (f"{note}beyond: --learning-rate 0.03:3:7\n" in out) == (best == 0.1)
    assert "next:\n" in out
    assert "show runs/t-sweep-1/best\n" in out
    assert len(read_metrics(folder / "runs/t-sweep-1/best")) == 2
    for command in ("show", "evaluate", "export"):
        assert main([command, "runs/t-sweep-1"]) == 0
        out, err = capsys.readouterr()
        assert "runs/t-sweep-1/best" in out
        assert err == (
            "jaxnet: runs/t-sweep-1 is a sweep: its best run is taken, runs/t-sweep-1/best\n"
        )


def test_a_sweep_without_a_best_run_is_refused_by_its_name(capsys, folder):
    (folder / "s").mkdir()
    (folder / "s/sweep.json").write_text("{}")
    assert main(["show", "s"]) == 2
    assert capsys.readouterr().err.startswith("jaxnet: s: this sweep has no best run, it div")


ROW = Row(Setting((5,), 0.1, None), 1, 0, {}, {})
EDGES = {
    "highest": ("learning_rate", [0.01, 0.1], 0.1, "highest", "--learning-rate 0.03:3:7"),
    "lowest": ("learning_rate", [0.1, 1.0], 0.1, "lowest", "--learning-rate 0.003:0.3:7"),
    "inside": ("learning_rate", [0.01, 0.1, 1.0], 0.1, None, None),
    "one": ("learning_rate", [0.1], 0.1, None, None),
    "decay": ("weight_decay", [0.0, 0.01], 0.01, "highest", "--weight-decay 0.003:0.3:7"),
    "none at all": ("weight_decay", [0.0, 0.01], 0.0, None, None),
    "default": ("weight_decay", [None, None], None, None, None),
}


@pytest.mark.parametrize("case", EDGES)
def test_the_best_on_the_edge_of_what_was_tried_is_said(case):
    name, tried, value, which, option = EDGES[case]
    changed: dict = {name: value}
    best = ROW._replace(setting=ROW.setting._replace(**changed))
    note = sweep.edge_note(name, tried, best)
    assert (note is None) == (which is None)
    if note is not None and option is not None:
        assert f"is the {which} that was tried" in note
        assert note.endswith(option)


def test_a_sweep_of_which_all_diverge_is_exit_code_1(capsys):
    more = ("--target", "price", "--drop", "y", "--optimizer", "sgd", "--learning-rate", "1e30")
    code, out, err = call(capsys, *more, "--weight-decay", "0", "1", "--folds", "2")
    assert (code, err) == (1, "")
    assert out.startswith("t.csv: 20 rows, held out: each in turn, in 2 folds\n")
    assert out.count("2 of 2 diverged") == 2
    assert "every setting diverged: try smaller learning rates" in out
    assert "next:" not in out


BAD = {
    "word": (("--learning-rate", "fast"), "--learning-rate must be numbers, or LOW:HIGH:COUNT"),
    "two parts": (("--learning-rate", "1:2"), "--learning-rate must be .*, got '1:2'"),
    "one": (("--learning-rate", "1e-3:1e-2:1"), "--learning-rate must be .*, got '1e-3:1e-2:1'"),
    "order": (("--weight-decay", "1e-2:1e-3:4"), "--weight-decay must be .* 0 < LOW < HIGH"),
    "zero": (("--weight-decay", "0:1e-3:4"), "--weight-decay must be .* 0 < LOW < HIGH"),
    "negative": (("--learning-rate", "-1"), "--learning-rate must be a finite number above 0"),
    "hidden": (("--hidden", "5,x"), "--hidden must be the sizes of each network, with commas"),
    "no hidden": (("--hidden",), "--hidden must have at least one value, got none"),
    "hidden 0": (("--hidden", "5,0"), "--hidden must be integers of at least 1"),
    "seeds": (("--seeds", "0"), "--seeds must be an integer of at least 1, got 0"),
    "folds": (("--folds", "21"), r"--folds must be 2\.\.20, the number of rows; got 21"),
    "time": (("--max-time", "9"), "--max-time must not be given to a sweep"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_input_is_one_line_and_leaves_nothing(capsys, folder, case):
    argv, message = BAD[case]
    code, out, err = call(capsys, *argv)
    assert (code, out) == (2, "")
    assert re.search(rf"^jaxnet: {message}.*\n\Z", err), err
    assert [path.name for path in folder.iterdir()] == ["t.csv"]


def test_a_range_is_even_in_its_logarithm_and_mixes_with_numbers():
    assert sweep.parse_numbers("learning_rate", ["1e-4:1e-1:4"]) == (1e-4, 1e-3, 1e-2, 0.1)
    assert sweep.parse_numbers("weight_decay", ["0", "1:4:3"]) == (0.0, 1.0, 2.0, 4.0)
    assert sweep.parse_sizes(["32", "64,16"]) == ((32,), (64, 16))
