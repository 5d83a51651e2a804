import csv
import os

import numpy as np
import pyarrow as pa
import pytest
from pyarrow import parquet
from run_helpers import write_run

from jaxnet.runs.predict import _rows, evaluate, predict
from jaxnet.tables.metrics import metrics_for
from jaxnet.tables.reading import reader
from jaxnet.tables.rows import encode

N = 37
RNG = np.random.default_rng(0)
TARGETS = {
    "integer": np.array([30, 4, -5])[np.arange(N) % 3],
    "text": np.array(['say "b"', "a, c", "c", "dé"], object)[np.arange(N) % 4],
    "boolean": np.arange(N) % 5 > 2,
    "real": RNG.standard_normal(N) * 40 + 1000,
    "wide": RNG.standard_normal((N, 3)) * 40 + 1000,
}
COLUMNS = {
    "id": np.array([f"{i:03}" for i in range(N)], object),
    "length": RNG.standard_normal(N) * 3 + 7,
    "colour": np.array(["red", "blue", "ägg"], object)[np.arange(N) % 3],
    "month": np.arange(N) * 5 % 4,
}
DATA = ("data.csv", "data.parquet", "data.npz")
OUT = (".csv", ".parquet")


def write_table(path, columns):
    if path.suffix == ".npz":
        np.savez(path, **{n: c.astype(str) if c.dtype == object else c for n, c in columns.items()})
    elif path.suffix == ".parquet":
        parquet.write_table(pa.table({n: c.tolist() for n, c in columns.items()}), path)
    else:
        with path.open("w", newline="") as file:
            writer = csv.writer(file)
            writer.writerow(columns)
            writer.writerows(zip(*(c.tolist() for c in columns.values()), strict=True))


def make(tmp_path, kind):
    """A model of the columns without the id."""
    features = {name: column for name, column in COLUMNS.items() if name != "id"}
    write_table(tmp_path / "train.npz", features | {"y": TARGETS[kind]})
    return write_run(tmp_path / "run", tmp_path / "train.npz", "y", categorical=["month"])


def read_out(path):
    """The columns of a written file, as lists."""
    if path.suffix == ".parquet":
        return parquet.read_table(path).to_pydict()
    with path.open(newline="", encoding="utf-8") as file:
        header, *rows = csv.reader(file)
    return {
        name: list(column) for name, column in zip(header, zip(*rows, strict=True), strict=True)
    }


def left(tmp_path, *names):
    """Whether the folder holds the named files and nothing half-written."""
    return sorted(path.name for path in tmp_path.iterdir()) == sorted(names)


@pytest.mark.parametrize("suffix", OUT)
@pytest.mark.parametrize("data", DATA)
@pytest.mark.parametrize("kind", TARGETS)
def test_a_file_of_predictions_is_what_the_model_predicts(
    tmp_path, monkeypatch, kind, data, suffix
):
    model = make(tmp_path, kind)
    monkeypatch.setattr(reader, "ROWS", 8)
    write_table(tmp_path / data, COLUMNS)
    out = tmp_path / f"out{suffix}"
    assert predict(model, tmp_path / data, out, keep=["id"]) == N
    assert left(tmp_path, "run", "train.npz", data, out.name)
    found, predicted = read_out(out), model.predict(COLUMNS)
    assert found.pop("id") == COLUMNS["id"].tolist()
    if kind == "wide":
        assert list(found) == ["y_0", "y_1", "y_2"]
        numbers = np.array(list(found.values()), float).T
        # Blocks of another size may add their products in another order, in float32.
        np.testing.assert_allclose(numbers, predicted, rtol=1e-5)
        return
    if kind == "real":
        assert list(found) == ["y"]
        np.testing.assert_allclose(np.array(found["y"], float), predicted, rtol=1e-5)  # as above
        return
    categories = model.encoding.target.categories
    assert list(found) == ["y", *(f"p_{category}" for category in categories)]
    values = predicted.tolist()
    if suffix == ".csv":
        values = [str(v).lower() if kind == "boolean" else str(v) for v in values]
    assert found["y"] == values
    chances = np.array([found[f"p_{category}"] for category in categories], float).T
    np.testing.assert_allclose(chances, model.probabilities(COLUMNS), rtol=1e-5, atol=1e-7)


def test_the_numbers_of_a_csv_round_trip(tmp_path):
    model = make(tmp_path, "integer")
    write_table(tmp_path / "data.csv", COLUMNS)
    for suffix in (".csv", ".parquet"):
        predict(model, tmp_path / "data.csv", tmp_path / f"out{suffix}")
    text, binary = (reader.read(tmp_path / f"out{s}").columns for s in (".csv", ".parquet"))
    for name, column in binary.items():
        assert column.dtype == ("int64" if name == "y" else "float32")
        np.testing.assert_array_equal(text[name].astype(column.dtype), column)
    assert (tmp_path / "out.csv").read_text().startswith('"y","p_-5","p_30","p_4"\n')


KEPT = {
    "when": pa.array([None, *range(1, N)], pa.date32()),
    "price": pa.array([f"{i}.50" for i in range(N)]).cast(pa.decimal128(9, 2)),
    "note": pa.array(["", None, 'a "b"', "x,y", "two\nlines", *"abc" * 10, "é", "z"]),
    "code": pa.array(["p", "q", None, *"pq" * 17]).dictionary_encode(),
    "flag": pa.array([False, None, *[False] * (N - 2)]),
}


@pytest.mark.parametrize("suffix", [".csv", ".parquet"])
def test_kept_columns_come_in_front_as_they_were(tmp_path, monkeypatch, suffix):
    model = make(tmp_path, "real")
    monkeypatch.setattr(reader, "ROWS", 8)
    plain = {name: column.tolist() for name, column in COLUMNS.items()}
    parquet.write_table(pa.table(plain | KEPT), tmp_path / "data.parquet")
    keep = ["note", "when", "length", "price", "code", "flag"]
    predict(model, tmp_path / "data.parquet", tmp_path / f"out{suffix}", keep=keep)
    found = read_out(tmp_path / f"out{suffix}")
    assert list(found) == [*keep, "y"]
    expected = {n: column.to_pylist() for n, column in KEPT.items()} | {"length": plain["length"]}
    if suffix == ".csv":
        expected = {
            name: [
                "" if v is None else str(v).lower() if v in (True, False) else str(v)
                for v in column
            ]
            for name, column in expected.items()
        }
    assert {name: found[name] for name in keep} == expected


def test_kept_columns_of_a_csv_are_its_text(tmp_path):
    model = make(tmp_path, "real")
    lengths = np.array([f" {i}.50" for i in range(N)], object)  # also a feature
    write_table(tmp_path / "data.csv", COLUMNS | {"length": lengths, "note": TARGETS["text"]})
    keep = ["length", "id", "note"]
    predict(model, tmp_path / "data.csv", tmp_path / "out.csv", keep=keep)
    found = read_out(tmp_path / "out.csv")
    assert found["length"] == lengths.tolist()
    assert found["id"] == COLUMNS["id"].tolist()
    assert found["note"] == TARGETS["text"].tolist()


def test_wide_columns_are_numbered(tmp_path):
    model = make(tmp_path, "wide")
    images = np.arange(N * 4, dtype=np.uint8).reshape(N, 2, 2)
    write_table(tmp_path / "data.npz", COLUMNS | {"image": images, "one": images[:, :1, 0]})
    predict(model, tmp_path / "data.npz", tmp_path / "out.parquet", keep=["image", "one"])
    found = read_out(tmp_path / "out.parquet")
    assert list(found) == ["image_0", "image_1", "image_2", "image_3", "one", "y_0", "y_1", "y_2"]
    assert found["image_2"] == images[:, 1, 0].tolist()


BAD: dict = {
    "suffix": ({"out": "out.txt"}, r"`out` must be a file ending in \.csv or \.parquet; got"),
    "exists": ({"out": "data.csv"}, "`out` must not exist: .*data.csv; delete it or give another"),
    "folder": ({"out": "no/out.csv"}, "`out` must be in a folder that exists, got .*no/out.csv"),
    "unseen": ({"unseen": "skip"}, "`unseen` must be one of error, zero; got 'skip'"),
    "no column": ({"keep": ["ID"]}, r"data\.csv: no column 'ID'; the columns are id, length, col"),
    "twice": ({"keep": ["id", "id"]}, "`keep` must not hold a column twice, .* got 'id'"),
    "all of it": ({"keep": "every"}, "`keep` must be one of all; got 'every'"),
    "threshold": ({"threshold": 0.5}, "`threshold` must be given for two classes only, got num"),
    "no data": ({"data": "none.csv"}, r"`data` names no file: .*none\.csv"),
}


@pytest.mark.parametrize("name", BAD)
def test_what_cannot_be_written_is_refused_before_any_work(tmp_path, monkeypatch, name):
    options, message = BAD[name]
    model = make(tmp_path, "real")
    write_table(tmp_path / "data.csv", COLUMNS)
    monkeypatch.setattr(type(model), "outputs", lambda *_: pytest.fail("work was done"))
    options = {"data": "data.csv", "out": "out.csv"} | options
    data, out = tmp_path / options.pop("data"), tmp_path / options.pop("out")
    with pytest.raises((ValueError, OSError), match=message):
        predict(model, data, out, **options)
    assert left(tmp_path, "run", "train.npz", "data.csv")


def test_what_a_csv_cannot_hold_is_refused_by_column(tmp_path, monkeypatch):
    model = make(tmp_path, "real")
    plain = {n: c.tolist() for n, c in COLUMNS.items()}
    parquet.write_table(pa.table(plain | {"x": [[1]] * N}), tmp_path / "data.parquet")
    message = r"^`keep`: column 'x' has type list<.*, which \.csv cannot hold; write \.parquet, or"
    with pytest.raises(ValueError, match=message):
        predict(model, tmp_path / "data.parquet", tmp_path / "out.csv", keep=["x"])
    assert left(tmp_path, "run", "train.npz", "data.parquet")


@pytest.mark.parametrize("suffix", OUT)
@pytest.mark.parametrize("failure", ["category", "interrupt", "full disk", "file changes"])
def test_a_failure_in_the_middle_leaves_nothing(tmp_path, monkeypatch, suffix, failure):
    model = make(tmp_path, "text")
    monkeypatch.setattr(reader, "ROWS", 8)
    columns = COLUMNS | {"colour": COLUMNS["colour"].copy()}
    if failure == "category":
        columns["colour"][30] = "mauve"
    write_table(tmp_path / "data.csv", columns)
    outputs, calls = type(model).outputs, []

    def fail(self, x):
        calls.append(len(x))
        if len(calls) == 3 and failure == "interrupt":
            raise KeyboardInterrupt
        if len(calls) == 3 and failure == "full disk":
            raise OSError(28, "No space left on device")
        if len(calls) == 3 and failure == "file changes":
            os.utime(tmp_path / "data.csv", ns=(1, 1))
        return outputs(self, x)

    monkeypatch.setattr(type(model), "outputs", fail)
    errors = {
        "category": (ValueError, r"data\.csv: row 31, column 'colour': 'mauve' is not among"),
        "interrupt": (KeyboardInterrupt, "^$"),
        "full disk": (OSError, "No space left"),
        "file changes": (ValueError, r"data\.csv: the file changed while it was read"),
    }
    error, message = errors[failure]
    with pytest.raises(error, match=message):
        predict(model, tmp_path / "data.csv", tmp_path / f"out{suffix}", keep=["id"])
    assert left(tmp_path, "run", "train.npz", "data.csv")
    assert len(calls) >= 3
    if failure == "category":
        out = tmp_path / f"out{suffix}"
        assert predict(model, tmp_path / "data.csv", out, unseen="zero") == N


@pytest.mark.parametrize("data", DATA)
@pytest.mark.parametrize("kind", ["integer", "text", "boolean", "real"])
def test_evaluation_is_the_metrics_of_the_whole_table(tmp_path, monkeypatch, kind, data):
    model = make(tmp_path, kind)
    monkeypatch.setattr(reader, "ROWS", 8)
    write_table(tmp_path / data, COLUMNS | {"y": TARGETS[kind]})
    found = evaluate(model, tmp_path / data)
    expected = metrics_for(model.spec.loss, model.encoding.target)
    x, y = encode(reader.read(tmp_path / data), model.encoding)
    expected.update(model.outputs(x), y)
    assert found.rows == N
    for name, value in expected.result().items():
        assert found.result()[name] == pytest.approx(value, rel=1e-5)  # float32, by blocks
    if found.confusion is not None:
        np.testing.assert_array_equal(found.confusion, expected.confusion)


def test_evaluation_wants_the_target_and_its_classes(tmp_path):
    model = make(tmp_path, "integer")
    write_table(tmp_path / "a.csv", COLUMNS)
    with pytest.raises(ValueError, match=r"a\.csv: no column 'y'; the columns are id, length"):
        evaluate(model, tmp_path / "a.csv")
    write_table(tmp_path / "b.csv", COLUMNS | {"y": np.arange(N) - 5})
    with pytest.raises(ValueError, match=r"row 2, column 'y': '-4' is not among the classes"):
        evaluate(model, tmp_path / "b.csv")


def test_the_blocks_of_a_wide_table_have_fewer_rows():
    assert _rows(1) == reader.ROWS
    assert _rows(2**20) == 8
    assert _rows(2**24) == 1


@pytest.mark.parametrize("suffix", OUT)
def test_a_file_that_appears_meanwhile_is_not_replaced(tmp_path, monkeypatch, suffix):
    model, out = make(tmp_path, "text"), tmp_path / f"out{suffix}"
    write_table(tmp_path / "data.csv", COLUMNS)
    outputs = type(model).outputs

    def appear(self, x):
        out.write_text("first")
        return outputs(self, x)

    monkeypatch.setattr(type(model), "outputs", appear)
    with pytest.raises(FileExistsError, match=r"^`out` must not exist: .*; delete it or give an"):
        predict(model, tmp_path / "data.csv", out)
    assert out.read_text() == "first"
    assert left(tmp_path, "run", "train.npz", "data.csv", out.name)
