"""How a CSV is written is found from it: delimiter, encoding, names, quotes; or it is refused."""

import codecs
import gzip
import logging

import pytest

from jaxnet.tables.reading.options import ReadOptions
from jaxnet.tables.reading.reader import blocks, copies, read

ROWS = "1.5,x\n2.5,y\n4,x\n"


def write(path, text, encoding="utf-8"):
    path.write_bytes(text if isinstance(text, bytes) else text.encode(encoding))
    return path


def columns(path, **options):
    return {n: c.tolist() for n, c in read(path, (), ReadOptions(**options)).columns.items()}


WANT = {"a": [1.5, 2.5, 4.0], "w": ["x", "y", "x"]}
SAME = {  # as the table a,w with three rows
    "a.csv": "a,w\n" + ROWS,
    "b.csv": "a;w\n" + ROWS.replace(",", ";"),
    "c.csv": "a\tw\n" + ROWS.replace(",", "\t"),
    "d.csv": "a|w\n" + ROWS.replace(",", "|"),
    "e.tsv": "a\tw\n" + ROWS.replace(",", "\t"),
    "f.tsv": "a,w\n" + ROWS,
    "g.csv": "sep=;\r\na;w\r\n" + ROWS.replace(",", ";").replace("\n", "\r\n"),
    "h.csv": "# made by hand, on a day\n#\na,w\n" + ROWS,
    "i.csv": "\n\n \n# made, by hand\n\na,w\n" + ROWS,
    "j.csv": "a, w\n" + ROWS.replace(",", ", "),
    "k.csv": 'a, "w"\n' + '1.5, "x"\n2.5, y\n4,  "x"\n',
    "l.csv": "a;w;;\n" + ROWS.replace(",", ";").replace("\n", ";;\n"),
    "m.csv": "a,w\n" + ROWS.replace("\n", ",\n"),
    "n.csv": "a,w,,\n" + ROWS,
    "o.csv": " a ,w \n" + ROWS,
    "p.csv": "a,w\r" + ROWS.replace("\n", "\r"),
    "q.csv": '"a","w"\n"1.5","x"\n"2.5","y"\n"4","x"',
    "r.csv": "\ufeffsep=,\na,w\n" + ROWS,
    "s.csv": '"a","w"\n"1","1.5","x"\n"2","2.5","y"\n"3","4","x"\n',  # R's names of rows
}


@pytest.mark.parametrize("name", SAME)
def test_one_table_in_many_dialects(tmp_path, name):
    path = write(tmp_path / name, SAME[name])
    assert columns(path) == WANT
    kinds = {"w": "text", "a": "real"}
    (block,) = blocks(path, kinds)
    assert {n: c.tolist() for n, c in block.columns.items()} == WANT
    packed = write(tmp_path / "packed.csv.gz", gzip.compress(SAME[name].encode()))
    assert columns(packed) == WANT


NAMES = {
    "Temp, deg C\tDose, total, mg\tn\n20\t0.5\tx\n21\t0.7\ty\n": ["Temp, deg C", "Dose, total, mg"],
    "Temp, deg C;Dose, total, mg;n\n20;0.5;x\n21;0.7;y\n": ["Temp, deg C", "Dose, total, mg"],
    "price|a,b|n\n1|2|x\n3|4|y\n": ["price", "a,b"],
    'item,len",n\n6" pipe,5.1,x\n8,9,y\n': ["item", 'len"'],
    "#id,v,n\n7,5,x\n8,9,y\n": ["#id", "v"],
    "a;b;n\n1,5;2;x\n3,25;4;y\n": ["a", "b"],
    "id;text\n1;hello, world\n2;bye, you\n": ["id"],
    "a,n\n1,x;y\n2,y;z\n": ["a"],
}


@pytest.mark.parametrize("text", NAMES)
def test_the_delimiter_is_that_of_header_and_rows_alike(tmp_path, text):
    names = list(read(write(tmp_path / "a.csv", text)).columns)
    assert names[:-1] == NAMES[text]


def test_a_user_says_the_delimiter(tmp_path):
    path = write(tmp_path / "a.csv", "a;b,c\n1;2,x\n3;4,y\n")
    assert set(columns(path, delimiter=";")) == {"a", "b,c"}
    assert set(columns(path, delimiter=",")) == {"a;b", "c"}
    path = write(tmp_path / "b.csv", "a^b\n1^x\n2^y\n")
    assert columns(path, delimiter="^") == {"a": [1, 2], "b": ["x", "y"]}
    assert columns(write(tmp_path / "c.csv", "a\tb\n1\tx\n"), delimiter="tab") == {
        "a": [1],
        "b": ["x"],
    }
    for bad in (",,", "", '"', "\n"):
        with pytest.raises(ValueError, match="`delimiter` must be one character, or tab; got"):
            ReadOptions(delimiter=bad).check()


def test_a_delimiter_that_fits_no_row_is_asked_about(tmp_path):
    path = write(tmp_path / "a.csv", "a,b,c\n1:2:3\n4:5:6\n")
    message = r"row 1 has 1 values where the header has 3 columns; say what .* not ',', as `delim"
    with pytest.raises(ValueError, match=message):
        read(path)


def test_a_value_too_many_in_each_row_shifts_no_column(tmp_path):
    path = write(tmp_path / "a.csv", "n,price,w\n" + "".join(f"{i},1,23{i},x\n" for i in range(9)))
    with pytest.raises(ValueError, match="row 1 has 4 values where the header has 3 columns"):
        read(path)


def test_a_guess_of_the_delimiter_and_comments_left_out_are_logged(tmp_path, caplog):
    caplog.set_level(logging.WARNING)
    read(write(tmp_path / "a.csv", "# one\n# two\na;w\n" + ROWS.replace(",", ";")))
    assert [r.getMessage() for r in caplog.records] == [
        "a.csv: left out: 2 comment lines before the header",
        "a.csv: the columns are separated by ';'",
    ]


def test_more_values_than_names_are_refused_where_they_are(tmp_path):
    late = "a,w\n" + "1,x,\n" * 90 + "1,x,7\n"
    path = write(tmp_path / "a.csv", late)
    with pytest.raises(ValueError, match="row 91 has more values where the header has 2 columns"):
        read(path)


ENCODED = {
    "utf-16": codecs.BOM_UTF16_LE + "größe,w\n1,Zürich\n".encode("utf-16-le"),
    "utf-16 of another order": codecs.BOM_UTF16_BE + "größe,w\n1,Zürich\n".encode("utf-16-be"),
    "utf-8 with a mark": codecs.BOM_UTF8 + "größe,w\n1,Zürich\n".encode(),
}


@pytest.mark.parametrize("name", ENCODED)
def test_a_marked_encoding_is_read(tmp_path, name):
    assert columns(write(tmp_path / "a.csv", ENCODED[name])) == {"größe": [1], "w": ["Zürich"]}


@pytest.mark.parametrize("encoding", ["latin-1", "cp1252", "utf-16-le", "utf-16-be", "cp437"])
def test_another_encoding_is_named_as_the_fault_and_read_by_its_name(
    tmp_path, encoding, monkeypatch
):
    monkeypatch.setattr("jaxnet.tables.reading.csv_file.BLOCK_BYTES", 11)
    text = "größe,w\n" + "1,Zürich\n2,Malmö\n" * 20
    path = write(tmp_path / "a.csv", text, encoding)
    with pytest.raises(ValueError, match=r"a\.csv: the .*not UTF-8; .*`encoding`") as error:
        read(path)
    assert "utf-16" not in encoding or encoding in str(error.value)
    want = {"größe": [1, 2] * 20, "w": ["Zürich", "Malmö"] * 20}
    assert columns(path, encoding=encoding) == want
    parts = copies(path, ["w"], 7, ReadOptions(encoding=encoding))
    assert [text for part in parts for text in part["w"].to_pylist()] == want["w"]


def test_a_wrong_encoding_is_named_by_its_line(tmp_path):
    path = write(tmp_path / "a.csv", "a,w\n1,x\n2,ö\n", "latin-1")
    with pytest.raises(ValueError, match="row 2, column 'w': the text is not UTF-8; say its enc"):
        read(path)
    with pytest.raises(ValueError, match="line 3: the text is not ascii; say its `encoding`"):
        read(path, (), ReadOptions(encoding="ascii"))
    with pytest.raises(ValueError, match=r"`encoding` must be the name of an enc.*got 'odd'"):
        ReadOptions(encoding="odd").check()


def test_text_in_the_middle_that_is_utf16_without_its_mark_is_named_by_its_row(tmp_path):
    content = b"a,w\n1,x\n" + "2,y\n".encode("utf-16-le")
    with pytest.raises(ValueError, match="row 2: the text is not UTF-8; if it is UTF-16, say"):
        read(write(tmp_path / "a.csv", content))


LONG = "x\ny" * 500_000  # 1.5 MB
CELLS = {
    "a line break in a cell of over a mebibyte": (f'"{LONG}"', LONG),
    "a cell of over three mebibytes": ("y" * 3_200_000, "y" * 3_200_000),
    "quotes in a long cell": ('"' + 'a ""b""\n' * 200_000 + '"', 'a "b"\n' * 200_000),
}


@pytest.mark.parametrize("name", CELLS)
def test_cells_may_be_longer_than_what_is_read_at_once(tmp_path, name):
    written, want = CELLS[name]
    path = write(tmp_path / "a.csv", f"w,n\nshort,1\n{written},2\nend,3\n")
    assert columns(path) == {"w": ["short", want, "end"], "n": [1, 2, 3]}


def test_quotes_within_cells_move_no_row(tmp_path):
    lines = ['6" pipe,5.1,30.6\n', '"a, ""b""",1,2\n', "plain,3,4\n", 'x "y" z,5,6\n'] * 30_000
    path = write(tmp_path / "a.csv", 'item,len",price\n' + "".join(lines))
    table = read(path)
    assert table.num_rows == len(lines)
    assert table.columns["item"][:4].tolist() == ['6" pipe', 'a, "b"', "plain", 'x "y" z']
    names = {"price": "real", 'len"': "real"}
    assert sum(block.num_rows for block in blocks(path, names)) == len(lines)


def test_a_quote_that_is_never_closed_is_named_by_its_line(tmp_path):
    path = write(tmp_path / "a.csv", 'a,"b\n1,2\n3,4\n')
    with pytest.raises(ValueError, match=r"a quote in the header is never closed: '\"b\\n1"):
        read(path)
    path = write(tmp_path / "a.csv", 'a,b\n1,2\n3,"4\n5,6\n')
    with pytest.raises(ValueError, match=r"a\.csv: line 3: a quote is never closed: '\"4\\n5,6"):
        read(path)
