"""The exported weights in PyTorch: the state_dict of a Sequential, and its example program."""

import ast
import dataclasses
import json

import numpy as np
import pytest
import torch
from export_helpers import (
    TOLERANCE,
    assert_equals_the_oracle,
    example_of,
    make_run,
    oracle,
    rows_of,
    without_jaxnet,
)
from safetensors.torch import load_file, save_file
from torch import nn

from jaxnet import export, numpy_net
from jaxnet.export import torch_weights
from jaxnet.spec import ACTIVATIONS
from jaxnet.tables.encoding import encode_features

LAYERS = {
    "relu": nn.ReLU,
    "my_relu": nn.ReLU,
    "tanh": nn.Tanh,
    "gelu": nn.GELU,
    "silu": nn.SiLU,
}


@pytest.mark.parametrize(
    ("activation", "dtype"),
    [*((activation, "float32") for activation in ACTIVATIONS), ("tanh", "float64")],
)
def test_the_weights_load_strictly_into_a_sequential(tmp_path, activation, dtype):
    run, made, table = make_run(tmp_path, "flowers", dtype, activation)
    export.export(made, run / "model", ["pytorch"])
    network = nn.Sequential(nn.Linear(8, 5), LAYERS[activation](), nn.Linear(5, 2))
    network.to(getattr(torch, dtype)).load_state_dict(load_file(run / "model/model.safetensors"))
    x = encode_features(table, made.encoding, "float64")
    with torch.no_grad():
        got = network(torch.tensor(x.astype(dtype))).numpy()
    params = {name: leaf.astype(float) for name, leaf in made.params.items()}
    want = numpy_net.forward(params, x, activation=activation)
    np.testing.assert_allclose(got, want, rtol=0, atol=TOLERANCE[dtype])


PROGRAM = """
import json, runpy
runpy.run_path(sys.argv[2], run_name="__main__")
print(runpy.run_path(sys.argv[2])["predict"](json.loads(sys.argv[1])).tolist())
"""


@pytest.mark.parametrize(
    ("table", "dtype", "activation"),
    [("flowers", "float32", "gelu"), ("signals", "float64", "silu"), ("visits", "float64", "relu")],
)
def test_the_example_program_runs_as_it_is(tmp_path, table, dtype, activation):
    run, made, columns = make_run(tmp_path, table, dtype, activation)
    export.export(made, run / "model", ["pytorch"])
    rows = json.dumps(rows_of(made, columns))
    lines = without_jaxnet(PROGRAM, rows, run / "model/load_torch.py").splitlines()
    x = encode_features(columns, made.encoding, "float64")
    got = np.array(ast.literal_eval(lines[-1]), dtype)
    assert_equals_the_oracle(got, made, x, TOLERANCE[dtype])
    assert lines[0].split()[0] == made.encoding.target.name
    if made.task == "regression":  # the example is the mean of each column
        example = ast.literal_eval(lines[0].split(" ", 1)[1])
        want = oracle(made, encode_features(example_of(made), made.encoding, "float64"))[0]
        np.testing.assert_allclose(example, want, rtol=TOLERANCE[dtype])


def test_the_example_program_takes_a_network_without_biases(tmp_path):
    _, made, columns = make_run(tmp_path)
    spec = dataclasses.replace(made.spec, bias=False)
    made = dataclasses.replace(made, spec=spec, params=spec.init(0))
    export.export(made, tmp_path / "out", ["pytorch"])
    rows = json.dumps(rows_of(made, columns))
    lines = without_jaxnet(PROGRAM, rows, tmp_path / "out/load_torch.py").splitlines()
    x = encode_features(columns, made.encoding, "float64")
    got = np.array(ast.literal_eval(lines[-1]), "float32")
    assert_equals_the_oracle(got, made, x, TOLERANCE["float32"])


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_what_torch_writes_is_read(tmp_path, dtype):
    network = nn.Sequential(nn.Linear(7, 5), nn.Tanh(), nn.Linear(5, 3, bias=False)).to(dtype)
    save_file(network.state_dict(), tmp_path / "m")
    params = torch_weights.read(tmp_path / "m")
    wide = torch.float64 if dtype == torch.float64 else torch.float32
    want = {name: value.to(wide).numpy().T for name, value in network.state_dict().items()}
    assert params["w1"].dtype == want["0.weight"].dtype
    np.testing.assert_array_equal(params["w1"], want["0.weight"])
    np.testing.assert_array_equal(params["b1"], want["0.bias"])
    np.testing.assert_array_equal(params["w2"], want["2.weight"])
    assert not params["b2"].any()


def test_a_file_of_torch_save_is_refused(tmp_path):
    torch.save(nn.Linear(3, 2).state_dict(), tmp_path / "m.pt")
    with pytest.raises(ValueError, match=r"m.pt: must be safetensors, got a pickle"):
        torch_weights.read(tmp_path / "m.pt")
