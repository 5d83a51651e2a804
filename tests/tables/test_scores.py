"""AUC, calibration and thresholds against values by hand and by brute force."""

import numpy as np
import pytest

from jaxnet.tables import ranking
from jaxnet.tables.calibration import balanced_threshold, fit_temperature, log_loss, softmax
from jaxnet.tables.column import Column
from jaxnet.tables.metrics import metrics_for
from jaxnet.tables.ranking import LEVELS, Calibration, RocAuc
from jaxnet.tables.statistics import Sample

RNG = np.random.default_rng(0)


def pairs(scores, own):
    """The area by its definition: over all pairs, the share in which the own score is higher."""
    differences = scores[own][:, None] - scores[~own]
    return (np.sign(differences) / 2 + 0.5).mean()


def areas(scores, y, sizes):
    auc, start = RocAuc(scores.shape[1]), 0
    for size in sizes:
        auc.update(scores[start : start + size], y[start : start + size])
        start += size
    assert start == len(y)
    return auc.result()


@pytest.mark.parametrize("sizes", [[41], [1, 30, 0, 10]])
def test_the_area_is_the_share_of_pairs_in_order_and_a_tie_counts_half(sizes):
    scores, y = RNG.integers(0, 7, (41, 3)) / 7, RNG.integers(0, 3, 41)
    expected = [pairs(scores[:, k], y == k) for k in range(3)]
    np.testing.assert_allclose(areas(scores, y, sizes), expected, rtol=1e-14)


def test_the_area_of_a_class_without_rows_or_of_the_only_one_is_not_a_number():
    found = areas(RNG.random((5, 3)), np.zeros(5, int), [5])
    assert np.isnan(found).all()
    assert np.isnan(RocAuc(2).result()).all()


def test_many_scores_are_counted_in_bins_and_the_area_is_near(monkeypatch):
    scores, y = RNG.random((4000, 2)), np.sort(RNG.integers(0, 2, 4000))  # one class comes first
    scores[:, 1] += 0.3 * y
    exact = areas(scores, y, [4000])
    monkeypatch.setattr(ranking, "EXACT", 1000)
    monkeypatch.setattr(ranking, "BINS", 400)
    counted = areas(scores, y, [300] * 13 + [100])
    assert (counted != exact).all()
    # a pair in one of 200 bins counts half: at most half of the pairs in a bin of 1/200 are wrong
    np.testing.assert_allclose(counted, exact, atol=0.5 / 200)


def test_the_calibration_error_is_the_distance_of_confidence_and_accuracy():
    p = np.array([[0.9, 0.1], [0.92, 0.08], [0.3, 0.7], [0.45, 0.55]])
    y = np.array([0, 1, 1, 0])
    calibration = Calibration()
    for some in (slice(3), slice(3, None)):
        calibration.update(p[some].max(axis=1), p[some].argmax(axis=1) == y[some])
    level = [int(value * LEVELS) for value in (0.9, 0.92, 0.7, 0.55)]
    assert level == [13, 13, 10, 8]
    assert calibration.rows.tolist() == np.bincount(level, minlength=LEVELS).tolist()
    expected = (2 * abs(0.5 - 0.91) + abs(1 - 0.7) + abs(0 - 0.55)) / 4
    assert calibration.error == pytest.approx(expected, rel=1e-14)


@pytest.mark.parametrize("temperature", [0.4, 3.0])
def test_the_temperature_that_made_the_classes_is_found(temperature):
    logits = RNG.standard_normal((20_000, 3)) * 2
    p = softmax(logits / temperature)
    y = (p.cumsum(axis=1) < RNG.random((20_000, 1))).sum(axis=1)
    found = fit_temperature(logits, y)
    assert found == pytest.approx(temperature, rel=0.05)  # 20,000 draws: a standard error of 1 %
    losses = [log_loss(logits / t, y) for t in (found, found * 1.03, found / 1.03)]
    assert min(losses) == losses[0]


def test_rows_that_are_all_right_do_not_make_the_model_surer():
    logits, y = np.array([[2.0, -2.0], [-3.0, 1.0], [5.0, 0.0]]), np.array([0, 1, 0])
    assert 0.3 < fit_temperature(logits, y) <= 1
    assert fit_temperature(100 * logits, y) == 1.0  # no lower log loss is known from 3 rows


def test_a_temperature_that_would_not_lower_the_log_loss_is_one():
    logits = np.zeros((4, 2))
    assert fit_temperature(logits, np.array([0, 1, 1, 1])) == 1.0


def test_the_threshold_finds_both_classes_equally_often():
    y = RNG.random(301) < 0.1
    p = np.clip(RNG.normal(0.1 + 0.2 * y, 0.08), 0, 1)
    found = balanced_threshold(p, y.astype(int))
    assert found is not None
    gaps = {t: abs(np.mean(p[y] >= t) - np.mean(p[~y] < t)) for t in [*p, found]}
    assert gaps[found] == min(gaps.values())
    assert gaps[found] < 0.05 < gaps[min(gaps, key=lambda t: abs(t - 0.5))]
    assert balanced_threshold(p, np.zeros(301, int)) is None


def test_a_sample_holds_every_row_equally_often_and_whole_rows():
    counts = np.zeros(30)
    for seed in range(400):
        sample = Sample(10, seed)
        for start, stop in ((0, 4), (4, 4), (4, 23), (23, 30)):
            rows = np.arange(start, stop)
            sample.update(rows, -rows[:, None])
        rows, others = sample.arrays
        assert len(rows) == 10
        assert (np.diff(rows) > 0).all()
        np.testing.assert_array_equal(others, -rows[:, None])
        counts[rows] += 1
    # 400 draws of 1/3: a standard deviation of 9.4; five of them
    assert np.abs(counts - 400 / 3).max() < 5 * 9.4


def test_the_report_of_classes_is_by_hand():
    column = Column("y", categories=("no", "yes"), kind="text")
    p = np.array([0.8, 0.6, 0.3, 0.2])  # of yes
    logits, y = np.log(np.stack([1 - p, p], axis=1)), np.array([1, 0, 1, 0])
    metrics = metrics_for("cross_entropy", column)
    metrics.update(logits, y)
    report = metrics.report()
    loss = -np.log([0.8, 0.4, 0.3, 0.8]).mean()
    assert report["log_loss"] == pytest.approx(loss, rel=1e-14)
    assert (report["accuracy"], report["balanced_accuracy"], report["roc_auc"]) == (0.5, 0.5, 0.75)
    assert report["precision"] == report["recall"] == {"no": 0.5, "yes": 0.5}
    assert report["support"] == {"no": 2, "yes": 2}
    assert report["confusion_matrix"] == [[1, 1], [1, 1]]
    assert report["uncalibrated"]["log_loss"] == pytest.approx(loss, rel=1e-14)

    metrics = metrics_for("cross_entropy", column, temperature=2.0, threshold=0.37)
    metrics.update(logits, y)
    report = metrics.report()
    warm = softmax(logits / 2)[:, 1]
    assert (warm >= 0.37).tolist() == [True, True, True, False]
    assert report["confusion_matrix"] == [[1, 1], [0, 2]]
    assert report["recall"] == {"no": 0.5, "yes": 1.0}
    expected = -np.log(np.where(y, warm, 1 - warm)).mean()
    assert report["log_loss"] == pytest.approx(expected, rel=1e-14)
    assert report["uncalibrated"]["log_loss"] == pytest.approx(loss, rel=1e-14)
    assert (report["temperature"], report["threshold"], report["roc_auc"]) == (2.0, 0.37, 0.75)


def test_classes_without_rows_have_no_part_in_the_means():
    column = Column("y", categories=("a", "b", "c"), kind="text")
    metrics = metrics_for("cross_entropy", column)
    metrics.update(np.eye(3)[[0, 1, 2, 0]], np.array([0, 1, 1, 0]))
    report = metrics.report()
    assert report["recall"] == {"a": 1.0, "b": 0.5, "c": None}
    assert report["precision"] == {"a": 1.0, "b": 1.0, "c": 0.0}
    assert report["balanced_accuracy"] == 0.75
    assert report["roc_auc"] == np.mean([1.0, 0.75])


def test_an_interval_covers_the_true_values_between_the_quantiles_in_any_order():
    column = Column("y", (10.0, 0.0), (2.0, 1.0))
    y = np.array([[0.0, 5.0], [1.0, 5.0]])
    outputs = np.array([[-1.0, 0.5, 2.0, 4.0, 4.5, 6.0], [0.9, 0.5, 0.7, 7.0, 6.0, 5.5]])
    metrics = metrics_for("quantile", column)
    metrics.update(outputs, y)
    result = metrics.result()
    assert list(result) == ["loss", "rmse", "mae", "r2", "coverage"]
    assert result["coverage"] == 2 / 4
    errors = np.array([[0.5, -0.5], [-0.3, 1.0]]) * [2.0, 1.0]
    assert result["mae"] == pytest.approx(np.abs(errors).mean(), rel=1e-14)
    assert result["rmse"] == pytest.approx(np.sqrt(np.square(errors).mean()), rel=1e-14)
