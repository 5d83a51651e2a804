"""Exported files give the oracle's results in processes that have no jaxnet."""

import ast
import dataclasses
import importlib.util
import json

import jax
import jax.export
import numpy as np
import onnx
import pytest
from export_helpers import (
    TOLERANCE,
    assert_equals_the_oracle,
    example_of,
    make_run,
    oracle,
    raw_inputs,
    rows_of,
    without_jaxnet,
)
from onnx.reference import ReferenceEvaluator
from run_helpers import write_run

import jaxnet
from jaxnet import export
from jaxnet.cli import main
from jaxnet.export.formats import FORMATS, TEMPLATES
from jaxnet.spec import ACTIVATIONS, Spec
from jaxnet.tables.encoding import encode_features
from jaxnet.tables.table import Table

CASES = [("flowers", "float32", activation) for activation in ACTIVATIONS]
CASES += [("flowers", "float64", "gelu"), ("signals", "float64", "silu")]
CASES += [("signals", "float32", "tanh"), ("words", "float32", "relu")]
CASES += [("visits", "float32", "relu"), ("visits", "float64", "tanh")]
every_case = pytest.mark.parametrize(("table", "dtype", "activation"), CASES)


# for each folder, applies its file to the first 1, 4 and 7 rows of inputs.npz in that order
APPLY = """
import jax, numpy as np
from jax import export
from pathlib import Path
for folder in map(Path, sys.argv[1:]):
    arrays = dict(np.load(folder / "inputs.npz"))
    with jax.enable_x64("float64" in folder.name):
        call = export.deserialize((folder / "run/model/model.stablehlo").read_bytes()).call
        inputs = [arrays[name] for name in ("numbers", "codes") if name in arrays]
        parts = {str(n): call(*(a[:n] for a in inputs)) for n in (1, 4, 7)}
    np.savez(folder / "outputs.npz", **parts)
assert not any(name.startswith("jaxnet.") for name in sys.modules)
"""


@pytest.fixture(scope="module")
def stablehlo(tmp_path_factory):
    """Every case's model, encoded x, and outputs of one process that has only JAX."""
    results, root = {}, tmp_path_factory.mktemp("stablehlo")
    for case in CASES:
        folder = root / "-".join(case)
        run, made, table = make_run(folder, *case)
        export.export(made, run / "model", ["stablehlo"])
        np.savez(folder / "inputs.npz", **raw_inputs(made, table))
        results[case] = folder, made, encode_features(table, made.encoding, "float64")
    without_jaxnet(APPLY, *(folder for folder, _, _ in results.values()))
    return {
        case: (made, x, dict(np.load(folder / "outputs.npz")))
        for case, (folder, made, x) in results.items()
    }


@every_case
def test_stablehlo_needs_only_jax_and_equals_the_oracle(stablehlo, table, dtype, activation):
    made, x, outputs = stablehlo[table, dtype, activation]
    for n, got in outputs.items():
        assert_equals_the_oracle(got, made, x[: int(n)], TOLERANCE[dtype])


@every_case
def test_onnx_equals_the_oracle(tmp_path, table, dtype, activation):
    run, made, columns = make_run(tmp_path, table, dtype, activation)
    export.export(made, run / "model", ["onnx"])
    evaluator = ReferenceEvaluator(str(run / "model/model.onnx"))
    tolerance = TOLERANCE["float32" if activation == "gelu" else dtype]  # whose erf is float32
    inputs = raw_inputs(made, columns)
    x = encode_features(columns, made.encoding, "float64")
    for n in (1, 4, 7):
        (got,) = evaluator.run(None, {name: value[:n] for name, value in inputs.items()})
        assert_equals_the_oracle(got, made, x[:n], tolerance)


def test_the_onnx_file_is_old_enough_for_runtimes_and_says_its_shapes(tmp_path):
    _, made, _ = make_run(tmp_path)
    graph = onnx.load_from_string(export.onnx(made))
    assert (graph.ir_version, graph.opset_import[0].version) == (8, 13)
    shapes = {
        value.name: [d.dim_param or d.dim_value for d in value.type.tensor_type.shape.dim]
        for value in (*graph.graph.input, *graph.graph.output)
    }
    assert shapes == {"numbers": ["N", 2], "codes": ["N", 2], "probabilities": ["N", 2]}


def test_an_unseen_category_is_zeros(tmp_path):
    _, made, _ = make_run(tmp_path, "words")
    codes = np.array([[-1, 1], [-1, -1]], np.int32)
    text = {"color": np.array(["pink", "pink"], object), "grade": np.array([10, 11])}
    x = encode_features(Table("t", text), made.encoding, "float64", "zero")
    assert x.tolist() == [[0, 0, 0, 0, 1, 0], [0] * 6]
    call = jax.export.deserialize(bytearray(export.stablehlo(made))).call
    (by_onnx,) = ReferenceEvaluator(onnx.load_from_string(export.onnx(made))).run(
        None, {"codes": codes}
    )
    for got in (np.asarray(call(codes)), by_onnx):
        assert_equals_the_oracle(got, made, x, TOLERANCE["float32"])


@pytest.mark.parametrize(("hidden", "bias"), [((), True), ((), False), ((6, 5, 4), False)])
def test_any_depth_with_or_without_biases(tmp_path, hidden, bias):
    _, made, table = make_run(tmp_path, "flowers")
    spec = Spec((8, *hidden, 2), bias, "tanh", "cross_entropy")
    made = dataclasses.replace(made, spec=spec, params=spec.init(0))
    inputs, x = raw_inputs(made, table), encode_features(table, made.encoding, "float64")
    by_jax = jax.export.deserialize(bytearray(export.stablehlo(made))).call(*inputs.values())
    (by_onnx,) = ReferenceEvaluator(onnx.load_from_string(export.onnx(made))).run(None, inputs)
    for got in (np.asarray(by_jax), by_onnx):
        assert_equals_the_oracle(got, made, x, TOLERANCE["float32"])


def test_stablehlo_is_for_several_platforms_and_names_no_source_file(tmp_path):
    _, made, _ = make_run(tmp_path)
    content = export.stablehlo(made)
    assert jax.export.deserialize(bytearray(content)).platforms == ("cpu", "cuda", "tpu")
    assert b".py" not in content


# onnxruntime's interface, as far as load_onnx.py uses it, in front of onnx's own evaluator
PROGRAMS = """
import json, runpy, types
from onnx.reference import ReferenceEvaluator
sys.modules["onnxruntime"] = types.SimpleNamespace(InferenceSession=ReferenceEvaluator)
for program in sys.argv[2:]:
    runpy.run_path(program, run_name="__main__")
    print(runpy.run_path(program)["predict"](json.loads(sys.argv[1])).tolist())
"""


@pytest.mark.parametrize(
    ("table", "dtype"),
    [("flowers", "float32"), ("signals", "float64"), ("words", "float32"), ("visits", "float64")],
)
def test_the_example_programs_run_as_they_are(tmp_path, table, dtype):
    run, made, columns = make_run(tmp_path, table, dtype)
    export.export(made, run / "model")
    rows = rows_of(made, columns)
    programs = [run / "model" / f"load_{name}.py" for name in ("jax", "onnx")]
    lines = without_jaxnet(PROGRAMS, json.dumps(rows), *programs).splitlines()
    x = encode_features(columns, made.encoding, "float64")
    want = oracle(made, encode_features(example_of(made), made.encoding, "float64"))[0]
    name = made.encoding.target.name
    for printed in (lines[: len(lines) // 2], lines[len(lines) // 2 :]):
        if made.task == "classification":
            assert printed[0] == f"name {'ab'[want.argmax()]}"
            example = list(ast.literal_eval(printed[1]).values())
        else:
            example = ast.literal_eval(printed[0].removeprefix(f"{name} "))
        np.testing.assert_allclose(example, want, rtol=30 * TOLERANCE[dtype])
        got = np.array(ast.literal_eval(printed[-1]), dtype)
        assert_equals_the_oracle(got, made, x, TOLERANCE[dtype])


HOSTILE = (
    "'; raise SystemExit(3) #",
    '"); raise SystemExit(3) #',
    '"""\nraise SystemExit(3)\n"""',
    "{about} %s $x \\",
)


def hostile(made):
    """The model with names, categories and classes that would be code if they were pasted."""
    features, target = made.encoding.features, made.encoding.target
    odd = tuple(f"{category}{HOSTILE[2]}" for category in features[0].categories)
    features = [c._replace(name=name) for c, name in zip(features, HOSTILE, strict=True)]
    features[0] = features[0]._replace(categories=odd)
    classes = tuple(f"{name}{HOSTILE[1]}" for name in target.categories)
    target = target._replace(name=HOSTILE[2], categories=classes)
    encoding = made.encoding._replace(features=tuple(features), target=target)
    return dataclasses.replace(made, encoding=encoding)


def test_no_name_of_the_data_becomes_code(tmp_path):
    _, made, table = make_run(tmp_path)
    export.export(hostile(made), tmp_path / "out")
    for format in FORMATS.values():
        template = (TEMPLATES / format.program).read_bytes()
        assert (tmp_path / "out" / format.program).read_bytes() == template
    rows = [dict(zip(HOSTILE, row.values(), strict=True)) for row in rows_of(made, table)]
    for row in rows:
        row[HOSTILE[0]] += HOSTILE[2]
    programs = [tmp_path / "out" / f"load_{name}.py" for name in ("jax", "onnx")]
    lines = without_jaxnet(PROGRAMS, json.dumps(rows), *programs).splitlines()
    got = np.array(ast.literal_eval(lines[-1]), "float32")
    x = encode_features(table, made.encoding, "float64")
    assert_equals_the_oracle(got, made, x, TOLERANCE["float32"])


def test_model_json_describes_the_inputs_and_the_output(tmp_path):
    run, made, _ = make_run(tmp_path)
    export.export(made, run / "model")
    about = json.loads((run / "model/model.json").read_text())
    _, size, _, weight = made.encoding.features
    assert about["inputs"] == {
        "numbers": [{"name": "size", "width": 1}, {"name": "weight", "width": 1}],
        "codes": [
            {"name": "color", "categories": ["blue", "green", "red"]},
            {"name": "grade", "categories": ["1", "10", "2"]},
        ],
    }
    assert [c["name"] for c in about["x"]] == ["color", "size", "grade", "weight"]
    for c, column in zip(about["x"][1::2], (size, weight), strict=True):
        found = tuple(c["mean"]), tuple(c["std"]), tuple(c["fill"])
        assert found == (column.mean, column.std, column.fill)
    assert about["output"] == {"name": "probabilities", "classes": ["a", "b"]}
    assert about["example"]["grade"] == 1
    assert about["sizes"] == [8, 5, 2]
    assert (about["task"], about["target"]) == ("classification", "name")
    assert (about["activation"], about["dtype"], about["bias"]) == ("relu", "float32", True)
    assert about["versions"] == {"jaxnet": jaxnet.__version__, "jax": jax.__version__}
    _, made, _ = make_run(tmp_path / "other", "signals")
    target = made.encoding.target
    about = export.describe(made)
    assert about["output"] == {"name": "prediction", "mean": target.mean, "std": target.std}
    assert about["inputs"]["numbers"] == [{"name": "x", "width": 3}, {"name": "t", "width": 1}]


def notes_of(folder, shift, scale, dtype="float32"):
    """The notes on a table whose column t is shifted and scaled."""
    folder.mkdir()
    x = np.arange(6.0)
    np.savez(folder / "t.npz", x=x, t=shift + scale * x, y=x**2 + 0.5)
    made = write_run(folder / "run", folder / "t.npz", "y", dtype=dtype)
    return export.export(made, folder / "out", ["stablehlo", "pytorch"]).notes


def test_a_column_far_from_zero_is_warned_of_in_float32(tmp_path):
    (note,) = notes_of(tmp_path / "a", 1.7e9, 1e4)
    assert note == (
        "in model.stablehlo column 't' loses about 5 of the 7 digits of float32 (its |mean| / std "
        "is 1e+05): use jaxnet train --dtype float64, or subtract an offset in the data"
    )
    assert notes_of(tmp_path / "b", 1e3, 1) == ()
    (note,) = notes_of(tmp_path / "c", 0, 1e-60)
    assert note.startswith("in model.stablehlo column 't' is beyond the range of float32")
    (note,) = notes_of(tmp_path / "d", 1.7e9, 1e4, "float64")
    assert note.startswith("model.stablehlo is in float64: its reader must set jax_enable_x64")


def test_without_onnx_it_is_left_out_or_refused(tmp_path, monkeypatch):
    run, made, _ = make_run(tmp_path)
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    exported = export.export(made, run / "model")
    install = "the package onnx is not installed: pip install 'jaxnet[onnx]'"
    assert exported.notes == (f"onnx was left out: {install}",)
    assert not (run / "model/model.onnx").exists()
    with pytest.raises(ValueError, match=r"`format` must be of stablehlo, pytorch; the package"):
        export.export(made, run / "model", ["onnx"])


def test_exporting_again_replaces_the_files_and_leaves_the_others(tmp_path):
    run, made, _ = make_run(tmp_path)
    params = (run / "model/params.safetensors").read_bytes()
    files = export.export(made, run / "model").files
    (run / "model/model.stablehlo").write_bytes(b"old")
    exported = export.export(made, run / "model", ["stablehlo"])
    assert (run / "model/model.stablehlo").read_bytes() == export.stablehlo(made)
    assert (run / "model/params.safetensors").read_bytes() == params
    assert exported.notes == tuple(
        f"{name} is of an earlier export, and may not fit model.json: export it again or delete it"
        for name in ("model.safetensors", "model.onnx")
    )
    assert {p.name for p in (run / "model").iterdir()} == {
        "params.safetensors",
        *(p.name for p in files),
    }
    assert {p.stat().st_mode & 0o777 for p in files} == {0o644}


def test_bad_input_writes_nothing(tmp_path):
    _, made, _ = make_run(tmp_path)
    with pytest.raises(ValueError, match="`format` must be one of stablehlo, pytorch, onnx; got"):
        export.export(made, tmp_path / "out", ["stablehlo", "keras"])
    assert not (tmp_path / "out").exists()
    (tmp_path / "file").touch()
    for folder in (tmp_path / "file", tmp_path / "file/below"):
        with pytest.raises(OSError, match="`out` must be a folder that can be written, got"):
            export.export(made, folder)


def test_the_command_names_the_files_and_notes(tmp_path, capsys):
    run, _, _ = make_run(tmp_path, dtype="float64")
    arguments = [str(run), "--format", "stablehlo", "pytorch", "--out", str(tmp_path / "a" / "b")]
    assert main(["export", *arguments]) == 0
    lines = [" ".join(line.split()) for line in capsys.readouterr().out.splitlines()]
    assert lines[0] == (
        f"{tmp_path}/a/b/model.stablehlo network and encoding, for JAX; see load_jax.py"
    )
    names = ["model.stablehlo", "load_jax.py", "model.safetensors", "load_torch.py", "model.json"]
    assert [line.split()[0] for line in lines[:-1]] == [f"{tmp_path}/a/b/{n}" for n in names]
    assert lines[-1].startswith("note: model.stablehlo is in float64")
