"""The pictures of a model: what they show, and that all of it is inside."""

import itertools

import numpy as np
import pytest
from matplotlib.figure import Figure
from matplotlib.image import imread

from jaxnet.runs import model_plots, sweep_plots
from jaxnet.runs.importance import Importance
from jaxnet.tables.ranking import Calibration

RNG = np.random.default_rng(0)


@pytest.fixture
def figure(tmp_path, monkeypatch):
    """Draw by a function of the path, and return the figure that was saved."""
    figures = []
    save = Figure.savefig
    monkeypatch.setattr(Figure, "savefig", lambda f, *a, **o: (figures.append(f), save(f, *a, **o)))

    def draw(function, *args):
        function(*args, tmp_path / "a.png")
        assert imread(tmp_path / "a.png").std() > 0.02
        (figure,) = figures
        texts = [t for axes in figure.axes for t in (axes.xaxis.label, axes.yaxis.label)]
        for text in (t for t in (*texts, figure._suptitle) if t.get_text()):
            box, picture = text.get_window_extent(), figure.bbox
            assert picture.x0 <= box.x0 <= box.x1 <= picture.x1, text
            assert picture.y0 <= box.y0 <= box.y1 <= picture.y1, text
        return figure

    return draw


def calibrations():
    before, after = Calibration(), Calibration()
    p = RNG.dirichlet([1, 1, 3], 200)
    y = RNG.integers(0, 3, 200)
    flat = p**0.5 / (p**0.5).sum(axis=1, keepdims=True)
    for calibration, given in ((before, p), (after, flat)):
        calibration.update(given.max(axis=1), given.argmax(axis=1) == y)
    return before, after


@pytest.mark.parametrize("temperature", [1.0, 2.0])
def test_a_calibration_is_drawn_with_its_error_before_and_after(figure, temperature):
    before, after = calibrations()
    drawn = figure(model_plots.calibration, before, after, temperature, "$x_1$: test.csv")
    top, bottom = drawn.axes
    labels = [line.get_label() for line in top.get_lines()]
    assert labels[0] == "ideal"
    assert labels[-1].endswith(f"expected calibration error {after.error:.1%}")
    assert len(labels) == (2 if temperature == 1 else 3)
    there = after.rows > 0
    shares = after.right[there] / after.rows[there]
    np.testing.assert_array_equal(top.get_lines()[-1].get_ydata(), shares)
    assert sum(bar.get_height() for bar in bottom.patches) == 200


@pytest.mark.parametrize("width", [1, 3, 6])
def test_predicted_numbers_are_drawn_against_the_true_ones(figure, width):
    y = RNG.standard_normal((300, width)) * 1e5
    y_pred = y + RNG.standard_normal((300, width)) * 1e4
    names = [f"a rather long ${k}" for k in range(width)]
    drawn = figure(model_plots.predicted, [y_pred, y], names, "price: test.csv, rmse 10,000")
    assert len(drawn.axes) == min(width, 4)
    for k, axes in enumerate(drawn.axes):
        points, line = axes.get_lines()
        np.testing.assert_array_equal(points.get_data(), [y[:, k], y_pred[:, k]])
        np.testing.assert_array_equal(*line.get_data())
        labels = axes.get_xlabel(), axes.get_ylabel()
        assert labels == (f"true {names[k]}", f"predicted {names[k]}")
        boxes = [label.get_window_extent() for label in axes.get_xticklabels()]
        assert all(a.x1 < b.x0 for a, b in itertools.pairwise(boxes))


@pytest.mark.parametrize("number", [1, 30, 45])
def test_the_most_important_columns_are_bars_from_the_top(figure, number):
    found = [Importance(f"$column {i} " + "x" * 60, 2e4 / (i + 1), 9.0) for i in range(number)]
    drawn = figure(model_plots.importance, found, "root mean squared error", "price: test.csv")
    (axes,) = drawn.axes
    bars = axes.patches
    assert len(bars) == min(number, model_plots.MAX_BARS)
    assert [bar.get_width() for bar in bars][::-1] == [one.mean for one in found[: len(bars)]]
    boxes = [label.get_window_extent() for label in axes.get_yticklabels()]
    assert all(a.y1 <= b.y0 + 1 for a, b in itertools.pairwise(boxes))
    assert min(box.x0 for box in boxes) >= 0


@pytest.mark.parametrize("over", ["", "3 seeds x 2 folds"])
def test_the_bars_of_a_sweep_are_explained(figure, over):
    cells = {(0.01,): (0.5, 0.1 if over else None), (0.1,): (0.4, 0.2 if over else None)}
    options = {"learning_rate": [0.01, 0.1]}
    drawn = figure(sweep_plots.sweep, options, cells, "cross_entropy", over, "a sweep")
    (axes,) = drawn.axes
    assert (f"one standard deviation over {over}" in axes.get_title(loc="left")) == bool(over)
    assert (f"mean over {over}" in axes.get_ylabel()) == bool(over)


def test_the_label_of_a_heatmap_is_inside(figure):
    values = {"hidden": [(32,), (64, 64)], "learning_rate": [0.01, 0.1, 1.0]}
    cells = {(a, b): (0.1 + b, 0.1) for a in values["hidden"] for b in values["learning_rate"]}
    drawn = figure(sweep_plots.sweep, values, cells, "mean_squares", "3 folds", "a sweep")
    assert drawn.axes[-1].get_ylabel().endswith("\nmean over 3 folds")
