import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

import jaxnet
from jaxnet import runs
from jaxnet.cli import main
from jaxnet.cli.commands import COMMANDS, options_of, with_options
from jaxnet.runs import config
from jaxnet.spec import ACTIVATIONS
from jaxnet.tables.reading.options import MISSING

FILES = {
    "good.csv": "a,b,word,y\n"
    + "".join(f"{i / 4},{i * i % 7},{'xyz'[i % 3]},{i % 2}\n" for i in range(20)),
    "price.csv": "a,b,y\n" + "".join(f"{i},{i * i % 7},{1.37 * i}\n" for i in range(20)),
    "empty.csv": "",
    "header.csv": "a,y\n",
    "short.csv": "a,b,y\n1,2,0\n3,1\n4,5,1\n",
    "text.csv": "a,y\n1.5,0\n2.5,1\nabc,0\n3.5,1\n",
    "nan.csv": "a,y\n1.5,0\nnan,1\n2.5,0\n",
    "infinite.csv": "a,y\n1.5,0\n2.5,1\ninf,0\n",
    "one class.csv": "a,y\n1,cat\n2,cat\n3,cat\n",
    "notes.txt": "a,y\n1,0\n2,1\n",
    "old/config.json": "{}",
}
SOURCE = Path(jaxnet.__file__).parent.parent


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    """Every test works in a folder of its own, which holds the files above."""
    monkeypatch.chdir(tmp_path)
    for name in ("FORCE_COLOR", "NO_COLOR", "TTY_COMPATIBLE", "TTY_INTERACTIVE", "COLUMNS"):
        monkeypatch.delenv(name, raising=False)
    (tmp_path / "old").mkdir()
    for name, text in FILES.items():
        (tmp_path / name).write_text(text)
    return tmp_path


def call(capsys, *argv):
    """The exit code, standard output and standard error of the command line in this process."""
    return main(argv), *capsys.readouterr()


def run(*argv):
    """The same of a real command line."""
    path = os.pathsep.join([str(SOURCE), os.environ.get("PYTHONPATH", "")])
    environment = os.environ | {"PYTHONPATH": path, "JAX_PLATFORMS": "cpu"}
    return subprocess.run(
        [sys.executable, *argv], env=environment, capture_output=True, text=True, timeout=120
    )


def data(name, *more):
    return ("train", "--data", name, "--target", "y", "--epochs", "2", *more)


def good(*more):
    return data("good.csv", *more)


def known(option, names):
    return good(f"--{option}", "nonsense"), rf"--{option} must be one of {', '.join(names)}; got 'n"


DIVERGE = ("--optimizer", "sgd", "--learning-rate", "1e30", "--batch-size")
BAD = {
    "optimizer": known("optimizer", config.OPTIMIZERS),
    "activation": known("activation", ACTIVATIONS),
    "schedule": known("schedule", config.SCHEDULES),
    "task": known("task", config.TASKS),
    "missing": known("missing", MISSING),
    "numbers": known("numbers", config.NUMBERS),
    "dtype": known("dtype", config.DTYPES),
    "device": (good("--device", "abacus"), r"--device must be one of auto, cpu.*; got 'abacus'"),
    "no file": (data("none.csv"), r"--data names no file: none\.csv"),
    "kind of file": (data("notes.txt"), r"--data must be a file ending in .*\.csv.*notes\.txt"),
    "data without a name": (data(""), "--data must be a file ending in"),
    "empty": (data("empty.csv"), r"empty\.csv: the table is empty"),
    "header only": (data("header.csv"), r"header\.csv: the table is empty"),
    "length of row": (data("short.csv"), r"short\.csv: row 2 has 2 values where .* 3 columns"),
    "text": (data("text.csv"), r"text\.csv: row 3, column 'a': 'abc' is text in a column of num"),
    "nan": (
        data("nan.csv", "--missing", "error"),
        r"nan\.csv: row 2, column 'a': the value is missing",
    ),
    "infinite": (data("infinite.csv"), r"infinite\.csv: row 3, column 'a': the value is inf"),
    "one class": (data("one class.csv"), r"one class\.csv: the target 'y' has one value only, cat"),
    "no target": (good("--target", "z"), r"no target column 'z'; the columns are a, b, word, y"),
    "data alone": (("train", "--data", "good.csv"), "--data and --target must be given together"),
    "target alone": (("train", "--target", "y"), "--data and --target must be given together"),
    "target dropped": (good("--drop", "y"), "--drop must not hold the target 'y'"),
    "unknown drop": (good("--drop", "z"), r"good\.csv: no column 'z' to drop; the columns are a,"),
    "unknown category": (good("--categorical", "z"), r"good\.csv: no column 'z'; the columns are"),
    "no features": (good("--drop", "a", "b", "word"), "there is no feature column beside"),
    "text regression": (
        good("--target", "word", "--task", "regression"),
        "must be numbers for reg",
    ),
    "batch": (good("--batch-size", "17"), r"--batch-size must be 1\.\.16, the number of train.*17"),
    "no batch": (good("--batch-size", "0"), "--batch-size must be at least 1, got 0"),
    "hidden": (
        good("--hidden", "8", "0"),
        r"--hidden must be integers of at least 1, got \(8, 0\)",
    ),
    "epochs": (good("--epochs", "0"), "--epochs must be at least 1, got 0"),
    "seed": (good("--seed", "-1"), "--seed must be at least 0, got -1"),
    "decay": (good("--weight-decay", "-1"), "--weight-decay must be a finite number of at least 0"),
    "existing run": (
        good("--out", "old"),
        "--out must not hold a run already: old; resume it with",
    ),
    "out is a file": (good("--out", "good.csv"), "--out must be a folder that can be made"),
    "out below a file": (good("--out", "good.csv/x"), "--out must be a folder that can be made"),
    "out without a name": (good("--out", ""), "--out must name a folder"),
    "memory": (  # in float64, for which no processor has a word of advice
        good("--hidden", "10000000000000", "--dtype", "float64"),
        "the network: must take at most",
    ),
    "diverges": (
        data("price.csv", *DIVERGE, "2"),
        r"the loss became (nan|inf) at step \d+: try a smaller learning rate",
    ),
    "diverges at the end": (
        data("price.csv", *DIVERGE, "16", "--epochs", "1"),
        "the validation loss became (nan|inf) at step 1: try a smaller learning rate",
    ),
}
AFTER_THE_SUMMARY = {"device", "existing run", "out is a file", "out below a file", "memory"}
AFTER_THE_SUMMARY |= {"diverges", "diverges at the end"}
for value in ("0", "-1", "nan", "inf"):
    BAD[f"rate {value}"] = (
        good("--learning-rate", value),
        rf"--learning-rate must be a finite number above 0, got {value}",
    )
for value in ("0", "1", "nan", "-0.5"):
    BAD[f"validation {value}"] = (
        good("--validation", value),
        rf"--validation must be a share between 0 and 1, got {value}",
    )


@pytest.mark.parametrize("case", BAD)
def test_bad_input_is_one_line_and_exit_code_2_and_leaves_nothing(capsys, folder, case):
    argv, message = BAD[case]
    before = {path: path.stat().st_mtime_ns for path in folder.rglob("*")}
    code, out, err = call(capsys, *argv)
    assert code == 2
    assert re.search(rf"^jaxnet: (\S.*)?{message}.*\n\Z", err), err
    assert err.count("\n") == 1
    assert "`" not in err  # every argument that it names is an option of the command
    assert len(out.splitlines()) == (4 if case in AFTER_THE_SUMMARY else 0)
    assert {path: path.stat().st_mtime_ns for path in folder.rglob("*")} == before


@pytest.mark.parametrize(
    ("argv", "word"),
    [
        ((), "train"),
        (("predikt",), "there is no command 'predikt'; did you mean predict?"),
        (("x",), "there is no command 'x'; choose from train, sweep, show, evaluate"),
        (good("--bogus", "1"), "there is no option --bogus; jaxnet train --help shows its options"),
        (good("--epoch", "1"), "there is no option --epoch; did you mean --epochs?"),
        (good("--no-cach"), "there is no option --no-cach; did you mean --no-cache?"),
        (good("--batch_siz=4"), "there is no option --batch_siz; did you mean --batch-size?"),
        (good("--epochs", "many"), "--epochs must be an integer, got 'many'"),
        (good("--batch-size", "2.5"), "--batch-size must be an integer, got '2.5'"),
        (good("--learning-rate", "fast"), "--learning-rate must be a number, got 'fast'"),
        (good("--hidden", "8", "x"), "--hidden must be integers, got 'x'"),
        (good("--data"), "Missing value for argument '--data'. Expected 1 values; jaxnet train --"),
        (
            ("train", "good.csv"),
            "is no option of jaxnet train; did you mean --data good.csv --t",
        ),
        (good("b.csv"), "'b.csv' is no option of jaxnet train; jaxnet train --help shows its opti"),
        (("predict",), "missing: RUN, --data, --out; jaxnet predict --help shows its options"),
        (("predict", "r", "b.csv", "--out", "o.csv"), "did you mean --data b.csv?"),
        (("evaluate", "r", "b.csv"), "did you mean --data b.csv?"),
        (("evaluate", "r", "--tresh", "0.5"), "no option --tresh; did you mean --threshold?"),
        (("show", "r", "--pgn", "a.png"), "there is no option --pgn; did you mean --png?"),
    ],
)
@pytest.mark.parametrize("columns", ["200", "60"])
def test_what_cannot_be_parsed_is_one_line_with_exit_code_2(
    capsys, monkeypatch, argv, word, columns
):
    monkeypatch.setenv("COLUMNS", columns)
    code, out, err = call(capsys, *argv)
    assert (code, out) == (2, "")
    assert word in err
    assert err.startswith("jaxnet: ") or not argv
    assert err.count("\n") == 1 or not argv


@pytest.fixture
def interrupted(monkeypatch):
    """Ctrl-C comes as soon as the training begins."""

    def train(*args, **options):
        raise KeyboardInterrupt

    monkeypatch.setattr(runs, "train", train)


@pytest.mark.usefixtures("interrupted")
def test_ctrl_c_is_exit_code_130_and_one_line(capsys):
    code, _, err = call(capsys, *good())
    assert (code, err) == (130, "jaxnet: interrupted\n")


def test_the_version_is_that_of_the_package(capsys, monkeypatch):
    assert call(capsys, "--version") == (0, f"jaxnet {jaxnet.__version__}\n", "")
    monkeypatch.setattr(sys, "argv", ["jaxnet", "--version"])
    assert main() == 0
    assert capsys.readouterr().out == f"jaxnet {jaxnet.__version__}\n"


@pytest.mark.usefixtures("interrupted")
@pytest.mark.parametrize(
    ("name", "more", "line"),
    [
        ("good.csv", (), "classification of 'y', since it has 2 distinct integers (--task regress"),
        ("price.csv", (), "regression of 'y', since its values are real numbers (--task classif"),
        ("good.csv", ("--target", "word"), "classification of 'word', since its values are text\n"),
        ("good.csv", ("--task", "regression"), "regression of 'y', since you said so\n"),
    ],
)
def test_the_summary_says_which_task_and_why_and_how_to_choose_the_other(capsys, name, more, line):
    _, out, _ = call(capsys, *data(name, *more))
    assert f"\n{line}" in out
    assert out.startswith(f"{name}: 16 rows to train on, 4 to validate on\n")
    assert "\nnetwork " in out


def test_a_terminal_shows_a_bar_that_fits_80_columns(capsys, monkeypatch):
    monkeypatch.setenv("TTY_COMPATIBLE", "1")
    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.setenv("TERM", "xterm")
    for name, metric in (("good.csv", "val_accuracy"), ("price.csv", "val_rmse")):
        code, out, _ = call(capsys, *data(name, "--epochs", "300"))
        assert code == 0
        plain = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", out)
        assert plain != out
        bars = [line for line in re.split(r"[\r\n]+", plain) if "100%" in line and "step" in line]
        number = r"[0-9.e+-]+"
        shown = rf"━ 100% loss {number}  {metric} {number}%?  [0-9,]+ steps/s \d:\d\d:\d\d$"
        assert bars, plain
        assert all(len(bar) <= 80 and re.search(shown, bar) for bar in bars), bars


def test_a_real_command_line_reports_bad_input_by_its_exit_code(folder):
    done = run("-m", "jaxnet", *data("short.csv"))
    assert (done.returncode, done.stdout) == (2, "")
    message = "jaxnet: short.csv: row 2 has 2 values where the header has 3 columns\n"
    assert done.stderr == message
    assert not (folder / "runs").exists()


def test_what_is_imported_is_what_is_needed(folder):
    code = """
import sys
HEAVY = {"jax", "flax", "optax", "matplotlib", "pyarrow", "torch", "safetensors", "numpy"}
import jaxnet
assert not HEAVY & set(sys.modules), "import jaxnet"
from jaxnet.cli import main
for argv in (["--help"], *([name, "--help"] for name in sys.argv[1:]), ["--version"]):
    assert main(argv) == 0, argv
    assert not HEAVY & set(sys.modules), argv
from jaxnet.tables.reading.reader import read
assert read("numbers.csv").num_rows == 2
assert "pandas" not in sys.modules, "to read numbers"
"""
    (folder / "numbers.csv").write_text("a,b\n1,2.5\n3,4\n")
    done = run("-c", code, *COMMANDS)
    assert (done.returncode, done.stderr) == (0, "")
    for option in ("--data", "--target", "--hidden", "--optimizer", "--epochs", "--out"):
        assert option in done.stdout


def test_the_help_is_a_line_for_each_command_within_80_columns(capsys):
    code, out, err = call(capsys, "--help")
    assert (code, err) == (0, "")
    assert max(map(len, out.splitlines())) <= 80
    for name in COMMANDS:
        assert re.search(rf"(?m)^  {name} +[A-Z].*[.]$", out)


@pytest.mark.parametrize("name", COMMANDS)
def test_the_help_of_a_command_has_examples_with_options_that_it_has(capsys, monkeypatch, name):
    monkeypatch.setenv("COLUMNS", "80")
    code, out, _ = call(capsys, name, "--help")
    assert code == 0
    assert max(map(len, out.splitlines()[1:])) <= 80  # but for the usage
    examples = re.findall(rf"(?m)^  jaxnet {name}(?: .*)?$", out)
    assert examples
    known = set(options_of(COMMANDS[name]).values())
    assert set(re.findall("--[a-z-]+", " ".join(examples))) <= known


def test_a_message_names_options_where_the_command_has_them():
    text = "`batch_size` must be 3, as `keep_table` and `runs` say"
    shown = "--batch-size must be 3, as `keep_table` and `runs` say"
    assert with_options(text, options_of(COMMANDS["train"])) == shown
    assert with_options(text, options_of(COMMANDS["show"])) == (
        "`batch_size` must be 3, as `keep_table` and RUNS say"
    )
