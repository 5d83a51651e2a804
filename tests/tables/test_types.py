"""Types of Parquet files, and columns that only number the rows."""

import datetime
import json
from decimal import Decimal

import numpy as np
import pyarrow as pa
import pytest
from pyarrow import parquet

from jaxnet.tables.convert import convert
from jaxnet.tables.reading import parts
from jaxnet.tables.reading.reader import blocks, read

TYPES: dict = {
    "view": (pa.array(["x", None, "y"], pa.string_view()), "text", ["x", None, "y"]),
    "coded text": (pa.array(["x", None, "x"]).dictionary_encode(), "text", ["x", None, "x"]),
    "coded integers": (pa.array([7, 30, 7]).dictionary_encode(), "text", ["7", "30", "7"]),
    "coded dates": (
        pa.array([datetime.date(2024, 2, 29)] * 3).dictionary_encode(),
        "date",
        [datetime.datetime(2024, 2, 29)] * 3,
    ),
    "decimal": (pa.array([Decimal("1.25"), None, Decimal(3)]), "real", [1.25, np.nan, 3]),
    "unsigned": (pa.array([0, 2**63 + 2**11, 1], pa.uint64()), "integer", [0, 2**63 + 2**11, 1]),
    "bytes": (pa.array([1, None, 255], pa.uint8()), "integer", [1, np.nan, 255]),
    "half": (pa.array(np.array([0.5, 1, 2], np.float16)), "real", [0.5, 1, 2]),
    "boolean": (pa.array([True, None, False]), "boolean", [1, np.nan, 0]),
    "nanoseconds": (
        pa.array([10**18 + 1, None, 0], pa.timestamp("ns")),
        "date",
        [datetime.datetime(2001, 9, 9, 1, 46, 40), None, datetime.datetime(1970, 1, 1)],
    ),
    "zone": (
        pa.array([0, None, 10**6], pa.timestamp("us", "Europe/Rome")),
        "date",
        [datetime.datetime(1970, 1, 1), None, datetime.datetime(1970, 1, 1, 0, 0, 1)],
    ),
    "lists": (pa.array([[1, 2], [3, 4], [5, 6]]), "integer", [[1, 2], [3, 4], [5, 6]]),
    "fixed lists": (
        pa.array([[1, 2], None, [5, 6]], pa.list_(pa.float32(), 2)),
        "real",
        [[1, 2], [np.nan, np.nan], [5, 6]],
    ),
    "plain numbers as text": (pa.array(["1", "2", "1"]), "text", ["1", "2", "1"]),
    "prices as text": (pa.array(["$1.50", "$2", None]), "real decimal=. unit=$", [1.5, 2, np.nan]),
}


@pytest.mark.parametrize("name", TYPES)
def test_a_type_of_parquet_is_read_as_its_writer_said(tmp_path, name):
    array, kind, want = TYPES[name]
    path = tmp_path / "a.parquet"
    parquet.write_table(pa.table({"v": array, "n": [1, 2, 4]}), path, row_group_size=2)
    table = read(path)
    assert table.kinds["v"] == kind
    np.testing.assert_equal(table.columns["v"].tolist(), want)
    found = [block.columns["v"] for block in blocks(path, table.kinds, 2)]
    np.testing.assert_equal(np.concatenate(found).tolist(), want)
    if table.columns["v"].ndim == 1 and name != "unsigned":
        np.testing.assert_equal(convert(path).take(np.arange(3)).columns["v"].tolist(), want)


def test_lists_of_unequal_length_are_refused_by_row(tmp_path):
    parquet.write_table(pa.table({"v": [[1, 2], [3, 4], [5]]}), tmp_path / "a.parquet")
    with pytest.raises(ValueError, match="row 3, column 'v': the list has 1 values where anot"):
        read(tmp_path / "a.parquet")


def write_all(folder, columns, metadata=None):
    table = pa.table(columns).replace_schema_metadata(metadata)
    parquet.write_table(table, folder / "a.parquet")
    names = ",".join(columns)
    rows = zip(*([*map(str, c)] for c in columns.values()), strict=True)
    (folder / "a.csv").write_text(f"{names}\n" + "".join(",".join(row) + "\n" for row in rows))
    return folder / "a.parquet", folder / "a.csv"


def test_the_pandas_index_is_left_out_and_said(tmp_path, caplog):
    index = {"index_columns": ["day"], "columns": []}
    pandas = {b"pandas": json.dumps(index).encode()}
    columns = {"a": [1, 5], "day": [3, 2], "__index_level_0__": [7, 9]}
    path, _ = write_all(tmp_path, columns, pandas)
    want = {"__index_level_0__": "the pandas index", "day": "the pandas index"}
    for table in (read(path), convert(path), convert(path)):
        assert list(table.columns) == ["a"]
        assert table.left_out == want
    said = "left out: __index_level_0__ (the pandas index), day (the pandas index)"
    assert caplog.text.count(said) == 3
    assert list(read(path, ["day"]).columns) == ["a"]
    (block,) = blocks(path, {"day": "integer"})  # another file may have it as a column
    assert block.columns["day"].tolist() == [3, 2]


@pytest.mark.parametrize("start", [0, 1])
@pytest.mark.parametrize("name", ["", "rownames", "Unnamed: 0"])
def test_a_count_of_the_rows_is_left_out_and_said(tmp_path, name, start, monkeypatch):
    monkeypatch.setattr("jaxnet.tables.reading.csv_file.BLOCK_BYTES", 20)
    monkeypatch.setattr(parts, "ROWS", 7)
    columns = {name: list(range(start, start + 30)), "a": [0.5, 1.5, 4.5] * 10}
    for path in write_all(tmp_path, columns):
        if name or path.suffix == ".csv":
            for table in (read(path), convert(path)):
                assert list(table.columns) == ["a"]
                assert table.left_out == {name: "1..N" if start else "0..N-1"}


def test_a_named_column_that_numbers_the_rows_gets_a_line(tmp_path, caplog):
    shuffled = (np.random.default_rng(0).permutation(30) + 1).tolist()
    columns = {"a": [0.5, 1.5, 4.5] * 10, "id": shuffled, "n": [*shuffled[:-1], 31]}
    for path in write_all(tmp_path, columns):
        assert list(read(path).columns) == ["a", "id", "n"]
        convert(path)
        line = f"{path.name}: column 'id' holds each of 1..N once; if it numbers the rows, leave "
        assert caplog.messages == [f"{line}it out with `drop` id"] * 2
        caplog.clear()


def test_a_column_without_any_value_is_left_out(tmp_path):
    table = pa.table({"a": [1, 2], "none": pa.nulls(2), "typed": pa.nulls(2, pa.int32())})
    parquet.write_table(table, tmp_path / "a.parquet")
    (tmp_path / "a.csv").write_text("a,none,typed\n1,,NA\n2,,\n")
    for name in ("a.parquet", "a.csv"):
        for table in (read(tmp_path / name), convert(tmp_path / name)):
            assert list(table.columns) == ["a"]
            assert table.left_out == {"none": "no value", "typed": "no value"}
