"""A folder of files is one table, with the keys that its folders' names hold."""

import numpy as np
import pyarrow as pa
import pytest
from pyarrow import parquet

from jaxnet.tables.convert import convert
from jaxnet.tables.reading.options import ReadOptions
from jaxnet.tables.reading.reader import blocks, copies


def make(folder, files):
    for name, content in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if isinstance(content, str):
            path.write_text(content)
        else:
            parquet.write_table(pa.table(content), path)
    return folder


def rows(path, drop=()):
    store = convert(path, drop)
    taken = store.take(np.arange(store.num_rows)).columns
    columns = {name: column.tolist() for name, column in taken.items()}
    parts = list(blocks(path, store.kinds, 2))
    for name, column in columns.items():  # as `predict` reads them
        assert [v for part in parts for v in part.columns[name].tolist()] == column
    return columns


def test_parts_without_rows_hidden_files_and_marks_are_passed_over(tmp_path):
    files = {
        "0.csv": "a,w\n",
        "1.csv": "a,w\n1,x\n2,y\n",
        "2.csv": "",
        "3.parquet": {"a": pa.array([], pa.int64()), "w": pa.array([], pa.string())},
        "4.parquet": {"a": [3], "w": ["x"]},
        "_SUCCESS": "",
        "_metadata.csv": "z\n1\n",
        ".hidden.csv": "z\n1\n",
        "notes.txt": "no table",
        "old.csv.arrays/x.csv": "z\n1\n",
    }
    assert rows(make(tmp_path / "t", files)) == {"a": [1, 2, 3], "w": ["x", "y", "x"]}


def test_the_keys_of_folders_are_columns(tmp_path):
    files = {
        "year=2023/city=New%20York/0.csv": "a\n1\n2\n",
        "year=2024/city=Bonn/0.parquet": {"a": [3]},
        "year=2024/city=__HIVE_DEFAULT_PARTITION__/0.csv": "a\n4\n",
    }
    path = make(tmp_path / "t", files)
    assert rows(path) == {
        "a": [1, 2, 3, 4],
        "year": [2023, 2023, 2024, 2024],
        "city": ["New York", "New York", "Bonn", None],
    }
    copied = [part["city"].to_pylist() for part in copies(path, ["city"])]
    assert copied == [["New York"] * 2, ["Bonn"], [None]]
    assert list(rows(path, ["city"])) == ["a", "year"]


def test_a_column_is_one_thing_in_all_files(tmp_path):
    files = {"0.csv": "a,n,d\n1,1,2023-01-01\n", "1.csv": "a,n,d\n3+,2.5,\n2,1,2023-01-02\n"}
    found = rows(make(tmp_path / "t", files))
    assert (found["a"], found["n"]) == (["1", "3+", "2"], [1, 2.5, 1])
    assert found["d"][1] is None
    files = {"0.csv": "d,w\n01/02/2023,x\n", "1.csv": "d,w\n31/12/2023,y\n"}
    assert rows(make(tmp_path / "u", files))["d"][0].month == 2


def test_a_file_is_named_by_its_place_in_the_folder(tmp_path):
    path = make(tmp_path / "t", {"k=1/0.csv": "a\n1\n2\n", "k=2/0.csv": "a\n3\n?\n5\n"})
    message = r"k=2/0\.csv: row 2, column 'a': '\?' is text in a column of numbers"
    with pytest.raises(ValueError, match=message):
        convert(path)
    with pytest.raises(ValueError, match=r"k=2/0\.csv: row 2, column 'a': '\?' is text in a col"):
        list(blocks(path, {"a": "real"}))
    path = make(tmp_path / "u", {"k=1/0.csv": "a,b\n1,2\n2,3\n", "k=2/0.csv": "a,b\n3,4\n,5\n"})
    with pytest.raises(ValueError, match=r"k=2/0\.csv: row 2, column 'a': the value is missing"):
        convert(path, options=ReadOptions(missing="error"))


BAD = {
    r"t: no column 'z' to drop; the columns are a, b$": {"0.csv": "a,b\n1,2\n"},
    r"l=1/1\.csv: must be in folders as k=1, with the same keys": {
        "k=1/0.csv": "a\n1\n",
        "l=1/1.csv": "a\n1\n",
    },
    "the folder has no file ending in .csv": {"_SUCCESS": "", "notes.txt": "a"},
}


@pytest.mark.parametrize("message", BAD)
def test_a_bad_folder_is_refused(tmp_path, message):
    path = make(tmp_path / "t", BAD[message])
    with pytest.raises(ValueError, match=message):
        convert(path, ["z"])
