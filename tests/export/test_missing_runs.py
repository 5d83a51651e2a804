"""A table with dates and missing values all the way: train, evaluate, predict, export, on disk."""

import csv
from dataclasses import replace
from typing import Any

import jax
import jax.export
import numpy as np
import onnx
import pytest
from export_helpers import raw_inputs
from onnx.reference import ReferenceEvaluator

from jaxnet import export, runs
from jaxnet.cli import main
from jaxnet.runs import predict as inference
from jaxnet.runs.config import Config
from jaxnet.tables.reading.reader import read

N = 60


def write(path, seed, gaps):
    """A table of 60 days and hours; each value is missing in a share `gaps` of the rows."""
    rng = np.random.default_rng(seed)
    start = np.datetime64("2023-02-27T00:00:00")
    lines = ["time,age,town,visits,label,extra"]
    for i in range(N):
        hours = int(rng.integers(0, 9000))
        age, visits = float(rng.normal(40, 9)), int(rng.integers(0, 4))
        values = [
            start + np.timedelta64(hours, "h"),
            f"{age:.6f}",
            "abc"[int(rng.integers(3))],
            visits,
            "",
            i,
        ]
        values[4] = "ill" if age + 3 * visits + hours % 24 > 55 else "well"
        told = [str(v) if rng.random() > gaps else "" for v in values[:5]]
        lines.append(",".join([*told, str(i)]))
    path.write_text("\n".join(lines) + "\n")
    return path


def rows_of(path):
    with open(path) as file:
        return list(csv.DictReader(file))


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    folder = tmp_path_factory.mktemp("missing")
    data = write(folder / "train.csv", 0, 0.1)
    config = Config(
        data=str(data), target="label", categorical=("visits",), drop=("extra",), hidden=(5,),
        numbers="bins", epochs=2, out=str(folder / "run"),
    )  # fmt: skip
    return config, runs.train(config), write(folder / "new.csv", 1, 0.2)


def test_every_column_is_encoded_and_the_rows_without_a_target_are_left_out(trained):
    config, run, _ = trained
    time, age, town, visits = run.encoding.features
    assert (time.base, len(time.mean), len(time.cycles)) == ("date", 2, 7)
    assert all(column.missing for column in (time, age, town, visits))
    assert (town.categories, visits.categories) == (("a", "b", "c"), ("0", "1", "2", "3"))
    with_target = sum(row["label"] != "" for row in rows_of(config.data))
    assert with_target < N
    record = runs.Record.load(run.folder)
    assert sum(record.rows.values()) == with_target
    assert runs.load(run.folder).encoding == run.encoding
    again = runs.resume(run.folder, epochs=3)
    assert (again.epochs, again.encoding) == (3, run.encoding)


def test_the_rows_on_disk_give_the_same_run(trained, tmp_path):
    config, run, _ = trained
    stored = runs.train(replace(config, on_disk="on", out=str(tmp_path / "run")))
    assert stored.encoding == run.encoding  # one block, so that not even sums differ
    for name, value in run.metrics["validation"].items():
        np.testing.assert_allclose(stored.metrics["validation"][name], value, rtol=1e-6)


def test_a_file_a_frame_and_the_exported_files_give_the_same_predictions(trained, tmp_path):
    _, run, new = trained
    table = read(new)
    columns = {column.name: table.columns[column.name] for column in run.encoding.features}
    want: Any = run.probabilities(columns)
    assert inference.predict(run, new, tmp_path / "out.csv") == N
    rows = rows_of(tmp_path / "out.csv")
    assert [row["label"] for row in rows] == run.predict(columns).tolist()
    written = [[float(row["p_ill"]), float(row["p_well"])] for row in rows]
    np.testing.assert_allclose(written, want, rtol=1e-6)  # float32 in decimals
    inputs = raw_inputs(run, table)
    assert np.isnan(inputs["numbers"]).any()
    folded = run.folded()  # the temperature is in the last layer, as `export.export` has it
    by_jax = jax.export.deserialize(bytearray(export.stablehlo(folded))).call(*inputs.values())
    graph = onnx.load_from_string(export.onnx(folded))
    (by_onnx,) = ReferenceEvaluator(graph).run(None, inputs)
    for got in (by_jax, by_onnx):
        # Bins some hundredth of a number wide lose two of float32's seven digits.
        np.testing.assert_allclose(np.asarray(got), want, rtol=0, atol=3e-5)


def test_evaluating_leaves_out_and_counts_the_rows_without_a_target(trained, tmp_path, caplog):
    _, run, new = trained
    known = [row for row in rows_of(new) if row["label"]]
    metrics = inference.evaluate(run, new)
    assert metrics.rows == len(known) < N
    left_out = f"{N - len(known)} rows have no value of the target 'label', and are left out"
    assert left_out in caplog.messages
    other = tmp_path / "other.csv"
    other.write_text(new.read_text().rstrip().rpartition("\n")[0] + "\n,,,,cured,\n")
    with pytest.raises(ValueError, match=rf"row {N}, column 'label': 'cured' is not among the cl"):
        inference.evaluate(run, other)
    none = tmp_path / "none.csv"
    lines = new.read_text().splitlines()
    without = [line.replace("ill", "").replace("well", "") for line in lines[1:]]
    none.write_text("\n".join([lines[0], *without]))
    with pytest.raises(ValueError, match=r"none\.csv: no row has a value of the target 'label'"):
        inference.evaluate(run, none)


def test_missing_values_are_said_or_refused_at_the_command_line(trained, tmp_path, capsys):
    config, _, _ = trained
    options = ["train", "--data", config.data, "--target", "label", "--epochs", "1"]
    options += ["--out", str(tmp_path / "run"), "--no-cache"]
    assert main(options) == 0
    said = capsys.readouterr().err.splitlines()
    assert any("missing values were filled with the median" in line for line in said)
    assert main([*options, "--missing", "error", "--out", str(tmp_path / "other")]) == 2
    error = capsys.readouterr().err
    assert "the value is missing" in error
    assert "train.csv: row" in error
    assert not (tmp_path / "other").exists()
