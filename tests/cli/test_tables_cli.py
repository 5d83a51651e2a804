"""What the commands say of the tables that people have, and the options that settle it."""

import numpy as np
import pytest

from jaxnet.cli import main
from jaxnet.runs.record import Record

RNG = np.random.default_rng(0)
N = 60
PRICES = RNG.integers(1000, 9000, N)
CITIES = RNG.choice(["Rom", "Köln", "東京"], N)
KIDS = RNG.choice(["0", "1", "2", "3+"], N)


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


def call(capsys, *argv):
    """The exit code, standard output and standard error of the command line in this process."""
    return main(argv), *capsys.readouterr()


def train(capsys, name, target, *more):
    return call(capsys, "train", "--data", name, "--target", target, "--epochs", "1", *more)


def homes(folder, name="homes.csv", encoding="utf-8", delimiter=","):
    """A table with a count of the rows, dates, codes, prices as people write them, and no value."""
    rows = [
        f'{i}|{i % 12 + 1:02}/{i % 28 + 1:02}/2024|{CITIES[i]}|{KIDS[i]}|"${PRICES[i]:,}"|{i / 8}|'
        for i in range(N)
    ]
    text = "rownames|sold|city|kids|price|area|note\n" + "\n".join(rows) + "\n"
    (folder / name).write_text(text.replace("|", delimiter), encoding)


LEFT_OUT = "note (no value), rownames (0..N-1)"
COLUMNS = f"1 number, 1 date, 2 categories (kids 4 values), left out: {LEFT_OUT}"


def test_train_and_show_say_how_the_columns_are_taken(folder, capsys):
    homes(folder)
    code, out, err = train(capsys, "homes.csv", "price", "--out", "run")
    assert code == 0
    assert f"\ncolumns: {COLUMNS}\n" in out
    assert err.splitlines() == [
        f"jaxnet: homes.csv: {line}"
        for line in (
            "column 'sold': '01/01/2024' is read as 2024-01-01",
            f"column 'price': '${PRICES[0]:,}' is read as {PRICES[0]}",
            f"left out: {LEFT_OUT}",
            "column 'kids' holds categories, since '3+' is among its numbers",
        )
    ]
    assert Record.load("run").data["left_out"] == ["note (no value)", "rownames (0..N-1)"]
    _, shown, _ = call(capsys, "show", "run")
    assert COLUMNS in " ".join(shown.split())


def test_a_model_takes_what_training_took(folder, capsys):
    (folder / "part").mkdir()
    homes(folder / "part", "b.csv")
    homes(folder, "c.csv", "utf-16", ";")
    assert train(capsys, "part", "price", "--out", "run")[0] == 0
    code, out, _ = call(capsys, "predict", "run", "--data", "part", "--out", "a.csv")
    assert (code, out) == (0, f"a.csv: {N} rows: price\n")
    _, folder_text, _ = call(capsys, "evaluate", "run", "--data", "part")
    _, file_text, _ = call(capsys, "evaluate", "run", "--data", "c.csv")
    assert file_text.splitlines()[1].split()[1:] == folder_text.splitlines()[1].split()[1:]


def test_predict_and_evaluate_are_told_delimiter_and_encoding(folder, capsys):
    (folder / "a.csv").write_text("x,city,y\n" + "1.5,Köln,2\n2.5,Malmö,3\n4,Köln,5\n" * 9)
    (folder / "b.csv").write_text("x^city^y\n1.5^Köln^2\n2.5^Malmö^3\n", "latin-1")
    assert train(capsys, "a.csv", "y", "--task", "regression", "--out", "run")[0] == 0
    said = ("--delimiter", "^", "--encoding", "latin-1")
    for argv in (["evaluate", "run"], ["predict", "run", "--out", "p.csv"]):
        code, _, err = call(capsys, *argv, "--data", "b.csv", *said[:2])
        assert code == 2
        assert "column 'city': the text is not UTF-8; say its encoding, as --encoding lat" in err
        code, _, err = call(capsys, *argv, "--data", "b.csv", *said[2:])
        assert code == 2
        assert "no columns 'x', 'city'" in err
        assert call(capsys, *argv, "--data", "b.csv", *said)[0] == 0


REFUSED = {
    "x,w\n1,a\n?,b\n3,a\n": "row 2, column 'x': '?' is text in a column of numbers; if it means "
    "a missing value, say --missing-words '?'; if not, correct it, or say --categorical x or "
    "--drop x",
    "x;w\n1,234;a\n2,345;b\n": "row 1, column 'x': '1,234' may be 1234 or 1.234, as all of the "
    "column; say --decimal . or --decimal ,",
    "x,w\n01/02/2024,a\n03/04/2024,b\n": "row 1, column 'x': '01/02/2024' may be 2024-02-01 or "
    "2024-01-02, as all of the column; say --dates day-first or --dates month-first",
    "x,W\n1,a\n2,b\n": "no target column 'w'; the columns are x, W; did you mean 'W'?",
    "x,,w\n1,2,a\n2,3,b\n": "column 2 has no name; name it, or say --drop ''",
}


@pytest.mark.parametrize("text", REFUSED)
def test_what_is_refused_names_options_that_exist(folder, capsys, text):
    (folder / "a.csv").write_text(text)
    code, out, err = train(capsys, "a.csv", "w")
    assert (code, out, err) == (2, "", f"jaxnet: a.csv: {REFUSED[text]}\n")


WRONG = {
    ("--dates", "%d"): "--dates must be day-first or month-first, or a format of %d %m",
    ("--decimal", "x"): "--decimal must be one of ., ,; got 'x'",
    ("--encoding", "x"): "--encoding must be the name of an encoding",
    ("--delimiter", ",,"): "--delimiter must be one character, or tab; got ',,'",
}


@pytest.mark.parametrize("options", WRONG)
def test_a_wrong_option_is_refused(folder, capsys, options):
    homes(folder)
    code, out, err = train(capsys, "homes.csv", "price", *options)
    assert (code, out) == (2, "")
    assert WRONG[options] in err
    assert not (folder / "runs").exists()
