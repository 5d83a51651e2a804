"""Apply model.safetensors to rows of a table; needs torch and safetensors, and not jaxnet."""

import json
from itertools import pairwise
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import nn

ACTIVATIONS = {
    "relu": nn.ReLU,
    "my_relu": nn.ReLU,
    "tanh": nn.Tanh,
    "gelu": nn.GELU,
    "silu": nn.SiLU,
}
folder = Path(__file__).parent
about = json.loads((folder / "model.json").read_text(encoding="utf-8"))
dtype = {"float32": torch.float32, "float64": torch.float64}[about["dtype"]]


def network():
    layers = []
    for d_in, d_out in pairwise(about["sizes"]):
        layers += [nn.Linear(d_in, d_out, bias=about["bias"]), ACTIVATIONS[about["activation"]]()]
    return nn.Sequential(*layers[:-1])


networks = nn.ModuleList(network() for _ in range(about["members"])).to(dtype)
state = load_file(folder / "model.safetensors")
(networks if about["members"] > 1 else networks[0]).load_state_dict(state)


def encode(column, value):
    """The inputs of a column: its numbers, or 1 for the category of the value and 0 for others."""
    if "categories" in column:
        return [float(str(value) == category) for category in column["categories"]]
    return torch.tensor(value, dtype=torch.float64).ravel().tolist()


def standardize(x):
    """Subtract the means of training from x (N, D_in), and divide by its standard deviations."""
    mean, std = (torch.tensor(about["x"][name], dtype=torch.float64) for name in ("mean", "std"))
    return ((torch.tensor(x, dtype=torch.float64) - mean) / std).to(dtype)


@torch.no_grad()
def predict(rows):
    """The probabilities (N, classes) or the predictions (N, D) of N rows {column: value, ...}."""
    columns, output = about["x"]["columns"], about["output"]
    x = [[number for c in columns for number in encode(c, row[c["name"]])] for row in rows]
    y = torch.stack([network(standardize(x)) for network in networks])  # (members, N, D_out)
    if "classes" in output:
        return y.softmax(dim=2).mean(dim=0)
    mean, std = (torch.tensor(output[name], dtype=dtype) for name in ("mean", "std"))
    return y.mean(dim=0) * std + mean


if __name__ == "__main__":
    result = predict([about["example"]])[0]  # of the training means and the first categories
    if classes := about["output"].get("classes"):
        print(about["target"], classes[result.argmax()])
        print(dict(zip(classes, result.tolist(), strict=True)))
    else:
        print(about["target"], result.tolist())
