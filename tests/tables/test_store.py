"""The rows of a store are those of the table in memory, to the bit, in bounded memory."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from pyarrow import parquet
from stored_tables import COLUMNS, WRITERS, N, arrow, whole, write_folder

import jaxnet
from jaxnet import data, sweep
from jaxnet.runs.config import Config
from jaxnet.runs.dataset import prepare
from jaxnet.tables import arrays, store, targets
from jaxnet.tables import convert as conversion
from jaxnet.tables import rows as rows_module
from jaxnet.tables.convert import convert
from jaxnet.tables.fitting import fit_encoding
from jaxnet.tables.reading import csv_file
from jaxnet.tables.reading.reader import read
from jaxnet.tables.rows import StoredRows, encode
from jaxnet.tables.targets import infer_task

TARGETS = ("real", "word", "wet", "byte", "long", "class")


@pytest.fixture(params=WRITERS)
def path(request, tmp_path):
    WRITERS[request.param](tmp_path / request.param)
    return tmp_path / request.param


@pytest.fixture(autouse=True)
def small_blocks(monkeypatch):
    monkeypatch.setattr(conversion, "BLOCK_NUMBERS", 29 * len(COLUMNS))
    monkeypatch.setattr(csv_file, "BLOCK_BYTES", 2000)
    monkeypatch.setattr(store, "BLOCK_BYTES", 1000)
    monkeypatch.setattr(arrays, "JOINED", 130)
    monkeypatch.setattr(rows_module, "BLOCK", 11)


def test_the_rows_are_those_of_the_table(path):
    table, made = whole(path), convert(path)
    index = np.random.default_rng(1).integers(0, N, 300)
    rows = made.take(index)
    assert (made.num_rows, rows.path, list(rows.columns)) == (N, str(path), list(COLUMNS))
    for name, column in table.columns.items():
        found = rows.columns[name]
        assert found.dtype == column.dtype
        if name == "long":  # float64 holds integers up to 2**53
            np.testing.assert_allclose(found, column[index], rtol=2**-53)
        else:
            np.testing.assert_array_equal(found, column[index])


def test_integers_are_exact_up_to_2_to_the_53(tmp_path):
    numbers = np.array([2**53, 2**53 - 1, -(2**53), 0])
    parquet.write_table(pa.table({"a": numbers, "b": numbers > 0}), tmp_path / "a.parquet")
    made = convert(tmp_path / "a.parquet")
    for rows in ([0, 1, 2, 3], [0, 0, 2, 3], [3, 1], [2, 2]):  # also as many as are read for them
        np.testing.assert_array_equal(
            made.take(np.array(rows)).columns["a"], np.array(numbers)[rows]
        )


def test_small_numbers_take_four_bytes_each(tmp_path):
    small = ("byte", "short", "half", "single", "wet")
    for name, columns, size in (("a", small, 4), ("b", (*small, "month"), 8)):
        table = arrow({column: COLUMNS[column] for column in columns})
        parquet.write_table(table, tmp_path / f"{name}.parquet")
        made = convert(tmp_path / f"{name}.parquet")
        assert np.load(store.folder_of(made.path) / store.NUMBERS).itemsize == size
        for column in columns:
            found = made.take(np.arange(N)).columns[column]
            np.testing.assert_array_equal(found, COLUMNS[column])


def test_batches_are_the_bits_of_the_table_encoded_in_memory(path):
    table, made = whole(path), convert(path)
    rows = data.split(N, 0.3, 5)[0]
    for target, dtype in zip(TARGETS, ("float32", "float64") * 3, strict=True):
        task = infer_task(table, target)[0]
        fitted = fit_encoding(table, target, task, rows, ["month"])
        x, y = encode(table, fitted, dtype)
        view = StoredRows(made, rows, fitted, dtype)
        assert len(view) == len(rows)
        positions = np.random.default_rng(2).integers(0, len(rows), (5, 9))
        for chosen in (positions, positions[0], positions[:0]):
            batch, numbers = view.batch(chosen), rows[chosen]
            assert (batch.x.dtype, batch.y.dtype) == (x.dtype, y.dtype)
            np.testing.assert_array_equal(batch.x, x[numbers])
            np.testing.assert_array_equal(batch.y, y[numbers])
        blocks = list(view.blocks())
        np.testing.assert_array_equal(np.concatenate([block.x for block in blocks]), x[rows])
        assert {len(block.x) for block in blocks[:-1]} == {11}


def test_the_task_and_the_encoding_are_those_in_memory(path):
    table, made = whole(path), convert(path)
    rows = data.split(N, 0.3, 5)[0]
    for target in TARGETS:
        assert infer_task(made, target) == infer_task(table, target)
        task = infer_task(table, target)[0]
        want = fit_encoding(table, target, task, rows, ["month"])
        got = fit_encoding(made, target, task, rows, ["month"])
        for a, b in zip((*want.features, want.target), (*got.features, got.target), strict=True):
            assert b._replace(mean=(), std=()) == a._replace(mean=(), std=())
            near = 1e-12 * max(a.std, default=0)
            np.testing.assert_allclose(b.mean, a.mean, rtol=1e-12, atol=near)
            np.testing.assert_allclose(b.std, a.std, rtol=1e-12)


def test_mean_and_std_lose_nothing_to_a_large_offset(tmp_path):
    values = 1e9 + np.random.default_rng(0).standard_normal(5000)
    path = tmp_path / "a.parquet"
    parquet.write_table(pa.table({"a": values, "y": np.arange(5000.0)}), path)
    (column,) = fit_encoding(convert(path), "y", "regression", np.arange(4999)).features
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
        fit_encoding(read(path), target, task, np.arange(N), categorical)
    with pytest.raises(ValueError, match=r"a\.parquet: ") as got:
        fit_encoding(convert(path), target, task, np.arange(N), categorical)
    assert str(got.value) == str(expected.value)


def test_very_large_integers_are_no_categories_of_a_store(tmp_path):
    ids = np.array([2**53, 7, 2**53, 7])
    parquet.write_table(pa.table({"id": ids, "y": [1.0, 2.0, 3.0, 4.0]}), tmp_path / "a.parquet")
    message = "column 'id' must hold integers below 9,007,199,254,740,992 to be categories of a"
    with pytest.raises(ValueError, match=message):
        fit_encoding(convert(tmp_path / "a.parquet"), "y", "regression", np.arange(4), ["id"])


def test_a_missing_target_and_very_many_integers_are_told(tmp_path, monkeypatch):
    monkeypatch.setattr(targets, "MAX_DISTINCT", 30)
    parquet.write_table(pa.table({"a": np.arange(31)}), tmp_path / "a.parquet")
    made = convert(tmp_path / "a.parquet")
    assert infer_task(made, "a") == ("regression", "it has more than 30 distinct integers")
    with pytest.raises(ValueError, match="no target column 'z'; the columns are a"):
        infer_task(made, "z")


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
    fitted = fit_encoding(made, "b", "classification", rows)
    view = StoredRows(made, np.arange(30), fitted)
    view.batch(rows)
    with pytest.raises(
        ValueError, match=r"1\.parquet: row 16, column 'a': the value 1e\+60 is too"
    ):
        view.batch(np.arange(30))


@pytest.mark.parametrize("target", ["real", "word"])
def test_a_dataset_on_disk_is_that_in_memory(path, target):
    if path.is_dir():
        path = path / "2.parquet"
    options: dict = {"data": str(path), "target": target, "on_disk": "on"}
    got, want = prepare(Config(**options)), prepare(Config(**options | {"on_disk": "off"}))
    assert (got.on_disk, want.on_disk) == (True, False)
    for name in ("source", "task", "reason", "spec", "batch_size", "steps_per_epoch"):
        assert getattr(got, name) == getattr(want, name)
    assert (len(got.train), len(got.validation)) == (len(want.train), len(want.validation))
    assert {n: c.dtype for n, c in got.table.columns.items()} == {
        n: c.dtype for n, c in want.table.columns.items()
    }
    again = prepare(Config(**options), want.encoding)
    for a, b in ((again.train, want.train), (again.validation, want.validation)):
        parts, (b,) = list(a.blocks()), b.blocks()
        np.testing.assert_array_equal(np.concatenate([part.x for part in parts]), b.x)
        np.testing.assert_array_equal(np.concatenate([part.y for part in parts]), b.y)


def test_a_folder_and_a_large_table_stay_on_disk_of_themselves(tmp_path, monkeypatch):
    write_folder(tmp_path / "folder")
    dataset = prepare(Config(data=str(tmp_path / "folder"), target="real"))
    assert (dataset.on_disk, len(dataset.train) + len(dataset.validation)) == (True, N)
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


# 690 MiB as arrays. Of them some 40 at most are read at a time; pyarrow's buffers and the imports
# take 100 more, the sample for the medians 16, and what is freed is not all given back.
BOUNDED = """
import sys
import numpy as np
import pyarrow
from jaxnet import data
from jaxnet.tables.convert import convert
from jaxnet.tables.fitting import fit_encoding
from jaxnet.tables.targets import infer_task
from jaxnet.tables.rows import StoredRows
def peak():  # getrusage would count the process that started this one
    (line,) = (line for line in open("/proc/self/status") if line.startswith("VmHWM"))
    return int(line.split()[1]) / 1024
start = peak()
made = convert(sys.argv[1])
rows, held_out = data.split(made.num_rows)
fitted = fit_encoding(made, "c0", "regression", rows)
view, rows_at = StoredRows(made, rows, fitted), data.row_batches(len(rows), 128)
total = 0.0
for step in range(0, 20_000, 100):
    total += float(view.batch(np.concatenate([rows_at(step + i) for i in range(4)])).x.mean())
for _ in range(40):
    view.batch(np.random.default_rng(0).integers(0, len(rows), 4096))
print(made.num_rows, peak() - start)
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
    environment = os.environ | {"PYTHONPATH": str(Path(jaxnet.__file__).parent.parent)}
    command = [sys.executable, "-W", "error", "-c", BOUNDED, str(path)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    total, growth = done.stdout.split()
    assert int(total) == 23 * rows
    assert float(growth) < 340  # MiB
