"""A table's files become a store once, whole or not at all."""

import concurrent.futures
import json
import logging
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from pyarrow import parquet
from stored_tables import COLUMNS, WRITERS, N, arrow, csv_bytes

import jaxnet
from jaxnet.runs.config import Config
from jaxnet.runs.dataset import prepare
from jaxnet.tables import arrays, store, table
from jaxnet.tables import convert as conversion
from jaxnet.tables.convert import convert
from jaxnet.tables.reading import csv_file
from jaxnet.tables.reading.options import ReadOptions
from jaxnet.tables.reading.reader import read
from jaxnet.tables.store import folder_of

STRICT = ReadOptions(missing="error")


@pytest.fixture(autouse=True)
def small_blocks(monkeypatch):
    monkeypatch.setattr(conversion, "BLOCK_NUMBERS", 29 * len(COLUMNS))
    monkeypatch.setattr(csv_file, "BLOCK_BYTES", 2000)


def rows_of(made, number=N):
    return made.take(np.arange(number)).columns


CSV = "a,word,y\n"
BAD = [
    "",
    "\n\n",
    CSV,
    CSV + "1,x,2\n3,y\n",
    CSV + "1,x,2,7\n",
    CSV + "1,x,2\n" * 900 + "1,,2\n",
    CSV + "1,x,2\n" * 900 + "3,NA,2\n",
    CSV + "1,x,2\n2,x,3\ninf,x,3\n",
    CSV + "1,x,2\n2,x,2\n3,x,2\nabc,x,2\n",
    CSV + "".join(f"{i},x,2\n" for i in range(900)) + "?,x,2\n",
    "a,word,a,y\n1,2,3,4\n",
    "a,,y\n1,2,3\n",
]


@pytest.mark.parametrize("text", BAD)
def test_a_bad_csv_is_refused_in_the_words_of_the_whole_table(tmp_path, text):
    path = tmp_path / "bad.csv"
    path.write_text(text)
    with pytest.raises(ValueError, match=r"bad\.csv: ") as expected:
        read(path, options=STRICT)
    for _ in range(2):  # what is left by then does not change it
        with pytest.raises(ValueError, match=r"bad\.csv: ") as got:
            convert(path, options=STRICT)
        assert str(got.value) == str(expected.value)


@pytest.mark.parametrize(
    ("first", "last", "dtype"),
    [("1", "2.5", "f8"), ("1", "true", "O"), ("7", "true", "O"), ("true", "x", "O")]
    + [("1", "1" + "0" * 30, "f8"), ("1.5", "x", "O"), ("true", "1", "O"), ("007", "1", "O")]
    + [("1", "007", "O"), ("1", "1,200.5", "f8"), ("31/12/2020", "1/5/2020", "M8[us]")],
)
def test_a_type_that_shows_only_late_is_found(tmp_path, first, last, dtype):
    path = tmp_path / "a.csv"
    rows = [f"{first};{i}\n" for i in range(900)] + [f"{last};0\n"]
    if last == "x":
        rows.append("more words;1\n")  # than numbers
        rows.append("and more;1\n")
    path.write_text("a;b\n" + "".join(rows))
    expected = read(path).columns["a"]
    got = rows_of(convert(path), len(rows))["a"]
    assert got.dtype == expected.dtype == np.dtype(dtype)
    np.testing.assert_array_equal(got, expected)


def test_a_newline_within_quotes_may_lie_anywhere(tmp_path, monkeypatch):
    path = tmp_path / "a.csv"
    texts = ['"a\nb"', "x", '"p ""q""\n\n, r"'] * 40
    path.write_text("word,n\n" + "".join(f"{text},{i}\n" for i, text in enumerate(texts)))
    for size in range(20, 60, 3):
        monkeypatch.setattr(csv_file, "BLOCK_BYTES", size)
        shutil.rmtree(folder_of(path), ignore_errors=True)
        rows = rows_of(convert(path), 120)
        assert rows["word"].tolist() == ["a\nb", "x", 'p "q"\n\n, r'] * 40
        assert rows["n"].tolist() == list(range(120))


@pytest.mark.parametrize("suffix", ["csv", "parquet"])
def test_an_id_is_refused_before_all_of_it_is_held(tmp_path, monkeypatch, suffix):
    monkeypatch.setattr(table, "MAX_CATEGORIES", 40)
    columns = {"id": np.array([f"id{i}" for i in range(N)], object), "y": COLUMNS["real"]}
    path = tmp_path / f"a.{suffix}"
    if suffix == "csv":
        path.write_bytes(csv_bytes(columns=columns))
    else:
        parquet.write_table(arrow(columns), path)
    for _ in range(2):
        with pytest.raises(ValueError, match="column 'id' has more than 40 distinct categories; d"):
            convert(path)
    assert convert(path, ["id"]).num_rows == N


def test_a_word_after_very_many_numbers_is_named(tmp_path, monkeypatch):
    monkeypatch.setattr(table, "MAX_CATEGORIES", 40)
    path = tmp_path / "folder"
    path.mkdir()
    (path / "0.csv").write_text("a,b\n" + "".join(f"{i},1\n" for i in range(700)))
    numbers = "".join(f"{i},1\n" for i in range(700, 1200))
    (path / "1.csv").write_text(f"a,b\n{numbers}oh,1\n{numbers}")
    with pytest.raises(ValueError, match=r"1\.csv: row 501, column 'a': 'oh' is text in a column"):
        convert(path)
    (path / "0.csv").write_text("a,b\n" + "".join(f"{i},1\n" for i in range(700)) + "x,1\n")
    with pytest.raises(ValueError, match=r"0\.csv: row 701, column 'a': 'x' is text in a column"):
        convert(path)
    with pytest.raises(ValueError, match=r"1\.csv: row 501, column 'a': 'oh' is text in a column"):
        convert(path / "1.csv")


KILLED = """
import os, signal, sys
from jaxnet.tables import convert
from jaxnet.tables.reading import csv_file
convert.BLOCK_NUMBERS, csv_file.BLOCK_BYTES = 29 * 12, 2000
blocks = int(sys.argv[2])
def on_progress(progress):
    global blocks
    blocks -= 1
    if not blocks:
        os.kill(os.getpid(), signal.SIGKILL)
convert.convert(sys.argv[1], (), on_progress)
"""


def run(code, *arguments):
    environment = os.environ | {"PYTHONPATH": str(Path(jaxnet.__file__).parent.parent)}
    command = [sys.executable, "-W", "error", "-c", code, *map(str, arguments)]
    return subprocess.run(command, env=environment, capture_output=True, text=True)


def age(path):
    """Make a file, or the files of a folder, so old that their times tell every change."""
    for file in [path, *path.iterdir()] if path.is_dir() else [path]:
        os.utime(file, (10**9, 10**9))


def content(path):
    return {file.name: file.read_bytes() for file in folder_of(path).iterdir()}


@pytest.mark.parametrize(("name", "before"), [("plain.csv", False), ("folder", True)])
def test_after_a_kill_it_starts_again(tmp_path, name, before):
    path, told = tmp_path / name, []
    WRITERS[name](path)
    age(path)
    convert(path, (), told.append)
    expected = content(path)
    assert len(told) > 6
    if before:  # the arrays of other data are there
        described = json.loads((folder_of(path) / store.DESCRIPTION).read_text())
        described["files"][0]["state"][0] += 1
        (folder_of(path) / store.DESCRIPTION).write_text(json.dumps(described))
    else:
        shutil.rmtree(folder_of(path))
    done = run(KILLED, path, len(told) - 1)
    assert done.returncode == -signal.SIGKILL, done.stderr
    assert not (folder_of(path) / store.DESCRIPTION).exists()
    again = []
    convert(path, (), again.append)
    assert again == told
    assert content(path) == expected


def test_arrays_that_are_cut_short_or_of_an_older_version_are_made_anew(tmp_path):
    path, told = tmp_path / "a.parquet", []
    parquet.write_table(arrow(), path)
    age(path)
    convert(path)
    expected = content(path)
    for name in (store.NUMBERS, store.CODES, store.DESCRIPTION):
        os.truncate(folder_of(path) / name, 200)
        convert(path, (), told.append)
        assert content(path) == expected
    older = json.loads(expected[store.DESCRIPTION]) | {"version": 1}
    (folder_of(path) / store.DESCRIPTION).write_text(json.dumps(older))
    convert(path, (), told.append)
    assert content(path) == expected
    assert [progress.whole for progress in told].count(True) == 4


def test_a_second_time_only_opens(tmp_path, monkeypatch):
    path = tmp_path / "plain.csv"
    WRITERS[path.name](path)
    convert(path)
    before = {file: file.stat().st_mtime_ns for file in folder_of(path).iterdir()}
    monkeypatch.setattr(arrays, "write", pytest.fail)
    assert list(convert(path, ["wet"]).columns) == [name for name in COLUMNS if name != "wet"]
    assert {file: file.stat().st_mtime_ns for file in folder_of(path).iterdir()} == before


def test_data_that_changed_are_converted_anew(tmp_path, caplog):
    path = tmp_path / "a.parquet"
    for count in (50, 60):
        parquet.write_table(arrow(stop=count), path)
        made = convert(path)
        np.testing.assert_array_equal(
            made.take(np.arange(count)).columns["real"], COLUMNS["real"][:count]
        )
    assert [r.getMessage() for r in caplog.records if r.levelno == logging.WARNING] == [
        f"{path}: its arrays are made anew: the data have changed"
    ]


def test_a_column_that_was_left_out_is_added_to_those_that_are_there(tmp_path, caplog):
    path = tmp_path / "a.parquet"
    parquet.write_table(arrow(), path)
    first = convert(path, ["word", "wet"])
    assert "wet" not in first.columns
    assert "byte" not in convert(path, ["byte"]).columns
    assert "its arrays are made anew: a column is wanted that they lack" in caplog.text
    assert list(convert(path).columns) == list(COLUMNS)
    np.testing.assert_array_equal(first.take(np.arange(N)).columns["real"], COLUMNS["real"])
    with pytest.raises(ValueError, match="no column 'z' to drop; the columns are real, word"):
        convert(path, ["z"])


def test_a_file_that_changes_while_it_is_converted_is_refused(tmp_path):
    path = tmp_path / "a.csv"
    path.write_bytes(csv_bytes())

    def change(progress):
        with path.open("ab") as file:
            file.write(b"1\n")

    with pytest.raises(ValueError, match=r"a\.csv: the file changed while it was read"):
        convert(path, (), change)


def test_dropped_columns_may_hold_anything(tmp_path):
    day = pa.array([None, 3, 4], pa.date32())
    table = pa.table({"day": day, "bad": [np.nan, np.inf, 1.0], "a": [1, 2, 3]})
    parquet.write_table(table, tmp_path / "a.parquet")
    (tmp_path / "a.csv").write_bytes(b",bad,day,a\n1,1,2020-01-01,1\n,K\xf6,x,2\n,,,3\n")
    for name, drop in {"a.parquet": ["day", "bad"], "a.csv": ["", "bad", "day"]}.items():
        rows = convert(tmp_path / name, drop).take(np.array([2, 0]))
        assert {n: c.tolist() for n, c in rows.columns.items()} == {"a": [3, 1]}


def test_of_several_at_once_one_converts_and_the_others_wait(tmp_path):
    path = tmp_path / "a.parquet"
    parquet.write_table(arrow(), path)
    ends = []
    with concurrent.futures.ThreadPoolExecutor(4) as pool:
        made = list(pool.map(lambda _: convert(path, (), ends.append), range(4)))
    assert [progress.whole for progress in ends].count(True) == 1
    for one in made:
        np.testing.assert_array_equal(one.take(np.arange(N)).columns["short"], COLUMNS["short"])


def test_types_of_several_files_are_widened(tmp_path):
    path = tmp_path / "folder"
    path.mkdir()
    parquet.write_table(
        pa.table({"a": np.array([1, 2], np.uint8), "t": ["x", "y"]}), path / "1.parquet"
    )
    (path / "2.csv").write_text("t,a\nz,-3\nx,4\n")
    (path / "3.csv").write_text("t,a\nz,2.5\n")
    columns = convert(path).take(np.arange(5)).columns
    assert {n: c.tolist() for n, c in columns.items()} == {
        "a": [1, 2, -3, 4, 2.5],
        "t": ["x", "y", "z", "x", "z"],
    }
    assert columns["a"].dtype == np.float64


FOLDERS: dict = {
    "the folder has no file ending in .csv, .csv.gz, .tsv, .parquet": {"a.txt": "a\n1\n"},
    r"2\.csv: must have the columns of 1\.csv, and 'a' is only": {
        "1.csv": "a\n1\n",
        "2.csv": "b\n1\n",
    },
    r"2\.csv: row 1, column 'a': the value is missing": {
        "1.csv": "a,b\n1,2\n",
        "2.csv": "a,b\n,2\n",
    },
    r"folder: the table is empty": {"1.csv": "a\n", "2.csv": "a\n"},
    r"x\.npz: an \.npz file cannot be part of a folder": {"1.csv": "a\n1\n", "x.npz": ""},
    r"2\.parquet: column 'a' holds numbers, and in another file text": {"1.csv": "a\nx\n"},
}  # fmt: skip


@pytest.mark.parametrize("message", FOLDERS)
def test_a_bad_folder_is_refused(tmp_path, message):
    path = tmp_path / "folder"
    path.mkdir()
    for name, text in FOLDERS[message].items():
        (path / name).write_text(text)
    if "parquet: column" in message:
        parquet.write_table(pa.table({"a": [1]}), path / "2.parquet")
    with pytest.raises(ValueError, match=message):
        convert(path, options=STRICT)


def test_arrays_that_cannot_be_written_are_told(tmp_path):
    path = tmp_path / "a.parquet"
    parquet.write_table(arrow(), path)
    folder_of(path).write_text("in the way")
    with pytest.raises(OSError, match=r"a\.parquet\.arrays: could not be written \(File exists\)"):
        convert(path)
    folder_of(path).unlink()
    limit = "import resource, signal; signal.signal(signal.SIGXFSZ, signal.SIG_IGN); "
    limit += "resource.setrlimit(resource.RLIMIT_FSIZE, (9000, 9000)); "
    done = run(limit + KILLED.replace("\nimport", "import", 1), path, 1000)
    assert done.returncode == 1
    assert "a.parquet.arrays/codes.npy: could not be written (File too large)" in done.stderr
    assert not folder_of(path).exists()
    np.testing.assert_array_equal(convert(path).take(np.arange(N)).columns["byte"], COLUMNS["byte"])


def test_the_rows_of_an_npz_cannot_stay_on_disk():
    with pytest.raises(ValueError, match=r"digits\.npz: the rows of an \.npz file cannot stay"):
        prepare(Config(on_disk="on"))
    with pytest.raises(ValueError, match="`on_disk` must be one of auto, on, off; got 'yes'"):
        Config(on_disk="yes")
