"""The first layer in dual form is the same training: every optimizer, loss, batch, and clipping."""

import json
from dataclasses import replace
from functools import partial
from pathlib import Path

import jax
import numpy as np
import optax
import pytest

from jaxnet import data, net, numpy_net, optimizers, runs, train
from jaxnet.engine import gram
from jaxnet.runs import session, trainer
from jaxnet.runs.config import Config
from jaxnet.runs.folder import read_metrics
from jaxnet.spec import Spec

ROWS, COLUMNS = 9, 31


def problem(spec, dtype, shift=0.0):
    batch = data.random_problem(spec, num_rows=ROWS, seed=3, dtype=dtype)
    return batch._replace(x=batch.x + np.asarray(shift, dtype))


def train_both(
    spec, optimizer, *, batch_size=None, clip=None, steps=40, dtype="float64", shift=0.0
):
    """The parameters and losses of the usual form, and of the dual one."""
    batch, params = problem(spec, dtype, shift), spec.init(1, dtype)
    rows_at = data.row_batches(ROWS, batch_size, 5) if batch_size else lambda step: None
    clipped = optimizer if clip is None else optax.chain(optax.clip_by_global_norm(clip), optimizer)
    loss = partial(net.loss, activation=spec.activation, loss=spec.loss)
    step = train.on_rows(train.make_step(loss, clipped), batch)
    usual, losses = train.fit_scan(step, train.init(params, clipped), rows_at, steps)

    form = gram.prepare(batch.x, params["w1"])
    names = {"activation": spec.activation, "loss": spec.loss, "clip_norm": clip}
    step = gram.make_step(form.products(batch.x), batch.y, optimizer, **names)
    state = train.init(params | form.params(), optimizer)
    state, dual_losses = train.fit_scan(step, state, rows_at, steps)
    return (usual.params, losses), (form.weights(state.params), dual_losses)


def distance(got, want):
    """The largest difference of any leaf, relative to the leaf's largest element."""
    got, want = (map(np.asarray, jax.tree.leaves(tree)) for tree in (got, want))
    return max(np.abs(a - b).max() / np.abs(b).max() for a, b in zip(got, want, strict=True))


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize(
    ("name", "batch_size", "clip", "decay"),
    [  # every two of an optimizer, a kind of batch, and clipping with decay or neither, once
        ("sgd", None, None, 0.0),
        ("sgd", 4, 0.1, 0.1),
        ("momentum", None, 0.1, 0.1),
        ("momentum", 4, None, 0.0),
        ("nesterov", None, None, 0.0),
        ("nesterov", 4, 0.1, 0.1),
    ],
)
def test_it_is_the_same_trajectory(name, batch_size, clip, decay):
    spec = Spec((COLUMNS, 5, 4, 3), bias=True, loss="mean_squares")
    rate = optimizers.schedule("warmup", 0.05, 40)
    optimizer = optimizers.make(name, rate, weight_decay=decay)
    usual, dual = train_both(spec, optimizer, batch_size=batch_size, clip=clip)
    assert distance(dual, usual) < 1e-12  # 40 steps of some 40 float64 roundings each
    moved = np.abs(usual[0]["w1"] - spec.init(1, "float64")["w1"]).max()
    assert moved > 1e-3


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize(
    ("activation", "loss"),
    [
        *((name, "cross_entropy") for name in net.ACTIVATIONS),
        *(("relu", name) for name in net.LOSSES),
    ],
)
def test_every_activation_and_loss_with_and_without_bias(activation, loss):
    bias = activation != "my_relu"
    spec = Spec((COLUMNS, 5, 3), bias=bias, activation=activation, loss=loss)
    usual, dual = train_both(spec, optimizers.make("nesterov", 1e-4), batch_size=4)
    assert distance(dual, usual) < 1e-12


@pytest.mark.usefixtures("x64")
def test_a_linear_model_has_a_dual_too():
    spec = Spec((COLUMNS, 3), bias=True, loss="mean_squares")
    usual, dual = train_both(spec, optimizers.make("momentum", 1e-3))
    assert distance(dual, usual) < 1e-12


@pytest.mark.usefixtures("x64")
def test_the_first_step_is_the_oracles():
    spec = Spec((COLUMNS, 5, 3))
    batch, params = problem(spec, "float64"), spec.init(1, "float64")
    value, grads = numpy_net.value_and_grad(params, batch)
    want = {name: params[name] - 1e-4 * grads[name] for name in params}
    _, (got, losses) = train_both(spec, optimizers.make("sgd", 1e-4), steps=1)
    assert losses[0] == pytest.approx(value, rel=1e-13)
    assert distance(got, want) < 1e-13


def test_float32_keeps_its_accuracy_where_the_mean_is_ten_times_the_spread():
    spec = Spec((COLUMNS, 5, 3), bias=True, loss="mean_squares", activation="tanh")
    for shift in (0.0, 10.0):
        optimizer = optimizers.make("momentum", 1e-3)
        with jax.enable_x64(True):
            exact, _ = train_both(spec, optimizer, batch_size=4, shift=shift)
        usual, dual = train_both(spec, optimizer, batch_size=4, shift=shift, dtype="float32")
        # The usual float32 run is off by its own roundings; the dual may not be much worse.
        assert distance(dual, exact) < 4 * distance(usual, exact) + 1e-6


def test_rows_that_were_not_trained_on_are_predicted_as_by_the_weights():
    spec = Spec((COLUMNS, 5, 3), bias=True)
    batch, params = problem(spec, "float32"), spec.init(1)
    other = data.random_problem(spec, num_rows=6, seed=8).x
    form = gram.prepare(batch.x, params["w1"])
    optimizer = optimizers.make("sgd", 1e-3)
    step = gram.make_step(form.products(batch.x), batch.y, optimizer)
    state = train.init(params | form.params(), optimizer)
    state, _ = train.fit_scan(step, state, lambda t: None, 20)
    got = gram.forward(state.params, form.products(other))
    want = net.forward(jax.device_put(form.weights(state.params)), other)
    np.testing.assert_allclose(got, want, rtol=0, atol=2e-5)  # float32 sums of 31 terms


def test_columns_are_taken_in_blocks(monkeypatch):
    spec = Spec((COLUMNS, 5, 3))
    batch, params = problem(spec, "float64"), spec.init(1, "float64")
    whole = gram.prepare(batch.x, params["w1"])
    want = whole.products(batch.x)
    monkeypatch.setattr(gram, "COLUMNS", 7)
    for got, expected in zip(whole.products(batch.x), want, strict=True):
        np.testing.assert_allclose(got, expected, rtol=1e-12, atol=1e-12)  # float64 sums


@pytest.mark.parametrize(("x", "w1"), [((4, 3), (2, 5)), ((4,), (3, 5))])
def test_rows_that_do_not_fit_the_weights_are_refused(x, w1):
    with pytest.raises(ValueError, match="`x` must be"):
        gram.prepare(np.zeros(x), np.zeros(w1))


def test_the_operations_favour_the_dual_form_for_many_columns_and_many_steps():
    def dual_is_cheaper(rows, columns, batch_size, steps):
        usual, dual = gram.operations(rows, columns, 100, batch_size, steps)
        return dual < usual

    assert dual_is_cheaper(200, 20_000, 200, 1000)
    assert dual_is_cheaper(200, 20_000, 32, 1000)
    assert not dual_is_cheaper(200, 20_000, 200, 1)  # its products alone are two steps' worth
    assert not dual_is_cheaper(1438, 64, 32, 2200)


# -- as `jaxnet train` uses it


@pytest.fixture
def table(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(session, "_plot", lambda *args: None)
    rng = np.random.default_rng(0)
    x = rng.standard_normal((24, 70)).astype("float32")
    np.savez("genes.npz", x=x, y=(x[:, :3].sum(axis=1) > 0).astype(int), level=x @ rng.random(70))
    return "genes.npz"


def config(table, **options):
    defaults: dict = {
        "target": "y",
        "drop": ("level",),
        "epochs": 30,
        "hidden": (6,),
        "optimizer": "nesterov",
    }
    defaults |= {"learning_rate": 0.01, "batch_size": 5, "dtype": "float64"}
    return Config(data=table, **defaults | options)


def lines(folder):
    return read_metrics(Path(folder))


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"clip_norm": 0.1, "weight_decay": 0.1},
        {"batch_size": 19},
        {"target": "level", "drop": ("y",), "evaluate_every": 4},
    ],
)
def test_a_run_is_the_same_with_and_without(table, options):
    made = [runs.train(config(table, gram=gram, out=gram, **options)) for gram in ("on", "off")]
    assert distance(made[0].params, made[1].params) < 1e-11  # as above, through 90 steps
    for on, off in zip(lines("on"), lines("off"), strict=True):
        assert on == pytest.approx(off, rel=1e-9, abs=1e-12)


def test_it_is_chosen_where_it_is_cheaper_and_stays_chosen(table):
    for options, chosen in (
        ({"epochs": 300}, "on"),
        ({"epochs": 1}, "off"),
        ({"epochs": 300, "optimizer": "adam"}, "off"),
        ({"epochs": 300, "gram": "off"}, "off"),
    ):
        chosen_by = config(table, **options)
        assert trainer.resolve(chosen_by, runs.prepare(chosen_by))[0].gram == chosen
    run = runs.train(config(table, epochs=1, out="run"))
    assert json.loads((run.folder / "config.json").read_text())["config"]["gram"] == "off"
    assert runs.resume("run", epochs=300).epochs == 300


def test_a_resumed_run_makes_the_same_bits(table):
    options = config(table, gram="on", epochs=12, checkpoint_every=0.0, schedule="constant")
    whole = runs.train(replace(options, out="whole"))
    runs.train(replace(options, out="parts", epochs=5))
    parts = runs.resume("parts", epochs=12)
    for name, leaf in whole.params.items():
        np.testing.assert_array_equal(parts.params[name], leaf)
    assert lines("parts") == lines("whole")


def test_it_is_refused_for_optimizers_that_are_not_linear(table):
    with pytest.raises(ValueError, match="`gram` must be off for the optimizer 'adam'"):
        runs.train(config(table, gram="on", optimizer="adam"))


def test_given_weights_are_trained_in_the_usual_form(table):
    options = config(table, epochs=300)
    dataset = runs.prepare(options)
    params = dataset.spec.init(9, "float64")
    folder = runs.create(options, params, dataset=dataset)
    assert runs.Record.load(folder).config.gram == "off"
    with pytest.raises(ValueError, match="`gram` must be off for a run that begins with given"):
        runs.create(config(table, gram="on"), params, dataset=dataset)
