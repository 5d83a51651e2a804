import numpy as np
import pytest
from matplotlib.figure import Figure
from matplotlib.image import imread

from jaxnet import numpy_net
from jaxnet.runs.model_plots import confusion_matrix
from jaxnet.tables.column import Column
from jaxnet.tables.metrics import metrics_for

RNG = np.random.default_rng(0)
CLASSES = Column("y", categories=("a", "b", "c"), kind="text")
SPLITS = {"whole": [17], "blocks": [1, 7, 0, 9]}


def accumulate(loss, column, y_pred, y, sizes):
    metrics = metrics_for(loss, column)
    start = 0
    for size in sizes:
        metrics.update(y_pred[start : start + size], y[start : start + size])
        start += size
    assert metrics.rows == start
    return metrics


@pytest.mark.parametrize("sizes", SPLITS.values(), ids=SPLITS)
def test_the_metrics_of_classes_do_not_depend_on_the_blocks(sizes):
    logits, y = RNG.standard_normal((17, 3)), RNG.integers(0, 3, 17)
    metrics = accumulate("cross_entropy", CLASSES, logits, y, sizes)
    counts = np.zeros((3, 3), int)
    for true, predicted in zip(y, logits.argmax(axis=1), strict=True):
        counts[true, predicted] += 1
    np.testing.assert_array_equal(metrics.confusion, counts)
    result = metrics.result()
    # The sum of 17 terms near 1 rounds by a few 1e-16.
    expected = numpy_net.LOSSES["cross_entropy"](logits, y)[0]
    assert result["loss"] == pytest.approx(expected, rel=1e-14)
    assert result["accuracy"] == (logits.argmax(axis=1) == y).mean()


@pytest.mark.parametrize("sizes", SPLITS.values(), ids=SPLITS)
def test_the_metrics_of_numbers_do_not_depend_on_the_blocks(sizes):
    column = Column("y", (5.0, -3.0), (2.0, 0.5))
    y = RNG.standard_normal((17, 2)) + [1e3, 0]  # far from the training's mean
    y_pred = y + RNG.standard_normal((17, 2)) / 3
    metrics = accumulate("mean_squares", column, y_pred, y, sizes)
    assert metrics.confusion is None
    squares = np.square(y_pred - y)
    expected = {
        "loss": squares.mean(),
        "rmse": np.sqrt((squares * np.square(column.std)).mean()),
        "mae": (np.sqrt(squares) * column.std).mean(),
        "r2": (1 - squares.sum(axis=0) / np.square(y - y.mean(axis=0)).sum(axis=0)).mean(),
    }
    result = metrics.result()
    assert list(result) == list(expected)
    for name, value in expected.items():
        # Means of numbers near 1e3 round by 1e-13, squares about them by some of it.
        assert result[name] == pytest.approx(value, rel=1e-11)


def test_r2_is_none_where_the_target_is_constant():
    y = np.full((4, 1), 0.1)
    metrics = accumulate("mean_squares", Column("y", (0.0,), (1.0,)), y + 1, y, [1, 3])
    assert metrics.result()["r2"] is None


COUNTS = np.array([[10, 2, 0], [0, 3, 0], [0, 0, 0]])


@pytest.fixture
def axes(tmp_path, monkeypatch):
    """Draw and return the axes of the figure that was saved."""
    figures = []
    save = Figure.savefig

    def savefig(figure, *args, **options):
        figures.append(figure)
        save(figure, *args, **options)

    monkeypatch.setattr(Figure, "savefig", savefig)

    def draw(counts, classes):
        confusion_matrix(counts, classes, "a $title", tmp_path / "a.png")
        assert imread(tmp_path / "a.png").std() > 0.05
        return figures[-1].axes[0]

    return draw


def test_the_picture_has_the_counts_and_the_fraction_of_each_row(axes):
    drawn = axes(COUNTS, ["cat", "$x_1$", "東京"])  # no formula, and maybe no glyph
    texts = {text.get_position()[::-1]: text.get_text() for text in drawn.texts}
    assert texts == {(0, 0): "10", (0, 1): "2", (1, 1): "3"}
    shares = drawn.images[0].get_array()
    np.testing.assert_array_equal(shares, [[10 / 12, 2 / 12, 0], [0, 1, 0], [0, 0, 0]])
    assert drawn.images[0].get_clim() == (0, 1)
    assert [label.get_text() for label in drawn.get_yticklabels()] == ["cat", "$x_1$", "東京"]
    assert (drawn.get_xlabel(), drawn.get_ylabel()) == ("predicted", "true")


@pytest.mark.parametrize(("number", "counts", "labels"), [(20, 400, 20), (21, 0, 21), (100, 0, 34)])
def test_counts_and_labels_are_drawn_where_they_fit(axes, number, counts, labels):
    drawn = axes(np.eye(number, dtype=int) * 9 + 1, [f"class {i}" for i in range(number)])
    assert (len(drawn.texts), len(drawn.get_xticks())) == (counts, labels)


def test_a_large_count_is_drawn_small_enough_for_its_cell(axes):
    counts = np.full((20, 20), 123_456)
    drawn = axes(counts, ["x"] * 20)
    cell = drawn.transData.transform([[0, 0], [1, 0]])[:, 0]
    for text in drawn.texts:
        assert text.get_window_extent().width < cell[1] - cell[0]
