"""Missing values as inputs: what they are filled with, what marks them, what is said."""

import json
import logging

import numpy as np
import pytest

from jaxnet.tables.column import Column, encoding_from_json, encoding_to_json
from jaxnet.tables.encoding import encode_features, encode_target
from jaxnet.tables.fitting import fit_encoding
from jaxnet.tables.missing import SHOWN, Filled
from jaxnet.tables.rows import encode
from jaxnet.tables.table import Table

NAN = np.nan
ROWS = np.arange(6)


def table(**columns):
    kinds = {"count": "integer", "open": "boolean"}
    arrays = {name: np.asarray(column) for name, column in columns.items()}
    return Table("t.csv", arrays, 0, {name: kinds[name] for name in arrays if name in kinds})


GAPS = table(
    age=[1.0, NAN, 5.0, 2.0, NAN, 8.0, 100.0],
    word=np.array(["b", "a", None, "b", "a", "b", None], object),
    count=[3.0, 3.0, NAN, 1.0, 3.0, 1.0, NAN],
    open=[1.0, NAN, 0.0, 1.0, 0.0, 0.0, NAN],
    pair=np.array([[1.0, 4], [2, NAN], [3, 6], [4, 7], [5, NAN], [6, 9], [NAN, 1]]),
    full=np.arange(7.0),
    y=[1.0, 2.0, 3.0, 4.0, 5.0, 6.5, 7.0],
)


def fit(data=GAPS, rows=ROWS, **options):
    return fit_encoding(data, "y", "regression", rows, **options)


def inputs(encoding, data, name, **options):
    """The inputs that a column makes, float64."""
    (column,) = (c for c in encoding.features if c.name == name)
    return encode_features(data, encoding._replace(features=(column,)), "float64", **options)


def test_missing_numbers_become_the_training_median_and_are_marked():
    encoding = fit()
    age = encoding.features[0]
    assert (age.fill, age.missing, age.mean) == ((3.5,), (0,), (4.0,))
    x = inputs(encoding, GAPS, "age")
    std = np.std([1, 5, 2, 8])
    np.testing.assert_allclose(x[:, 0] * std + 4, [1, 3.5, 5, 2, 3.5, 8, 100], rtol=1e-14)
    np.testing.assert_array_equal(x[:, 1], [0, 1, 0, 0, 1, 0, 0])


def test_missing_text_is_a_category_of_its_own():
    encoding = fit()
    assert encoding.features[1] == Column("word", categories=("a", "b"), kind="text", missing=(0,))
    a, b, none = [1, 0, 0], [0, 1, 0], [0, 0, 1]
    np.testing.assert_array_equal(inputs(encoding, GAPS, "word"), [b, a, none, b, a, b, none])


def test_integers_and_booleans_with_gaps_stay_what_they_are():
    encoding = fit(categorical=["count", "open"])
    _, _, count, is_open, *_ = encoding.features
    assert (count.categories, count.kind) == (("1", "3"), "integer")
    assert (is_open.categories, is_open.kind) == (("False", "True"), "boolean")
    one, three, none = [1, 0, 0], [0, 1, 0], [0, 0, 1]
    x = inputs(encoding, GAPS, "count")
    np.testing.assert_array_equal(x, [three, three, none, one, three, one, none])
    np.testing.assert_array_equal(x[[0, 3]], inputs(encoding, table(count=[3, 1]), "count"))
    assert inputs(encoding, GAPS, "open").argmax(axis=1).tolist() == [1, 2, 0, 1, 0, 0, 2]


def test_only_the_numbers_of_a_wide_column_that_training_lacked_are_marked():
    encoding = fit()
    pair = encoding.features[4]
    assert (pair.fill, pair.missing, pair.width) == ((3.5, 6.5), (1,), 3)
    np.testing.assert_array_equal(inputs(encoding, GAPS, "pair")[:, 2], [0, 1, 0, 0, 1, 0, 0])
    np.testing.assert_allclose(inputs(encoding, GAPS, "pair")[6, 0], 0, atol=1e-15)  # 3.5: the mean


def test_moments_and_medians_are_those_of_the_values_that_are_there():
    rng = np.random.default_rng(0)
    values = rng.standard_normal((50, 3)) * 7 + 1e6
    values[rng.random((50, 3)) < 0.3] = NAN
    column = fit(table(v=values, y=rng.random(50)), np.arange(50)).features[0]
    # Sums of 50 numbers near 1e6, each rounded at 1e-16 of it.
    np.testing.assert_allclose(column.mean, np.nanmean(values, axis=0), rtol=1e-14)
    np.testing.assert_allclose(column.std, np.nanstd(values, axis=0), rtol=1e-8)
    np.testing.assert_array_equal(column.fill, np.nanmedian(values, axis=0))


def test_what_training_had_complete_is_filled_and_counted(caplog):
    encoding = fit(rows=np.array([0, 3, 5]))  # which have no gap
    assert not any(column.missing for column in encoding.features)
    data = table(**GAPS.columns | {"full": np.array([NAN, 1, 2, 3, 4, 5, 6])})
    word = inputs(encoding, data, "word", unseen="error")
    np.testing.assert_array_equal(word.sum(axis=1), [1, 1, 0, 1, 1, 1, 0])
    filled = Filled(encoding)
    filled.update(data)
    filled.update(data.row(1))
    filled.log()
    assert caplog.messages == [
        "column 'age': 3 missing values were filled with the median 2",
        "column 'word': 2 missing values were encoded as zeros: training had none",
        "column 'count': 2 missing values were filled with the median 1",
        "column 'open': 3 missing values were filled with the median 1",
        "column 'pair': 4 missing values were filled with the median of its place",
        "column 'full': 1 missing value was filled with the median 3",
    ]


def test_what_is_filled_in_training_is_said_in_a_bounded_number_of_lines():
    lines = []
    fit(say=lines.append)
    assert lines[:2] == [
        "column 'age': 2 missing values were filled with the median 3.5, and marked by an input",
        "column 'word': 2 missing values were taken as a category",
    ]
    many = {f"c{i}": [NAN, 1.0, 2.0] for i in range(SHOWN + 3)}
    lines.clear()
    fit(table(**many, y=[1.0, 2.5, 4.0]), np.arange(3), say=lines.append)
    assert len(lines) == SHOWN + 1
    assert lines[-1] == "3 more columns: 3 missing values were treated in the same ways"


def test_a_column_without_a_value_is_left_out_and_said():
    lines = []
    nothing = {"a": [NAN] * 3, "b": np.array([None] * 3, object), "c": [NAN, NAN, 1.0]}
    data = table(**nothing, x=[1.0, 2.0, 3.0], y=[1.0, 2.5, 4.0])
    encoding = fit(data, np.arange(2), say=lines.append)
    assert [column.name for column in encoding.features] == ["x"]
    assert lines == [f"column {n!r} has no value to train on, and is left out" for n in "abc"]
    with pytest.raises(ValueError, match="there is no feature column beside the target 'y'"):
        fit(table(a=[NAN] * 2, y=[1.0, 2.5]), np.arange(2))


def test_missing_values_can_be_refused_by_row():
    encoding = fit(rows=np.array([0, 3, 5]), missing="error")
    assert encoding_from_json(encoding_to_json(encoding)) == encoding
    whole = GAPS.take([0, 3, 5])
    assert np.isfinite(encode_features(whole, encoding)).all()
    with pytest.raises(ValueError, match=r"^t\.csv: row 9, column 'age': the value is missing"):
        encode_features(GAPS._replace(offset=7), encoding)


def test_a_missing_target_is_refused_where_rows_are_encoded():
    for task, values in (("regression", [NAN, 2.5, 1.0]), ("classification", [NAN, 1.0, 0.0])):
        data = table(x=[1.0, 2.0, 3.0], y=values)
        encoding = fit_encoding(data, "y", task, np.array([1, 2]))
        assert encode(data, encoding, rows=np.array([2, 1]))[1].shape[0] == 2
        with pytest.raises(ValueError, match="row 1, column 'y': the value is missing"):
            encode_target(data, encoding)


@pytest.mark.parametrize("block", [1, 2, 3])
def test_blocks_of_any_size_give_the_same_inputs(block, monkeypatch):
    x = encode_features(GAPS, fit())
    monkeypatch.setattr("jaxnet.tables.encoding.SCALED", block)
    np.testing.assert_array_equal(encode_features(GAPS, fit()), x)


def test_text_of_booleans_is_read_and_other_text_refused():
    data = table(open=np.array([True, False, True]), y=[1.0, 2.5, 4.0])
    encoding = fit_encoding(data, "y", "regression", np.arange(3))
    text = table(open=np.array(["True", "false", None, "FALSE"], object))
    x = encode_features(text, encoding, "float64")
    want = encode_features(table(open=np.array([1.0, 0.0, NAN, 0.0])), encoding, "float64")
    np.testing.assert_array_equal(x, want)
    for bad in ("yes", "1"):
        with pytest.raises(ValueError, match=rf"row 2, column 'open': '{bad}' is neither true"):
            encode_features(table(open=np.array(["True", bad], object)), encoding)
    encoding = fit_encoding(data, "y", "regression", np.arange(3), ["open"])
    x = encode_features(table(open=np.array(["False", "true"], object)), encoding)
    np.testing.assert_array_equal(x, [[1, 0], [0, 1]])


COLUMN = {
    "name": "a",
    "mean": [1.0, 2.0],
    "std": [1.0, 2.0],
    "categories": [],
    "kind": "real",
    "fill": [1.0, 2.0],
    "missing": [1],
    "bins": [[0, 0.0, 1.5]],
    "cycles": [[1, 7.0, 2]],
}
WRONG = {
    "name": 3,
    "mean": [1.0],
    "std": [1.0, 0.0],
    "categories": ["a"],
    "kind": "colour",
    "fill": [1.0, NAN],
    "missing": [2],
    "bins": [[0, 1.5, 1.5]],
    "cycles": [[1, 7.0, 0]],
}


@pytest.mark.parametrize("field", WRONG)
def test_every_field_of_an_encoding_is_checked(field):
    value = {"features": [COLUMN], "target": COLUMN, "missing": "fill"}
    found = encoding_from_json(value)
    assert json.loads(json.dumps(encoding_to_json(found))) == value
    bad = COLUMN | {field: WRONG[field]}
    with pytest.raises(ValueError, match=r"`encoding.features\[0\]."):
        encoding_from_json(value | {"features": [bad]})
    with pytest.raises(ValueError, match=f"`encoding.target`: '{field}' is missing"):
        encoding_from_json(value | {"target": {k: v for k, v in COLUMN.items() if k != field}})
    with pytest.raises(ValueError, match="must have columns, and fill or error; got 'skip'"):
        encoding_from_json(value | {"missing": "skip"})


@pytest.fixture(autouse=True)
def log_is_heard(caplog):
    caplog.set_level(logging.WARNING, "jaxnet")
