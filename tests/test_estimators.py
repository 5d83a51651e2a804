"""The estimators keep scikit-learn's contract, and train as the command does."""

import pickle
import pickletools
import re
from pathlib import Path
from typing import Any

import numpy as np
import pandas
import polars
import pytest
import sklearn
from sklearn.calibration import CalibratedClassifierCV
from sklearn.metrics import log_loss
from sklearn.model_selection import GridSearchCV, cross_val_predict, cross_val_score
from sklearn.pipeline import Pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.utils.estimator_checks import parametrize_with_checks

from jaxnet import runs
from jaxnet.engine import epochs
from jaxnet.estimators import JaxnetClassifier, JaxnetRegressor

# Weights count as repeated rows to the tolerance of float64, in batches of all rows.
WHOLE = {"hidden": (8,), "epochs": 60, "learning_rate": 0.05, "batch_size": 1000}
WHOLE |= {"validation": None, "dtype": "float64", "numbers": "standard"}


@parametrize_with_checks([JaxnetClassifier(**WHOLE), JaxnetRegressor(**WHOLE)])
def test_scikit_learns_own_checks_pass(estimator, check):
    check(estimator)


QUICK = {"hidden": (8,), "epochs": 30, "learning_rate": 0.02}


def blobs(rows=120, seed=0):
    rng = np.random.default_rng(seed)
    y = np.arange(rows) % 3
    return (rng.normal(size=(rows, 4)) + 3 * np.eye(3, 4)[y]).astype("float32"), y


def frame(rows=120):
    rng = np.random.default_rng(1)
    kind = np.array(["red", "green", "blue"], object)[rng.integers(3, size=rows)]
    size = rng.normal(size=rows)
    size[::10] = np.nan
    day = np.datetime64("2024-01-01", "us") + rng.integers(400, size=rows) * np.timedelta64(1, "D")
    return {"kind": kind, "size": size, "day": day}, np.where(kind == "red", "yes", "no")


@pytest.mark.parametrize("make", [pandas.DataFrame, polars.DataFrame])
def test_frames_are_taken_by_name_with_text_dates_and_missing_values(make):
    columns, y = frame()
    model = JaxnetClassifier(**QUICK).fit(make(columns), y)
    assert model.feature_names_in_.tolist() == ["kind", "size", "day"]
    assert model.score(make(columns), y) > 0.95
    with pytest.raises(ValueError, match="feature names should match"):
        model.predict(make(dict(reversed(columns.items()))))


def test_a_fit_gives_what_the_command_gives_and_writes_no_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    X, y = blobs()
    model = JaxnetClassifier(**QUICK, random_state=3).fit(X, y)
    assert not list(tmp_path.iterdir())
    table = {f"x{i}": X[:, i] for i in range(4)} | {"y": y}
    run = runs.train(runs.Config(target="y", seed=3, out="run", **QUICK), table=table)
    np.testing.assert_array_equal(model.predict_proba(X), run.probabilities(table))


def test_a_pickle_holds_arrays_and_plain_values_and_predicts_the_same():
    X, y = blobs()
    model = JaxnetClassifier(**QUICK).partial_fit(X, y, classes=[0, 1, 2])
    names = {
        str(argument).split()[0]
        for op, argument, _ in pickletools.genops(pickle.dumps(model, protocol=2))
        if op.name == "GLOBAL"
    }
    known = {"copy_reg", "numpy", "numpy._core.multiarray", "jaxnet.estimators", "_codecs"}
    assert names <= known | {"__builtin__"}
    again = pickle.loads(pickle.dumps(model))
    np.testing.assert_array_equal(again.predict_proba(X), model.predict_proba(X))
    for one in (model, again):  # also the optimizer's state
        one.partial_fit(X, y)
    np.testing.assert_array_equal(again.predict_proba(X), model.predict_proba(X))


def test_a_search_compiles_nothing_for_a_shape_that_was_trained_before():
    X, y = blobs()
    pipeline = Pipeline([("scale", StandardScaler()), ("model", JaxnetClassifier(**QUICK))])
    pipeline.set_output(transform="pandas")
    for size in (5, 6):
        pipeline.set_params(model__hidden=size).fit(X[:80], y[:80])
    run: Any = epochs.compiled(epochs._run, ("state", "best"), ())
    compiled = run._cache_size()
    grid = {"model__hidden": [(5,), (6,)], "model__random_state": [0, 1]}
    search = GridSearchCV(pipeline, grid, cv=3, refit=False).fit(X, y)  # folds of 80 rows
    assert run._cache_size() == compiled  # after 12 fits
    assert search.best_score_ > 0.9
    pipeline.set_params(model__hidden=7).fit(X[:80], y[:80])
    assert run._cache_size() > compiled


def test_partial_fit_goes_on_and_refuses_other_classes():
    X, y = blobs()
    model = JaxnetClassifier(**QUICK)
    with pytest.raises(ValueError, match="`classes` must be given"):
        model.partial_fit(X, y)
    model.partial_fit(X[:2], y[:2], classes=[0, 1, 2])
    model.fit(X[::2], y[::2])
    before = log_loss(y, model.predict_proba(X))
    for _ in range(10):
        model.partial_fit(X, y)
    assert log_loss(y, model.predict_proba(X)) < before
    with pytest.raises(ValueError, match="must hold the classes"):
        model.partial_fit(X, y + 1)


def test_scores_and_calibration_by_folds_route_weights():
    X, y = blobs()
    with sklearn.config_context(enable_metadata_routing=True):
        model = JaxnetClassifier(**QUICK).set_fit_request(sample_weight=True)
        model.set_score_request(sample_weight=True)
        weights = np.where(y == 2, 0.0, 1.0)
        scores = cross_val_score(model, X, y, cv=2, params={"sample_weight": weights})
        assert scores.min() > 0.9
        assert 2 not in cross_val_predict(model, X, y, cv=2, params={"sample_weight": weights})
    calibrated = CalibratedClassifierCV(JaxnetClassifier(**QUICK), cv=2).fit(X, y)
    assert calibrated.score(X, y) > 0.9


def test_class_weights_move_the_predictions():
    X, y = blobs()
    weights = {0: 100.0, 1: 1e-3, 2: 1e-3}
    predicted = JaxnetClassifier(**QUICK, class_weight=weights).fit(X, y).predict(X)
    assert (predicted == 0).mean() > 0.8


def test_an_ensemble_of_a_regression_of_two_numbers_trains_in_two_processes():
    X, _ = blobs()
    y = np.stack([X[:, 0] + X[:, 1], X[:, 2]], axis=1)
    model = JaxnetRegressor(**QUICK, ensemble=2)
    assert cross_val_score(model, X, y, cv=2, n_jobs=2).min() > 0.7


def test_an_array_can_hold_categories():
    X, _ = blobs()
    X[:, 3] = np.arange(120) % 4
    y = (X[:, 3] % 2).astype(int)
    assert JaxnetClassifier(**QUICK, categorical=[3]).fit(X, y).score(X, y) > 0.95


def test_the_example_of_the_page_runs(capsys):
    page = (Path(__file__).parents[1] / "docs" / "estimators.md").read_text()
    (example,) = re.findall(r"```python\n(.*?)```", page, re.DOTALL)
    exec(compile(example, "example", "exec"), {})
    assert capsys.readouterr().out.startswith("{'hidden': (")
