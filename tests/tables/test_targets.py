import numpy as np
import pyarrow as pa
from pyarrow import parquet

from jaxnet.tables.convert import convert
from jaxnet.tables.reading.reader import read
from jaxnet.tables.table import Table
from jaxnet.tables.targets import find_labels

TEXT = np.array(["b", "a", None, "b", "c", "b", "a"], object)


def labels(values, task="classification"):
    values = np.asarray(values)
    return find_labels(Table("t.csv", {"y": values}), "y", task)


def named(found):
    """The class of each row that has one."""
    return [found.values[code] for code in found.classes]


def test_rows_without_a_target_have_no_label():
    found = labels(TEXT)
    assert found.rows.tolist() == [0, 1, 3, 4, 5, 6]
    assert named(found) == ["b", "a", "b", "c", "b", "a"]
    found = labels([1.0, np.nan, 0.0])
    assert (found.rows.tolist(), named(found)) == ([0, 2], [1.0, 0.0])
    found = labels([[1.0, 2.0], [np.nan, 2.0], [3.0, 4.0]], "regression")
    assert (found.rows.tolist(), found.classes) == ([0, 2], None)


def test_labels_are_the_same_in_memory_and_on_disk(tmp_path, monkeypatch):
    monkeypatch.setattr("jaxnet.tables.store.BLOCK_BYTES", 24)
    rng = np.random.default_rng(0)
    classes = [None if i % 7 == 0 else int(i) for i in rng.integers(0, 5, 40)]
    columns = {"word": [None if c is None else f"w{c}" for c in classes], "code": classes}
    parquet.write_table(pa.table(columns), tmp_path / "t.parquet")
    store, table = convert(tmp_path / "t.parquet"), read(tmp_path / "t.parquet")
    for name in columns:
        one, other = (find_labels(t, name, "classification") for t in (store, table))
        np.testing.assert_array_equal(one.rows, other.rows)
        assert named(one) == named(other)


def test_split_and_folds_are_of_the_rows_with_a_target():
    found = labels(np.array([None, *"ab" * 10, None], object))
    train, held_out = found.split(0.2, 3)
    assert sorted([*train, *held_out]) == list(range(1, 21))
    assert sorted(row % 2 for row in held_out) == [0, 0, 1, 1]
    folds = found.folds(5, 3)
    assert sorted(np.concatenate(folds)) == list(range(1, 21))
    assert all(sorted(fold % 2) == [0, 0, 1, 1] for fold in folds)


def test_what_is_odd_about_rows_and_classes_is_said(caplog):
    found = labels(np.array([None, None, *"aaaabbc"], object))
    found.log(9, np.array([2, 3, 6, 8]), np.array([4, 5]))
    assert caplog.messages == [
        "2 rows have no value of the target 'y', and are left out",
        "only 1 row is of the class c",
        "no row to validate on is of the class b",
    ]
    caplog.clear()
    labels([1, 1, 2, 2]).log(4, np.array([0, 2]), np.array([1, 3]))
    labels([1.5, np.nan], "regression").log(2, np.array([0]), np.array([0]))
    assert caplog.messages == ["1 row has no value of the target 'y', and is left out"]
