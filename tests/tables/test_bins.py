from itertools import pairwise

import numpy as np
import pytest

from jaxnet.tables import summary
from jaxnet.tables.encoding import encode_features
from jaxnet.tables.fitting import BINNED_NUMBERS, BINNED_ROWS, BINS, fit_encoding
from jaxnet.tables.table import Table


def fit(rows=None, numbers="bins", **columns):
    data = Table("t.csv", {name: np.asarray(column) for name, column in columns.items()})
    rows = np.arange(data.num_rows) if rows is None else rows
    return data, fit_encoding(data, "y", "regression", rows, numbers=numbers)


def test_bins_lie_between_the_training_quantiles_and_add_up_to_the_number():
    rng = np.random.default_rng(0)
    values = rng.lognormal(size=400)
    rows = rng.permutation(400)[:300]
    data, encoding = fit(rows, a=values, y=rng.random(400))
    (column,) = encoding.features
    edges = np.quantile(values[rows], np.linspace(0, 1, BINS + 1))
    assert column.bins == tuple((0, *pair) for pair in pairwise(edges.tolist()))
    x = encode_features(data, encoding, "float64")
    assert x.shape == (400, 1 + BINS)
    inside = np.clip(values, edges[0], edges[-1])  # a sum of BINS products, of up to 20
    np.testing.assert_allclose(x[:, 1:] @ np.diff(edges) + edges[0], inside, rtol=1e-13)
    assert (np.diff(x[:, 1:], axis=1) <= 0).all()  # a bin opens when the one before is full


def test_repeated_quantiles_make_no_bin_and_two_values_none_at_all():
    few = np.repeat([0.0, 1.0, 5.0], [80, 10, 10])
    _, encoding = fit(a=few, b=few > 0, c=np.full(100, 2.0), y=np.arange(100.0))
    assert [len(column.bins) for column in encoding.features] == [2, 0, 0]
    edges = [edge for _, *pair in encoding.features[0].bins for edge in pair]
    assert set(edges) <= {*np.quantile(few, np.linspace(0, 1, BINS + 1))}


def test_each_number_of_a_wide_column_and_missing_ones_have_bins():
    rng = np.random.default_rng(1)
    values = rng.standard_normal((60, 2))
    values[3, 1] = np.nan
    data, encoding = fit(a=values, y=rng.random(60))
    (column,) = encoding.features
    assert [place for place, *_ in column.bins] == [0] * BINS + [1] * BINS
    x = encode_features(data, encoding, "float64")
    filled = data.columns["a"].copy()
    filled[3, 1] = column.fill[1]
    want = encode_features(Table("t", {"a": filled}), encoding, "float64")
    np.testing.assert_array_equal(x[:, :-1], want[:, :-1])


@pytest.mark.parametrize(
    ("rows", "width", "binned"),
    [
        (BINNED_ROWS, 2, True),
        (BINNED_ROWS - 1, 2, False),
        (20 * BINS, 20, True),
        (20 * BINS - 1, 20, False),
        (2000, BINNED_NUMBERS + 1, False),
    ],
)
def test_auto_makes_bins_unless_they_are_too_many(rows, width, binned):
    values = np.random.default_rng(0).random((rows + 3, width))
    _, encoding = fit(np.arange(rows), "auto", a=values, y=np.arange(rows + 3.0))
    assert bool(encoding.features[0].bins) == binned


def test_of_many_rows_a_sample_gives_nearly_the_quantiles(monkeypatch):
    monkeypatch.setattr(summary, "SAMPLE", 4000)
    rng = np.random.default_rng(0)
    values = rng.random(40_000)
    _, encoding = fit(a=values, y=rng.random(40_000))
    (column,) = encoding.features
    # Of 4,000 draws the median's standard error is 0.5 / sqrt(4000).
    assert abs(column.fill[0] - 0.5) < 4 * 0.008
    assert column.fill[0] != np.median(values)
    again = fit(a=values, y=rng.random(40_000))[1].features[0]
    assert again == column
