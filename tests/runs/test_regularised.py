"""Runs with weights of rows and classes, label smoothing, dropout, and epochs by the rows."""

import json
from typing import Any

import numpy as np
import pytest

from jaxnet import data, net, numpy_net, runs
from jaxnet.cli import run_text
from jaxnet.runs import predict, session
from jaxnet.runs.config import Config, default_epochs
from jaxnet.tables.reading.reader import read
from jaxnet.tables.targets import find_labels

ROWS = 45
RNG = np.random.default_rng(0)
COLUMNS: dict[str, Any] = {"a": RNG.standard_normal(ROWS), "b": RNG.standard_normal(ROWS)}
COLUMNS["weight"] = np.arange(ROWS) % 4 * 0.5
COLUMNS["kind"] = np.where(np.arange(ROWS) % 3 == 0, "rare", "usual").astype(object)
COLUMNS["price"] = 3 * COLUMNS["a"] - COLUMNS["b"] + 10
ROUNDING = 1e-12  # float64: sums of at most some dozen terms, a few steps


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(session, "_plot", lambda folder, *_: None)  # slow
    write(tmp_path / "t.csv", COLUMNS)
    return tmp_path


def write(path, columns):
    rows = zip(*(column.tolist() for column in columns.values()), strict=True)
    lines = [",".join(columns), *(",".join(map(str, row)) for row in rows)]
    path.write_text("\n".join(lines) + "\n")


def config(target="kind", **options):
    other = "price" if target == "kind" else "kind"
    kept: dict[str, Any] = {"hidden": (5,), "epochs": 3, "batch_size": 4, "dtype": "float64"}
    kept["drop"] = tuple({other, "weight"} - {options.get("sample_weight")})
    return Config(data="t.csv", target=target, **kept | options)


def lines(run):
    return run_text.read(run.folder).lines


def by_hand(given, dataset, num_steps, masks_of=lambda step, rows: None):
    """The losses of the oracle's training on the rows of a run, and its last parameters."""
    spec, seed = dataset.spec, given.seed
    (train,) = dataset.train.blocks()
    total = dataset.num_steps(given)
    rate = lambda step: given.learning_rate * 0.5 * (1 + np.cos(np.pi * step / total))  # noqa: E731
    optimizer = numpy_net.make_optimizer(given.optimizer, rate)
    params = spec.init(seed, "float64")
    state, losses = optimizer.init(params), []
    rows_at = data.row_batches(len(train.x), dataset.batch_size, seed)
    for step in range(num_steps):
        rows = rows_at(step)
        weights = None if train.weights is None else train.weights[rows]
        batch = train._replace(x=train.x[rows], y=train.y[rows], weights=weights)
        batch = batch._replace(masks=masks_of(step, len(rows)))
        names = {"loss": spec.loss, "label_smoothing": spec.label_smoothing}
        loss, grads = numpy_net.value_and_grad(params, batch, **names)
        params, state = optimizer.update(params, grads, state)
        losses.append(loss)
    return losses, params


CASES: dict[str, tuple[str, dict[str, Any]]] = {
    "sample weight": ("price", {"sample_weight": "weight"}),
    "class weight": ("kind", {"class_weight": "balanced"}),
    "both, smoothed": (
        "kind",
        {"class_weight": "balanced", "sample_weight": "weight", "label_smoothing": 0.2},
    ),
}


@pytest.mark.parametrize("on_disk", ["off", "on"])
@pytest.mark.parametrize("case", CASES)
def test_a_weighted_run_is_the_oracles_training(case, on_disk):
    target, options = CASES[case]
    given = config(target, epochs=1, on_disk=on_disk, **options)
    run = runs.train(given)
    dataset = runs.prepare(config(target, epochs=1, **options))
    losses, params = by_hand(given, dataset, dataset.steps_per_epoch)
    assert [c.name for c in run.encoding.features] == ["a", "b"]
    for name, leaf in params.items():
        np.testing.assert_allclose(run.params[name], leaf, rtol=0, atol=ROUNDING)
    (line,) = lines(run)
    assert line["train_loss"] == pytest.approx(np.mean(losses), rel=ROUNDING)
    (held_out,) = dataset.validation.blocks()
    batch = held_out._replace(weights=held_out.weights)
    want = numpy_net.loss(params, batch, loss=dataset.spec.loss)  # not smoothed
    assert line["val_loss"] == pytest.approx(want, rel=ROUNDING)
    assert run.metrics["validation"]["loss"] == pytest.approx(want, rel=ROUNDING)


def test_balanced_classes_weigh_the_same_together():
    dataset = runs.prepare(config(class_weight="balanced"))
    (train,) = dataset.train.blocks()
    totals = np.bincount(train.y, weights=train.weights)
    np.testing.assert_allclose(totals, len(train.y) / 2, rtol=1e-12)
    assert len(set(train.weights)) == 2


@pytest.mark.parametrize("case", CASES)
def test_evaluate_weighs_as_the_run_does(folder, case):
    target, options = CASES[case]
    run = runs.train(config(target, **options))
    held_out = find_labels(read("t.csv"), target, run.task).split(0.2, 0)[1]
    write(folder / "held.csv", {name: column[held_out] for name, column in COLUMNS.items()})
    loaded = runs.load(run.folder)
    want = run.metrics["validation"]["loss"]
    assert predict.evaluate(loaded, "held.csv").result()["loss"] == pytest.approx(want, rel=1e-12)
    assert runs.evaluate_validation(run.folder).result()["loss"] == want
    unweighted = loaded.__class__(
        task=run.task, spec=run.spec, encoding=run.encoding, params=run.params
    )
    plain = predict.evaluate(unweighted, "held.csv").result()["loss"]
    assert abs(plain - want) > 1e-3 * want
    if "sample_weight" in options:
        del (columns := dict(COLUMNS))["weight"]
        write(folder / "without.csv", columns)
        assert predict.predict(loaded, "without.csv", "p.csv") == ROWS  # needs no weights
        with pytest.raises(ValueError, match=r"without.csv: no column 'weight'"):
            predict.evaluate(loaded, "without.csv")


WRONG = {
    "-1": r"row 3, column 'weight': the weight is -1.0; it must be a number of at least 0",
    "heavy": r"column 'weight'",
}


@pytest.mark.parametrize("value", WRONG)
def test_a_wrong_weight_is_refused_with_its_row(folder, value):
    weights = COLUMNS["weight"].astype(object)
    weights[2] = value
    write(folder / "t.csv", COLUMNS | {"weight": weights})
    with pytest.raises(ValueError, match=WRONG[value]):
        runs.prepare(config(sample_weight="weight"))


REFUSED: dict[str, tuple[str, dict[str, Any], str]] = {
    "no such column": ("kind", {"sample_weight": "mass"}, "no column 'mass'"),
    "the target": ("price", {"sample_weight": "price"}, "must not be the target or dropped"),
    "classes of numbers": ("price", {"class_weight": "balanced"}, "`class_weight` must be given"),
    "smoothed numbers": ("price", {"label_smoothing": 0.1}, "`label_smoothing` must be given for"),
    "another word": ("kind", {"class_weight": "equal"}, "`class_weight` must be one of balanced"),
    "all units dropped": ("kind", {"dropout": 1.0}, "`dropout` must be at least 0 and below 1"),
    "no unit to drop": ("kind", {"dropout": 0.1, "hidden": ()}, "`dropout` must be 0 without"),
    "accumulated": (
        "kind",
        {"class_weight": "balanced", "accumulate": 2},
        "`class_weight` must not be given with `accumulate`",
    ),
    "deterministic": (
        "kind",
        {"sample_weight": "weight", "deterministic": True, "batch_size": 8},
        "`sample_weight` must not be given with `deterministic`",
    ),
    "deterministic ensemble": (
        "kind",
        {"ensemble": 2, "deterministic": True, "batch_size": 8},
        "`ensemble` must be 1 with `deterministic`, got 2",
    ),
    "ensemble on a model axis": (
        "kind",
        {"ensemble": 2, "devices": "data=2,model=2"},
        "`ensemble` must be 1 on a mesh with a model axis, got 2 on data=2,model=2",
    ),
    "dual form": (
        "price",
        {"dropout": 0.1, "gram": "on", "optimizer": "sgd"},
        "`gram` must be off for a run with `dropout`",
    ),
    "dual ensemble": (
        "price",
        {"ensemble": 2, "gram": "on", "optimizer": "sgd"},
        "`gram` must be off for an ensemble",
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_does_not_work_is_refused_by_name_before_any_work(folder, case):
    target, options, text = REFUSED[case]
    with pytest.raises(ValueError, match=text):
        runs.train(config(target, **options))
    assert not (folder / "runs").exists()


@pytest.mark.parametrize("on_disk", ["off", "on"])
def test_dropout_is_the_oracles_training_with_the_masks_of_seed_and_step(on_disk):
    given = config("price", epochs=1, hidden=(5, 4), dropout=0.3, seed=3, on_disk=on_disk)
    run = runs.train(given)
    dataset = runs.prepare(given)

    def masks_of(step, rows):
        drawn = net.dropout_masks(3, step, 0.3, [(rows, 5), (rows, 4)], "float64")
        return tuple(np.asarray(mask) for mask in drawn)

    import jax

    with jax.enable_x64(True):
        losses, params = by_hand(given, dataset, dataset.steps_per_epoch, masks_of)
    for name, leaf in params.items():
        np.testing.assert_allclose(run.params[name], leaf, rtol=0, atol=ROUNDING)
    assert lines(run)[0]["train_loss"] == pytest.approx(np.mean(losses), rel=ROUNDING)


def test_epochs_follow_the_rows_and_are_recorded():
    assert [default_epochs(n) for n in (1, 142, 1437, 208_000, 10**8)] == [4000, 336, 106, 9, 1]
    steps = [default_epochs(n) * n for n in (100, 1_000, 10_000, 1_000_000)]
    assert steps == sorted(steps)
    given = config("price", epochs=None, max_time=1e-9)
    run = runs.train(given)
    recorded = json.loads((run.folder / "config.json").read_text())["config"]["epochs"]
    assert recorded == default_epochs(36) == 667
    assert "--epochs" not in run_text.options(runs.Record.load(run.folder))
    assert runs.resume(run.folder, max_time=None, epochs=run.epochs or 1).reason == "epochs"
