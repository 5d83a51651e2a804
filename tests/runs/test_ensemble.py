"""Ensembles: networks of several initial weights trained in one program, averaged in one model."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from jaxnet import numpy_net, runs
from jaxnet.runs import predict, session, steps
from jaxnet.runs.config import Config

ROWS = 40
RNG = np.random.default_rng(1)
COLUMNS: dict[str, Any] = {"a": RNG.standard_normal(ROWS), "b": RNG.standard_normal(ROWS)}
COLUMNS["kind"] = np.where(COLUMNS["a"] + COLUMNS["b"] > 0, "up", "down").astype(object)
COLUMNS["price"] = 3 * COLUMNS["a"] - COLUMNS["b"] + 10
# The same operations mapped, some in another order; Adam's first steps divide by a gradient's own
# size, so that rounding grows by some hundreds.
MAPPED = 1e-11


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(session, "_plot", lambda folder, *_: None)  # slow
    return tmp_path


def train(target="kind", **options):
    kept: dict[str, Any] = {"hidden": (5,), "epochs": 2, "batch_size": 8, "dtype": "float64"}
    table = {name: COLUMNS[name] for name in ("a", "b", target)}
    return runs.train(Config(target=target, **kept | options), table=table)


ALONE: dict[str, dict[str, Any]] = {
    "plain": {},
    "clipped": {"clip_norm": 0.1, "optimizer": "momentum"},
    "accumulated": {"accumulate": 2, "weight_decay": 0.1},
    "dropout": {"dropout": 0.3, "label_smoothing": 0.1, "class_weight": "balanced"},
    "bfloat16": {"dtype": "bfloat16"},
}


@pytest.mark.parametrize("case", ALONE)
def test_each_member_is_trained_as_it_is_alone(monkeypatch, case):
    options = ALONE[case]
    run = train(ensemble=3, epochs=1, **options)
    assert run.params["w1"].shape == (3, 2, 5)
    assert run.params["b2"].shape == (3, 2)
    drawn = steps.initial_params(Config(ensemble=3, dtype="float64"), run.spec)
    # bfloat16 products have 8 bits; a rounding that falls the other way moves a step by about that
    tolerance = 3e-3 if "dtype" in options else MAPPED
    for k, member in enumerate(run.members):
        own = {name: leaf[k].astype(run.dtype) for name, leaf in drawn.items()}
        monkeypatch.setattr(session, "initial_params", lambda config, spec, own=own: own)
        alone = train(epochs=1, **options)
        for name, leaf in alone.params.items():
            np.testing.assert_allclose(member[name], leaf, rtol=0, atol=tolerance)
    assert (drawn["w1"][0] == run.spec.init(0, "float64")["w1"]).all()
    assert (drawn["w1"][0] != drawn["w1"][1]).any()


def together(run, x):
    """By the oracle: the mean of the members' probabilities, or of what they predict."""
    outputs = [numpy_net.forward(member, x) for member in run.members]
    if run.task == "regression":
        return np.mean(outputs, axis=0) * run.encoding.target.std + run.encoding.target.mean
    exps = [np.exp(y - y.max(axis=1, keepdims=True)) for y in outputs]
    return np.mean([e / e.sum(axis=1, keepdims=True) for e in exps], axis=0)


@pytest.mark.parametrize("target", ["kind", "price"])
def test_an_ensemble_is_one_model_that_averages(target):
    run = train(target, ensemble=3, epochs=4)
    columns = {name: COLUMNS[name] for name in ("a", "b")}
    x = np.stack([COLUMNS["a"], COLUMNS["b"]], axis=1)
    scale = run.encoding.features
    x = (x - [c.mean[0] for c in scale]) / [c.std[0] for c in scale]
    want = together(run, x)
    loaded = runs.load(run.folder)
    if target == "price":
        np.testing.assert_allclose(loaded.predict(columns), want[:, 0], rtol=1e-12)
    else:
        np.testing.assert_allclose(loaded.probabilities(columns), want, rtol=1e-12)
        classes = np.array(run.encoding.target.categories)[want.argmax(axis=1)]
        assert (loaded.predict(columns) == classes).all()
    table = {name: COLUMNS[name] for name in ("a", "b", target)}
    found = runs.evaluate_validation(run.folder, table=table).result()
    assert found == run.metrics["validation"]
    for name, leaf in run.params.items():
        np.testing.assert_array_equal(loaded.params[name], leaf)


def test_the_best_epoch_is_that_of_the_averaged_prediction(folder):
    run = train(ensemble=2, epochs=5, learning_rate=0.1, patience=2)
    losses = [line["val_loss"] for line in lines(run)]
    assert run.epoch == int(np.argmin(losses)) + 1
    assert run.metrics["validation"]["loss"] == pytest.approx(min(losses), rel=1e-9)


def lines(run):
    from jaxnet.cli import run_text

    return run_text.read(run.folder).lines


def test_rows_on_disk_give_the_same_ensemble(folder):
    rows = zip(*(COLUMNS[name].tolist() for name in ("a", "b", "price")), strict=True)
    text = "".join(",".join(map(str, row)) + "\n" for row in rows)
    (folder / "t.csv").write_text("a,b,price\n" + text)
    given = Config(data="t.csv", target="price", hidden=(5,), epochs=2, ensemble=2)
    both = [runs.train(replace(given, on_disk=on_disk)) for on_disk in ("off", "on")]
    for name, leaf in both[0].params.items():
        np.testing.assert_allclose(both[1].params[name], leaf, rtol=0, atol=1e-6)  # float32
    count = predict.predict(runs.load(both[0].folder), "t.csv", "p.csv")
    assert count == ROWS


def test_weights_from_elsewhere_begin_no_ensemble():
    given = Config(target="price", ensemble=2, hidden=(5,))
    dataset = runs.prepare(given, table={n: COLUMNS[n] for n in ("a", "b", "price")})
    params = dataset.spec.init(0)
    with pytest.raises(ValueError, match="`ensemble` must be 1 for a run that begins with given"):
        runs.create(given, params, dataset=dataset)


def test_parameters_of_another_number_of_members_are_refused(folder):
    two, three = (train(ensemble=members).folder for members in (2, 3))
    (two / "model/params.safetensors").write_bytes(
        (three / "model/params.safetensors").read_bytes()
    )
    with pytest.raises(ValueError, match="damaged, or not of this run"):
        runs.load(two)
