"""Tables that a stranger made are read in bounded memory and linear time, or refused."""

import io
import json
import os
import signal
import zipfile

import numpy as np
import pytest

from jaxnet import files
from jaxnet.tables import arrays
from jaxnet.tables.convert import convert
from jaxnet.tables.reading import scan
from jaxnet.tables.reading.quotes import without_spaces
from jaxnet.tables.reading.reader import read


@pytest.fixture(autouse=True)
def no_hang():
    """End a test that takes a time which grows faster than the file."""
    signal.alarm(60)
    yield
    signal.alarm(0)


def npy(array):
    content = io.BytesIO()
    np.save(content, array)
    return content.getvalue()


def npz(path, method=zipfile.ZIP_DEFLATED, **members):
    with zipfile.ZipFile(path, "w", method) as archive:
        for name, content in ({"a.npy": npy(np.arange(5.0))} | members).items():
            archive.writestr(name.replace("_npy", ".npy"), content)
    return path


MEMBERS = {
    "raw bytes": {"b": b"raw"},
    "text": {"readme.txt": b"text"},
    "no array": {"b_npy": b"raw"},
    "objects": {"b_npy": b"\x93NUMPY\x01\x00v\x00{'descr': '|O', 'fortran_order': False, "},
    "no Unicode": {"b_npy": npy(np.array([*"abcde"])).replace(b"a\0\0\0", b"\xff" * 4)},
}


@pytest.mark.parametrize("case", MEMBERS)
def test_a_member_that_is_no_array_is_refused(tmp_path, case):
    with pytest.raises(ValueError, match=r"t\.npz: not a readable \.npz file"):
        read(npz(tmp_path / "t.npz", **MEMBERS[case]))


@pytest.mark.parametrize("method", [zipfile.ZIP_LZMA, zipfile.ZIP_BZIP2])
def test_a_compression_that_numpy_does_not_write_is_refused(tmp_path, method):
    with pytest.raises(ValueError, match="is no array that NumPy has written"):
        read(npz(tmp_path / "t.npz", method))


def test_numbers_of_more_than_64_bits_are_refused(tmp_path):
    with pytest.raises(ValueError, match="column 'b' must be numbers"):
        read(npz(tmp_path / "t.npz", b_npy=npy(np.zeros(5, np.longdouble))))


def test_arrays_larger_than_the_memory_are_refused_unread(tmp_path, monkeypatch):
    path = npz(tmp_path / "t.npz", b_npy=npy(np.zeros((5, 10**6))))  # 40 kB in the file
    monkeypatch.setattr(files, "memory", lambda: 10**8)
    with pytest.raises(ValueError, match="the arrays: must take at most 25,000,000 bytes"):
        read(path)


def test_a_table_that_outgrows_the_memory_stops(tmp_path, monkeypatch):
    path = tmp_path / "t.csv"
    path.write_text("a,b\n" + "1.5,x\n2.5,y\n" * 100_000)
    monkeypatch.setattr(scan, "memory", lambda: 10**6)
    with pytest.raises(ValueError, match=r"takes more than 1/4 of the memory; .* `on_disk` on"):
        read(path)
    assert convert(path).num_rows == 200_000


CONTENTS = {
    "a quote too many": 'a,b\n"1,2\n' + "1,2\n" * 500_000,
    "many lines of #": "#\n" * 200_000,
    "many spaces": "a, b\n" + "1, 2\n" * 60 + "3," + " " * 900_000 + "4\n",
    "a long line": "a" * 2 * 10**6,
}


def test_many_columns_take_linear_time(tmp_path):
    names = ",".join(f"c{i}" for i in range(40_000))
    (tmp_path / "t.csv").write_text(names + "\n" + "1," * 39_999 + "1\n")
    assert len(read(tmp_path / "t.csv", [f"c{i}" for i in range(39_000)]).columns) == 1000


@pytest.mark.parametrize("case", CONTENTS)
def test_a_file_of_one_kind_of_thing_takes_linear_time(tmp_path, case):
    path = tmp_path / "t.csv"
    path.write_text(CONTENTS[case])
    if case == "many spaces":
        assert read(path).num_rows == 61
        return
    with pytest.raises(ValueError, match=r"t\.csv: "):
        read(path)


def test_spaces_before_cells_are_left_out():
    assert without_spaces(b"  a,   b,c\n  1,  2 , 3\n", ",") == b"a,b,c\n1,2 ,3\n"


def store(tmp_path, change):
    """Convert a table, and change the description of its arrays, whose digest is right."""
    path = tmp_path / "t.csv"
    path.write_text("a,b\n" + "1.5,x\n2.5,y\n" * 20)
    convert(path)
    described = tmp_path / "t.csv.arrays" / "arrays.json"
    found = json.loads(described.read_text())
    found.pop("digest")
    change(found)
    text = json.dumps(found, sort_keys=True)
    described.write_text(json.dumps(found | {"digest": arrays.digest(text.encode())}))
    return path


CHANGES = {
    "a part is missing": lambda found: found.pop("files"),
    "more rows": lambda found: (found.update(rows=10**15), found["files"][0].update(rows=10**15)),
    "another type": lambda found: found.update(columns={"a": 1}),
    "another place": lambda found: found["columns"][0].update(place=-1),
    "no digests": lambda found: found["digests"].update({"codes.npy": []}),
    "objects": lambda found: found["columns"][0].update(dtype="O"),
    "texts": lambda found: found["columns"][1].update(texts=[1]),
}


@pytest.mark.parametrize("case", CHANGES)
def test_arrays_whose_description_is_wrong_are_made_anew(tmp_path, case):
    path = store(tmp_path, CHANGES[case])
    assert convert(path).take(np.arange(3)).columns["b"].tolist() == ["x", "y", "x"]


def test_a_code_without_a_text_is_refused(tmp_path):
    path = store(tmp_path, lambda found: found["columns"][1].update(texts=["x"]))
    with pytest.raises(ValueError, match=r"codes\.npy: a code of column 'b' has no text"):
        convert(path).take(np.arange(3))


@pytest.mark.parametrize("name", ["arrays.json", "numbers.npy", ".lock", ""])
def test_links_in_place_of_arrays_are_refused(tmp_path, name):
    path, outside = store(tmp_path, dict), tmp_path / "outside"
    kept = tmp_path / "t.csv.arrays"
    kept.rename(outside)
    if name:
        kept.mkdir()
        (kept / name).symlink_to(outside / "arrays.json")
    else:
        kept.symlink_to(outside)
    before = {file.name: file.read_bytes() for file in outside.iterdir()}
    with pytest.raises(ValueError, match="must be a file or a folder, got a link"):
        convert(path)
    assert {file.name: file.read_bytes() for file in outside.iterdir()} == before


def test_a_pipe_is_no_table(tmp_path):
    os.mkfifo(tmp_path / "t.csv")
    with pytest.raises(FileNotFoundError, match="names no file"):
        read(tmp_path / "t.csv")
