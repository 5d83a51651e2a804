"""PyTorch's weights without PyTorch: safetensors of Linear layers to and from w1, b1, ..."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from itertools import pairwise
from pathlib import Path

import numpy as np
from safetensors import SafetensorError, deserialize
from safetensors.numpy import save as save_tensors

from jaxnet.spec import check_params

# dtype in the file -> its values as NumPy holds them; the upper half of a float32 is a bfloat16
DTYPES = {
    "F64": lambda data: np.frombuffer(data, "<f8"),
    "F32": lambda data: np.frombuffer(data, "<f4"),
    "F16": lambda data: np.frombuffer(data, "<f2").astype(np.float32),
    "BF16": lambda data: (np.frombuffer(data, "<u2").astype(np.uint32) << 16).view(np.float32),
}
PICKLES = b"PK", b"\x80"  # how a file of torch.save begins, new and old


def read(path: str | Path, layers: Sequence[str] = ()) -> dict[str, np.ndarray]:
    """Read the Linear layers of a safetensors file as w1 (in, out), b1 (out,), w2, ...

    The layers come in the natural order of their names ("2" before "10"), or as `layers` names
    them, each by its name ("net.0") or by what that begins with ("net"); then only those are read.
    A layer without a bias gets zeros. float16 and bfloat16 become float32.

    Raises: FileNotFoundError; ValueError for a file that is not safetensors or damaged, an entry
    that is not the weight or bias of a Linear layer, and layers that do not chain.
    """
    tensors = _tensors(Path(path))
    names = sorted({name.rpartition(".")[0] for name in tensors}, key=_natural)
    if layers:
        names = _select(path, names, layers)
    params: dict[str, np.ndarray] = {}
    for k, name in enumerate(names, start=1):
        params[f"w{k}"], params[f"b{k}"] = _linear(path, name, tensors)
    _check_chain(path, names, [params[f"w{k}"] for k in range(1, len(names) + 1)])
    dtype = np.result_type(*params.values())
    return {name: np.ascontiguousarray(leaf, dtype) for name, leaf in params.items()}


def save(params: Mapping[str, np.ndarray]) -> bytes:
    """The parameters as a safetensors file of a Sequential's state_dict, its activations between:
    "0.weight" (out, in), "0.bias" (out,), "2.weight", ...
    """
    tensors = {}
    for k in range(1, check_params(params) + 1):
        tensors[f"{2 * k - 2}.weight"] = np.ascontiguousarray(params[f"w{k}"].T)
        if f"b{k}" in params:
            tensors[f"{2 * k - 2}.bias"] = np.ascontiguousarray(params[f"b{k}"])
    return save_tensors(tensors, {"format": "pt"})


def _tensors(path: Path) -> dict[str, tuple[str, tuple[int, ...], bytes]]:
    """The dtype, shape and bytes of each entry by name."""
    if not path.is_file():
        raise FileNotFoundError(f"{path}: there is no such file")
    content = path.read_bytes()
    try:
        entries = deserialize(content)
    except SafetensorError as error:
        if content.startswith(PICKLES) and content[8:9] != b"{":  # where the header begins
            raise ValueError(
                f"{path}: must be safetensors, got a pickle, which can run code; convert it where "
                "it was made: safetensors.torch.save_file(model.state_dict(), 'model.safetensors')"
            ) from None
        raise ValueError(f"{path}: not a safetensors file, or damaged ({error})") from None
    if not entries:
        raise ValueError(f"{path}: must hold Linear layers, got no entry")
    return {name: (e["dtype"], tuple(e["shape"]), e["data"]) for name, e in entries}


def _natural(name: str) -> str:
    return re.sub("[0-9]+", lambda number: number[0].zfill(20), name)


def _select(path: str | Path, names: list[str], layers: Sequence[str]) -> list[str]:
    """The layers that `layers` names, in its order."""
    selected = []
    for layer in layers:
        found = [name for name in names if name == layer or name.startswith(f"{layer}.")]
        if not found:
            raise ValueError(f"{path}: no layer {layer!r} in it; it has {', '.join(names)}")
        selected += found
    if repeated := [name for name in names if selected.count(name) > 1]:
        raise ValueError(f"`layers` must name each layer once, got {repeated[0]!r} again")
    return selected


def _linear(path: str | Path, name: str, tensors: dict) -> tuple[np.ndarray, np.ndarray]:
    """The weight (in, out) and the bias (out,) of a layer."""
    prefix = f"{name}." if name else ""
    entries = {key: value for key, value in tensors.items() if key.rpartition(".")[0] == name}
    values = {}
    for key, (dtype, shape, data) in entries.items():
        rank = {"weight": 2, "bias": 1}.get(key.removeprefix(prefix))
        if len(shape) != rank or 0 in shape or dtype not in DTYPES:
            raise ValueError(
                f"{path}: must hold the weights and biases of Linear layers only, got {key!r}, "
                f"{dtype} {shape}"
            )
        values[key.removeprefix(prefix)] = DTYPES[dtype](data).reshape(shape)
    if "weight" not in values:
        raise ValueError(f"{path}: must hold a weight for each bias, got {prefix}bias alone")
    w = values["weight"].T
    b = values.get("bias", np.zeros(w.shape[1], w.dtype))
    if b.shape != (w.shape[1],):
        raise ValueError(f"{path}: {prefix}bias must have shape ({w.shape[1]},), got {b.shape}")
    return w, b


def _check_chain(path: str | Path, names: list[str], weights: list[np.ndarray]) -> None:
    if any(first.shape[1] != second.shape[0] for first, second in pairwise(weights)):
        shapes = (
            f"{name} ({w.shape[0]} to {w.shape[1]})" for name, w in zip(names, weights, strict=True)
        )
        raise ValueError(
            f"{path}: the layers do not follow each other: {', '.join(shapes)}; name them in their "
            "order with `layers`"
        )
