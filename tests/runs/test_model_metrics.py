"""A model's classes, thresholds, intervals and metrics, and what training fits for them."""

import io
import json
from dataclasses import replace

import jax
import jax.export
import numpy as np
import pytest
from run_helpers import write_run

from jaxnet import runs
from jaxnet.export import export
from jaxnet.runs.config import Config
from jaxnet.runs.predict import predict
from jaxnet.spec import QUANTILES, Spec
from jaxnet.tables.calibration import balanced_threshold, fit_temperature, softmax
from jaxnet.tables.reading import reader

N = 53
RNG = np.random.default_rng(0)
COLUMNS = {"id": np.arange(N) + 0.5, "length": RNG.standard_normal(N) * 3 + 7}
TARGETS = {
    "boolean": COLUMNS["length"] + RNG.standard_normal(N) > 8,
    "text": np.array(["b", "a", "c"], object)[np.arange(N) % 3],
    "real": COLUMNS["length"] * 40 + 1000,
    "wide": RNG.standard_normal((N, 2)) * 40 + 1000,
}


def make(tmp_path, kind, **changes):
    """An untrained model, and its columns with the target."""
    columns = COLUMNS | {"y": TARGETS[kind]}
    plain: dict = {n: c.astype(str) if c.dtype == object else c for n, c in columns.items()}
    np.savez(tmp_path / "data.npz", **plain)
    return replace(write_run(tmp_path / "run", tmp_path / "data.npz", "y"), **changes), columns


def of_quantiles(tmp_path, kind):
    model, columns = make(tmp_path, kind)
    sizes = (2, 5, len(QUANTILES) * model.encoding.target.width)
    spec = Spec(sizes, True, "relu", "quantile")
    return replace(model, spec=spec, params=spec.init(1)), columns


def test_the_classes_are_those_of_training_in_order(tmp_path):
    assert make(tmp_path, "boolean")[0].classes.tolist() == [False, True]
    (tmp_path / "other").mkdir()
    model, _ = make(tmp_path / "other", "real")
    with pytest.raises(ValueError, match="`classes` must be asked of a classification, got a regr"):
        model.classes  # noqa: B018


def test_a_temperature_divides_the_logits_and_changes_no_class(tmp_path):
    model, columns = make(tmp_path, "text")
    warm = replace(model, temperature=2.5)
    np.testing.assert_array_equal(model.predict(columns), warm.predict(columns))
    logits = np.log(model.probabilities(columns))
    # float32: a few roundings of numbers near 1
    np.testing.assert_allclose(warm.probabilities(columns), softmax(logits / 2.5), rtol=1e-5)
    np.testing.assert_allclose(
        warm.folded().probabilities(columns), warm.probabilities(columns), rtol=1e-5
    )


def test_a_threshold_decides_between_two_classes(tmp_path):
    model, columns = make(tmp_path, "boolean", temperature=0.7)
    p = model.probabilities(columns)[:, 1]
    cut = float(np.sort(p)[N // 3])
    model = replace(model, balance=cut)
    np.testing.assert_array_equal(model.predict(columns, threshold=0.0), np.ones(N, bool))
    for threshold in (cut + 1e-5, "balance"):
        found = model.predict(columns, threshold=threshold)
        assert abs(int(found.sum()) - int((p >= cut).sum())) <= 1  # of the row at the threshold
        report = model.evaluate(columns, threshold=threshold)
        assert report["accuracy"] == (found == TARGETS["boolean"]).mean()
        assert report["threshold"] == pytest.approx(cut, abs=1e-4)


@pytest.mark.parametrize(
    ("kind", "threshold", "message"),
    [
        ("text", 0.5, "for two classes only, got 3 classes"),
        ("real", "balance", "for two classes only, got numbers"),
        ("boolean", 1.5, r"must be a number 0\.\.1, or balance; got 1\.5"),
        ("boolean", "half", r"must be a number 0\.\.1, or balance; got 'half'"),
        ("boolean", float("nan"), r"must be a number 0\.\.1, or balance; got nan"),
        ("boolean", "balance", "must be a number for this run, whose training has not ended"),
    ],
)
def test_a_threshold_that_does_not_fit_is_refused(tmp_path, kind, threshold, message):
    model, columns = make(tmp_path, kind)
    for function in (model.predict, model.evaluate):
        with pytest.raises(ValueError, match=f"^`threshold` .*{message}"):
            function(columns, threshold=threshold)


@pytest.mark.parametrize("kind", ["boolean", "real", "wide"])
def test_the_metrics_of_columns_are_those_of_the_predictions(tmp_path, kind):
    model, columns = make(tmp_path, kind)
    report, predicted, y = model.evaluate(columns), model.predict(columns), TARGETS[kind]
    assert report["rows"] == N
    if kind == "boolean":
        assert model.score(columns) == report["accuracy"] == (predicted == y).mean()
        assert json.loads(json.dumps(report)) == report
        return
    residual = (predicted - y).reshape(N, -1)
    total = (y - y.mean(axis=0)).reshape(N, -1)
    # float32 outputs, of numbers near 1000 that are subtracted
    assert report["mae"] == pytest.approx(np.abs(residual).mean(), rel=1e-5)
    assert report["rmse"] == pytest.approx(np.sqrt(np.square(residual).mean()), rel=1e-5)
    r2 = (1 - np.square(residual).sum(axis=0) / np.square(total).sum(axis=0)).mean()
    assert model.score(columns) == pytest.approx(r2, rel=1e-5)


@pytest.mark.parametrize("kind", ["real", "wide"])
def test_quantiles_are_predicted_as_the_median_with_its_interval(tmp_path, kind):
    model, columns = of_quantiles(tmp_path, kind)
    predicted, (low, high) = model.predict(columns), model.interval(columns)
    assert predicted.shape == low.shape == high.shape == TARGETS[kind].shape
    assert ((low <= predicted) & (predicted <= high)).all()
    y = TARGETS[kind]
    report = model.evaluate(columns)
    assert report["coverage"] == ((low <= y) & (y <= high)).mean()
    assert report["mae"] == pytest.approx(np.abs(predicted - y).mean(), rel=1e-5)  # as above

    reader_columns = {name: column for name, column in columns.items() if name != "y"}
    np.savez(tmp_path / "new.npz", **reader_columns)
    assert predict(model, tmp_path / "new.npz", tmp_path / "out.csv") == N
    found = reader.read(tmp_path / "out.csv").columns
    own = ["y"] if kind == "real" else ["y_0", "y_1"]
    assert list(found) == [*own, *(f"{name}_low" for name in own), *(f"{n}_high" for n in own)]
    written = np.stack(list(found.values()), axis=1)
    expected = np.concatenate([a.reshape(N, -1) for a in (predicted, low, high)], axis=1)
    np.testing.assert_allclose(written, expected, rtol=1e-6)  # float32, by blocks


def test_an_interval_is_of_quantiles_only(tmp_path):
    model, columns = make(tmp_path, "real")
    with pytest.raises(ValueError, match="`loss` must be quantile for an interval, got mean_sq"):
        model.interval(columns)


def test_all_columns_are_kept_and_the_target_gets_another_name_beside_it(tmp_path):
    model, columns = make(tmp_path, "boolean")
    out = io.BytesIO()
    assert predict(model, tmp_path / "data.npz", out, keep="all", threshold=0.0) == N
    lines = out.getvalue().decode().splitlines()
    assert lines[0] == '"id","length","y","y_predicted","p_False","p_True"'
    assert len(lines) == N + 1
    assert lines[1].split(",")[2:4] == [str(TARGETS["boolean"][0]).lower(), "true"]
    predict(model, tmp_path / "data.npz", tmp_path / "out.parquet", keep=["y"])
    kept = reader.read(tmp_path / "out.parquet").columns
    np.testing.assert_array_equal(kept["y"], columns["y"])
    np.testing.assert_array_equal(kept["y_predicted"], model.predict(columns))


@pytest.fixture
def trained(tmp_path, monkeypatch):
    """A run of two classes, and its dataset."""
    monkeypatch.chdir(tmp_path)
    y = np.where(COLUMNS["length"] + 2 * RNG.standard_normal(N) > 8, "yes", "no")
    np.savez("t.npz", length=COLUMNS["length"], other=RNG.standard_normal(N), y=y)
    config = Config(data="t.npz", target="y", epochs=40, learning_rate=0.05, validation=0.4)
    dataset = runs.prepare(config)
    return runs.train(config, dataset=dataset), dataset


def test_training_fits_temperature_and_balance_to_the_validation_rows(trained):
    run, dataset = trained
    (batch,) = dataset.validation.blocks()
    logits = run.outputs(batch.x)
    assert run.temperature == fit_temperature(logits, batch.y) != 1
    p = softmax(logits / run.temperature)[:, 1]
    assert run.balance == pytest.approx(balanced_threshold(p, batch.y), rel=1e-12)
    found = run.calibration
    assert found["log_loss"] < found["uncalibrated"]["log_loss"]
    assert found["uncalibrated"]["log_loss"] == pytest.approx(
        run.metrics["validation"]["loss"], rel=1e-12
    )
    report = runs.evaluate_validation(run.folder).report()
    assert {name: report[name] for name in found} == found
    for model in (runs.load(run.folder), runs.resume(run.folder)):
        assert (model.temperature, model.balance) == (run.temperature, run.balance)


def test_an_export_gives_the_calibrated_probabilities(trained, tmp_path):
    run, _ = trained
    done = export(run, tmp_path / "out", ["stablehlo"])
    assert any("temperature" in note for note in done.notes)
    call = jax.export.deserialize((tmp_path / "out/model.stablehlo").read_bytes()).call
    numbers = np.stack([COLUMNS["length"], np.zeros(N)], axis=1).astype("float32")
    expected = run.probabilities({"length": COLUMNS["length"], "other": np.zeros(N)})
    # float32: the encoding is rounded before the network instead of after
    np.testing.assert_allclose(call(numbers), expected, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("options", [{}, {"gram": "on", "optimizer": "momentum"}])
def test_a_run_of_quantiles_covers_most_rows(tmp_path, monkeypatch, options):
    monkeypatch.chdir(tmp_path)
    x = RNG.standard_normal((600, 2))
    noise = RNG.standard_normal((600, 2)) * [1, 10]
    np.savez("t.npz", x=x, y=x @ [[3, 1], [0, 20]] + noise)
    config = Config(
        data="t.npz", target="y", loss="quantile", epochs=30, numbers="standard", **options
    )
    run = runs.train(config)
    assert run.spec.sizes == (2, 128, 6)
    last = json.loads((run.folder / "metrics.jsonl").read_text().splitlines()[run.epoch - 1])
    metrics = run.metrics["validation"]
    for name in ("loss", "rmse", "r2"):  # a mean of 240 numbers in float32
        assert metrics[name] == pytest.approx(last[f"val_{name}"], rel=1e-5)
    # 80 % of 240 numbers, of a network that has seen 960: a standard deviation of 3 %
    assert 0.65 < metrics["coverage"] < 0.92
    assert runs.load(run.folder).spec.loss == "quantile"


def test_quantiles_of_classes_are_refused(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    np.savez("t.npz", x=np.arange(8.0), y=np.arange(8) % 2 == 0)
    with pytest.raises(ValueError, match=r"^`loss` must be auto for classification, got q"):
        runs.prepare(Config(data="t.npz", target="y", loss="quantile"))
