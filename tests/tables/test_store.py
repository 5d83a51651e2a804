import concurrent.futures
import gzip
import itertools
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
from pyarrow import csv, parquet

import jaxnet
from jaxnet import data, order, sweep
from jaxnet.runs.config import Config
from jaxnet.runs.dataset import prepare
from jaxnet.tables import csv_blocks, encoding, records, store, store_fit
from jaxnet.tables.convert import convert, folder_of
from jaxnet.tables.rows import StoredRows
from jaxnet.tables.table import Table, read

N = 203
RNG = np.random.default_rng(0)
COLUMNS = {
    "real": RNG.standard_normal(N),
    "word": np.array(["Rom", "Köln", "a, b", 'say "no"', "東京"], object)[RNG.integers(0, 5, N)],
    "wet": RNG.random(N) < 0.4,
    "byte": RNG.integers(0, 256, N).astype(np.uint8),
    "next byte": RNG.integers(0, 256, N).astype(np.uint8),
    "short": RNG.integers(-3000, 3000, N).astype(np.int16),
    "long": RNG.integers(-(2**60), 2**60, N),
    "month": RNG.integers(1, 13, N).astype(np.int32),
    "single": (1e4 * RNG.standard_normal(N)).astype(np.float32),
    "half": RNG.standard_normal(N).astype(np.float16),
    "constant": np.full(N, 7.0),
    "class": RNG.integers(0, 4, N),
}
TARGETS = ("real", "word", "wet", "byte", "long", "class")


def arrow(columns=COLUMNS, start=0, stop=N):
    parts = {name: column[start:stop] for name, column in columns.items()}
    return pa.table({n: pa.array(c.tolist() if c.dtype == object else c) for n, c in parts.items()})


def csv_bytes(delimiter=",", columns=COLUMNS, start=0, stop=N):
    sink = pa.BufferOutputStream()
    table = arrow(columns, start, stop)
    if "half" in columns:
        table = table.set_column(9, "half", table["half"].cast(pa.float32()))
    csv.write_csv(table, sink, csv.WriteOptions(delimiter=delimiter))
    return sink.getvalue().to_pybytes()


def write_folder(path):
    path.mkdir()
    (path / "notes.txt").write_text("no table")
    for i, (start, stop) in enumerate(itertools.pairwise((0, 50, 51, N))):
        parquet.write_table(arrow(start=start, stop=stop), path / f"{i}.parquet", row_group_size=7)


WRITERS = {
    "groups.parquet": lambda path: parquet.write_table(arrow(), path, row_group_size=13),
    "plain.csv": lambda path: path.write_bytes(csv_bytes()),
    "tabs.tsv": lambda path: path.write_bytes(csv_bytes("\t")),
    "packed.csv.gz": lambda path: path.write_bytes(gzip.compress(csv_bytes())),
    "folder": write_folder,
}


def whole(path):
    """The table as it is in memory; of a folder, its files one after the other."""
    if not path.is_dir():
        return read(path)
    parts = [read(file) for file in sorted(path.glob("*.parquet"))]
    columns = {n: np.concatenate([p.columns[n] for p in parts]) for n in parts[0].columns}
    return Table(str(path), columns)


@pytest.fixture(params=WRITERS)
def path(request, tmp_path):
    WRITERS[request.param](tmp_path / request.param)
    return tmp_path / request.param


@pytest.fixture(autouse=True)
def small_parts(monkeypatch):
    monkeypatch.setattr(records, "ROWS", 29)
    monkeypatch.setattr(csv_blocks, "BYTES", 2000)
    monkeypatch.setattr(records, "SAVE_BYTES", 1500)
    monkeypatch.setattr(store, "BLOCK_BYTES", 1000)
    monkeypatch.setattr(store, "CACHED", 500)
    monkeypatch.setattr("jaxnet.tables.rows.CACHED", 500)
    monkeypatch.setattr(store, "PAGES", 300)
    monkeypatch.setattr(store, "RESIDENT", 1300)
    monkeypatch.setattr(order, "BLOCK", 16)
    monkeypatch.setattr(order, "WINDOW", 3)


def test_the_rows_are_those_of_the_table(path):
    table, made = whole(path), convert(path)
    index = np.random.default_rng(1).integers(0, N, 300)
    rows = made.rows(index)
    assert (len(made), rows.path, list(rows.columns)) == (N, str(path), list(COLUMNS))
    for name, column in table.columns.items():
        np.testing.assert_array_equal(rows.columns[name], column[index])
        assert rows.columns[name].dtype == column.dtype


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("large", [50, 1000])
def test_batches_are_the_bits_of_the_table_encoded_in_memory(path, target, large, monkeypatch):
    monkeypatch.setattr(data, "LARGE", large)
    table, made = whole(path), convert(path)
    rows = data.split(N, 0.3, 5)[0]
    task = encoding.infer_task(table, target)[0]
    fitted = encoding.fit_encoding(table, target, task, np.asarray(rows), ["month"])
    for dtype in ("float32", "float64"):
        x, y = encoding.encode(table, fitted, dtype)
        view = StoredRows(made, rows, fitted, dtype)
        assert (len(view), view.width) == (len(rows), x.shape[1])
        positions = np.random.default_rng(2).integers(0, len(rows), (5, 9))
        for chosen in (positions, positions[0], positions[:0]):
            batch, numbers = view.batch(chosen), np.asarray(rows)[chosen]
            assert (batch.x.dtype, batch.y.dtype) == (x.dtype, y.dtype)
            np.testing.assert_array_equal(batch.x, x[numbers])
            np.testing.assert_array_equal(batch.y, y[numbers])


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("large", [50, 1000])
def test_the_task_and_the_encoding_are_those_in_memory(path, target, large, monkeypatch):
    monkeypatch.setattr(data, "LARGE", large)
    table, made = whole(path), convert(path)
    rows = data.split(N, 0.3, 5)[0]
    assert store_fit.infer_task(made, target) == encoding.infer_task(table, target)
    task = encoding.infer_task(table, target)[0]
    want = encoding.fit_encoding(table, target, task, np.asarray(rows), ["month"])
    got = store_fit.fit_encoding(made, target, task, rows, ["month"])
    for a, b in zip((*want.features, want.target), (*got.features, got.target), strict=True):
        assert b._replace(mean=(), std=()) == a._replace(mean=(), std=())
        np.testing.assert_allclose(b.mean, a.mean, rtol=1e-12, atol=1e-12 * max(a.std, default=0))
        np.testing.assert_allclose(b.std, a.std, rtol=1e-12)


def test_mean_and_std_lose_nothing_to_a_large_offset(tmp_path):
    values = 1e9 + np.random.default_rng(0).standard_normal(5000)
    path = tmp_path / "a.parquet"
    parquet.write_table(pa.table({"a": values, "y": np.arange(5000.0)}), path)
    (column,) = store_fit.fit_encoding(convert(path), "y", "regression", np.arange(4999)).features
    np.testing.assert_allclose(column.mean, values[:-1].mean(), rtol=1e-15)
    np.testing.assert_allclose(column.std, values[:-1].std(), rtol=1e-12)


HUGE = np.where(np.arange(N) == 100, 1e300, COLUMNS["real"])
FAULTS: dict = {
    "no target": ("z", "regression", (), {}),
    "text for regression": ("word", "regression", (), {}),
    "no categorical": ("real", "regression", ["z"], {}),
    "no feature": ("y", "regression", (), {"y": COLUMNS["real"]}),
    "one value": ("constant", "regression", (), {}),
    "one class": ("y", "classification", (), {"y": np.ones(N, int), "a": COLUMNS["real"]}),
    "one text": ("y", "classification", (), {"y": np.full(N, "x", object), "a": COLUMNS["real"]}),
    "an id": ("real", "regression", ["long"], {}),
    "text ids": (
        "y", "regression", (), {"a": np.array([f"id{i}" for i in range(N)], object), "y": HUGE},
    ),
    "a quantity": ("real", "classification", (), {}),
    "too large": ("y", "regression", (), {"b": HUGE, "y": COLUMNS["real"]}),
}  # fmt: skip


@pytest.mark.parametrize("fault", FAULTS)
def test_a_table_is_refused_in_the_words_of_the_one_in_memory(tmp_path, fault):
    target, task, categorical, columns = FAULTS[fault]
    path = tmp_path / "a.parquet"
    parquet.write_table(arrow(columns or COLUMNS), path)
    with pytest.raises(ValueError, match=r"a\.parquet: ") as expected:
        encoding.fit_encoding(read(path), target, task, np.arange(N), categorical)
    with pytest.raises(ValueError, match=r"a\.parquet: ") as got:
        store_fit.fit_encoding(convert(path), target, task, np.arange(N), categorical)
    assert str(got.value) == str(expected.value)


@pytest.mark.parametrize("target", ["z", "a"])
def test_a_missing_target_and_very_many_integers_are_told(tmp_path, target, monkeypatch):
    monkeypatch.setattr(store_fit, "MAX_DISTINCT", 30)
    parquet.write_table(pa.table({"a": np.arange(31)}), tmp_path / "a.parquet")
    made = convert(tmp_path / "a.parquet")
    if target == "a":
        assert store_fit.infer_task(made, "a") == (
            "regression",
            "it has more than 30 distinct integers",
        )
    else:
        with pytest.raises(ValueError, match="no target column 'z'; the columns are a"):
            store_fit.infer_task(made, target)


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
    "a,y\n2020-01-01,1\n",
]


@pytest.mark.parametrize("text", BAD)
def test_a_bad_csv_is_refused_in_the_words_of_the_whole_table(tmp_path, text):
    path = tmp_path / "bad.csv"
    path.write_text(text)
    with pytest.raises(ValueError, match=r"bad\.csv: ") as expected:
        read(path)
    for _ in range(2):  # what is left by then does not change it
        with pytest.raises(ValueError, match=r"bad\.csv: ") as got:
            convert(path)
        assert str(got.value) == str(expected.value)


@pytest.mark.parametrize(
    ("first", "last", "dtype"),
    [("1", "2.5", "f8"), ("1", "true", "?"), ("7", "true", "O"), ("true", "x", "O")]
    + [("1", "1" + "0" * 30, "f8"), ("1.5", "x", "O"), ("2020-01-01", "x", "O")],
)
def test_a_type_that_shows_only_late_is_found(tmp_path, first, last, dtype):
    path = tmp_path / "a.csv"
    rows = [f"{first},{i}\n" for i in range(900)] + [f"{last},0\n"]
    if dtype == "O" and first in ("7", "1.5"):
        rows.append("more words,1\n")  # than numbers
        rows.append("and more,1\n")
    path.write_text("a,b\n" + "".join(rows))
    expected = read(path).columns["a"]
    got = convert(path).rows(np.arange(len(rows))).columns["a"]
    assert got.dtype == expected.dtype == np.dtype(dtype)
    np.testing.assert_array_equal(got, expected)


def test_a_newline_within_quotes_may_lie_anywhere(tmp_path, monkeypatch):
    path = tmp_path / "a.csv"
    texts = ['"a\nb"', "x", '"p ""q""\n\n, r"'] * 40
    path.write_text("word,n\n" + "".join(f"{text},{i}\n" for i, text in enumerate(texts)))
    for size in range(20, 60):
        monkeypatch.setattr(csv_blocks, "BYTES", size)
        shutil.rmtree(folder_of(path), ignore_errors=True)
        rows = convert(path).rows(np.arange(120)).columns
        assert rows["word"].tolist() == ["a\nb", "x", 'p "q"\n\n, r'] * 40
        assert rows["n"].tolist() == list(range(120))


@pytest.mark.parametrize("suffix", ["csv", "parquet"])
def test_an_id_is_refused_before_all_of_it_is_held(tmp_path, monkeypatch, suffix):
    monkeypatch.setattr(records, "MAX_CATEGORIES", 40)
    monkeypatch.setattr(store, "MAX_CATEGORIES", 40)
    columns = {"id": np.array([f"id{i}" for i in range(N)], object), "y": COLUMNS["real"]}
    path = tmp_path / f"a.{suffix}"
    if suffix == "csv":
        path.write_bytes(csv_bytes(columns=columns))
    else:
        parquet.write_table(arrow(columns), path)
    for _ in range(2):
        with pytest.raises(ValueError, match="column 'id' has more than 40 distinct categories; d"):
            convert(path)
    assert len(convert(path, ["id"])) == N


def test_a_word_after_very_many_numbers_is_named(tmp_path, monkeypatch):
    monkeypatch.setattr(records, "MAX_CATEGORIES", 40)
    path = tmp_path / "folder"
    path.mkdir()
    (path / "0.csv").write_text("a,b\n" + "".join(f"{i},1\n" for i in range(700)))
    numbers = "".join(f"{i},1\n" for i in range(700, 1200))
    (path / "1.csv").write_text(f"a,b\n{numbers}oh,1\n{numbers}")
    with pytest.raises(ValueError, match=r"1\.csv: column 'a' holds text, and in 0\.csv numbers"):
        convert(path)
    (path / "0.csv").write_text("a,b\n" + "".join(f"{i},1\n" for i in range(700)) + "x,1\n")
    with pytest.raises(ValueError, match=r"0\.csv: row 701, column 'a': 'x' is text in a column"):
        convert(path)
    with pytest.raises(ValueError, match=r"1\.csv: row 501, column 'a': 'oh' is text in a column"):
        convert(path / "1.csv")


KILLED = """
import os, signal, sys
from jaxnet.tables import convert as mapped_convert, csv_blocks, records as mapped_records
mapped_records.ROWS, mapped_records.SAVE_BYTES, csv_blocks.BYTES = 29, 1500, 2000
saves = int(sys.argv[2])
def on_progress(progress):
    global saves
    saves -= 1
    if not saves:
        os.kill(os.getpid(), signal.SIGKILL)
mapped_convert.convert(sys.argv[1], (), on_progress)
"""


def run(code, *arguments):
    environment = os.environ | {"PYTHONPATH": str(Path(jaxnet.__file__).parent.parent)}
    command = [sys.executable, "-W", "error", "-c", code, *map(str, arguments)]
    return subprocess.run(command, env=environment, capture_output=True, text=True)


def content(path):
    return {file.name: file.read_bytes() for file in folder_of(path).iterdir()}


def test_after_a_kill_it_goes_on_to_the_same_bytes(path):
    saved = []
    convert(path, (), saved.append)
    expected = content(path)
    assert len(saved) > 4
    for saves in (2, len(saved) - 1):
        shutil.rmtree(folder_of(path))
        done = run(KILLED, path, saves)
        assert done.returncode == -signal.SIGKILL, done.stderr
        with (folder_of(path) / store.RECORDS).open("ab") as file:
            file.write(b"a block that was being written")
        after = []
        convert(path, (), after.append)
        assert after[0].rows > saved[saves - 1].rows or len(after) == 1
        assert content(path) == expected


def test_a_second_time_only_opens(path, monkeypatch):
    convert(path)
    before = {file: file.stat().st_mtime_ns for file in folder_of(path).iterdir()}
    monkeypatch.setattr(records, "write", pytest.fail)
    assert list(convert(path, ["wet"]).fields) == [name for name in COLUMNS if name != "wet"]
    assert {file: file.stat().st_mtime_ns for file in folder_of(path).iterdir()} == before


def test_data_that_changed_are_converted_anew(tmp_path, caplog):
    path = tmp_path / "a.parquet"
    for count in (50, 60):
        parquet.write_table(arrow(stop=count), path)
        made = convert(path)
        np.testing.assert_array_equal(
            made.rows(np.arange(count)).columns["real"], COLUMNS["real"][:count]
        )
    assert [r.getMessage() for r in caplog.records if r.levelno == logging.WARNING] == [
        f"{path}: the data have changed; their arrays are made anew"
    ]


def test_a_column_that_was_left_out_is_added_to_those_that_are_there(tmp_path, caplog):
    path = tmp_path / "a.parquet"
    parquet.write_table(arrow(), path)
    first = convert(path, ["word", "wet"])
    assert "wet" not in first.fields
    assert "byte" not in convert(path, ["byte"]).fields
    assert "its arrays lack a column that is wanted; they are made anew" in caplog.text
    assert list(convert(path).fields) == list(COLUMNS)
    np.testing.assert_array_equal(first.rows(np.arange(N)).columns["real"], COLUMNS["real"])
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
        rows = convert(tmp_path / name, drop).rows(np.array([2, 0]))
        assert {n: c.tolist() for n, c in rows.columns.items()} == {"a": [3, 1]}


def test_of_several_at_once_one_converts_and_the_others_wait(tmp_path):
    path = tmp_path / "a.parquet"
    parquet.write_table(arrow(), path)
    ends = []
    with concurrent.futures.ThreadPoolExecutor(4) as pool:
        made = list(pool.map(lambda _: convert(path, (), ends.append), range(4)))
    assert [progress.whole for progress in ends].count(True) == 1
    for one in made:
        np.testing.assert_array_equal(one.rows(np.arange(N)).columns["long"], COLUMNS["long"])


def test_types_of_several_files_are_widened(tmp_path):
    path = tmp_path / "folder"
    path.mkdir()
    parquet.write_table(
        pa.table({"a": np.array([1, 2], np.uint8), "t": ["x", "y"]}), path / "1.parquet"
    )
    (path / "2.csv").write_text("t,a\nz,-3\nx,4\n")
    (path / "3.csv").write_text("t,a\nz,2.5\n")
    columns = convert(path).rows(np.arange(5)).columns
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
    r"x\.npz: an \.npz file cannot be mapped": {"1.csv": "a\n1\n", "x.npz": ""},
}  # fmt: skip


@pytest.mark.parametrize("message", FOLDERS)
def test_a_bad_folder_is_refused(tmp_path, message):
    path = tmp_path / "folder"
    path.mkdir()
    for name, text in FOLDERS[message].items():
        (path / name).write_text(text)
    with pytest.raises(ValueError, match=message):
        convert(path)


def test_arrays_that_cannot_be_written_are_told(tmp_path):
    path = tmp_path / "a.parquet"
    parquet.write_table(arrow(), path)
    folder_of(path).write_text("in the way")
    with pytest.raises(OSError, match=r"a\.parquet\.arrays: the arrays .* could not be written"):
        convert(path)
    folder_of(path).unlink()
    limit = "import resource, signal; signal.signal(signal.SIGXFSZ, signal.SIG_IGN); "
    limit += "resource.setrlimit(resource.RLIMIT_FSIZE, (9000, 9000)); "
    done = run(limit + KILLED.replace("\nimport", "import", 1), path, 1000)
    assert done.returncode == 1
    assert "a.parquet.arrays: the arrays of a mapped table could not be written" in done.stderr
    described = json.loads((folder_of(path) / store.DESCRIPTION).read_text())
    assert not described["whole"]
    np.testing.assert_array_equal(convert(path).rows(np.arange(N)).columns["byte"], COLUMNS["byte"])


def test_a_value_too_large_is_named_by_its_own_files_row(tmp_path):
    path = tmp_path / "folder"
    path.mkdir()
    values = np.random.default_rng(0).standard_normal(30)
    values[25] = 1e60
    for i, part in enumerate(np.split(values, [10])):
        parquet.write_table(
            pa.table({"a": part, "b": part > 0, "y": part * 2}), path / f"{i}.parquet"
        )
    made, rows = convert(path), np.delete(np.arange(30), 25)
    fitted = store_fit.fit_encoding(made, "b", "classification", rows)
    view = StoredRows(made, np.arange(30), fitted)
    view.batch(rows)
    with pytest.raises(
        ValueError, match=r"1\.parquet: row 16, column 'a': the value 1e\+60 is too"
    ):
        view.batch(np.arange(30))


@pytest.mark.parametrize("target", ["real", "word"])
def test_a_mapped_problem_is_that_in_memory(path, target):
    if path.is_dir():
        path = path / "2.parquet"
    options: dict = {"data": str(path), "target": target, "on_disk": "on"}
    got, want = prepare(Config(**options)), prepare(Config(**options | {"on_disk": "off"}))
    assert (got.on_disk, want.on_disk) == (True, False)
    for name in ("source", "task", "reason", "spec", "batch_size", "steps_per_epoch"):
        assert getattr(got, name) == getattr(want, name)
    assert (got.train_rows, got.validation_rows) == (want.train_rows, want.validation_rows)
    assert {n: c.dtype for n, c in got.table.columns.items()} == {
        n: c.dtype for n, c in want.table.columns.items()
    }
    again = prepare(Config(**options), want.encoding)
    for a, b in ((again.train, want.train), (again.validation, want.validation)):
        parts, (b,) = list(a.blocks()), b.blocks()
        np.testing.assert_array_equal(np.concatenate([part.x for part in parts]), b.x)
        np.testing.assert_array_equal(np.concatenate([part.y for part in parts]), b.y)


def test_a_folder_and_a_large_table_are_mapped_of_themselves(tmp_path, monkeypatch):
    write_folder(tmp_path / "folder")
    dataset = prepare(Config(data=str(tmp_path / "folder"), target="real"))
    assert (dataset.on_disk, dataset.train_rows + dataset.validation_rows) == (True, N)
    with pytest.raises(ValueError, match="`on_disk` must be on or auto for a folder of files, got"):
        prepare(Config(data=str(tmp_path / "folder"), target="real", on_disk="off"))
    for name in ("groups.parquet", "plain.csv"):
        WRITERS[name](tmp_path / name)
        config = Config(data=str(tmp_path / name), target="real")
        assert not prepare(config).on_disk
        monkeypatch.setattr("jaxnet.runs.dataset.memory", lambda: 4000)
        assert prepare(config).on_disk
        monkeypatch.undo()


def test_a_sweep_needs_its_table_in_memory(tmp_path):
    write_folder(tmp_path / "folder")
    parquet.write_table(arrow(), tmp_path / "a.parquet")
    for name, choice in {"a.parquet": "on", "folder": "auto"}.items():
        config = Config(data=str(tmp_path / name), target="real", on_disk=choice)
        with pytest.raises(ValueError, match="`on_disk` must be off for a sweep, which"):
            sweep.plan(config)


def test_an_npz_cannot_be_mapped():
    with pytest.raises(ValueError, match=r"digits\.npz: an \.npz file cannot be mapped; write it"):
        prepare(Config(on_disk="on"))
    with pytest.raises(ValueError, match="`on_disk` must be one of auto, on, off; got 'yes'"):
        Config(on_disk="yes")


# 690 MiB as arrays. Of them up to 128 are mapped at a time; pyarrow's buffers and the imports take
# 100 more.
BOUNDED = """
import sys
import numpy as np
import pyarrow
from jaxnet import data
from jaxnet.tables import store_fit as mapped_fit
from jaxnet.tables.rows import StoredRows
from jaxnet.tables.convert import convert
def peak():  # getrusage would count the process that started this one
    (line,) = (line for line in open("/proc/self/status") if line.startswith("VmHWM"))
    return int(line.split()[1]) / 1024
start = peak()
made = convert(sys.argv[1])
rows, held_out = data.split(len(made))
fitted = mapped_fit.fit_encoding(made, "c0", "regression", rows)
view, rows_at = StoredRows(made, rows, fitted), data.row_batches(len(rows), 128)
total = 0.0
for step in range(0, 20_000, 100):
    total += float(view.batch(np.concatenate([rows_at(step + i) for i in range(4)])).x.mean())
for _ in range(40):
    view.batch(np.random.default_rng(0).integers(0, len(rows), 4096))
print(len(made), peak() - start)
"""


def test_memory_does_not_grow_with_the_table(tmp_path):
    path, rows = tmp_path / "a.parquet", 2**17
    names = [f"c{i}" for i in range(30)]
    numbers = np.random.default_rng(0).standard_normal((rows, 30))
    table = pa.table(dict(zip(names, numbers.T.copy(), strict=True)))
    options: dict = {"use_dictionary": False, "compression": "none", "write_statistics": False}
    with parquet.ParquetWriter(path, table.schema, **options) as writer:
        for _ in range(23):
            writer.write_table(table)
    done = run(BOUNDED, path)
    assert done.returncode == 0, done.stderr
    total, growth = done.stdout.split()
    assert int(total) == 23 * rows
    assert float(growth) < 300  # MiB
