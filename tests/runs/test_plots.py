import numpy as np
import pytest
from matplotlib.figure import Figure
from matplotlib.image import imread

from jaxnet.runs import plots
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
    shown = f"{metrics[-1]['val_accuracy']:.1%}"
    assert accuracy.get_label() == f"validation, {shown} at the last epoch"
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


def regression(losses):
    names = ("epoch", "train_loss", "val_loss", "val_rmse", "val_r2")
    rows = [(i, loss / 2, loss, 9 * loss, None) for i, loss in enumerate(losses, start=1)]
    return [dict(zip(names, row, strict=True)) for row in rows]


DRAW = {
    "learning_curves": lambda path: plots.learning_curves(lines([1.0]), "cross_entropy", "", path),
    "comparison": lambda path: plots.comparison({"a": lines([1.0]), "b": []}, path),
}


@pytest.mark.parametrize("draw", DRAW.values(), ids=DRAW)
def test_a_process_killed_while_drawing_leaves_the_old_picture(tmp_path, monkeypatch, draw):
    path = tmp_path / "loss.png"
    path.write_bytes(b"old")

    def killed(figure, file, **options):
        file.write(b"half")
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(Figure, "savefig", killed)
        with pytest.raises(KeyboardInterrupt):
            draw(path)
    assert path.read_bytes() == b"old"
    draw(path)
    assert imread(path).ndim == 3
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("metrics", [lines([3.0]), regression([3.0]), regression([3.0, 0.1])])
def test_epochs_are_whole_numbers_on_the_axis(axes, metrics):
    for half in axes(metrics):
        low, high = half.get_xlim()
        ticks = [tick for tick in half.get_xticks() if low <= tick <= high]
        assert ticks == [line["epoch"] for line in metrics]


def test_a_title_of_any_text_is_whole_and_within_the_picture(tmp_path, monkeypatch):
    figures = []
    monkeypatch.setattr(plots, "_save", lambda figure, path: figures.append(figure))
    title = "a run of " + "many words " * 12 + ": regression of '$x_ 漢 {'"
    plots.learning_curves(lines([1.0, 0.5]), "cross_entropy", title, tmp_path / "loss.png")
    monkeypatch.undo()
    plots._save(figures[0], tmp_path / "loss.png")  # a warning would be an error
    text = figures[0]._suptitle
    assert text.get_text().split() == title.split()
    box, picture = text.get_window_extent(), figures[0].bbox
    assert picture.x0 <= box.x0
    assert box.x1 <= picture.x1


def test_a_legend_lies_over_no_curve(axes):
    for half in axes(lines([2.0, 1.5, 1.8, 0.01])):
        assert half.get_legend().get_window_extent().y0 >= half.bbox.y1 - 1


@pytest.mark.parametrize("number", [2, 12, 32])
def test_every_compared_run_is_in_the_legend_with_a_line_of_its_own(tmp_path, number):
    runs = {f"_run ${i}": lines(np.linspace(3, 0.1, 5 + i).tolist()) for i in range(number)}
    path = tmp_path / "comparison.png"
    figures = []
    save = Figure.savefig
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Figure, "savefig", lambda f, *a, **o: (figures.append(f), save(f, *a, **o)))
        plots.comparison(runs, path)
    (figure,) = figures
    loss, accuracy = figure.axes
    (legend,) = figure.legends
    assert [text.get_text() for text in legend.get_texts()] == list(runs)
    for half, name in ((loss, "val_loss"), (accuracy, "val_accuracy")):
        drawn = half.get_lines()
        assert len({(line.get_color(), line.get_linestyle()) for line in drawn}) == number
        for line, metrics in zip(drawn, runs.values(), strict=True):
            assert line.get_ydata().tolist() == [one[name] for one in metrics]
    assert loss.get_yscale() == "log"
    box = legend.get_window_extent()
    assert box.x0 >= accuracy.bbox.x1
    assert (box.y0 >= 0, box.x1 <= figure.bbox.x1) == (True, True)


def test_runs_of_different_tasks_have_a_side_for_each_metric(tmp_path):
    path = tmp_path / "comparison.png"
    plots.comparison({"a": lines([1.0, 0.5]), "b": regression([2.0]), "c": []}, path)
    plots.comparison({"a": lines([1.0])}, tmp_path / "one.png")
    assert imread(path).shape[1] - imread(tmp_path / "one.png").shape[1] == 600  # 5 inches
