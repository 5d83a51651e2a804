import numpy as np
import pytest
from matplotlib.figure import Figure
from matplotlib.image import imread

from jaxnet import plots
from jaxnet.spec import LOSSES


def lines(losses):
    """The lines of a run whose training loss is half its validation loss."""
    names = ("epoch", "train_loss", "val_loss", "val_accuracy")
    rows = [(i, loss / 2, loss, i / 10) for i, loss in enumerate(losses, start=1)]
    return [dict(zip(names, row, strict=True)) for row in rows]


@pytest.fixture
def axes(tmp_path, monkeypatch):
    """Draw and return the two axes of the figure that was saved."""
    figures = []
    save = Figure.savefig

    def savefig(figure, *args, **options):
        figures.append(figure)
        save(figure, *args, **options)

    monkeypatch.setattr(Figure, "savefig", savefig)

    def draw(metrics, loss="cross_entropy"):
        plots.learning_curves(metrics, loss, "a title", tmp_path / "loss.png")
        return figures[-1].axes

    return draw


@pytest.mark.parametrize("losses", [[1.0], [2.0, 1.5, 0.01], np.linspace(5, 1, 300).tolist()])
def test_the_picture_is_a_png_with_curves_on_both_sides(tmp_path, losses):
    path = tmp_path / "loss.png"
    plots.learning_curves(lines(losses), "cross_entropy", "a title", path)
    image = imread(path)
    assert image.shape[:2] == (480, 1200)
    for half in (image[:, :600], image[:, 600:]):
        colours = np.unique(half[..., :3].reshape(-1, 3), axis=0)
        assert len(colours) > 10
        validation = np.array([0xCC, 0x66, 0x77]) / 255
        assert np.isclose(colours, validation, atol=1 / 255).all(axis=1).any()  # 8-bit colours


@pytest.mark.parametrize(
    ("losses", "scale"),
    [
        ([2.0, 0.401], "linear"),  # 2 to 0.2005
        ([2.0, 0.399], "log"),  # 2 to 0.1995
        ([2.0, 0.0], "linear"),  # a loss of zero has no logarithm
        ([2.0, 0.3, 0.0], "log"),
        ([1.0], "linear"),
    ],
)
def test_a_log_scale_is_for_losses_that_span_more_than_a_factor_of_ten(axes, losses, scale):
    left, right = axes(lines(losses))
    assert left.get_yscale() == scale
    assert right.get_yscale() == "linear"


def test_the_curves_are_the_metrics_against_the_epoch(axes):
    metrics = lines([2.0, 0.75, 1.25])
    left, right = axes(metrics)
    train, validation, best = left.get_lines()
    (accuracy,) = right.get_lines()
    curves = {"train_loss": train, "val_loss": validation, "val_accuracy": accuracy}
    for name, curve in curves.items():
        assert curve.get_xdata().tolist() == [1, 2, 3]
        assert curve.get_ydata().tolist() == [line[name] for line in metrics]
    assert (best.get_xdata().tolist(), best.get_ydata().tolist()) == ([2], [0.75])
    assert best.get_label() == "best, epoch 2"
    assert left.figure.get_suptitle() == "a title"


@pytest.mark.parametrize("loss", LOSSES)
def test_the_axes_say_what_they_show(axes, loss):
    regression = [{"epoch": 1, "train_loss": 1.0, "val_loss": 2.0, "val_rmse": 3.0, "val_r2": None}]
    for metrics, label in (
        (lines([1.0]), "accuracy"),
        (regression, "root mean squared error (target's units)"),
    ):
        left, right = axes(metrics, loss)
        assert (left.get_xlabel(), right.get_xlabel()) == ("epoch", "epoch")
        assert (left.get_ylabel(), right.get_ylabel()) == (plots.LABELS[loss], label)


def test_drawing_leaves_no_figure_with_pyplot(axes):
    from matplotlib import pyplot

    axes(lines([1.0, 0.5]))
    assert pyplot.get_fignums() == []
