import gzip
import zipfile
from decimal import Decimal

import numpy as np
import pyarrow as pa
import pytest
from pyarrow import parquet

from jaxnet.tables.reading.options import ReadOptions
from jaxnet.tables.reading.reader import blocks, read
from jaxnet.tables.table import KINDS, list_names

STRICT = ReadOptions(missing="error")

# The same table throughout: floats, integers, text beyond ASCII, truth values.
COLUMNS = {
    "width": np.array([1.5, -2.25, 0.125, 3.0, 1.5]),
    "count": np.array([3, 1, 4, 1, 5]),
    "città": np.array(["Rom", "Köln", "東京", "Rom", "Köln"], object),
    "wet": np.array([True, False, False, True, True]),
}


def csv_text(delimiter=",", newline="\n"):
    rows = zip(*(column.tolist() for column in COLUMNS.values()), strict=True)
    lines = [COLUMNS, *([str(v).lower() if isinstance(v, bool) else v for v in r] for r in rows)]
    return "".join(delimiter.join(map(str, line)) + newline for line in lines)


def write(path, content):
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


def arrow(text_type, width_type=None):
    columns: dict = {name: pa.array(column) for name, column in COLUMNS.items() if name != "città"}
    city = pa.array(COLUMNS["città"].tolist())
    columns["città"] = city.dictionary_encode() if text_type == "coded" else city.cast(text_type)
    if width_type is not None:
        widths = COLUMNS["width"].tolist()
        columns["width"] = pa.array([Decimal(str(v)) for v in widths], width_type)
    return pa.table({name: columns[name] for name in COLUMNS})


def write_npz(path):
    columns: dict = {n: c.astype(str) if c.dtype == object else c for n, c in COLUMNS.items()}
    np.savez(path, **columns)


WRITERS = {
    "comma.csv": lambda path: write(path, csv_text()),
    "UPPER.CSV": lambda path: write(path, csv_text()),
    "packed.csv.gz": lambda path: write(path, gzip.compress(csv_text().encode())),
    "tabs.tsv": lambda path: write(path, csv_text("\t")),
    "semicolon.csv": lambda path: write(path, csv_text(";")),
    "bom.csv": lambda path: write(path, b"\xef\xbb\xbf" + csv_text().encode()),
    "windows.csv": lambda path: write(path, csv_text(newline="\r\n")),
    "blank lines.csv": lambda path: write(path, "\n" + csv_text(";", "\n\n")),
    "plain.parquet": lambda path: parquet.write_table(arrow(pa.string()), path),
    "coded.parquet": lambda path: parquet.write_table(arrow("coded"), path),
    "large.parquet": lambda path: parquet.write_table(arrow(pa.large_string()), path),
    "groups.parquet": lambda path: parquet.write_table(arrow("coded"), path, row_group_size=2),
    "decimal.parquet": lambda path: parquet.write_table(
        arrow(pa.string(), pa.decimal128(9, 4)), path
    ),
    "arrays.npz": write_npz,
}


@pytest.mark.parametrize("name", WRITERS)
def test_every_format_reads_to_the_same_columns(tmp_path, name):
    WRITERS[name](tmp_path / name)
    table = read(tmp_path / name)
    assert table.path == str(tmp_path / name)
    assert list(table.columns) == list(COLUMNS)
    for column, expected in COLUMNS.items():
        np.testing.assert_array_equal(table.columns[column], expected)
        assert table.columns[column].dtype == expected.dtype


def test_npz_arrays_of_more_dimensions_are_flattened_row_by_row(tmp_path):
    images = np.arange(3 * 8 * 8, dtype=np.uint8).reshape(3, 8, 8)
    pairs = np.arange(6.0).reshape(3, 2)
    np.savez(tmp_path / "a.npz", images=images, pairs=pairs)
    columns = read(tmp_path / "a.npz").columns
    np.testing.assert_array_equal(columns["images"], images.reshape(3, 64))
    np.testing.assert_array_equal(columns["pairs"], pairs)


def test_a_delimiter_within_a_quoted_name_is_no_delimiter(tmp_path):
    path = write(tmp_path / "a.csv", '"x;y;z",n\n1,2\n3,4\n')
    assert list(read(path).columns) == ["x;y;z", "n"]


def test_a_type_that_shows_only_late_in_a_large_file_is_found(tmp_path):
    path = write(tmp_path / "a.csv", "a\n" + "1\n" * 600_000 + "2.5\n")  # beyond a block of 1 MiB
    assert read(path).columns["a"][-1] == 2.5


def test_a_header_of_more_than_a_mebibyte_reads(tmp_path):
    names = [f"a column with rather a long name: {i:0100}" for i in range(9_000)]
    path = write(tmp_path / "a.csv", ",".join(names) + "\n" + ",".join(["0.5"] * 9_000) + "\n")
    assert list(read(path).columns) == names


def test_dropped_columns_may_hold_anything(tmp_path):
    day = pa.array([None, 3, 4], pa.date32())
    table = pa.table({"day": day, "bad": [np.nan, np.inf, 1.0], "a": [1, 2, 3]})
    parquet.write_table(table, tmp_path / "a.parquet")
    np.savez(tmp_path / "a.npz", day=np.array([{}], object), bad=np.float64(3), a=np.arange(1, 4))
    write(tmp_path / "a.csv", "day,bad,a\n2020-01-01,1,1\n,x,2\n,,3\n")
    for suffix in ("parquet", "npz", "csv"):
        columns = read(tmp_path / f"a.{suffix}", drop=["day", "bad"]).columns
        assert {name: column.tolist() for name, column in columns.items()} == {"a": [1, 2, 3]}


def test_no_pickle_is_loaded(tmp_path):
    class Bomb:
        def __reduce__(self):
            return (pytest.fail, ("the pickle was loaded",))

    np.savez(tmp_path / "a.npz", a=np.array([Bomb(), 1], object), y=np.arange(2))
    with pytest.raises(ValueError, match=r"a\.npz: not a readable \.npz file without pickled"):
        read(tmp_path / "a.npz")


CSV = "a,word,y\n"
BAD_CSV = {
    "": "the table is empty",
    "\n\n": "the table is empty",
    CSV: "the table is empty",
    CSV + "1,x,2\n3,y\n": "row 2 has 2 values where the header has 3 columns",
    CSV + "1,x,2,7\n": "row 1 has 4 values where the header has 3 columns",
    CSV + "1,x,2\n\n\n3,y\n": "row 2 has 2 values where the header has 3 columns",
    CSV + "1,x,2\n,x,2\n": "row 2, column 'a': the value is missing",
    CSV + "1,x,2\n3,,2\n": "row 2, column 'word': the value is missing",
    CSV + "1,x,2\n3,NA,2\n": "row 2, column 'word': the value is missing",
    CSV + "1,x,2\n2,x,NaN\n": "row 2, column 'y': the value is missing",
    CSV + "1,x,2\n2,x,3\n3,x,inf\n": "row 3, column 'y': the value is inf",
    CSV + "-inf,x,2\n": "row 1, column 'a': the value is -inf",
    CSV + "1,x,2\n2,x,2\nabc,x,2\n": "row 3, column 'a': 'abc' is text in a column of numbers",
    CSV + "1,x,2\n?,x,2\n3,x,2\n?,x,2\n": r"row 2, column 'a': '\?' is text in a column of numbers",
    "a,b,a\n1,2,3\n": "the column 'a' appears twice",
}


@pytest.mark.parametrize("text", BAD_CSV)
def test_a_bad_csv_is_refused_by_file_row_and_column(tmp_path, text):
    path = write(tmp_path / "bad.csv", text)
    with pytest.raises(ValueError, match=r"bad\.csv: " + BAD_CSV[text]):
        read(path, options=STRICT)


def test_text_late_in_a_large_file_is_named_by_its_row(tmp_path):
    path = write(tmp_path / "a.csv", "a\n" + "1\n2\n" * 300_000 + "abc\n")
    with pytest.raises(ValueError, match="row 600001, column 'a': 'abc' is text"):
        read(path)


@pytest.mark.parametrize(
    ("encoding", "text"), [("latin-1", "naïf\n1\n"), ("utf-16-le", "a\n1\n"), ("latin-1", "a\nï\n")]
)
def test_text_that_is_not_utf8_is_refused(tmp_path, encoding, text):
    path = write(tmp_path / "a.csv", text.encode(encoding))
    with pytest.raises(ValueError, match=r"a\.csv: .*UTF-8"):
        read(path)


def damaged(content):
    """Cut in half; without its end; with flipped bytes in the middle; and nothing of it."""
    middle = len(content) // 2
    flipped = bytes(255 - b for b in content[middle - 20 : middle + 20])
    cut = content[:middle], content[:-9]
    return [*cut, content[: middle - 20] + flipped + content[middle + 20 :], b"not that format"]


@pytest.mark.parametrize("suffix", ["csv.gz", "parquet", "npz"])
def test_a_damaged_file_is_refused_by_name(tmp_path, suffix):
    path = tmp_path / f"bad.{suffix}"
    numbers = np.random.default_rng(0).standard_normal(400)
    if suffix == "csv.gz":
        write(path, gzip.compress(("a\n" + "\n".join(map(str, numbers))).encode()))
    elif suffix == "parquet":
        parquet.write_table(pa.table({"a": numbers}), path, use_dictionary=False)
    else:
        np.savez_compressed(path, a=numbers)
    assert read(path).columns["a"].shape == (400,)
    contents = damaged(path.read_bytes())
    for content in contents if suffix != "parquet" else [*contents[:2], contents[3]]:
        # Parquet has no checksum by default: flipped bytes may be other numbers.
        with pytest.raises(ValueError, match=rf"bad\.{suffix}: "):
            read(write(path, content))


def test_a_npy_array_under_the_name_of_an_npz_is_refused(tmp_path):
    np.save(tmp_path / "a.npy", np.arange(5))
    (tmp_path / "a.npy").rename(tmp_path / "a.npz")
    with pytest.raises(ValueError, match=r"a\.npz: not a readable \.npz file"):
        read(tmp_path / "a.npz")


NAN_IMAGE = np.ones((4, 3, 2))
NAN_IMAGE[2, 1, 1] = np.nan
BAD_NPZ: dict = {
    r"same number of rows, got \{'a': 5, 'y': 4\}": {"a": np.arange(5), "y": np.arange(4)},
    r"same number of rows, got \{'a': None\}": {"a": np.float64(3)},
    "row 3, column 'a': the value is missing": {"a": NAN_IMAGE},
    "column 'a' must be numbers.*got complex128": {"a": np.ones(3) * 1j},
    "column 'a' must be numbers.*got <U1": {"a": np.array([["x"], ["y"]])},
    "column 'a' must be numbers.*got timedelta64": {"a": np.array([3], "m8[D]")},
    r"column 'a' must hold values, got shape \(4, 0\)": {"a": np.zeros((4, 0))},
    "the table is empty": {"a": np.zeros(0)},
}


@pytest.mark.parametrize("message", BAD_NPZ)
def test_a_bad_npz_is_refused_by_file_and_column(tmp_path, message):
    np.savez(tmp_path / "bad.npz", **BAD_NPZ[message])
    with pytest.raises(ValueError, match=r"bad\.npz: .*" + message):
        read(tmp_path / "bad.npz", options=STRICT)


def test_an_npz_without_arrays_is_empty(tmp_path):
    with zipfile.ZipFile(tmp_path / "none.npz", "w"):
        pass
    with pytest.raises(ValueError, match=r"none\.npz: the table is empty"):
        read(tmp_path / "none.npz")


def test_missing_rows_of_a_parquet_file_are_named(tmp_path):
    coded = pa.array(["x", "y", None, "x", None]).dictionary_encode()
    for name, column in {"a": pa.array([1.5, 2.0, None, 3.0, None]), "b": coded}.items():
        parquet.write_table(pa.table({name: column}), tmp_path / "a.parquet", row_group_size=2)
        with pytest.raises(ValueError, match=rf"a\.parquet: row 3, column '{name}'.*missing"):
            read(tmp_path / "a.parquet", options=STRICT)


@pytest.mark.parametrize("column", [pa.array([["x"]]), pa.array([{"x": 1}]), pa.array([b"x"])])
def test_nested_and_binary_parquet_columns_are_refused(tmp_path, column):
    parquet.write_table(pa.table({"a": column}), tmp_path / "a.parquet")
    with pytest.raises(ValueError, match=r"a\.parquet: column 'a' has type .*drop the column"):
        read(tmp_path / "a.parquet")


def test_a_missing_file_a_folder_and_an_unknown_ending_are_refused(tmp_path):
    (tmp_path / "folder.csv").mkdir()
    for name in ("none.csv", "folder.csv"):
        with pytest.raises(FileNotFoundError, match=f"`data` names no file: .*{name}"):
            read(tmp_path / name)
    with pytest.raises(ValueError, match=r"file ending in \.npz, .*\.parquet; got .*a\.xlsx"):
        read(write(tmp_path / "a.xlsx", "a\n1\n"))


def test_an_unknown_dropped_column_lists_the_columns(tmp_path):
    path = write(tmp_path / "a.csv", "a,b\n1,2\n")
    with pytest.raises(ValueError, match=r"a\.csv: no column 'c' to drop; the columns are a, b$"):
        read(path, drop=["a", "c"])
    with pytest.raises(ValueError, match=r"a\.csv: the table is empty"):
        read(path, drop=["a", "b"])


def test_a_long_list_of_names_is_cut():
    assert list_names([f"c{i}" for i in range(20)]).endswith("c18, c19")
    assert list_names([f"c{i}" for i in range(21)]).endswith("c18, c19, ... (21 in all)")


def test_a_column_without_a_name_is_refused_until_dropped(tmp_path):
    path = tmp_path / "pandas.csv"
    path.write_text(",a,b\n7,1.5,x\n3,2.5,y\n")
    with pytest.raises(ValueError, match="column 1 has no name; name it, or leave it out with `d"):
        read(path)
    assert set(read(path, drop=[""]).columns) == {"a", "b"}
    path.write_text("a,,b\n7,1.5,x\n3,2.5,y\n")
    with pytest.raises(ValueError, match="column 2 has no name; name it, or say `drop` ''"):
        read(path)


def test_text_that_is_not_utf8_is_named(tmp_path):
    path = tmp_path / "latin.csv"
    path.write_bytes(b"city,a\nK\xf6ln,1\nBonn,2\n")
    with pytest.raises(ValueError, match="row 1, column 'city': the text is not UTF-8"):
        read(path)


def in_blocks(path):
    """The columns of a file read in blocks, of the kinds that they have as a whole."""
    kinds = {name: KINDS[c.dtype.kind] for name, c in read(path).columns.items()}
    parts = [block.columns for block in blocks(path, kinds)]
    return {name: np.concatenate([part[name] for part in parts]) for name in kinds}


QUOTED = {
    "a quote in a name": ('size 3.5",n\n', "{},7\n"),
    "a quoted name with quotes": ('"a ""b"", c\nd",n\n', "{},7\n"),
    "line breaks in quotes": ("word,n\n", '"a\n{}\n\nb",7\n'),
    "quotes within a value": ("word,n\n", '{} "x" y",7\n'),
}


@pytest.mark.parametrize("kind", QUOTED)
def test_a_file_over_a_mebibyte_has_the_same_rows_whole_and_in_blocks(tmp_path, kind):
    header, line = QUOTED[kind]
    number = 2_100_000 // len(line)
    path = write(tmp_path / "a.csv", header + "".join(line.format(i % 9) for i in range(number)))
    whole = read(path).columns
    assert [len(column) for column in whole.values()] == [number] * 2
    assert whole["n"].tolist() == [7] * number
    for name, column in in_blocks(path).items():
        np.testing.assert_array_equal(column, whole[name])


def test_a_quote_that_is_never_closed_is_told(tmp_path):
    path = write(tmp_path / "a.csv", 'a,b\n1,"2\n' + "3,4\n" * 700_000)
    with pytest.raises(ValueError, match=r"a\.csv: line 2: a quote is never closed: '\"2\\n3,4"):
        read(path)
