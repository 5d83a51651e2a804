import numpy as np
import pytest

from jaxnet.tables.column import Column, classes, decode, kinds_to_read
from jaxnet.tables.encoding import (
    aligned,
    encode_features,
    encode_target,
)
from jaxnet.tables.fitting import fit_encoding
from jaxnet.tables.frames import from_columns
from jaxnet.tables.rows import encode
from jaxnet.tables.table import Table
from jaxnet.tables.targets import MAX_CLASSES, infer_task

ALL = np.arange(6)


def table(**columns):
    arrays = {name: np.asarray(column) for name, column in columns.items()}
    text = {name: array.astype(object) for name, array in arrays.items() if array.dtype.kind == "U"}
    return Table("t.csv", arrays | text)


MIXED = table(
    length=[1.0, 2.0, 3.0, 4.0, 5.0, 60.0],
    colour=["red", "blue", "red", "ägg", "blue", "red"],
    pair=np.arange(12, dtype=np.uint8).reshape(6, 2),
    label=[3, 5, 3, 3, 5, 3],
)


@pytest.mark.parametrize(
    ("target", "task", "reason"),
    [
        (["a", "b", "a"], "classification", "its values are text"),
        ([True, False, True], "classification", "its values are true and false"),
        ([4, 7, 4], "classification", "it has 2 distinct integers"),
        (np.array([4, 7], np.uint8), "classification", "it has 2 distinct integers"),
        (np.arange(MAX_CLASSES), "classification", "it has 20 distinct integers"),
        (np.arange(MAX_CLASSES + 1), "regression", "it has 21 distinct integers, more than 20"),
        ([1.0, 2.5, 1.0], "regression", "its values are real numbers"),
        ([1.0, 0.0, 1.0], "classification", "it has 2 distinct whole numbers"),
        ([1.0, np.nan, 1.0, 7.0], "classification", "it has 2 distinct whole numbers"),
        (np.arange(21.0), "regression", "it has 21 distinct whole numbers, more than 20"),
        (np.ones((3, 2), int), "regression", "its values are several numbers a row"),
    ],
)
def test_the_task_follows_from_the_targets_values(target, task, reason):
    assert infer_task(table(y=target), "y") == (task, reason)


@pytest.mark.parametrize(
    "function", [infer_task, lambda t, y: fit_encoding(t, y, "regression", ALL)]
)
def test_a_missing_target_lists_the_columns(function):
    message = "no target column 'y'; the columns are length, colour, pair, label$"
    with pytest.raises(ValueError, match=r"t\.csv: " + message):
        function(MIXED, "y")


def test_numbers_are_standardised_by_the_training_rows_alone():
    encoding = fit_encoding(MIXED, "label", "classification", ALL[:5])
    x, _ = encode(MIXED, encoding, "float64")
    assert encoding.features[0] == Column("length", (3.0,), (2.0**0.5,), fill=(3.0,))
    # Rounding of a sum of five numbers near 1.
    np.testing.assert_allclose(x[:5, 0].mean(), 0, atol=1e-15)
    np.testing.assert_allclose(x[:5, 0].std(), 1, atol=1e-15)
    assert x[5, 0] == (60 - 3) / 2**0.5


def test_each_number_of_a_wide_column_has_statistics_of_its_own():
    encoding = fit_encoding(MIXED, "label", "classification", ALL[1:3])
    assert encoding.features[2] == Column(
        "pair", (3.0, 4.0), (1.0, 1.0), kind="integer", fill=(3.0, 4.0)
    )
    x, _ = encode(MIXED, encoding)
    np.testing.assert_array_equal(x[:, -2:], MIXED.columns["pair"] - np.array([3.0, 4.0]))


def test_the_inputs_are_the_feature_columns_in_order():
    encoding = fit_encoding(MIXED, "label", "classification", ALL)
    assert [(column.name, column.width) for column in encoding.features] == [
        ("length", 1),
        ("colour", 3),
        ("pair", 2),
    ]
    for dtype in ("float32", "float64"):
        x, y = encode(MIXED, encoding, dtype)
        assert (x.shape, x.dtype, y.shape, y.dtype) == ((6, 6), dtype, (6,), np.int32)


def test_a_constant_feature_becomes_zeros():
    data = table(a=[7.5, 7.5, 7.5], b=[1.0, 1.0, 4.0], y=[0, 1, 0])
    x, _ = encode(data, fit_encoding(data, "y", "classification", np.array([0, 1])))
    np.testing.assert_array_equal(x, [[0, 0], [0, 0], [0, 3]])  # b is constant in training only


def test_text_is_one_hot_over_the_sorted_categories_of_all_rows():
    encoding = fit_encoding(MIXED, "label", "classification", ALL[:2])  # without "ägg"
    assert encoding.features[1] == Column("colour", categories=("blue", "red", "ägg"), kind="text")
    x, _ = encode(MIXED, encoding)
    blue, red, egg = [1, 0, 0], [0, 1, 0], [0, 0, 1]
    np.testing.assert_array_equal(x[:, 1:4], [red, blue, red, egg, blue, red])


def test_a_fitted_encoding_keeps_its_categories_for_other_rows():
    encoding = fit_encoding(MIXED, "label", "classification", ALL)
    two = Table("t.csv", {name: column[4:] for name, column in MIXED.columns.items()})
    for whole, part in zip(encode(MIXED, encoding), encode(two, encoding), strict=True):
        np.testing.assert_array_equal(whole[4:], part)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("target", ["label", "real", "pair"])
def test_rows_are_encoded_to_the_bits_that_they_have_in_the_whole_table(target, dtype, monkeypatch):
    rng = np.random.default_rng(0)
    data = table(
        real=rng.standard_normal(40) * 1e3,
        half=rng.standard_normal(40).astype(np.float16),
        single=rng.standard_normal((40, 5)).astype(np.float32),
        count=rng.integers(-9, 9, 40),
        pair=rng.integers(0, 255, (40, 2), np.uint8),
        flag=rng.integers(0, 2, 40).astype(bool),
        colour=rng.choice(["red", "blue", "ägg"], 40),
        code=rng.integers(0, 4, 40),
        label=rng.integers(0, 3, 40),
    )
    rows = rng.permutation(40)[:23]
    task = "classification" if target == "label" else "regression"
    encoding = fit_encoding(data, target, task, rows, ["code"])
    x, y = encode(data, encoding, dtype)
    monkeypatch.setattr("jaxnet.tables.rows.BLOCK", 7)
    for whole, part in zip((x, y), encode(data, encoding, dtype, rows), strict=True):
        np.testing.assert_array_equal(part, whole[rows])
        assert part.dtype == whole.dtype
    number = encoding.features[1]  # and these are the float64 ones, rounded once
    want = ((data.columns[number.name] - np.array(number.mean)) / number.std).astype(dtype)
    start = encoding.features[0].width
    np.testing.assert_array_equal(x[:, start : start + number.width].ravel(), want.ravel())


def test_a_row_that_cannot_be_encoded_is_named_by_its_place_in_the_table():
    encoding = fit_encoding(MIXED, "label", "classification", ALL)
    rows = np.array([5, 2, 4])
    large = Table("t.csv", MIXED.columns | {"length": np.array([1.0, 2, 3, 4, 1e300, 6])})
    with pytest.raises(ValueError, match=r"row 5, column 'length': the value 1e.300 is too large"):
        encode(large, encoding, rows=rows)
    other = Table("t.csv", MIXED.columns | {"colour": np.array([*"aabaaa"], object)})
    with pytest.raises(ValueError, match="row 6, column 'colour': 'a' is not among"):
        encode(other, encoding, rows=rows)


CLASSES = {
    "text": np.array(["b", "a", "b", "c"], object),
    "integer": np.array([30, 4, 30, -5]),
    "boolean": np.array([True, False, True, True]),
    "real": np.array([0.1, 1e16, -2.0, 0.1]),
}


@pytest.mark.parametrize("kind", CLASSES)
def test_classes_decode_to_the_values_of_the_table_in_their_kind(kind):
    target = CLASSES[kind]
    data = table(x=[1.0, 2.0, 3.0, 4.0], y=target)
    encoding = fit_encoding(data, "y", "classification", ALL[:2])
    assert encoding.target.kind == kind
    y = encode_target(data, encoding)
    names = classes(encoding.target)
    assert names[y].tolist() == target.tolist()
    assert names.dtype == target.dtype
    np.testing.assert_array_equal(decode(np.eye(len(names))[y], encoding.target), target)


def test_a_regression_target_decodes_to_the_units_of_the_table():
    target = np.array([[1.0, -200.0], [2.5, 300.0], [9.0, 100.0], [0.0, 50.0]])
    data = table(x=[1, 2, 3, 4], y=target)
    encoding = fit_encoding(data, "y", "regression", np.array([0, 1, 3]))
    assert encoding.target.width == 2
    _, y = encode(data, encoding, "float64")
    # One subtraction, division, multiplication and addition each round by 1e-16 of 300.
    decoded = y * np.array(encoding.target.std) + np.array(encoding.target.mean)
    np.testing.assert_allclose(decoded, target, rtol=0, atol=2e-13)
    np.testing.assert_allclose(y[[0, 1, 3]].std(axis=0), 1, atol=1e-15)  # rounding of three terms


def test_one_column_of_numbers_to_predict_has_shape_n_1():
    for target in (np.array([1.0, 2.0, 4.0]), np.array([1, 2, 4]), np.array([True, False, True])):
        data = table(x=[1, 2, 3], y=target)
        _, y = encode(data, fit_encoding(data, "y", "regression", ALL[:3]))
        assert (y.shape, y.dtype) == ((3, 1), np.float32)


def test_categorical_makes_categories_of_numbers():
    data = table(month=[12, 1, 2, 12], y=[0.5, 1.0, 2.0, 3.0])
    encoding = fit_encoding(data, "y", "regression", ALL[:4], categorical=["month"])
    assert encoding.features == (Column("month", categories=("1", "12", "2"), kind="integer"),)
    x, _ = encode(data, encoding)
    np.testing.assert_array_equal(x, [[0, 1, 0], [1, 0, 0], [0, 0, 1], [0, 1, 0]])


def fit(task="regression", rows=None, categorical=(), **columns):
    data = table(**columns)
    rows = np.arange(len(data.columns["y"])) if rows is None else rows
    return fit_encoding(data, "y", task, rows, categorical)


def test_text_that_hardly_repeats_is_left_out_and_said_unless_it_is_asked_for():
    data, said = table(a=NAMES, b=STEPS, c=NAMES[:-1] + NAMES[:1], y=STEPS), []
    for categorical, names in [((), "bc"), (["a"], "abc")]:
        options: dict = {"categorical": categorical, "say": said.append}
        encoding = fit_encoding(data, "y", "regression", np.arange(len(STEPS)), **options)
        assert "".join(column.name for column in encoding.features) == names
    what = "column 'a' has 21 distinct texts in 21 rows, as an id has, and is left out"
    assert said == [f"{what}; `categorical` 'a' takes it"]


NAMES = [f"id {i}" for i in range(MAX_CLASSES + 1)]
STEPS = np.arange(float(len(NAMES)))
BAD: dict = {
    r"there is no feature column beside the target 'y'": {"a": NAMES, "y": STEPS},
    r"column 'y' has 21 distinct .*; choose another target, or `task` regression": {
        "a": STEPS,
        "y": STEPS,
        "task": "classification",
    },
    r"the target 'y' has one value only, cat$": {
        "a": [1, 2],
        "y": ["cat", "cat"],
        "task": "classification",
    },
    r"the target 'y' has one value only, 3$": {
        "a": [1, 2],
        "y": [3, 3],
        "task": "classification",
    },
    r"the target 'y' has one value only, 2\.5$": {"a": [1, 2], "y": [2.5, 2.5]},
    r"the target 'y' has one value only, 1\.0$": {"a": [1, 2], "y": [True, True]},
    r"the target 'y' has one value only, 7\.0$": {"a": [1, 2], "y": [[1.0, 7.0], [2.0, 7.0]]},
    r"the target 'y' must be numbers for regression, got text$": {"a": [1, 2], "y": ["p", "q"]},
    r"the target 'y' must be numbers for regression, got text": {"a": STEPS, "y": NAMES},
    r"column 'y' must be \(N,\) to hold categories, got \(2, 2\)$": {
        "a": [1, 2],
        "y": [[1, 2], [3, 4]],
        "task": "classification",
    },
    r"there is no feature column beside the target 'y'$": {"y": [1.0, 2.0]},
    r"no column 'b'; the columns are a, y$": {"a": [1, 2], "y": [1.0, 2.0], "categorical": ["b"]},
    r"column 'a' has values up to 1e\+200, too large to standardise": {
        "a": [1e200, -1e200],
        "y": [1.0, 2.0],
    },
}


@pytest.mark.parametrize("message", BAD)
def test_what_cannot_be_encoded_is_refused_by_file_and_column(message):
    with pytest.raises(ValueError, match=r"^t\.csv: " + message):
        fit(**BAD[message])


def test_text_that_repeats_is_no_identifier():
    encoding = fit(a=NAMES * 2, y=np.arange(2.0 * len(NAMES)))
    assert encoding.features[0].categories == tuple(sorted(NAMES))


def category(kind):
    """An encoding that takes the numbers of CLASSES as categories."""
    data = table(a=CLASSES[kind], y=[1.0, 2.0, 3.0, 4.0])
    return fit_encoding(data, "y", "regression", ALL[:4], categorical=["a"])


@pytest.mark.parametrize(
    ("kind", "values"),
    [
        ("integer", np.array([30.0, 4.0, 30.0, -5.0])),  # pandas, once a value was missing
        ("integer", np.array([30, 4, 30, -5], np.int8)),
        ("integer", np.array(["30", "4", "30", "-5"], object)),
        ("real", np.array([0.1, 1e16, -2.0, 0.1], np.float64)),
        ("boolean", np.array([1, 0, 1, 1])),
        ("boolean", np.array([1.0, 0.0, 1.0, 1.0])),
        ("text", np.array(["b", "a", "b", "c"], object)),
    ],
)
def test_a_category_is_the_same_in_another_type(kind, values):
    encoding = category(kind)
    expected = encode_features(table(a=CLASSES[kind]), encoding)
    np.testing.assert_array_equal(encode_features(Table("t", {"a": values}), encoding), expected)
    np.testing.assert_array_equal(expected.sum(axis=1), 1)


def test_integers_fed_to_a_real_category_are_reals():
    encoding = category("real")
    x = encode_features(table(a=[-2, 10**16]), encoding)
    np.testing.assert_array_equal(x, encode_features(table(a=[-2.0, 1e16]), encoding))


def test_features_are_found_by_name_among_others_and_without_the_target():
    encoding = fit_encoding(MIXED, "label", "classification", ALL)
    names = ["pair", "extra", "length", "colour"]
    columns = MIXED.columns | {"extra": np.array([None] * 6)}
    data = Table("t.csv", {name: columns[name] for name in names})
    np.testing.assert_array_equal(encode_features(data, encoding), encode(MIXED, encoding)[0])


UNSEEN = Table("t.csv", MIXED.columns | {"colour": np.array(["red"] * 4 + ["mauve"] * 2, object)})


def test_an_unseen_category_is_an_error_or_zeros():
    encoding = fit_encoding(MIXED, "label", "classification", ALL)
    message = (
        r"^t\.csv: row 12, column 'colour': 'mauve' is not among the categories of training "
        r"\(blue, red, ägg\); correct it, or encode it as zeros with `unseen` zero$"
    )
    with pytest.raises(ValueError, match=message):
        encode_features(UNSEEN._replace(offset=7), encoding)
    x = encode_features(UNSEEN, encoding, unseen="zero")
    red, none = [0, 1, 0], [0, 0, 0]
    np.testing.assert_array_equal(x[:, 1:4], [red] * 4 + [none] * 2)
    with pytest.raises(ValueError, match="`unseen` must be one of error, zero; got 'skip'"):
        encode_features(UNSEEN, encoding, unseen="skip")


def test_an_unseen_class_is_an_error():
    encoding = fit_encoding(MIXED, "label", "classification", ALL)
    message = r"t\.csv: row 2, column 'label': '4' is not among the classes .*\(3, 5\); correct it$"
    with pytest.raises(ValueError, match=message):
        encode_target(table(label=[3, 4]), encoding)


UNFIT = {
    r"no column 'pair'; the columns are length, colour$": {"pair": None},
    r"column 'pair' must have 2 values a row, as in training; got shape \(6, 3\)": {
        "pair": np.ones((6, 3))
    },
    r"column 'pair' must have 2 values a row, as in training; got shape \(6,\)": {
        "pair": np.ones(6)
    },
    r"column 'colour' must have 1 value a row, as in training; got shape \(6, 2\)": {
        "colour": np.ones((6, 2))
    },
    r"row 102, column 'length': 'long' is text in a column of numbers": {
        "length": np.array(["1", "long", "1", "1", "1", "1"], object)
    },
    r"row 103, column 'length': the value 1e\+300 is too large for float32": {
        "length": np.array([0, 0, 1e300, 0, 0, 0])
    },
}


@pytest.mark.parametrize("message", UNFIT)
def test_features_that_do_not_fit_the_training_are_refused_by_column(message):
    encoding = fit_encoding(MIXED, "label", "classification", ALL)
    columns = {**MIXED.columns, **UNFIT[message]}
    del columns["label"]
    columns = {name: column for name, column in columns.items() if column is not None}
    with pytest.raises(ValueError, match=r"^t\.csv: " + message):
        encode_features(Table("t.csv", columns, offset=100), encoding)


def test_text_is_read_as_the_kind_of_training():
    columns = [
        Column("a", (0.0,), (1.0,), kind="integer"),  # a file to predict may hold 2.5
        Column("b", (0.0,), (1.0,), kind="boolean"),
        Column("c", categories=("1", "2"), kind="integer"),
        Column("d", categories=("x",), kind="text"),
    ]
    assert kinds_to_read(columns) == {"a": "real", "b": "boolean", "c": "integer", "d": "text"}


GIVEN = {"length": [1.0, 2.0], "colour": ["red", "blue"], "pair": [[1, 2], [3, 4]]}
BAD_COLUMNS: dict = {
    r"no column 'pair'; the columns are length, colour$": {"pair": None},
    r"every array must have the same number of rows, got .*'colour': 3": {"colour": ["red"] * 3},
    r"every array must have the same number of rows, got .*'length': None": {"length": 1.0},
    r"row 2, column 'colour': the value is neither number nor text: ": {
        "colour": np.array(["red", object], object)
    },
    r"column 'length' must be numbers, booleans, dates or text, got complex128": {
        "length": [1j, 2j]
    },
    r"row 1, column 'length': 'x' is text in a column of numbers": {"length": ["x", "1"]},
}


@pytest.mark.parametrize("message", BAD_COLUMNS)
def test_columns_from_python_are_refused_by_row_and_name(message):
    encoding = fit_encoding(MIXED, "label", "classification", ALL)
    columns = {k: v for k, v in (GIVEN | BAD_COLUMNS[message]).items() if v is not None}
    with pytest.raises(ValueError, match="^`columns`: " + message):
        encode_features(from_columns(columns, encoding.features), encoding)


def test_columns_from_python_may_be_lists_and_objects():
    encoding = fit_encoding(MIXED, "label", "classification", ALL)
    expected = encode_features(Table("t", {k: c[1:3] for k, c in MIXED.columns.items()}), encoding)
    given = {
        "pair": MIXED.columns["pair"][1:3].astype(object),
        "colour": np.array(["blue", "red"]),
        "length": np.array([2, 3.0], object),
        "ignored": object(),
    }
    x = encode_features(from_columns(given, encoding.features), encoding)
    np.testing.assert_array_equal(x, expected)


def test_a_matrix_of_numbers_is_the_features_in_order():
    data = table(b=[1.0, 2.0, 4.0], a=np.arange(6.0).reshape(3, 2), y=[1.0, 2.0, 3.0])
    encoding = fit_encoding(data, "y", "regression", ALL[:3])
    matrix = np.column_stack([data.columns["b"], data.columns["a"]])
    x = encode_features(from_columns(matrix, encoding.features), encoding)
    np.testing.assert_array_equal(x, encode_features(data, encoding))
    for bad in (matrix[:, :2], matrix[0], matrix.astype(str)):
        with pytest.raises(ValueError, match=r"`columns` must be numbers \(N, 3\), got"):
            from_columns(bad, encoding.features)
    matrix[1, 2] = np.inf
    with pytest.raises(ValueError, match="row 2, column 'a': the value is inf"):
        from_columns(matrix, encoding.features)
    encoding = fit_encoding(MIXED, "label", "classification", ALL)
    with pytest.raises(ValueError, match=r"must be a mapping.*'colour' holds categories; got an"):
        from_columns(np.ones((2, 6)), encoding.features)


@pytest.mark.parametrize("shape", [(7,), (7, 3)])
@pytest.mark.parametrize("dtype", ["float32", "float64", "int32"])
def test_memory_is_aligned(shape, dtype):
    array = aligned(shape, dtype)
    assert (array.shape, array.dtype) == (shape, dtype)
    assert array.ctypes.data % 64 == 0
