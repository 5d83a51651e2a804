import json

import numpy as np
import pytest
from run_helpers import write_run

from jaxnet import numpy_net
from jaxnet.runs import folder
from jaxnet.runs.evaluation import ROWS, _forward, outputs
from jaxnet.runs.model import load
from jaxnet.spec import Spec
from jaxnet.tables.reading.reader import read
from jaxnet.tables.rows import encode

N = 37
RNG = np.random.default_rng(0)
FEATURES = {
    "length": RNG.standard_normal(N) * 3 + 7,
    "colour": np.array(["red", "blue", "ägg"], object)[np.arange(N) % 3],
    "month": np.arange(N) * 5 % 4,
    "wet": np.arange(N) % 2 == 0,
    "pair": RNG.standard_normal((N, 2)),
}
TARGETS = {
    "integer": np.array([30, 4, -5])[np.arange(N) % 3],
    "text": np.array(["b", "a", "c", "dd"], object)[np.arange(N) % 4],
    "boolean": np.arange(N) % 5 > 2,
    "real": RNG.standard_normal(N) * 40 + 1000,
    "wide": RNG.standard_normal((N, 3)) * 40 + 1000,
}
CLASSES = ("integer", "text", "boolean")
TOLERANCE = {  # float32: some tens of operations on numbers near 1, each rounding by 6e-8
    "float32": {"rtol": 2e-5, "atol": 2e-6},
    "float64": {"rtol": 1e-12, "atol": 1e-13},  # as above with 1e-16, and to spare
}


def make(tmp_path, kind, **options):
    columns = FEATURES | {"y": TARGETS[kind]}
    plain: dict = {n: c.astype(str) if c.dtype == object else c for n, c in columns.items()}
    np.savez(tmp_path / "data.npz", **plain)
    model = write_run(
        tmp_path / "run", tmp_path / "data.npz", "y", categorical=["month"], **options
    )
    return model, read(tmp_path / "data.npz")


def oracle(model, table):
    x = encode(table, model.encoding, "float64")[0]
    params = {name: leaf.astype(float) for name, leaf in model.params.items()}
    return numpy_net.forward(params, x, activation=model.spec.activation)


@pytest.mark.parametrize("dtype", TOLERANCE)
@pytest.mark.parametrize("kind", CLASSES)
def test_classes_are_those_of_numpy_in_their_own_kind(tmp_path, kind, dtype):
    make(tmp_path, kind, dtype=dtype, activation="tanh")
    model = load(tmp_path / "run")
    table = read(tmp_path / "data.npz")
    logits = oracle(model, table)
    predicted = model.predict(FEATURES)
    names = np.unique(TARGETS[kind].astype(str))
    assert predicted.dtype == TARGETS[kind].dtype
    assert predicted.shape == (N,)
    assert [str(value) for value in predicted] == names[logits.argmax(axis=1)].tolist()
    assert set(predicted.tolist()) <= set(TARGETS[kind].tolist())

    probabilities = model.probabilities(FEATURES)
    exps = np.exp(logits - logits.max(axis=1, keepdims=True))
    expected = exps / exps.sum(axis=1, keepdims=True)
    assert probabilities.dtype == dtype
    np.testing.assert_allclose(probabilities, expected, **TOLERANCE[dtype])
    eps = np.finfo(dtype).eps  # at most five terms are divided and added
    np.testing.assert_allclose(probabilities.sum(axis=1), 1, rtol=0, atol=8 * eps)


@pytest.mark.parametrize("dtype", TOLERANCE)
@pytest.mark.parametrize("kind", ["real", "wide"])
def test_numbers_are_those_of_numpy_in_the_targets_units(tmp_path, kind, dtype):
    model, table = make(tmp_path, kind, dtype=dtype)
    predicted = load(tmp_path / "run").predict(FEATURES)
    mean, std = np.array(model.encoding.target.mean), np.array(model.encoding.target.std)
    expected = oracle(model, table) * std + mean
    assert predicted.dtype == np.float64
    assert predicted.shape == TARGETS[kind].shape
    np.testing.assert_allclose(predicted.reshape(N, -1), expected, **TOLERANCE[dtype])
    with pytest.raises(ValueError, match="`probabilities` must be asked of a classification, got"):
        model.probabilities(FEATURES)


def test_the_order_of_columns_and_of_rows_does_not_matter(tmp_path):
    model, _ = make(tmp_path, "text")
    shuffled = {name: FEATURES[name][::-1] for name in reversed(FEATURES)} | {"extra": None}
    np.testing.assert_array_equal(model.predict(shuffled), model.predict(FEATURES)[::-1])
    one = {name: column[:1] for name, column in FEATURES.items()}
    assert model.predict(one).shape == (1,)
    none = {name: column[:0] for name, column in FEATURES.items()}
    assert model.predict(none).shape == (0,)
    assert model.probabilities(none).shape == (0, 4)


def test_a_matrix_stands_for_columns_of_numbers(tmp_path):
    x = RNG.standard_normal((N, 3))
    np.savez(tmp_path / "a.npz", a=x[:, 0], b=x[:, 1:], y=TARGETS["real"])
    model = write_run(tmp_path / "run", tmp_path / "a.npz", "y")
    expected = model.predict({"b": x[:, 1:], "a": x[:, 0]})
    np.testing.assert_array_equal(model.predict(x), expected)
    np.testing.assert_array_equal(model.predict(x.tolist()), expected)


def test_an_unseen_category_is_refused_or_zero(tmp_path):
    model, _ = make(tmp_path, "integer")
    columns = FEATURES | {"colour": np.array(["mauve"] * N)}
    for function in (model.predict, model.probabilities):
        with pytest.raises(ValueError, match=r"^`columns`: row 1, column 'colour': 'mauve' "):
            function(columns)
        assert len(function(columns, unseen="zero")) == N


def test_many_rows_go_through_in_parts():
    spec = Spec((3, 4, 2), True)
    x = RNG.standard_normal((ROWS + 5, 3)).astype("float32")
    params = spec.init(0)
    whole = outputs(spec, params, x)
    assert whole.shape == (ROWS + 5, 2)
    # Float32, a sum of four products near 1.
    expected = numpy_net.forward(params, x, activation=spec.activation)
    np.testing.assert_allclose(whole, expected, rtol=1e-5, atol=1e-6)


def test_a_model_is_loaded_as_it_was_saved(tmp_path):
    model, _ = make(tmp_path, "boolean", dtype="float64", hidden=(5, 4))
    loaded = load(str(tmp_path / "run"))
    assert (loaded.task, loaded.spec, loaded.encoding) == (model.task, model.spec, model.encoding)
    assert list(loaded.params) == ["w1", "b1", "w2", "b2", "w3", "b3"]
    for name, leaf in model.params.items():
        np.testing.assert_array_equal(loaded.params[name], leaf)
        assert loaded.params[name].dtype == "float64"


def test_a_folder_without_a_whole_run_is_refused(tmp_path):
    make(tmp_path, "real")
    run = tmp_path / "run"
    with pytest.raises(FileNotFoundError, match=r"not the folder of a run, it has no config\.json"):
        load(tmp_path)
    params = run / folder.PARAMS
    content = params.read_bytes()
    middle = len(content) - 9
    flipped = content[:middle] + bytes([255 - content[middle]]) + content[middle + 1 :]
    for bad in (content[:-4], b"", flipped):
        params.write_bytes(bad)
        with pytest.raises(ValueError, match=r"params\.safetensors: damaged, or not of this run"):
            load(run)
    params.unlink()
    with pytest.raises(FileNotFoundError, match="has no weights yet; jaxnet train"):
        load(run)
    config = run / folder.CONFIG
    described = json.loads(config.read_text())
    del described["encoding"]["target"]
    for bad in ("{", "[]", "{}", json.dumps(described)):
        config.write_text(bad)
        with pytest.raises(ValueError, match=r"config\.json: "):
            load(run)


def test_outputs_of_any_number_of_rows_share_a_few_programs_and_agree():
    spec = Spec((4, 9, 3), True, "silu")
    params, x = spec.init(0), RNG.standard_normal((ROWS + 700, 4)).astype("float32")
    whole, program = outputs(spec, params, x), _forward(spec)
    for number in RNG.integers(1, len(x), 300):
        np.testing.assert_allclose(
            outputs(spec, params, x[:number]), whole[:number], **TOLERANCE["float32"]
        )
    assert program._cache_size() <= ROWS.bit_length()  # type: ignore[missing-attribute]
    assert outputs(spec, params, x[:0]).shape == (0, 3)
