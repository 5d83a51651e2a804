import numpy as np
import pytest

from jaxnet.tables import dates
from jaxnet.tables.column import kinds_to_read
from jaxnet.tables.encoding import encode_features
from jaxnet.tables.fitting import fit_encoding
from jaxnet.tables.table import Table

YEAR, WEEK, DAY = dates.CYCLES[:2], dates.CYCLES[2:5], dates.CYCLES[5:]


def times(*texts):
    return np.array(texts, "M8[us]")


def fit(values, **options):
    data = Table("t.csv", {"when": values, "y": np.arange(float(len(values)))}, 0, {})
    rows = np.arange(len(values))
    return data, fit_encoding(data, "y", "regression", rows, **options)


def test_a_time_is_whole_days_and_seconds_of_the_day():
    found = dates.split(times("1970-01-02T00:00:01.5", "1969-12-31T23:00:00", "NaT"))
    np.testing.assert_array_equal(found, [[1, 1.5], [-1, 82800], [np.nan, np.nan]])
    assert dates.text((-1.0, 82800.0)) == "1969-12-31T23:00:00"
    assert dates.text((10957.0,)) == "2000-01-01"


def test_the_parts_of_a_date_are_days_and_angles_of_year_and_week():
    values = times("2024-03-01", "2024-03-04", "2024-09-01", "2025-03-01")
    data, encoding = fit(values)
    (column,) = encoding.features
    assert (column.cycles, len(column.mean), column.kind) == (YEAR + WEEK, 1, "date")
    x = encode_features(data, encoding, "float64")
    days = np.array([0, 3, 184, 365.0])
    np.testing.assert_allclose(x[:, 0], (days - days.mean()) / days.std(), rtol=1e-12)
    assert x.shape == (4, 1 + 2 * 5)
    for place, (_, period, number) in enumerate(column.cycles, start=1):
        turned = x[:, place + 5] + 1j * x[:, place]  # a cosine and a sine
        want = np.exp(2j * np.pi * number * days / period)
        # Days since 1970 leave 11 of an angle's 16 digits.
        np.testing.assert_allclose(turned / turned[0], want, atol=1e-9)


def test_the_seven_days_of_the_week_are_told_apart_by_a_linear_layer():
    _, encoding = fit(times("2024-01-01") + np.arange(7) * np.timedelta64(1, "D"))
    (column,) = encoding.features
    week = Table("t", {"when": times("2024-05-06") + np.arange(7) * np.timedelta64(1, "D")})
    x = encode_features(week, encoding, "float64")[:, 1:]
    x = x[:, [k for k, cycle in enumerate(column.cycles * 2) if cycle in WEEK]]
    assert np.linalg.matrix_rank(np.column_stack([np.ones(7), x])) == 7


def test_the_hour_is_there_where_training_has_different_ones():
    whole = times("2024-01-01T12:00", "2024-02-07T12:00", "2024-06-03T12:00")
    assert len(fit(whole)[1].features[0].mean) == 1
    data, encoding = fit(whole + np.array([0, 6, 12], "m8[h]"))
    (column,) = encoding.features
    assert (column.cycles, len(column.mean)) == (YEAR + WEEK + DAY, 2)
    sines, cosines = np.split(encode_features(data, encoding, "float64")[:, 2:], 2, axis=1)
    # Of noon, 18 and 0 o'clock.
    np.testing.assert_allclose(sines[:, 5:], [[0, 0], [-1, 0], [0, 0]], atol=1e-12)
    np.testing.assert_allclose(cosines[:, 5:], [[-1, 1], [0, -1], [1, 1]], atol=1e-12)


def test_cycles_that_training_does_not_go_through_are_left_out():
    weekly = times("2024-01-01") + np.arange(5) * np.timedelta64(7, "D")
    assert fit(weekly)[1].features[0].cycles == YEAR
    yearly = np.array([f"{year}-01-01" for year in range(2001, 2012)], "M8[us]")
    assert fit(yearly)[1].features[0].cycles == WEEK


def test_a_missing_date_is_the_median_date_and_marked():
    values = times("2024-01-01", "NaT", "2024-01-10", "2024-03-01")
    lines = []
    data, encoding = fit(values, say=lines.append)
    (column,) = encoding.features
    assert column.missing == (0,)
    x = encode_features(data, encoding, "float64")
    median = encode_features(Table("t", {"when": times("2024-01-10")}), encoding, "float64")
    np.testing.assert_array_equal(x[1, :-1], median[0, :-1])
    assert x[:, -1].tolist() == [0, 1, 0, 0]
    filled = "1 missing value was filled with the median 2024-01-10, and marked by an input"
    assert lines == [f"column 'when': {filled}"]


def test_dates_are_read_again_as_they_were_written_and_are_nothing_else():
    values = times("2024-01-01", "2024-02-02", "2024-03-05")
    data = Table("t.csv", {"when": values, "y": np.arange(3.0)}, 0, {"when": "date %d/%m/%Y"})
    encoding = fit_encoding(data, "y", "regression", np.arange(3))
    assert kinds_to_read(encoding.features) == {"when": "date %d/%m/%Y"}
    with pytest.raises(ValueError, match="column 'when' must hold dates, as in training; got int"):
        encode_features(Table("t", {"when": np.arange(3)}), encoding)
    number = fit_encoding(
        Table("t", {"a": np.arange(3), "y": np.arange(3.0)}), "y", "regression", np.arange(3)
    )
    with pytest.raises(ValueError, match="column 'a' must hold numbers, as in training; got date"):
        encode_features(Table("t", {"a": values}), number)
    with pytest.raises(ValueError, match=r"column 'when' must be \(N,\) to hold cat.*, got date"):
        fit_encoding(data, "y", "regression", np.arange(3), ["when"])
    with pytest.raises(ValueError, match="column 'when' holds dates, and must hold numbers"):
        fit_encoding(data, "when", "regression", np.arange(3))
