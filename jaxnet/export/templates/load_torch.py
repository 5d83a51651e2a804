"""Apply model.safetensors to rows of a table; needs torch and safetensors, and not jaxnet."""

import json
import math
from datetime import datetime
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


def code(column, value):
    """The index of a value among the categories of its column, -1 for one that is not there."""
    text = None if value is None else str(value)
    return column["categories"].index(text) if text in column["categories"] else -1


def numbers(column, value):
    """The numbers of a value, NaN if it is missing; a date in ISO form becomes days and seconds."""
    if value is None:
        return [math.nan] * column["width"]
    if "date" in column:
        since = datetime.fromisoformat(value).replace(tzinfo=None) - datetime(1970, 1, 1)
        return [since.days, since.seconds + since.microseconds / 1e6][: column["width"]]
    return torch.tensor(value, dtype=torch.float64).ravel().tolist()


def encode(column, value):
    """The inputs of a column: 1 for the category of the value and 0 for others; or its numbers less
    the mean of training over the standard deviation, their place in each bin, sine and cosine of
    each cycle, and whether they were missing.
    """
    if "categories" in column:
        return [float(i == code(column, value)) for i in range(len(column["categories"]))]
    given = numbers(column, value)
    filled = [f if math.isnan(n) else n for n, f in zip(given, column["fill"], strict=True)]
    scaled = zip(filled, column["mean"], column["std"], strict=True)
    shares = [(filled[place] - low) / (high - low) for place, low, high in column["bins"]]
    turns = [math.fmod(filled[place], period) / period for place, period, _ in column["cycles"]]
    times = [times for _, _, times in column["cycles"]]
    angles = [2 * math.pi * n * turn for n, turn in zip(times, turns, strict=True)]
    return [
        *((n - mean) / std for n, mean, std in scaled),
        *(min(max(share, 0), 1) for share in shares),
        *map(math.sin, angles),
        *map(math.cos, angles),
        *(float(math.isnan(given[place])) for place in column["missing"]),
    ]


@torch.no_grad()
def predict(rows):
    """The probabilities (N, classes) or the predictions (N, D) of N rows {column: value, ...}."""
    output = about["output"]
    x = [[number for c in about["x"] for number in encode(c, row[c["name"]])] for row in rows]
    x = torch.tensor(x, dtype=torch.float64).to(dtype)
    y = torch.stack([network(x) for network in networks])  # (members, N, D_out)
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
