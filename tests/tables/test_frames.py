"""Columns in memory are taken by their names; only a plain array goes by position."""

import datetime

import numpy as np
import pyarrow as pa
import pytest

from jaxnet.tables.column import Column
from jaxnet.tables.frames import from_columns, to_table
from jaxnet.tables.reading.options import ReadOptions

DAY = datetime.datetime(2024, 2, 29, 12)
COLUMNS = {
    "b": [1.5, None, -2.0],
    "a": [3, 1, 2],
    "word": ["x", None, "y"],
    "flag": [True, None, False],
    "when": [DAY, None, DAY],
    "written": ["2024-01-31", None, "2024-02-01"],
}
KINDS = {"b": "real", "a": "integer", "word": "text", "flag": "boolean", "when": "date"}
TABLE = pa.table(COLUMNS)


class Stream:
    """A frame of which only the protocol of Arrow is known."""

    def __init__(self, table):
        self.table = table

    def __arrow_c_stream__(self, requested_schema=None):
        return self.table.__arrow_c_stream__(requested_schema)


class Interchange:
    """A frame of which only the protocol of data frames is known."""

    def __init__(self, table):
        self.table = table

    def __dataframe__(self, nan_as_null=False, allow_copy=True):
        return self.table.__dataframe__(nan_as_null, allow_copy)


class Named:
    """A frame whose names nobody can read."""

    columns = ("a", "b")

    def __array__(self, dtype=None, copy=None):
        return np.ones((3, 2))


FRAMES = {
    "mapping": COLUMNS,
    "arrays": {n: np.array(c, object) for n, c in COLUMNS.items()},
    "pyarrow": TABLE,
    "batch": TABLE.to_batches()[0],
    "chunks": pa.concat_tables([TABLE[:1], TABLE[1:]]),
    "coded": TABLE.set_column(2, "word", TABLE["word"].dictionary_encode()),
    "view": TABLE.set_column(2, "word", TABLE["word"].cast(pa.string_view())),
    "stream": Stream(TABLE),
    "interchange": Interchange(TABLE),
}
FEATURES = (
    Column("a", (0.0,), (1.0,), kind="integer"),
    Column("word", categories=("x", "y"), kind="text"),
    Column("b", (0.0,), (1.0,)),
)


@pytest.mark.parametrize("name", FRAMES)
def test_a_frame_is_taken_by_its_names(name):
    table = to_table(FRAMES[name])
    assert {n: k for n, k in table.kinds.items() if n != "written"} == KINDS
    assert table.columns["word"].tolist() == ["x", None, "y"]
    np.testing.assert_array_equal(table.columns["b"], [1.5, np.nan, -2])
    np.testing.assert_array_equal(table.columns["flag"], [1, np.nan, 0])
    np.testing.assert_array_equal(table.columns["when"], np.array([DAY, "NaT", DAY], "M8[us]"))
    assert table.columns["written"][2] == np.datetime64("2024-02-01")
    some = from_columns(FRAMES[name], FEATURES)
    assert list(some.columns) == ["a", "word", "b"]
    assert some.columns["a"].tolist() == [3, 1, 2]
    np.testing.assert_array_equal(some.columns["b"], [1.5, np.nan, -2])


def test_a_structured_array_is_taken_by_its_names():
    rows = np.array([(1.5, 3, "x"), (2.5, 1, "y")], [("b", float), ("a", int), ("word", "U3")])
    assert {n: c.tolist() for n, c in to_table(rows).columns.items()} == {
        "b": [1.5, 2.5],
        "a": [3, 1],
        "word": ["x", "y"],
    }
    assert from_columns(rows, FEATURES[::-1]).columns["a"].tolist() == [3, 1]


def test_a_plain_array_goes_by_position():
    features = (Column("a", (0.0,), (1.0,)), Column("b", (0.0, 0.0), (1.0, 1.0)))
    for matrix in ([[1.0, 2.0, 3.0]], np.array([[1, 2, 3]])):
        found = from_columns(matrix, features).columns
        assert {n: c.tolist() for n, c in found.items()} == {"a": [[1]], "b": [[2, 3]]}


def test_what_has_names_that_cannot_be_read_is_refused():
    with pytest.raises(ValueError, match=r"^`columns` must be a data frame, .*, got Named; make"):
        from_columns(Named(), FEATURES)
    with pytest.raises(ValueError, match=r"^`table` must be a data frame or a mapping, got nda"):
        to_table(np.ones((3, 2)))


def test_the_index_of_a_pandas_frame_is_left_out():
    index = b'{"index_columns": ["__index_level_0__"], "columns": []}'
    frame = pa.table({"a": [1, 2], "__index_level_0__": [7, 9]}).replace_schema_metadata(
        {b"pandas": index}
    )
    assert list(to_table(frame).columns) == ["a"]


def test_the_text_of_a_frame_is_read_as_in_training():
    features = (
        Column("d", (0.0,) * 3, (1.0,) * 3, kind="date %d/%m/%Y"),
        Column("p", (0.0,), (1.0,), kind="real decimal=. unit=%"),
        Column("f", (0.0,), (1.0,), kind="boolean"),
        Column("n", (0.0,), (1.0,), kind="integer"),
    )
    given = {"d": ["01/02/2023"], "p": ["5%"], "f": ["False"], "n": ["2.5"]}
    found = from_columns(given, features).columns
    assert found["d"][0] == np.datetime64("2023-02-01")
    assert [found[name].tolist() for name in "pfn"] == [[5], [False], [2.5]]
    typed = {"d": [datetime.date(2023, 2, 1)], "p": [5.0], "f": [False], "n": [2.5]}
    for name, column in from_columns(typed, features).columns.items():
        assert column.tolist() == found[name].tolist()


GOOD = {"a": [1, 2], "b": [1, 2], "word": ["x", "y"]}
BAD: dict = {
    "no columns 'word', 'b'; the columns are a$": {"b": None, "word": None},
    r"no column 'a'; the columns are b, word, A ; did you mean 'A '\?": {"a": None, "A ": [1, 2]},
    "row 2, column 'b': 'z' is text in a column of numbers; correct it$": {"b": ["1", "z"]},
    "row 1, column 'b': the value is neither number nor text: ": {"b": [object(), 1]},
    "row 1, column 'b': the value is inf; correct it": {"b": [np.inf, 1]},
    "every array must have the same number of rows": {"b": [1]},
}


@pytest.mark.parametrize("message", BAD)
def test_what_is_wrong_in_a_frame_is_named(message):
    given = {name: c for name, c in (GOOD | BAD[message]).items() if c is not None}
    with pytest.raises(ValueError, match=f"^`columns`: {message}"):
        from_columns(given, FEATURES)


def test_missing_values_are_refused_when_asked():
    with pytest.raises(ValueError, match="`columns`: row 2, column 'word': the value is missing"):
        from_columns(COLUMNS, FEATURES[:2], ReadOptions(missing="error"))
