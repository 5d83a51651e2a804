"""PyTorch's weights without PyTorch: safetensors of Linear layers to and from w1, b1, ..."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from itertools import islice
from pathlib import Path

import numpy as np
from safetensors import SafetensorError, deserialize
from safetensors.numpy import save as save_tensors

from jaxnet import files
from jaxnet.spec import MAX_LAYERS, check_params

# dtype in the file -> its values as NumPy holds them; the upper half of a float32 is a bfloat16
DTYPES = {
    "F64": lambda data: np.frombuffer(data, "<f8"),
    "F32": lambda data: np.frombuffer(data, "<f4"),
    "F16": lambda data: np.frombuffer(data, "<f2").astype(np.float32),
    "BF16": lambda data: (np.frombuffer(data, "<u2").astype(np.uint32) << 16).view(np.float32),
}
PICKLES = b"PK", b"\x80"  # how a file of torch.save begins, new and old


SHOWN = 3  # possible orders of layers in a message
MAX_TRIED = 20_000  # layers that are tried at some place of an order


def read(path: str | Path, layers: Sequence[str] = ()) -> dict[str, np.ndarray]:
    """Read the Linear layers of a safetensors file as w1 (in, out), b1 (out,), w2, ...

    Their order: see `layer_order`. A layer without a bias gets zeros. float16 and bfloat16 become
    float32.

    Raises: FileNotFoundError; ValueError for a file that is not safetensors or damaged, an entry
    that is not the weight or bias of a Linear layer, and layers whose order is not known.
    """
    params: dict[str, np.ndarray] = {}
    for k, (w, b) in enumerate(_read(Path(path), layers).values(), start=1):
        params[f"w{k}"], params[f"b{k}"] = w, b
    dtype = np.result_type(*params.values())
    return {name: np.ascontiguousarray(leaf, dtype) for name, leaf in params.items()}


def layer_order(path: str | Path, layers: Sequence[str] = ()) -> list[str]:
    """The names of the Linear layers in the order in which `read` takes them.

    It is the one order in which each layer's outputs are as many as the next one's inputs, and in
    which numbers grow where names differ in a number first ("net.2" before "net.10"). The order of
    the entries in a file says nothing: they are sorted. layers: the names in their order, each a
    layer's ("net.0") or what several begin with ("net"); only these are read.

    Raises: as `read`.
    """
    return list(_read(Path(path), layers))


def _read(path: Path, layers: Sequence[str]) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """The weight (in, out) and bias (out,) of each layer by name, in order."""
    tensors = _tensors(path)
    names = sorted({name.rpartition(".")[0] for name in tensors}, key=_natural)
    groups = _select(path, names, layers) if layers else [names]
    found = {name: _linear(path, name, tensors) for group in groups for name in group}
    return {name: found[name] for name in _order(path, groups, found)}


def save(members: Sequence[Mapping[str, np.ndarray]]) -> bytes:
    """The parameters as a safetensors file of a Sequential's state_dict, its activations between:
    "0.weight" (out, in), "0.bias" (out,), "2.weight", ...; of several networks, with the number of
    each before: "0.0.weight", ..., "1.0.weight".
    """
    tensors = {}
    for number, params in enumerate(members):
        prefix = f"{number}." if len(members) > 1 else ""
        for k in range(1, check_params(params) + 1):
            name = f"{prefix}{2 * k - 2}"
            tensors[f"{name}.weight"] = np.ascontiguousarray(params[f"w{k}"].T)
            if f"b{k}" in params:
                tensors[f"{name}.bias"] = np.ascontiguousarray(params[f"b{k}"])
    return save_tensors(tensors, {"format": "pt"})


def _tensors(path: Path) -> dict[str, tuple[str, tuple[int, ...], bytes]]:
    """The dtype, shape and bytes of each entry by name."""
    if not path.is_file():
        raise FileNotFoundError(f"{path}: there is no such file")
    content = files.read(path)
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


def _select(path: Path, names: list[str], layers: Sequence[str]) -> list[list[str]]:
    """The layers that each of `layers` names."""
    groups = []
    for layer in layers:
        found = [name for name in names if name == layer or name.startswith(f"{layer}.")]
        if not found:
            raise ValueError(f"{path}: no layer {layer!r} in it; it has {', '.join(names)}")
        groups.append([layer] if layer in found else found)
    selected = [name for group in groups for name in group]
    if repeated := [name for name in names if selected.count(name) > 1]:
        raise ValueError(f"`layers` must name each layer once, got {repeated[0]!r} again")
    return groups


def _linear(path: Path, name: str, tensors: dict) -> tuple[np.ndarray, np.ndarray]:
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


def _order(path: Path, groups: list[list[str]], found: dict) -> list[str]:
    """The only order in which the layers can follow each other, those of a group together."""
    sizes = {name: w.shape for name, (w, _) in found.items()}
    ranks = {name: rank for rank, group in enumerate(groups) for name in group}
    if len(sizes) > MAX_LAYERS:
        raise ValueError(f"{path}: must hold at most {MAX_LAYERS} layers, got {len(sizes)}")

    def precedes(name, other):
        return ranks[name] < ranks[other] or (ranks[name] == ranks[other] and _before(name, other))

    before = {name: {x for x in sizes if precedes(x, name)} for name in sizes}
    possible = list(islice(_orders(sizes, before), SHOWN + 1))
    if not possible:
        shapes = ", ".join(f"{name} ({m} to {n})" for name, (m, n) in sizes.items())
        raise ValueError(
            f"{path}: the layers do not follow each other: {shapes}; name them in their order with "
            "`layers`"
        )
    if len(possible) > 1:
        texts = [f"`layers` {' '.join(order)}" for order in possible[:SHOWN]]
        more = ", or in another order" if len(possible) > SHOWN else ""
        raise ValueError(
            f"{path}: names and shapes of the layers allow more than one order; say which it is: "
            f"{', or '.join(texts)}{more}"
        )
    return possible[0]


def _orders(
    sizes: Mapping[str, tuple[int, ...]], before: Mapping[str, set[str]]
) -> Iterator[list[str]]:
    """Yield the orders of layers of these (in, out) in which each one's outputs are as many as the
    next one's inputs, and in which those `before` one come before it; none more after MAX_TRIED.
    """
    names, tried = sorted(sizes, key=_natural), 0
    dead = set()  # what is left where no order was found, so that it is not searched again
    taken: list[str] = []
    left, found = set(sizes), [False]

    def choices() -> Iterator[str]:
        width = sizes[taken[-1]][1] if taken else None
        rest = [n for n in names if n in left and width in (None, sizes[n][0])]
        return iter([] if state() in dead else [n for n in rest if not before[n] & left])

    def state() -> tuple[int | None, frozenset[str]]:
        return sizes[taken[-1]][1] if taken else None, frozenset(left)

    stack = [choices()]
    while stack and tried < MAX_TRIED:
        if (name := next(stack[-1], None)) is not None:
            taken.append(name)
            left.remove(name)
            tried += 1
            stack.append(choices())
            found.append(not left)
            if not left:
                yield list(taken)
            continue
        stack.pop()
        if not (hit := found.pop()):
            dead.add(state())
        if stack:
            left.add(taken.pop())
            found[-1] |= hit


def _before(name: str, other: str) -> bool:
    """Whether two names differ in a number first, and the number of `name` is the smaller."""
    for one, two in zip(name.split("."), other.split("."), strict=False):
        if one != two:
            alike = re.sub("[0-9]+", "0", one) == re.sub("[0-9]+", "0", two)
            return alike and _natural(one) < _natural(two)
    return False
