"""`propose_layout`: a layout from the kinds, names, order and shapes of two modules' layers."""

from __future__ import annotations

import difflib
import itertools
import re
from math import prod
from typing import Any, NamedTuple

import numpy as np

from jaxnet.parity.layouts.expression import Expression, leaf

Shape = tuple[int, ...]
Pair = tuple[Any, Shape]  # what it is, and its shape

# what a layer is, by the name of its class or of a base of it, in torch and in nnx
KINDS = {"Linear": "linear", "LinearGeneral": "linear", "Embedding": "embed", "Embed": "embed"}
KINDS |= dict.fromkeys(("Conv", "Conv1d", "Conv2d", "Conv3d"), "conv")
KINDS |= {name: name for name in ("LayerNorm", "GroupNorm", "RMSNorm", "BatchNorm")}
KINDS |= {"_BatchNorm": "BatchNorm"}
NORM = {"weight": "scale", "bias": "bias", "running_mean": "mean", "running_var": "var"}
ROLES = {"linear": {"weight": "kernel", "bias": "bias"}, "embed": {"weight": "embedding"}}
ROLES["conv"] = ROLES["linear"]  # torch's name of a leaf -> nnx's, by kind; NORM for all others
SAME = {"q": "query", "k": "key", "v": "value", "o": "out", "reverse": "backward"}
SAME |= {"proj": "", "layer": "", "layers": "", "weight": "", "kernel": "", "scale": ""}


class Layer(NamedTuple):
    """A layer, or (kind "") a leaf alone, of one of the two modules.

    leaves: by nnx's name in the layer: the own leaf's name, or the expression that makes it, or
    None; and its shape, a linear kernel's as (in, out).
    """

    path: str
    kind: str
    leaves: dict[str, Pair]

    @property
    def key(self) -> tuple:
        """What two layers must have in common; of a leaf alone its shape in any order."""
        if not self.kind:
            return tuple(sorted(self.leaves[""][1]))
        return self.kind, *sorted((role, shape) for role, (_, shape) in self.leaves.items())

    def split(self) -> list[Layer]:
        """Return its leaves alone."""
        made = {f"{self.path}/{role}".strip("/"): pair for role, pair in self.leaves.items()}
        return [Layer(path, "", {"": pair}) for path, pair in made.items() if pair[0]]


class Proposal(dict[str, Any]):
    """A layout to be read first: its str is the code to paste. None is left to you to decide.

    notes: what to check, by own leaf. unused: the leaves of the torch module in no entry.
    """

    def __init__(self, entries: dict[str, Any], notes: dict[str, str], unused: list[str]):
        super().__init__(entries)
        self.notes, self.unused = notes, unused

    def __str__(self) -> str:
        lines = ["layout = {"]
        for name, entry in self.items():
            note = f"  # {self.notes[name]}" if self.notes[name] else ""
            lines.append(f"    {name!r}: {entry!r},{note}")
        return "\n".join([*lines, "}", *(f"# not used: {name!r}" for name in self.unused)])


def propose_layout(torch_module: Any, nnx_module: Any) -> Proposal:
    """Return a layout for `nnx_module` as a port of `torch_module`, to be read before it is used.

    Layers of one kind and shape are paired by their names, or else in the order of definition
    (which a module from `nnx.merge` or `nnx.eval_shape` has lost); attention and LSTMs are split.
    `print` it: that is the code to paste. A comment marks what names and shapes do not prove, as
    the axes of a square weight; what they do not tell is None, which is refused wherever the layout
    is used, until you write what it is.
    """
    shapes, own = _nnx_layers(nnx_module)
    gates = any("/if_/" in f"/{name}" for name in shapes)  # of an nnx.LSTMCell
    names, torch = _torch_layers(torch_module, gates=gates)
    flat = _flattened(torch)
    layers, own, torch = _pair(own, torch)
    alone, own, torch = _pair(*([one for x in side for one in x.split()] for side in (own, torch)))
    entries, notes = {}, {}
    for ours, theirs, note in layers + alone:
        for role, (name, _) in ours.leaves.items():
            entries[name], axes = _entry(*theirs.leaves[role], shapes[name], theirs.kind)
            order = flat.get(theirs.path, "") if role == "kernel" else ""
            notes[name] = "; ".join(text for text in (axes, note, order) if text)
    for ours in own:
        name, shape = ours.leaves[""]
        near = [theirs.path for theirs in torch if theirs.key == ours.key]
        entries[name] = None
        text = " or ".join(near)
        notes[name] = f"ambiguous: {text}" if near else f"no leaf has the shape {shape}"
    used = {name for entry in entries.values() if entry for name in entry.names}
    unused = [name for name in names if name not in used]
    return Proposal({name: entries[name] for name in shapes}, notes, unused)


def _flattened(torch: list[Layer]) -> dict[str, str]:
    """Return the linear layers that may follow a flattened image, each with what to check."""
    found, channels = {}, 0
    for layer in torch:
        if layer.kind in ("conv", "linear") and "kernel" in layer.leaves:
            inputs, *_, outputs = layer.leaves["kernel"][1]
            if layer.kind == "linear" and channels and inputs % channels == 0 < inputs - channels:
                order = f"({channels}, ...) in torch, (..., {channels}) in nnx"
                found[layer.path] = f"ambiguous: the order of inputs, if flattened: {order}"
            channels = outputs if layer.kind == "conv" else 0
    return found


def _entry(
    made: Expression | None, shape: Shape, wanted: Shape, kind: str
) -> tuple[Expression | None, str]:
    """Return what makes an own leaf of the wanted shape, and what to check."""
    if made is None:
        return None, "torch has two biases, and nnx has no place for both"
    if kind:
        square = len(shape) > 1 and shape[-1] == shape[-2] and kind != "embed"
        note = "ambiguous: square, check the axes" if square else ""
        return (made if shape == wanted else made.reshape(*wanted)), note
    orders = list(itertools.permutations(range(len(shape))))
    orders = [axes for axes in orders if tuple(shape[i] for i in axes) == wanted]
    if len(orders) > 1:
        return None, f"ambiguous: {made!r} with its axes as {' or '.join(map(str, orders))}"
    return (made if orders[0] == tuple(range(len(shape))) else made.transpose(*orders[0])), ""


def _pair(
    own: list[Layer], torch: list[Layer]
) -> tuple[list[tuple[Layer, Layer, str]], list[Layer], list[Layer]]:
    """Return pairs with what to check, and the layers left on both sides."""
    pairs = []
    for key in dict.fromkeys(layer.key for layer in own):
        ours, theirs = ([x for x in side if x.key == key] for side in (own, torch))
        alike = [[_alike(one, other) for other in theirs] for one in ours]
        for i, j in np.ndindex(len(ours), len(theirs)):
            rivals = [x for k, x in enumerate(alike[i]) if k != j]
            rivals += [row[j] for k, row in enumerate(alike) if k != i]
            if alike[i][j] > max(rivals, default=-1):  # by their names they are sure of each other
                sure = alike[i][j] == 1 or (i == j and len(ours) == len(theirs))
                note = "" if sure else "ambiguous: paired by name, not in order"
                pairs.append((ours[i], theirs[j], note))
        paired = {id(layer) for pair in pairs for layer in pair[:2]}
        ours, theirs = ([x for x in side if id(x) not in paired] for side in (ours, theirs))
        if len(ours) == len(theirs):
            note = f"ambiguous: {len(ours)} of this shape, paired in order" if len(ours) > 1 else ""
            pairs += [(one, other, note) for one, other in zip(ours, theirs, strict=True)]
    paired = {id(layer) for pair in pairs for layer in pair[:2]}
    own, torch = ([x for x in side if id(x) not in paired] for side in (own, torch))
    return pairs, own, torch


def _alike(one: Layer, other: Layer) -> float:
    """Return how much of two paths is the same words, in [0, 1]."""
    first, second = (
        [word for w in re.split("[/._]", x.path.lower()) if (word := SAME.get(w, w))]
        for x in (one, other)
    )
    return difflib.SequenceMatcher(None, first, second).ratio()


def _kind(part: Any) -> str:
    return next((KINDS[c.__name__] for c in type(part).__mro__ if c.__name__ in KINDS), "")


def _nnx_layers(module: Any) -> tuple[dict[str, Shape], list[Layer]]:
    """Return the shape of each leaf, and the layers, in the order of definition."""
    from flax import nnx

    found = []
    for path, variable in nnx.to_flat_state(nnx.state(module)):
        node, parent, order = module, module, []
        for piece in path:
            parent = node
            children = dict(enumerate(node)) if isinstance(node, (list, tuple)) else node
            children = vars(node) if hasattr(node, "__dict__") else children
            order.append([str(name) for name in children].index(str(piece)))
            node = list(children.values())[order[-1]]
        if not isinstance(variable, (nnx.RngState, nnx.Cache)):
            found.append((order, "/".join(map(str, path)), variable.shape, parent))
    shapes: dict[str, Shape] = {}
    layers: dict[str, Layer] = {}
    for _, name, shape, parent in sorted(found, key=lambda x: x[0]):
        shapes[name] = shape
        (above, _, role), kind = name.rpartition("/"), _kind(parent)
        if not kind or role not in ROLES.get(kind, NORM).values():
            above, role, kind = name, "", ""
        if kind == "linear":
            inputs = (
                parent.in_features
                if isinstance(parent.in_features, int)
                else prod(parent.in_features)
            )
            shape = (inputs, prod(shape) // inputs) if role == "kernel" else (prod(shape),)
        layers.setdefault(above, Layer(above, kind, {})).leaves[role] = name, shape
    return shapes, list(layers.values())


def _torch_layers(module: Any, *, gates: bool) -> tuple[list[str], list[Layer]]:
    """Return the names of the leaves, and the layers as nnx has them, in the order of definition.

    gates: split off each gate of an LSTM, as nnx.LSTMCell does.
    """
    found = [*module.named_parameters(), *module.named_buffers()]
    names = {id(value): name for name, value in found if value.is_floating_point()}
    layers: list[Layer] = []
    for path, part in module.named_modules():
        own = [*part.named_parameters(recurse=False), *part.named_buffers(recurse=False)]
        leaves: dict[str, Pair] = {
            k: (leaf(names[id(v)]), tuple(v.shape)) for k, v in own if id(v) in names
        }
        classes, kind = {c.__name__ for c in type(part).__mro__}, _kind(part)
        groups = {"": leaves} if kind else {}
        if "MultiheadAttention" in classes:
            groups, kind = _attention(leaves), "linear"
        elif classes & {"RNNBase", "RNNCellBase"}:
            groups, kind = _recurrent(leaves, type(part).__name__, gates=gates), "linear"
        made = [_layer(path + end, kind, group) for end, group in groups.items() if group]
        pairs = (pair for x in made for pair in x.leaves.values())
        used = {name for value, _ in pairs if value for name in value.names}
        layers += made + [
            Layer(f"{path}.{name}".strip("."), "", {"": pair})
            for name, pair in leaves.items()
            if pair[0].names[0] not in used
        ]
    return list(names.values()), layers


def _layer(path: str, kind: str, leaves: dict[str, Pair]) -> Layer:
    """Return a layer of torch in nnx's form."""
    made = {role: leaves[name] for name, role in ROLES.get(kind, NORM).items() if name in leaves}
    if kind in ("linear", "conv") and "kernel" in made:
        value, shape = made["kernel"]
        axes = (*range(2, len(shape)), 1, 0)
        turned = value.T if kind == "linear" else value.transpose(*axes)
        made["kernel"] = turned, tuple(shape[i] for i in axes)
    return Layer(path, kind, made)


def _part(pair: Pair, i: int, count: int) -> Pair:
    """Return one of `count` equal parts of the rows."""
    value, (rows, *rest) = pair
    size = rows // count
    return value and value[i * size : (i + 1) * size], (size, *rest)


def _attention(leaves: dict[str, Pair]) -> dict[str, dict[str, Pair]]:
    """Return the projections of a torch MultiheadAttention, without `out`, a layer of its own."""
    layers: dict[str, dict[str, Pair]] = {}
    for i, name in enumerate(("query", "key", "value")):
        parts = {k[8:]: _part(leaves[k], i, 3) for k in leaves if k.startswith("in_proj_")}
        if (alone := f"{name[0]}_proj_weight") in leaves:
            parts["weight"] = leaves[alone]
        layers[f".{name}"] = parts
    return layers


def _recurrent(leaves: dict[str, Pair], kind: str, *, gates: bool) -> dict[str, dict[str, Pair]]:
    """Return the linear layers of nnx's cells: `dense_i` and `dense_h`, or one for each gate."""
    layers: dict[str, dict[str, Pair]] = {}
    for end in [name.removeprefix("weight_ih") for name in leaves if "weight_ih" in name]:
        cell = {x: {"weight": leaves[f"weight_{x}h{end}"]} for x in "ih"}
        if f"bias_ih{end}" in leaves:
            (one, shape), (two, _) = (leaves[f"bias_{x}h{end}"] for x in "ih")
            total = None if "GRU" in kind else one + two
            cell["h" if "LSTM" in kind else "i"]["bias"] = total, shape
        for x, group in cell.items():
            if not gates or "LSTM" not in kind:
                layers[f"{end}.dense_{x}"] = group
                continue
            for i, gate in enumerate("ifgo"):
                layers[f"{end}.{x}{gate}"] = {k: _part(pair, i, 4) for k, pair in group.items()}
    return layers
