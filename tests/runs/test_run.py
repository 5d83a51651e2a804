import json
import math
from dataclasses import asdict
from pathlib import Path

import jax
import numpy as np
import pytest
from safetensors.numpy import load_file

from jaxnet import data, numpy_net, runs
from jaxnet.engine import epochs
from jaxnet.files import LOCK
from jaxnet.runs import session
from jaxnet.runs.config import Config
from jaxnet.runs.folder import FILES
from jaxnet.spec import Batch
from jaxnet.tables.metrics import metrics_for

RANDOM = np.random.default_rng(0)
X = RANDOM.standard_normal((47, 3))
PRICE = 1000 + 50 * (X @ [1.0, -2.0, 0.5]) + RANDOM.standard_normal(47)
TABLES = {
    "class": "y,a,b,c\n"
    + "".join(f"{'no' if r[0] < 0 else 'yes'},{r[0]},{r[1]},{r[2]}\n" for r in X),
    "price": "y,a,b,c\n"
    + "".join(f"{y},{r[0]},{r[1]},{r[2]}\n" for y, r in zip(PRICE, X, strict=True)),
}
PLOT = session._plot


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    """Every test works in a folder of its own, which holds the two tables."""
    monkeypatch.chdir(tmp_path)
    for name, text in TABLES.items():
        (tmp_path / f"{name}.csv").write_text(text)
    monkeypatch.setattr(session, "_plot", lambda folder, *_: (folder / "loss.png").touch())  # slow
    return tmp_path


def config(name="class", **options):
    defaults: dict = {"epochs": 3, "hidden": (5,), "batch_size": 8, "validation": 0.3}
    return Config(data=f"{name}.csv", target="y", **(defaults | options))


def lines_of(run):
    return [json.loads(line) for line in (run.folder / "metrics.jsonl").read_text().splitlines()]


def test_a_run_leaves_its_whole_folder(monkeypatch):
    monkeypatch.setattr(session, "_plot", PLOT)
    run = runs.train(config())
    names = {path.name for path in run.folder.iterdir()}
    assert names - {LOCK} == set(FILES)
    assert (run.folder / "loss.png").read_bytes().startswith(b"\x89PNG")
    files = [path for path in run.folder.rglob("*") if path.name != LOCK]
    assert {path.stat().st_mode & 0o044 for path in files} == {0o044}


def test_the_config_file_defines_the_run():
    options = config("price", out="a/b", seed=3)
    run = runs.train(options)
    written = json.loads((run.folder / "config.json").read_text())
    assert written["config"] == json.loads(
        json.dumps(asdict(options) | {"gram": "off", "on_disk": "off"})
    )
    assert written["task"] == "regression"
    assert written["spec"]["sizes"] == [3, 5, 1]
    assert written["rows"] == {"train": 33, "validation": 14}
    assert written["data"]["name"] == "price.csv"
    assert written["data"]["bytes"] == len(TABLES["price"])
    assert [column["name"] for column in written["encoding"]["features"]] == ["a", "b", "c"]
    assert written["encoding"]["target"]["mean"] == list(run.encoding.target.mean)
    assert written["versions"]["jax"] == jax.__version__


@pytest.mark.parametrize(
    ("name", "metrics"),
    [("class", ["val_loss", "val_accuracy"]), ("price", ["val_loss", "val_rmse", "val_r2"])],
)
def test_each_epoch_leaves_a_line_and_the_best_is_the_result(name, metrics):
    run = runs.train(config(name))
    lines = lines_of(run)
    assert [list(line) for line in lines] == [["step", "epoch", "train_loss", *metrics]] * 3
    assert [(line["step"], line["epoch"]) for line in lines] == [(4, 1), (8, 2), (12, 3)]
    best = min(lines, key=lambda line: line["val_loss"])
    assert (run.epoch, run.epochs, run.reason) == (best["epoch"], 3, "epochs")
    result = {name: run.metrics["validation"][name.removeprefix("val_")] for name in metrics}
    # a mean of 14 rows in float32 on the device, and in float64 of the same outputs
    assert result == pytest.approx({name: best[name] for name in metrics}, rel=2e-6, abs=0)


@pytest.mark.parametrize("name", TABLES)
@pytest.mark.parametrize("activation", ["relu", "gelu"])
def test_the_saved_weights_reproduce_the_metrics_in_numpy(name, activation):
    options = config(name, activation=activation, hidden=(5, 4))
    dataset = runs.prepare(options)
    run = runs.train(options, dataset=dataset)
    params = load_file(run.folder / "model" / "params.safetensors")
    assert sorted(params) == ["b1", "b2", "b3", "w1", "w2", "w3"]
    for split, rows in (("train", dataset.train), ("validation", dataset.validation)):
        (batch,) = rows.blocks()
        loss = numpy_net.loss(params, batch, activation=activation, loss=run.spec.loss)
        # float32: some 20 products and sums at 6e-8 each.
        assert run.metrics[split]["loss"] == pytest.approx(loss, rel=5e-6, abs=0)
    if name == "class":
        y_pred = numpy_net.forward(params, dataset.validation.x, activation=activation)
        accuracy = np.mean(y_pred.argmax(axis=1) == dataset.validation.y)
        assert run.metrics["validation"]["accuracy"] == accuracy


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_regression_is_scored_in_the_targets_units(dtype):
    options = config(
        "price", dtype=dtype, seed=3, epochs=30, optimizer="momentum", learning_rate=0.01
    )
    dataset = runs.prepare(options)
    run = runs.train(options, dataset=dataset)
    rows = data.split(47, 0.3, 3)[1]
    y_pred = numpy_net.forward(run.params, dataset.validation.x)[:, 0].astype(float)
    predicted = y_pred * run.encoding.target.std[0] + run.encoding.target.mean[0]
    residual = predicted - PRICE[rows]
    total = PRICE[rows] - PRICE[rows].mean()
    # The residual is a difference of numbers near 1000 (10 std) that each round.
    rel = {"float32": 2e-5, "float64": 1e-12}[dtype]
    expected = {
        "loss": np.mean((residual / run.encoding.target.std[0]) ** 2),
        "rmse": math.sqrt(np.mean(residual**2)),
        "mae": np.mean(np.abs(residual)),
        "r2": 1 - np.sum(residual**2) / np.sum(total**2),
    }
    assert list(expected) == list(run.metrics["validation"])
    for name, value in expected.items():
        assert run.metrics["validation"][name] == pytest.approx(value, rel=rel, abs=0), name
    assert {str(leaf.dtype) for leaf in run.params.values()} == {dtype}


def test_r2_is_the_mean_over_the_columns_of_the_target():
    y = np.stack([PRICE, X[:, 0] * X[:, 1]], axis=1)
    np.savez("two.npz", x=X, y=y)
    options = Config(data="two.npz", target="y", dtype="float64", epochs=2)
    dataset = runs.prepare(options)
    run = runs.train(options, dataset=dataset)
    y_pred, wanted = numpy_net.forward(run.params, dataset.validation.x), dataset.validation.y
    assert wanted.shape[1] == 2
    r2 = [
        1 - ((p - t) ** 2).sum() / ((t - t.mean()) ** 2).sum()
        for p, t in zip(y_pred.T, wanted.T, strict=True)
    ]
    # float64: sums of ten terms.
    assert run.metrics["validation"]["r2"] == pytest.approx(np.mean(r2), rel=1e-12, abs=0)


def test_r2_is_none_where_the_validation_rows_are_all_alike():
    batch = Batch(np.zeros((7, 1), np.float32), np.full((7, 1), 0.1, np.float32))
    dataset = runs.prepare(config("price"))
    metrics = metrics_for("mean_squares", dataset.encoding.target)
    metrics.update(batch.x, batch.y)
    metrics = metrics.result()
    assert (metrics["r2"], json.dumps(metrics["r2"])) == (None, "null")
    # The residual is 0.1, rounded to float32, in units of the target's std.
    expected = 0.1 * dataset.encoding.target.std[0]
    assert metrics["rmse"] == pytest.approx(expected, rel=1e-7, abs=0)


def test_the_seed_decides_every_bit():
    first, again, other = (
        runs.train(config("price", seed=seed, out=f"run {i}")) for i, seed in enumerate((4, 4, 5))
    )
    texts = [(run.folder / "metrics.jsonl").read_bytes() for run in (first, again, other)]
    assert texts[0] == texts[1] != texts[2]
    for name, value in first.params.items():
        np.testing.assert_array_equal(value, again.params[name])
        assert not np.array_equal(value, other.params[name])


@pytest.mark.parametrize("seed", [0, 4])
def test_a_run_is_gradient_descent_over_the_seeded_weights_and_rows(seed):
    options = config(
        "price", seed=seed, dtype="float64", optimizer="sgd", schedule="constant", learning_rate=0.1
    )
    dataset = runs.prepare(options)
    run = runs.train(options, dataset=dataset)
    params = dataset.spec.init(seed, "float64")
    batch_at = data.batches(dataset.train, dataset.batch_size, seed)
    for step in range(12):
        _, grads = numpy_net.value_and_grad(params, batch_at(step), loss="mean_squares")
        params = {name: value - 0.1 * grads[name] for name, value in params.items()}
    for name, value in params.items():
        # float64: a dozen updates of numbers near 1, each some roundings of 1e-16.
        np.testing.assert_allclose(run.params[name], value, rtol=0, atol=1e-13, err_msg=name)


def test_float64_is_double_precision_to_the_end():
    single, double = (runs.train(config("price", dtype=d)) for d in ("float32", "float64"))
    for name, value in double.params.items():
        assert (value != value.astype(np.float32)).all(), name  # the updates were not rounded
        # The same seed draws the same weights and rows, so that both agree to float32's rounding of
        # a dozen Adam steps of at most 1e-3 each, on weights below 1.
        np.testing.assert_allclose(single.params[name], value, rtol=0, atol=1e-5, err_msg=name)
    assert jax.numpy.zeros(1).dtype == np.float32  # restored


def test_runs_are_numbered_and_never_overwritten(folder):
    (folder / "runs" / "class-2").mkdir(parents=True)
    (folder / "runs" / "class-2" / "notes.txt").write_text("mine")
    made = [runs.train(config(epochs=1)).folder.as_posix() for _ in range(2)]
    assert made == ["runs/class-1", "runs/class-3"]
    assert [path.name for path in (folder / "runs" / "class-2").iterdir()] == ["notes.txt"]


@pytest.mark.parametrize("held", FILES)
def test_a_folder_that_holds_a_run_is_refused_and_left_alone(folder, held):
    (folder / "old").mkdir()
    (folder / "old" / held).write_text("kept")
    with pytest.raises(
        FileExistsError,
        match="`out` must not hold a run already: old; resume it with jaxnet train --resume old",
    ):
        runs.train(config(out="old"))
    assert [(path.name, path.read_text()) for path in (folder / "old").iterdir()] == [
        (held, "kept")
    ]


def test_a_folder_with_other_files_can_take_a_run(folder):
    (folder / "mine").mkdir()
    (folder / "mine" / "notes.txt").write_text("mine")
    runs.train(config(out="mine", epochs=1))
    names = {path.name for path in (folder / "mine").iterdir()}
    assert names - {LOCK} == {*FILES, "notes.txt"}


def test_an_out_that_cannot_be_a_folder_is_refused(folder):
    for out in ("class.csv", "class.csv/below"):
        with pytest.raises(OSError, match=f"`out` must be a folder that can be made, got {out} "):
            runs.train(config(out=out))
    assert (folder / "class.csv").read_text() == TABLES["class"]


@pytest.mark.parametrize("out", [None, "new", "new/deep/er", "mine", "mine/new"])
@pytest.mark.parametrize("batch_size", [8, 33])
def test_a_loss_that_becomes_nan_names_its_step_and_leaves_nothing(folder, out, batch_size):
    (folder / "mine").mkdir()
    (folder / "mine" / "notes.txt").write_text("mine")
    before = sorted(folder.rglob("*"))
    options = config(
        "price", out=out, batch_size=batch_size, optimizer="sgd", learning_rate=1e30, hidden=(5, 5)
    )
    kind = "the validation loss" if batch_size == 33 else "the loss"  # a step to an epoch
    with pytest.raises(
        FloatingPointError, match=f"^{kind} became (nan|inf) at step 1: try a smaller learning rate"
    ):
        runs.train(options)
    assert sorted(folder.rglob("*")) == before


def test_a_run_that_diverges_late_keeps_the_epochs_before():
    options = config(
        "price", out="late", epochs=40, batch_size=33, optimizer="sgd", learning_rate=2.0
    )
    with pytest.raises(FloatingPointError, match=r"at step \d+: try"):
        runs.train(options)
    lines = [json.loads(line) for line in Path("late/metrics.jsonl").read_text().splitlines()]
    assert 1 <= len(lines) < 40
    assert all(math.isfinite(value) for line in lines for value in line.values())


def test_an_interrupt_before_anything_is_saved_leaves_nothing(folder, monkeypatch):
    def interrupt(*args):
        raise KeyboardInterrupt

    monkeypatch.setattr(epochs, "run", interrupt)
    before = sorted(folder.rglob("*"))
    with pytest.raises(KeyboardInterrupt):
        runs.train(config())
    assert sorted(folder.rglob("*")) == before


def test_progress_counts_the_steps_and_carries_the_last_metrics():
    seen = []
    run = runs.train(config(), on_progress=seen.append)
    assert [progress.step for progress in seen] == sorted(progress.step for progress in seen)
    assert {progress.num_steps for progress in seen} == {12}
    assert (seen[-1].step, seen[-1].metrics) == (12, lines_of(run)[-1])


def test_the_default_batch_is_32_rows_or_all_of_a_smaller_table():
    for validation, batch_size in ((0.3, 32), (0.5, 23)):
        assert runs.prepare(config(batch_size=None, validation=validation)).batch_size == batch_size


def test_the_validation_rows_are_never_trained_on():
    dataset = runs.prepare(config("price"))
    rows = np.concatenate([dataset.train.x, dataset.validation.x])
    assert len(np.unique(rows, axis=0)) == len(rows) == 47


def test_no_hidden_layer_is_a_linear_model():
    assert runs.train(config(hidden=(), epochs=1)).spec.sizes == (3, 2)


def test_the_digits_reach_97_percent_with_the_defaults():
    run = runs.train(Config())
    assert run.folder.as_posix() == "runs/digits-1"
    accuracy = run.metrics["validation"]["accuracy"]
    assert accuracy is not None
    assert accuracy >= 0.97
