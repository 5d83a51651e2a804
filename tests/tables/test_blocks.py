import gzip
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from pyarrow import parquet

import jaxnet
from jaxnet.tables.reading import reader
from jaxnet.tables.reading.options import ReadOptions
from jaxnet.tables.reading.reader import read

STRICT = ReadOptions(missing="error")

KINDS = {"width": "real", "count": "integer", "città": "text", "wet": "boolean", "a.b": "real"}
N = 29
COLUMNS = {
    "width": np.random.default_rng(0).standard_normal(N),
    "count": np.arange(N) * 7 % 5,
    "città": np.array(["Rom", "Köln", 'a "b", c', "zwei\nZeilen"], object)[np.arange(N) * 3 % 4],
    "wet": np.arange(N) % 3 > 0,
    "a.b": np.arange(N) / 4 + 0.125,
    "a": np.arange(N) % 2 + 0.5,
}


def csv_text(delimiter=","):
    quoted = ('"{}"'.format(str(v).replace('"', '""')) for v in COLUMNS["città"])
    columns = COLUMNS | {"città": np.array(list(quoted), object)}
    rows = zip(*(column.tolist() for column in columns.values()), strict=True)
    return "".join(delimiter.join(map(str, row)) + "\n" for row in [COLUMNS, *rows])


def arrow():
    columns = {name: pa.array(column) for name, column in COLUMNS.items()}
    return pa.table(columns | {"città": pa.array(COLUMNS["città"].tolist()).dictionary_encode()})


def arrays():
    return {n: c.astype(str) if c.dtype == object else c for n, c in COLUMNS.items()}


WRITERS = {
    "comma.csv": lambda path: path.write_text(csv_text()),
    "packed.csv.gz": lambda path: path.write_bytes(gzip.compress(csv_text().encode())),
    "PACKED.CSV.GZ": lambda path: path.write_bytes(gzip.compress(csv_text().encode())),
    "tabs.tsv": lambda path: path.write_text(csv_text("\t")),
    "semicolon.csv": lambda path: path.write_text("\ufeff" + csv_text(";")),
    "one group.parquet": lambda path: parquet.write_table(arrow(), path),
    "groups.parquet": lambda path: parquet.write_table(arrow(), path, row_group_size=5),
    "stored.npz": lambda path: np.savez(path, **arrays()),
    "packed.npz": lambda path: np.savez_compressed(path, **arrays()),
}


def read_blocks(path, kinds, rows):
    return list(reader.blocks(path, kinds, rows))


@pytest.mark.parametrize("rows", [1, 4, 28, 29, 30, 8192])
@pytest.mark.parametrize("name", WRITERS)
def test_the_blocks_of_a_file_are_its_table(tmp_path, name, rows):
    WRITERS[name](tmp_path / name)
    table = read(tmp_path / name)
    blocks = read_blocks(tmp_path / name, KINDS, rows)
    sizes = [len(block.columns["width"]) for block in blocks]
    assert sizes == [min(rows, N - start) for start in range(0, N, rows)]
    assert [block.offset for block in blocks] == list(range(0, N, rows))
    for block in blocks:
        assert block.path == table.path
        assert list(block.columns) == list(KINDS)
    for column in KINDS:
        whole = np.concatenate([block.columns[column] for block in blocks])
        np.testing.assert_array_equal(whole, table.columns[column])
        np.testing.assert_array_equal(whole, COLUMNS[column])
        assert whole.dtype == table.columns[column].dtype


def test_blocks_do_not_depend_on_how_much_pyarrow_reads_at_once(tmp_path):
    lines = [f"{i},{'x' * (i % 97)},{i / 8}\n" for i in range(60_000)]  # more than 1 MiB
    (tmp_path / "a.csv").write_text("a,b,c\n" + "".join(lines))
    blocks = read_blocks(tmp_path / "a.csv", {"c": "real", "a": "integer"}, 7001)
    assert [len(block.columns["a"]) for block in blocks] == [7001] * 8 + [60_000 - 7001 * 8]
    whole = np.concatenate([block.columns["a"] for block in blocks])
    np.testing.assert_array_equal(whole, np.arange(60_000))


@pytest.mark.parametrize("dtype", ["f4", ">f8", "u1", "i2", "?", "f2"])
@pytest.mark.parametrize("order", ["C", "F"])
def test_npz_arrays_of_every_order_and_type_come_row_by_row(tmp_path, dtype, order):
    images = np.array(np.arange(7 * 3 * 2).reshape(7, 3, 2) % 5, dtype, order=order)
    pairs = np.array(np.arange(14).reshape(7, 2), dtype, order=order)
    np.savez_compressed(tmp_path / "a.npz", images=images, pairs=pairs)
    kinds = {"images": "real", "pairs": "real"}
    blocks = read_blocks(tmp_path / "a.npz", kinds, 3)
    assert [len(block.columns["pairs"]) for block in blocks] == [3, 3, 1]
    for name, expected in {"images": images.reshape(7, 6), "pairs": pairs}.items():
        whole = np.concatenate([block.columns[name] for block in blocks])
        np.testing.assert_array_equal(whole, expected)
        assert whole.dtype == expected.dtype.newbyteorder("=")


def test_columns_that_are_not_wanted_may_hold_anything(tmp_path):
    day = pa.array([None, 3, 4], pa.date32())
    table = pa.table({"day": day, "bad": [np.nan, np.inf, 1.0], "a": [1, 2, 3]})
    parquet.write_table(table, tmp_path / "a.parquet")
    np.savez(tmp_path / "a.npz", day=np.array([{}], object), bad=np.float64(3), a=np.arange(1, 4))
    (tmp_path / "a.csv").write_bytes(b",bad,day,a,day\n1,1,2020-01-01,1,\n,K\xf6,x,2,\n,,,3,\n")
    for suffix in ("parquet", "npz", "csv"):
        (block,) = reader.blocks(tmp_path / f"a.{suffix}", {"a": "integer"})
        assert {name: column.tolist() for name, column in block.columns.items()} == {"a": [1, 2, 3]}


def test_a_column_is_read_as_the_kind_that_is_asked_for(tmp_path):
    (tmp_path / "a.csv").write_text("zip,n,flag\n01067,2,1\n10115,3,TRUE\n")
    kinds = {"zip": "text", "n": "real", "flag": "boolean"}
    (block,) = reader.blocks(tmp_path / "a.csv", kinds)
    assert {name: column.tolist() for name, column in block.columns.items()} == {
        "zip": ["01067", "10115"],
        "n": [2.0, 3.0],
        "flag": [True, True],
    }


CSV = "a,word,y\n"
WANTED = {"a": "real", "word": "text", "y": "integer"}
SAME = [  # as `tables.read` says it
    "",
    "\n\n",
    CSV,
    CSV + "1,x,2\n3,y\n",
    CSV + "1,x,2,7\n",
    CSV + "1,x,2\n\n\n3,y\n",
    CSV + "1,x,2\n,x,2\n",
    CSV + "1,x,2\n3,NA,2\n",
    CSV + "1,x,2\n1,x,2\n1,x,2\n3,,2\n",
    CSV + "1,x,2\n2,x,3\ninf,x,3\n",
    CSV + "1,x,2\n2,x,2\nabc,x,2\n",
    "a,word,a,y\n1,2,3,4\n",
]
OTHER = {
    CSV + "1,x,2\n1,x,2.5\n": "row 2, column 'y': '2.5' is no integer in a column of integers; cor",
    CSV + "1,x,2\n1,x,2\n1,K\xf6,2\n": "row 3, column 'word': the text is not UTF-8",
    "a,w\xf6rd,y\n1,2,3\n": "the text of the header is not UTF-8; say its encoding, as `enc",
    "b,y,c,word\n1,2,3,x\n": "no column 'a'; the columns are b, y, c, word$",
    CSV
    + f"{'x' * 200},x,2\n": f"row 1, column 'a': '{'x' * 60}...' is text in a column of numbers",
    CSV + '1,x,2\n"p\nq",x,2\n': r"row 2, column 'a': 'p\\nq' is text in a column of numbers",
}


@pytest.mark.parametrize("rows", [1, 2, 100])
@pytest.mark.parametrize("text", SAME)
def test_a_bad_csv_is_refused_in_the_words_of_the_whole_table(tmp_path, text, rows):
    path = tmp_path / "bad.csv"
    path.write_text(text)
    with pytest.raises(ValueError, match=r"bad\.csv: ") as whole:
        read(path, options=STRICT)
    with pytest.raises(ValueError, match=r"bad\.csv: ") as streamed:
        list(reader.blocks(path, WANTED, rows, options=STRICT))
    said = str(streamed.value).removesuffix("; correct it")
    assert str(whole.value).startswith(said)  # and says what to do with options of training


@pytest.mark.parametrize("text", OTHER)
def test_a_value_that_is_not_of_its_kind_is_refused_by_row_and_column(tmp_path, text):
    (tmp_path / "bad.csv").write_bytes(text.encode("latin-1"))
    with pytest.raises(ValueError, match=r"bad\.csv: " + OTHER[text]):
        read_blocks(tmp_path / "bad.csv", WANTED, 2)


def test_a_truth_value_is_true_or_false(tmp_path):
    (tmp_path / "a.csv").write_text("a,b\n1,true\n1,false\n1,maybe\n")
    with pytest.raises(ValueError, match="row 3, column 'b': 'maybe' is neither true nor false"):
        read_blocks(tmp_path / "a.csv", {"b": "boolean"}, 2)


def test_a_row_is_counted_from_the_start_of_the_file(tmp_path):
    text = ["1,x\n"] * 700_000  # some blocks of 1 MiB
    text[654_321 - 1] = "abc,x\n"
    (tmp_path / "a.csv").write_text("a,b\n" + "".join(text))
    with pytest.raises(ValueError, match="row 654321, column 'a': 'abc' is text"):
        read_blocks(tmp_path / "a.csv", {"a": "real"}, 8192)


@pytest.mark.parametrize("rows", [2, 3, 100])
def test_missing_and_infinite_numbers_of_binary_files_are_named(tmp_path, rows):
    numbers = [0.5, 1.5, 2.5, None, 3.5]
    parquet.write_table(pa.table({"a": numbers}), tmp_path / "a.parquet", row_group_size=3)
    with pytest.raises(ValueError, match=r"a\.parquet: row 4, column 'a': the value is missing"):
        list(reader.blocks(tmp_path / "a.parquet", {"a": "real"}, rows, options=STRICT))
    infinite = np.ones((5, 2))
    infinite[3, 1] = np.inf
    np.savez(tmp_path / "a.npz", a=infinite)
    with pytest.raises(ValueError, match=r"a\.npz: row 4, column 'a': the value is inf"):
        read_blocks(tmp_path / "a.npz", {"a": "real"}, rows)


BAD_NPZ: dict = {
    r"same number of rows, got \{'a': 5, 'y': 4\}": {"a": np.arange(5), "y": np.arange(4)},
    r"same number of rows, got \{'a': None, 'y': 2\}": {"a": np.float64(3), "y": np.arange(2)},
    "column 'a' must be numbers.*got complex128": {"a": np.ones(3) * 1j, "y": np.arange(3)},
    "not a readable .npz file without pickled objects": {"a": np.array([{}]), "y": np.arange(1)},
    "no column 'y'; the columns are a": {"a": np.arange(3)},
    "the table is empty": {"a": np.zeros(0), "y": np.zeros((0, 2))},
}


@pytest.mark.parametrize("message", BAD_NPZ)
def test_a_bad_npz_is_refused_by_name(tmp_path, message):
    np.savez(tmp_path / "bad.npz", **BAD_NPZ[message])
    with pytest.raises(ValueError, match=r"bad\.npz: .*" + message):
        read_blocks(tmp_path / "bad.npz", {"a": "real", "y": "integer"}, 2)


@pytest.mark.parametrize("suffix", ["csv.gz", "parquet", "npz"])
def test_a_damaged_file_is_refused_by_name(tmp_path, suffix):
    path = tmp_path / f"bad.{suffix}"
    numbers = np.random.default_rng(0).standard_normal(400)
    if suffix == "csv.gz":
        path.write_bytes(gzip.compress(("a\n" + "\n".join(map(str, numbers))).encode()))
    elif suffix == "parquet":
        parquet.write_table(pa.table({"a": numbers}), path, use_dictionary=False)
    else:
        np.savez_compressed(path, a=numbers)
    content = path.read_bytes()
    middle = len(content) // 2
    flipped = bytes(255 - b for b in content[middle - 20 : middle + 20])
    bad = [content[:middle], content[:-9], b"not that format"]
    if suffix != "parquet":  # which has no checksum by default
        bad.append(content[: middle - 20] + flipped + content[middle + 20 :])
    for damaged in bad:
        path.write_bytes(damaged)
        with pytest.raises(ValueError, match=rf"bad\.{suffix}: "):
            read_blocks(path, {"a": "real"}, 50)


def test_a_missing_file_and_an_unknown_ending_are_refused(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"`data` names no file: .*none\.csv"):
        read_blocks(tmp_path / "none.csv", {"a": "real"}, 3)
    with pytest.raises(ValueError, match=r"file ending in \.npz, .*; got .*a\.xlsx"):
        read_blocks(tmp_path / "a.xlsx", {"a": "real"}, 3)


@pytest.mark.parametrize("name", WRITERS)
def test_a_file_that_changes_while_it_is_read_is_an_error(tmp_path, name):
    path = tmp_path / name
    WRITERS[name](path)
    blocks = reader.blocks(path, KINDS, 4)
    next(blocks)
    os.utime(path, ns=(1, 1))
    with pytest.raises(ValueError, match="the file changed while it was read; wait until it is"):
        list(blocks)


def test_copies_are_the_text_or_the_arrays_as_they_stand(tmp_path):
    (tmp_path / "a.csv").write_text('id,a,note\n007,1,\n0.10,2,"x, ""y"""\nNA,3,z\n')
    blocks = list(reader.copies(tmp_path / "a.csv", ["note", "id"], 2))
    assert [{n: a.to_pylist() for n, a in block.items()} for block in blocks] == [
        {"note": ["", 'x, "y"'], "id": ["007", "0.10"]},
        {"note": ["z"], "id": ["NA"]},
    ]
    day = pa.array([None, 3, 4], pa.date32())
    parquet.write_table(pa.table({"day": day, "a": [1, 2, 3]}), tmp_path / "a.parquet")
    (block,) = reader.copies(tmp_path / "a.parquet", ["day"])
    assert block["day"].to_pylist() == day.to_pylist()
    np.savez(tmp_path / "a.npz", pair=np.arange(6).reshape(3, 2), day=np.arange(3))
    (block,) = reader.copies(tmp_path / "a.npz", ["pair", "day"])
    assert {n: a.tolist() for n, a in block.items()} == {
        "pair": [[0, 1], [2, 3], [4, 5]],
        "day": [0, 1, 2],
    }


# A file of 24 columns, 840,000 rows, is 154 MiB as float64, the 22 columns wanted 141. One block
# and pyarrow's buffers take 25 to 85 MiB however long the file is; a limit of 100 tells them apart.
GROWTH = """
import sys
from pyarrow import csv, parquet
from jaxnet.tables.reading import reader as streaming
names = {f"c{i}": "real" for i in range(22)}
def peak():  # getrusage would count the process that started this one
    (line,) = (line for line in open("/proc/self/status") if line.startswith("VmHWM"))
    return int(line.split()[1]) / 1024
start, total = peak(), 0
for block in streaming.blocks(sys.argv[1], names, 1024):
    total += len(block.columns["c0"])
print(total, peak() - start)
"""


@pytest.mark.parametrize("name", ["a.csv", "a.parquet"])
def test_memory_does_not_grow_with_the_file(tmp_path, name):
    rows, path = 840_000, tmp_path / name
    numbers = np.random.default_rng(0).standard_normal((rows, 24))
    if name == "a.csv":
        block = "".join(",".join(map(str, row)) + "\n" for row in numbers[:1000].tolist())
        path.write_text(",".join(f"c{i}" for i in range(24)) + "\n" + block * (rows // 1000))
    else:
        columns = {f"c{i}": numbers[:, i] for i in range(24)}
        parquet.write_table(pa.table(columns), path, row_group_size=rows, use_dictionary=False)
    source = str(Path(jaxnet.__file__).parent.parent)
    environment = os.environ | {"PYTHONPATH": source}
    command = [sys.executable, "-c", GROWTH, str(path)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    total, growth = done.stdout.split()
    assert int(total) == rows
    assert float(growth) < 100  # MiB
