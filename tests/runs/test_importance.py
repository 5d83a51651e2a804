"""Permutation importance against shuffling by hand, and the one line of progress."""

import io

import numpy as np
import pytest

from jaxnet import numpy_net, runs
from jaxnet.runs.importance import permutation_importance
from jaxnet.runs.loop import Progress
from jaxnet.runs.model import Model
from jaxnet.spec import Spec
from jaxnet.tables.column import Column, Encoding

N = 41
RNG = np.random.default_rng(0)
FEATURES = (
    Column("used", (0.0,), (1.0,)),
    Column("word", categories=("a", "b", "c"), kind="text"),
    Column("pair", (0.0, 0.0), (1.0, 1.0)),
    Column("unused", (0.0,), (1.0,)),
)
TARGETS = {
    "class": (Column("y", categories=("no", "yes"), kind="text"), "cross_entropy", 2),
    "price": (Column("y", (1000.0,), (40.0,)), "mean_squares", 1),
    "interval": (Column("y", (1000.0,), (40.0,)), "quantile", 3),
}
COLUMNS = {
    "used": RNG.standard_normal(N),
    "word": np.array(["a", "b", "c"], object)[RNG.integers(0, 3, N)],
    "pair": RNG.standard_normal((N, 2)),
    "unused": RNG.standard_normal(N),
}


def make(name, temperature=1.0):
    target, loss, outputs = TARGETS[name]
    spec = Spec((7, 5, outputs), bias=True, activation="tanh", loss=loss)
    params = spec.init(0, "float64")
    params["w1"][-1] = 0  # of "unused"
    params["w1"][0] *= 9
    encoding = Encoding(FEATURES, target)
    task = "classification" if target.categories else "regression"
    return Model(task=task, spec=spec, encoding=encoding, params=params, temperature=temperature)


def columns_of(name):
    y = COLUMNS["used"] * 30 + 1000
    return COLUMNS | {"y": np.where(y > 1000, "yes", "no").astype(object) if name == "class" else y}


@pytest.mark.parametrize("name", TARGETS)
def test_the_importance_is_the_rise_of_the_metric_over_shuffles(name):
    model = make(name, 1.5 if name == "class" else 1.0)
    batch = model.batch(columns_of(name))
    found = permutation_importance(model, [batch], repeats=3, seed=7)
    metric = "log loss" if name == "class" else "root mean squared error"
    assert (found.metric, found.rows) == (metric, N)

    def value(x):
        y_pred = numpy_net.forward(model.params, x, activation="tanh")
        if name == "class":
            return numpy_net.LOSSES["cross_entropy"](y_pred / 1.5, batch.y)[0]
        middle = np.median(y_pred, axis=1, keepdims=True)
        return 40 * np.sqrt(np.square(middle - batch.y).mean())

    # float64: sums of some tens of terms
    assert found.value == pytest.approx(value(batch.x), rel=1e-12)
    rng = np.random.default_rng(7)
    orders = [rng.permutation(N) for _ in range(3)]
    places = {"used": [0], "word": [1, 2, 3], "pair": [4, 5], "unused": [6]}
    for one in found.columns:
        rises = []
        for order in orders:
            x = batch.x.copy()
            x[:, places[one.name]] = x[order][:, places[one.name]]
            rises.append(value(x) - value(batch.x))
        assert one.mean == pytest.approx(np.mean(rises), rel=1e-9, abs=1e-12)
        assert one.std == pytest.approx(np.std(rises), rel=1e-9, abs=1e-12)
    means = [one.mean for one in found.columns]
    assert means == sorted(means, reverse=True)
    assert (found.columns[-1].name == "unused") or found.columns[-1].mean < 0
    assert next(one for one in found.columns if one.name == "unused")[1:] == (0, 0)


def test_blocks_of_rows_give_the_same_importance(monkeypatch):
    model, batch = make("class"), make("class").batch(columns_of("class"))
    parts = [type(batch)(batch.x[i : i + 10], batch.y[i : i + 10]) for i in range(0, N, 10)]
    assert permutation_importance(model, parts) == permutation_importance(model, [batch])
    monkeypatch.setattr("jaxnet.runs.importance.ROWS", (5, 17))
    assert permutation_importance(model, parts).rows == 17
    monkeypatch.setattr("jaxnet.runs.importance.WORK", 1)
    assert permutation_importance(model, parts).rows == 5


def test_a_line_of_progress_is_written_over_and_ends_with_the_run():
    out = io.StringIO()
    report = runs.progress_line(out)
    for step in (1, 2, 400):
        report(Progress(step, 400, 0.12345, {"val_loss": 0.5, "val_accuracy": 0.75}, []))
    first, second = out.getvalue().split("\r")[1:]  # the one of step 2 came too soon
    assert first.rstrip() == "step 1 of 400  loss 0.1235  val_loss 0.5  val_accuracy 0.75"
    assert second == f"{'step 400 of 400  loss 0.1235  val_loss 0.5  val_accuracy 0.75':79}\n"
