"""Rows on disk whose bytes have changed are refused, and so is a source that changed unseen."""

import os
import re

import numpy as np
import pyarrow as pa
import pytest
from pyarrow import parquet

from jaxnet.tables import arrays
from jaxnet.tables.arrays import CODES, NUMBERS
from jaxnet.tables.convert import convert
from jaxnet.tables.store import DESCRIPTION, folder_of

N, K = 1000, 7
RNG = np.random.default_rng(0)
NUMBERS_OF = RNG.standard_normal((N, K))


@pytest.fixture
def path(tmp_path, monkeypatch):
    monkeypatch.setattr(arrays, "DIGESTED", 1000)  # which no row's end divides
    monkeypatch.setattr("jaxnet.tables.convert.RESOLUTION", 0)
    columns = {f"c{i}": NUMBERS_OF[:, i] for i in range(K)}
    words = RNG.choice(["red", "green", "blue"], N)
    parquet.write_table(pa.table(columns | {"word": words}), tmp_path / "a.parquet")
    convert(tmp_path / "a.parquet")
    return tmp_path / "a.parquet"


def flip(file, place):
    content = bytearray(file.read_bytes())
    content[place] ^= 4
    file.write_bytes(content)


def read_blocks(made):
    return list(made.blocks(list(made.columns)))


def read_rows(made):
    return [made.take(rows) for rows in np.split(RNG.permutation(N), 10)]


@pytest.mark.parametrize("read", [read_blocks, read_rows])
@pytest.mark.parametrize("name", [NUMBERS, CODES])
@pytest.mark.parametrize("place", [200, 2001, -1])
def test_a_flipped_bit_is_refused_by_file_and_block(path, read, name, place):
    file = folder_of(path) / name
    flip(file, place)
    size = file.stat().st_size
    block = (place % size) // 1000
    message = f"{file}: the file has changed in block {block} of {-(-size // 1000)}, of 1 MiB each"
    message = f"^{re.escape(message)}.*; delete the folder {folder_of(path)}"
    with pytest.raises(ValueError, match=message):
        read(convert(path))
    for other in folder_of(path).iterdir():
        other.unlink()
    read(convert(path))


@pytest.mark.parametrize("name", [NUMBERS, CODES])
def test_a_header_that_cannot_be_read_makes_the_arrays_anew(path, name):
    before = (folder_of(path) / name).read_bytes()
    flip(folder_of(path) / name, 100)
    convert(path)
    assert (folder_of(path) / name).read_bytes() == before


def test_a_description_that_has_changed_makes_the_arrays_anew(path):
    before = (folder_of(path) / DESCRIPTION).read_bytes()
    (folder_of(path) / DESCRIPTION).write_bytes(before.replace(b"green", b"greed"))
    assert convert(path).texts("word") == convert(path).texts("word")
    assert (folder_of(path) / DESCRIPTION).read_bytes() == before


@pytest.mark.parametrize("read", [read_blocks, read_rows])
@pytest.mark.parametrize("checked", [False, True])
def test_a_file_that_is_cut_short_meanwhile_is_refused(path, read, checked):
    made = convert(path)
    if checked:
        read(made)
    os.truncate(folder_of(path) / NUMBERS, 20_000)
    with pytest.raises(ValueError, match=r"numbers\.npy: the file is cut short since it was writ"):
        read(made)


def test_each_block_is_checked_once(path, monkeypatch):
    checked = []
    monkeypatch.setattr(arrays, "digest", lambda block: checked.append(block) or usual(block))
    usual = arrays.zlib.crc32
    made = convert(path)
    for _ in range(3):
        read_rows(made)
        read_blocks(made)
    sizes = [(folder_of(path) / name).stat().st_size for name in (NUMBERS, CODES)]
    del checked[0]  # the description
    assert sum(map(len, checked)) == sum(sizes)
    assert len(checked) == sum(-(-size // 1000) for size in sizes)


def test_data_that_change_within_the_clocks_tick_are_converted_anew(tmp_path, monkeypatch):
    path = tmp_path / "a.csv"
    path.write_text("a,b\n1,2\n3,4\n")
    stat = path.stat()
    assert convert(path).take(np.arange(2)).columns["a"].tolist() == [1, 3]
    path.write_text("a,b\n1,2\n5,4\n")
    os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    assert convert(path).take(np.arange(2)).columns["a"].tolist() == [1, 5]
    os.utime(path, (10**9, 10**9))  # beyond doubt: its content is not looked at again
    convert(path)
    monkeypatch.setattr("jaxnet.files.sha256", pytest.fail)
    convert(path)
