"""What text is taken for: numbers in local forms, dates, codes, missing words; or what is asked."""

import re

import numpy as np
import pyarrow as pa
import pytest
from pyarrow import parquet

from jaxnet.tables import convert as conversion
from jaxnet.tables.convert import convert
from jaxnet.tables.reading import csv_file
from jaxnet.tables.reading.forms import parse
from jaxnet.tables.reading.options import ReadOptions
from jaxnet.tables.reading.reader import blocks, read


def write(path, text):
    path.write_text(text)
    return path


def column(texts, delimiter=";", other="x y"):
    """A CSV of a column and words beside it."""
    quoted = ['"{}"'.format(text.replace('"', '""')) for text in texts]
    words = [other.split()[i % 2] for i in range(len(texts))]
    rows = (f"{text}{delimiter}{word}\n" for text, word in zip(quoted, words, strict=True))
    return f"v{delimiter}w\n" + "".join(rows)


NUMBERS = {
    "real decimal=,": (["7,11", "12", "0,5", "-3,25"], [7.11, 12, 0.5, -3.25]),
    "real decimal=. unit=$": (["$1,230.00", "$45.5", "-$7", "$-2"], [1230, 45.5, -7, -2]),
    "real decimal=, unit=€": (["1.234,50 €", "3 €", "-5,5 €"], [1234.5, 3, -5.5]),
    "real decimal=. unit=%": (["45.1%", "3 %", "-0.5%"], [45.1, 3, -0.5]),
    "real decimal=. unit=£": (["£12", "£7"], [12, 7]),
    "real decimal=.": (["1,234,567", "12", "3,456.5"], [1234567, 12, 3456.5]),
    "real decimal=. ": (["1 234.5", "12 000", "1\u00a0000\u00a0000"], [1234.5, 12000, 1e6]),
    "real decimal=.  ": (["1'234.5", "7"], [1234.5, 7]),
    "real": (["1.234", "5.678"], [1.234, 5.678]),  # as everybody reads them
    "integer": ([" 12", "7 "], [12, 7]),
    "real ": (["+1.5", "2e-3", " 4"], [1.5, 0.002, 4]),
}


@pytest.mark.parametrize("kind", NUMBERS)
def test_numbers_in_text_are_read_as_numbers_where_all_agree(tmp_path, kind, monkeypatch, caplog):
    monkeypatch.setattr(csv_file, "BLOCK_BYTES", 9)
    texts, values = NUMBERS[kind]
    path = write(tmp_path / "a.csv", column(texts))
    table = read(path)
    assert table.kinds["v"] == kind.strip()
    np.testing.assert_array_equal(table.columns["v"], values)
    said = [r.getMessage() for r in caplog.records if "is read as" in r.getMessage()]
    assert len(said) == (" " in kind.strip())
    (block,) = blocks(path, table.kinds)
    np.testing.assert_array_equal(block.columns["v"], values)
    store = convert(path)
    np.testing.assert_array_equal(store.take(np.arange(len(values))).columns["v"], values)
    assert dict(store.kinds) == dict(table.kinds)


def read_beside(path, header, rows, delimiter):
    text = "".join(delimiter.join(row) + "\n" for row in [header, *rows])
    return read(write(path, text))


def test_an_open_form_follows_the_other_columns_of_its_table(tmp_path):
    rows = [['"1,234"', "0.5"], ['"5,678"', "0.7"]]
    assert read_beside(tmp_path / "a.csv", ["v", "r"], rows, ";").columns["v"][0] == 1234
    rows = [["1,234", "0,5"], ["5,678", "0,7"]]
    assert read_beside(tmp_path / "b.csv", ["v", "r"], rows, ";").columns["v"][0] == 1.234
    rows = [["1.234", "0,5"], ["5.678", "0,7"]]  # thousands, in such a table
    assert read_beside(tmp_path / "c.csv", ["v", "r"], rows, ";").columns["v"][0] == 1234
    rows = [['"1,234"', "3"], ['"5,678"', "4"]]  # where commas separate columns
    assert read_beside(tmp_path / "d.csv", ["v", "r"], rows, ",").columns["v"][0] == 1234
    rows = [["01/02/2023", "31/12/2022"], ["03/02/2023", "30/12/2022"]]
    dates = read_beside(tmp_path / "e.csv", ["v", "r"], rows, ",").columns["v"]
    assert dates[0] == np.datetime64("2023-02-01")


AMBIGUOUS: dict = {
    "1,234;x\n5,678;y\n": ("'1,234' may be 1234 or 1.234,", "decimal", {".": 1234, ",": 1.234}),
    "01/02/2023;x\n03/04/2023;y\n": (
        "'01/02/2023' may be 2023-02-01 or 2023-01-02,",
        "dates",
        {"day-first": "2023-02-01", "month-first": "2023-01-02", "%m/%d/%Y": "2023-01-02"},
    ),
}


@pytest.mark.parametrize("rows", AMBIGUOUS)
def test_what_is_ambiguous_is_refused_with_the_option_that_settles_it(tmp_path, rows):
    message, option, choices = AMBIGUOUS[rows]
    path = write(tmp_path / "a.csv", "v;w\n" + rows)
    for reading in (read, convert):
        with pytest.raises(ValueError, match=rf"a\.csv: row 1, column 'v': {message}.*`{option}` "):
            reading(path)
    for choice, value in choices.items():
        got = read(path, (), ReadOptions()._replace(**{option: choice})).columns["v"][0]
        assert got == (np.datetime64(value) if option == "dates" else value)


def test_an_ambiguous_date_is_shown_by_a_row_that_the_two_orders_read_differently(tmp_path):
    path = write(tmp_path / "a.csv", "v;w\n01/01/2023;x\n;y\n03/04/2023;y\n")
    with pytest.raises(ValueError, match="row 3, column 'v': '03/04/2023' may be 2023-04-03 or"):
        read(path)


def test_the_decimal_sign_that_a_user_says_is_that_of_all_numbers(tmp_path):
    path = write(tmp_path / "a.csv", "v;w\n1.234;x\n5.678;y\n")
    assert read(path, (), ReadOptions(decimal=",")).columns["v"].tolist() == [1234, 5678]
    path = write(tmp_path / "b.csv", "v;w\n1.5;x\n2,5;y\n")
    with pytest.raises(ValueError, match=r"row 1, column 'v': '1\.5' is text in a column of"):
        read(path, (), ReadOptions(decimal=","))
    with pytest.raises(ValueError, match="`decimal` must be one of"):
        ReadOptions(decimal=";").check()


DATES = {
    "date": (["2023-12-31", "2024-02-29"], ["2023-12-31", "2024-02-29"]),
    "date ": (
        ["2023-12-31 10:15", "2024-02-29T01:02:03.5"],
        ["2023-12-31T10:15", "2024-02-29T01:02:03.5"],
    ),
    "date  ": (
        ["2023-12-31T23:30:00+02:00", "2024-01-01T00:00:00Z"],
        ["2023-12-31T21:30", "2024-01-01"],
    ),
    "date %m/%d/%Y": (["12/17/2023", "01/02/2023"], ["2023-12-17", "2023-01-02"]),
    "date %d/%m/%Y": (["1/2/2023", "17/12/2023"], ["2023-02-01", "2023-12-17"]),
    "date %d.%m.%Y": (["01.02.2023", "03.02.2023"], ["2023-02-01", "2023-02-03"]),
    "date %d-%b-%y": (["17-Dec-23", "05-jan-69"], ["2023-12-17", "1969-01-05"]),
    "date %b %d, %Y": (["Dec 5, 2023", "September 7, 2024"], ["2023-12-05", "2024-09-07"]),
    "date %m/%d/%Y %I:%M %p": (
        ["12/17/2023 1:05 PM", "1/2/2024 12:00 AM"],
        ["2023-12-17T13:05", "2024-01-02"],
    ),
    "date %Y/%m/%d": (["2023/12/17", "2023/1/2"], ["2023-12-17", "2023-01-02"]),
}


@pytest.mark.parametrize("kind", DATES)
def test_dates_in_unambiguous_forms_are_read(tmp_path, kind, monkeypatch):
    monkeypatch.setattr(csv_file, "BLOCK_BYTES", 9)
    texts, values = DATES[kind]
    path = write(tmp_path / "a.csv", column([*texts, ""]))
    want = np.array([*values, "NaT"], "M8[us]")
    table = read(path)
    assert table.kinds["v"] == kind.strip()
    np.testing.assert_array_equal(table.columns["v"], want)
    (block,) = blocks(path, table.kinds)
    np.testing.assert_array_equal(block.columns["v"], want)
    np.testing.assert_array_equal(convert(path).take(np.arange(3)).columns["v"], want)
    parquet.write_table(pa.table({"v": [*texts, None], "w": [*"xyx"]}), tmp_path / "a.parquet")
    np.testing.assert_array_equal(read(tmp_path / "a.parquet").columns["v"], want)


def test_a_day_that_does_not_exist_is_refused_by_its_row(tmp_path):
    path = write(tmp_path / "a.csv", column(["2023-01-31", "2023-02-30", "2023-03-01"]))
    with pytest.raises(ValueError, match="row 2, column 'v': '2023-02-30' is no date in a column"):
        read(path)
    _, bad = parse(pa.array(["29/02/2024", "29/02/2023", "1/13/2023"]), "date %d/%m/%Y")
    assert bad.tolist() == [False, True, True]


def test_a_later_file_is_read_in_the_form_of_training(tmp_path):
    kinds = {"d": "date %d/%m/%Y", "p": "real decimal=. unit=%", "n": "real decimal=,"}
    path = write(tmp_path / "a.csv", "d;p;n\n01/02/2023;5%;1.234\n03/02/2023;7.5%;2,5\n")
    (block,) = blocks(path, kinds)
    assert block.columns["d"][0] == np.datetime64("2023-02-01")
    assert [block.columns[name].tolist() for name in "pn"] == [[5, 7.5], [1234, 2.5]]
    for text, message in {
        "d;p;n\n1/2/2023;0.05;1\n": r"'0.05' is text in a column of numbers \(decimal=. unit=%\)",
        "d;p;n\n13/13/2023;5%;1\n": r"'13/13/2023' is no date in a column of dates \(%d/%m/%Y\)",
        "d;p;n\n1/1/2023;5%;1.5\n": r"'1.5' is text in a column of numbers \(decimal=,\)",
    }.items():
        with pytest.raises(ValueError, match=f"row 1, column '.': {message}; correct it$"):
            list(blocks(write(path, text), kinds))


CODES = {
    "007": (["042", "007", "100"], "since '042' begins with a zero"),
    "3+": (["0", "1", "2", "3+"], "since '3\\+' is among its numbers"),
    "V57": (["250", "250.83", "V57", "715"], "since 'V57' is among its numbers"),
    "hexadecimal": ([f"{i:02x}e4" for i in range(60, 180)], "since '3ce4' is among its numbers"),
    "words": (["1", "2", "none", "many"], "since 'none' is among its numbers"),
    "truth": (["true", "false", "true", "1"], "since 'true' is among its numbers"),
}


@pytest.mark.parametrize("name", CODES)
def test_codes_that_look_numeric_stay_text_and_it_is_said(tmp_path, name, caplog, monkeypatch):
    monkeypatch.setattr(csv_file, "BLOCK_BYTES", 9)
    texts, reason = CODES[name]
    path = write(tmp_path / "a.csv", column(texts * 3))
    table = read(path)
    assert table.columns["v"].tolist() == texts * 3
    (said,) = [r.getMessage() for r in caplog.records if "'v'" in r.getMessage()]
    assert re.fullmatch(rf"a\.csv: column 'v' holds categories, {reason}", said)
    stored = convert(path).take(np.arange(len(texts) * 3)).columns["v"]
    assert stored.tolist() == texts * 3


REFUSED = {
    "?": (
        ["1", "?", "3", "4"],
        r"'\?' is text in .*missing value, say `missing_words` '\?'; if not",
    ),
    "typing": ([*map(str, range(90)), "1O5"], "'1O5' is text in a column of numbers; correct it"),
    "two forms": ([f"{i}.5" for i in range(90)] + ["1,5"], "'1,5' is text in a column of numbers"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_a_word_among_numbers_is_refused_unless_categories_are_asked_for(tmp_path, name):
    texts, message = REFUSED[name]
    path = write(tmp_path / "a.csv", column(texts))
    row = next(i for i, text in enumerate(texts, 1) if not text.replace(".", "").isdigit())
    for reading in (read, convert):
        with pytest.raises(ValueError, match=rf"row {row}, column 'v': {message}"):
            reading(path)
    table = read(path, (), ReadOptions(categorical=("v",)))
    assert table.columns["v"].tolist() == texts
    missing = read(path, (), ReadOptions(missing_words=(texts[row - 1],))).columns["v"]
    assert np.flatnonzero(np.isnan(missing)).tolist() == [row - 1]


def test_a_word_that_stands_for_a_missing_value_is_text_in_quotes(tmp_path, caplog):
    text = 'v;n\n"NA";1\nNA;NA\n"";"NA"\nEMEA;""\n;2\n'
    path = write(tmp_path / "a.csv", text)
    table = read(path)
    assert table.columns["v"].tolist() == ["NA", None, None, "EMEA", None]
    np.testing.assert_array_equal(table.columns["n"], [1, np.nan, np.nan, np.nan, 2])
    assert "column 'v': 'NA' is taken for a missing value; `missing_words` says" in caplog.text
    kept = read(path, (), ReadOptions(missing_words=("",), categorical=("n",))).columns
    assert kept["v"].tolist() == ["NA", "NA", None, "EMEA", None]
    assert kept["n"].tolist() == ["1", "NA", "NA", None, "2"]
    other = read(path, ["n"], ReadOptions(missing_words=("EMEA",))).columns["v"]
    assert other.tolist() == ["NA", "NA", None, None, None]
    with pytest.raises(ValueError, match=r"row 2, column 'v': the value is missing \('NA'\); fill"):
        read(path, (), ReadOptions(missing="error"))


def test_truth_values_are_true_only_in_words(tmp_path):
    late = column(["true", "False", "TRUE"] * 300)
    table = read(write(tmp_path / "a.csv", late))
    assert table.columns["v"].dtype == bool
    (block,) = blocks(write(tmp_path / "b.csv", "v;w\n1;x\n0;x\nFalse;x\n"), {"v": "boolean"})
    assert block.columns["v"].tolist() == [True, False, False]  # of a file to predict


def test_categories_and_classes_are_asked_before_a_value_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(csv_file, "BLOCK_BYTES", 9)
    monkeypatch.setattr(conversion, "BLOCK_NUMBERS", 20)
    texts = [f"{i}" for i in range(40)] + ["40 or more", "$5", "1,234", "2023-01-01"]
    path = write(tmp_path / "a.csv", column(texts))
    options = ReadOptions(categorical=("v",))
    assert read(path, (), options).columns["v"].tolist() == texts
    stored = convert(path, (), options=options)
    assert stored.take(np.arange(len(texts))).columns["v"].tolist() == texts


def test_arrays_are_made_anew_if_the_options_change(tmp_path, caplog):
    path = write(tmp_path / "a.csv", "v;w\n1,234;x\n5,678;y\n")
    for decimal, value in {".": 1234, ",": 1.234}.items():
        made = convert(path, (), options=ReadOptions(decimal=decimal))
        assert made.take(np.arange(1)).columns["v"][0] == value
    assert "its arrays are made anew: the options have changed" in caplog.text
