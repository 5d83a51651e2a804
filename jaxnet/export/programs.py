"""The example programs beside the exported files, as text: they apply a model without jaxnet."""

from __future__ import annotations

from collections.abc import Callable

from jaxnet.spec import Spec
from jaxnet.tables.encoding import Encoding

LAYERS = {"relu": "ReLU", "my_relu": "ReLU", "tanh": "Tanh", "gelu": "GELU", "silu": "SiLU"}
MAIN = {
    "probabilities": """

if __name__ == "__main__":
    row = about["example"]  # {column: value, ...}: training means, first categories
    probabilities = predict([row])[0]
    print(about["target"], about["output"]["classes"][probabilities.argmax()])
    print(dict(zip(about["output"]["classes"], probabilities.tolist())))
""",
    "prediction": """

if __name__ == "__main__":
    row = about["example"]  # {column: value, ...}: training means, first categories
    print(about["target"], predict([row])[0].tolist())
""",
}


def jax_program(spec: Spec, encoding: Encoding, dtype: str) -> str:
    """load_jax.py: model.stablehlo on rows."""
    head = _head(
        "model.stablehlo",
        "jax and flatbuffers",
        "import jax\nimport numpy as np\nfrom jax import export\n",
    )
    if dtype == "float64":
        head += 'jax.config.update("jax_enable_x64", True)\n'
    head += 'call = jax.jit(export.deserialize((folder / "model.stablehlo").read_bytes()).call)\n'
    result = f"np.asarray(call({', '.join(_inputs(encoding))}))"
    return head + _predict(spec, encoding, dtype, result)


def onnx_program(spec: Spec, encoding: Encoding, dtype: str) -> str:
    """load_onnx.py: model.onnx on rows, by onnxruntime."""
    head = _head("model.onnx", "onnxruntime", "import numpy as np\nimport onnxruntime\n")
    head += 'session = onnxruntime.InferenceSession(str(folder / "model.onnx"))\n'
    feed = ", ".join(f'"{name}": {name}' for name in _inputs(encoding))
    return head + _predict(spec, encoding, dtype, f"session.run(None, {{{feed}}})[0]")


def torch_program(spec: Spec, encoding: Encoding, dtype: str) -> str:
    """load_torch.py: model.safetensors on rows, which it encodes."""
    imports = "import torch\nfrom safetensors.torch import load_file\n"
    linear = f"torch.nn.Linear(d_in, d_out, bias={spec.bias})"
    if encoding.target.categories:
        returned = "    return network(x).softmax(dim=1)\n"
    else:
        returned = """\
    scale = {name: torch.tensor(about["output"][name], dtype=x.dtype) for name in ("mean", "std")}
    return network(x) * scale["std"] + scale["mean"]
"""
    return f'''\
{_head("model.safetensors", "torch and safetensors", imports)}\
layers = []
for d_in, d_out in zip(about["sizes"], about["sizes"][1:]):
    layers += [{linear}, torch.nn.{LAYERS[spec.activation]}()]
network = torch.nn.Sequential(*layers[:-1]).to(torch.{dtype})
network.load_state_dict(load_file(folder / "model.safetensors"))
mean, std = (torch.tensor(about["x"][name], dtype=torch.float64) for name in ("mean", "std"))


def encode(column, value):
    """A column's part of x: its numbers, or a 1 among 0s for a category, 0s for one never seen."""
    if "categories" in column:
        return [float(str(value) == category) for category in column["categories"]]
    return torch.tensor(value, dtype=torch.float64).ravel().tolist()


@torch.no_grad()
def predict(rows):
    """{_promise(spec, encoding)}"""
    columns = about["x"]["columns"]
    x = [[v for c in columns for v in encode(c, row[c["name"]])] for row in rows]
    x = ((torch.tensor(x, dtype=torch.float64) - mean) / std).to(torch.{dtype})
{returned}{MAIN[_output(encoding)]}'''


PROGRAMS: dict[str, Callable[[Spec, Encoding, str], str]] = {
    "stablehlo": jax_program,
    "pytorch": torch_program,
    "onnx": onnx_program,
}


def _predict(spec: Spec, encoding: Encoding, dtype: str, result: str) -> str:
    """The functions of a file that takes `numbers` and `codes`, and the main part."""
    code = made = ""
    if "numbers" in _inputs(encoding):
        made += f"""\
    columns = about["inputs"]["numbers"]
    numbers = [np.concatenate([np.ravel(row[c["name"]]) for c in columns]) for row in rows]
    numbers = np.array(numbers, "{dtype}")
"""
    if "codes" in _inputs(encoding):
        made += """\
    columns = about["inputs"]["codes"]
    codes = np.array([[code(c, row[c["name"]]) for c in columns] for row in rows], "int32")
"""
        code = '''

def code(column, value):
    """The index of a value among the categories of its column, -1 for one never seen."""
    return column["categories"].index(str(value)) if str(value) in column["categories"] else -1
'''
    return f'''\
{code}

def predict(rows):
    """{_promise(spec, encoding)}"""
{made}    return {result}
{MAIN[_output(encoding)]}'''


def _head(file: str, needs: str, imports: str) -> str:
    return f'''\
"""Apply {file} to rows of a table; needs {needs}, and not jaxnet."""

import json
from pathlib import Path

{imports}
folder = Path(__file__).parent
about = json.loads((folder / "model.json").read_text(encoding="utf-8"))
'''


def _inputs(encoding: Encoding) -> list[str]:
    """The names of the inputs that have columns."""
    categorical = {bool(c.categories) for c in encoding.features}
    return ["numbers"] * (False in categorical) + ["codes"] * (True in categorical)


def _output(encoding: Encoding) -> str:
    return "probabilities" if encoding.target.categories else "prediction"


def _promise(spec: Spec, encoding: Encoding) -> str:
    return f"The {_output(encoding)} (N, {spec.sizes[-1]}) of N rows [{{column: value, ...}}, ...]."
