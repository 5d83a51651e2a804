"""The catalogue's layers with weights, and losses: convolutions, embeddings, LSTM and GRU."""

from __future__ import annotations

from functools import partial
from itertools import permutations

import torch
import torch.nn.functional as F

from jaxnet.parity.torch_causes import LOSSES, family


def _each(value, n):
    return [*value] if isinstance(value, (tuple, list)) else [value] * n


def _pad(x, pads, value=0.0):
    """Pad the last axes by (before, after); a negative number crops."""
    return F.pad(x, [side for pair in reversed(pads) for side in pair], value=value)


def _windows(call, sizes):
    """Return the padding of each axis, and JAX's padding SAME, as (before, after)."""
    n = len(sizes)
    stride = call["stride"] or (sizes if "pool" in call.name else 1)
    steps = _each(stride, n), _each(call["dilation"] or 1, n)
    same = []
    for length, size, stride, dilation in zip(call["input"].shape[-n:], sizes, *steps, strict=True):
        total = max((-(-length // stride) - 1) * stride + (size - 1) * dilation + 1 - length, 0)
        same.append((total // 2, total - total // 2))
    if isinstance(padding := call["padding"] or 0, str):
        return (same if padding == "same" else [(0, 0)] * n), same
    return [(p, p) for p in _each(padding, n)], same


@family("linear conv1d conv2d conv3d conv_transpose1d conv_transpose2d")
def _weights(call):
    weight = call["weight"]
    if call["bias"] is not None:
        yield f"bias of {call.name} left out", "add the bias", partial(call, bias=None)
    axes = tuple(range(2, weight.ndim))
    if any(weight.shape[axis] > 1 for axis in axes):
        remedy = "JAX's convolutions do not flip, as torch's; nnx.ConvTranspose does not either: "
        remedy += "flip the kernel, or set transpose_kernel"
        yield f"kernel of {call.name} flipped", remedy, partial(call, weight=weight.flip(axes))
    if axes or weight.shape[0] == weight.shape[1]:
        remedy = "declare the axes in `layout`"
        yield f"weight of {call.name} transposed", remedy, partial(call, weight=weight.mT)


@family("conv1d conv2d conv3d")
def _convolution(call):
    x, sizes = call["input"], [*call["weight"].shape[2:]]
    pads, same = _windows(call, sizes)
    padded = lambda new: partial(call, input=_pad(x, new), padding=0)  # noqa: E731
    remedy = f"set padding={pads}"
    if same != pads:
        yield f"padding SAME {same} for {pads}", remedy, padded(same)
    if any(map(any, pads)):
        yield f"padding VALID for {pads}", remedy, partial(call, padding=0)
    for shift in (-1, 1) if same == pads else ():
        moved = [(a + shift, b - shift) for a, b in pads]
        yield f"padding {moved} for {pads}", remedy, padded(moved)
    dilations = _each(call["dilation"] or 1, len(sizes))
    if max(dilations) > 1:
        less = [(d - 1) * (k - 1) for d, k in zip(dilations, sizes, strict=True)]
        new = [(a - n // 2, b - n + n // 2) for (a, b), n in zip(pads, less, strict=True)]
        changed = partial(padded(new), dilation=1)
        yield f"dilation 1 for {dilations}", f"set kernel_dilation={dilations}", changed


@family("max_pool1d max_pool2d")
def _max_pool(call):
    pads, same = _windows(call, _each(call["kernel_size"], int(call.name[-2])))
    if same != pads:
        changed = partial(call, input=_pad(call["input"], same, float("-inf")), padding=0)
        yield f"pooling with padding SAME {same} for {pads}", f"set padding={pads}", changed
    if any(map(any, pads)):
        remedy = f"set padding={pads}"
        yield f"pooling with padding VALID for {pads}", remedy, partial(call, padding=0)


@family("pad")
def _padding(call):
    x, pad, mode = call["input"], [*call["pad"]], call["mode"] or "constant"
    if mode != "constant":
        yield f"zero padding for {mode}", f"pad with mode {mode!r}", partial(F.pad, x, pad)
    pairs = [*zip(pad[::2], pad[1::2], strict=True)]
    centred = [side for a, b in pairs for side in ((a + b) // 2, (a + b + 1) // 2)]
    mirrored = [side for a, b in pairs for side in (b, a)]
    for new in [centred] * (centred != pad) + [mirrored] * (mirrored not in (pad, centred)):
        yield f"padding {new} for {pad}", f"pad by {pad}", partial(call, pad=new)


@family("embedding")
def _embedding(call):
    weight, indices = call["weight"], call["indices"]
    known = call["padding_idx"] is not None and call["padding_idx"] >= 0
    row = call["padding_idx"] if known else 0
    size = weight.shape[1] ** 0.5
    yield "embedding times sqrt(d)", "do not scale it", lambda: call() * size
    remedy = f"row {row} of the embedding gets " + ("no gradient" if known else "a gradient")
    name = f"padding row {row} " + ("trained" if known else "not trained")
    yield name, remedy, partial(call, padding_idx=-1 if known else row)
    remedy = f"row {row} of the embedding is used as it is: do not mask it"
    blank = partial(torch.masked_fill, mask=(indices == row).unsqueeze(-1), value=0)
    yield f"padding row {row} masked", remedy, lambda: blank(call())
    for shift in (-1, 1):
        moved = partial(call, indices=(indices + shift).clamp(0, len(weight) - 1))
        yield f"index {shift:+d} off", "count from 0", moved


@family("dropout")
def _dropout(call):
    if call["train"] and 0 < call["p"] < 1:
        name = "dropout without its scale 1 / (1 - p)"
        yield name, "divide what is kept by 1 - p", lambda: call() * (1 - call["p"])
        yield "dropout left out", "switch to training mode", lambda: call["input"]


@family(LOSSES)
def _reduction(call):
    each = call(reduction="none")
    divisors = {"sum": 1, "mean over all elements": each.numel(), "mean over the batch": len(each)}
    target, weight, kept = call["target"], call["weight"], None
    if call.name in ("cross_entropy", "nll_loss") and not target.is_floating_point():
        kept = target != (-100 if call["ignore_index"] is None else call["ignore_index"])
        divisors["mean over the elements not ignored"] = int(kept.sum())
        if weight is not None:
            divisors["mean weighted by class"] = float(weight[target[kept]].sum())
    if call["reduction"] == "none":
        return
    total, value = each.sum(), call()
    same = [n for n, d in divisors.items() if torch.isclose(total / d, value, rtol=1e-9)]
    own, seen = same[-1] if same else "mean", {divisors[n] for n in same}
    if kept is not None and (made := call.made_by(call["input"], "flatten reshape view")):
        rows, counts = (a.reshape(len(made.args[0]), -1).sum(1) for a in (each, kept))
        if len(rows) < each.numel() and not torch.isclose((rows / counts).mean(), value):
            name = f"mean over each of {len(rows)} rows, then over the rows, for the {own}"
            yield name, f"take the {own}", lambda: (rows / counts).mean()
    for name, divisor in reversed(divisors.items()):
        if divisor not in seen:
            seen.add(divisor)
            remedy = f"take the {own}"
            yield f"{name} for the {own}", remedy, lambda d=divisor: each.sum() / d
    yield "half of the loss", "optax.l2_loss is half of the squared error", lambda: call() / 2


@family("cross_entropy nll_loss binary_cross_entropy_with_logits")
def _classes(call):
    for key, what in (("weight", "class weights"), ("pos_weight", "pos_weight")):
        if call[key] is not None:
            yield f"{what} left out", f"apply the {what}", partial(call, **{key: None})
    if call["ignore_index"] is not None and (call["target"] == call["ignore_index"]).any():
        remedy = f"leave out the rows with label {call['ignore_index']}"
        yield "ignore_index not ignored", remedy, partial(call, ignore_index=-(10**6))
    if call.name == "cross_entropy":
        own = call["label_smoothing"] or 0.0
        for value in {0.0, 0.1} - {own}:
            name, remedy = f"label smoothing {value:g} for {own:g}", f"smooth labels by {own:g}"
            yield name, remedy, partial(call, label_smoothing=value)
        x = call["input"]
        yield from _smoothing(call, own, call["ignore_index"]) if own else ()
        remedy = "give logits, not probabilities, to the cross-entropy"
        yield "softmax taken twice", remedy, partial(call, input=x.softmax(min(x.ndim - 1, 1)))


def _smoothing(call, s, ignored):
    """Yield the wrong forms of label smoothing by s."""
    plain, even = partial(call, label_smoothing=0.0), partial(call, label_smoothing=1.0)
    x = call["input"]
    k = x.shape[min(x.ndim - 1, 1)]
    remedy = f"the right class has 1 - {s:g} + {s:g} / {k}, each other one {s:g} / {k}"
    name = "label smoothing that takes s / K from the right class, not s"
    yield name, remedy, lambda: (1 - s / k) * plain() + s * even()
    name = "label smoothing over the other classes only"
    yield name, remedy, lambda: (1 - s) * plain() + s * (k * even() - plain()) / (k - 1)
    at = call["target"] == ignored
    if at.any() and call["reduction"] in (None, "mean"):
        extra = -s * x.log_softmax(1).mean(1)[at].sum()
        name = "mean over all elements, with the smoothed part of those that are ignored"
        remedy = "leave the ignored elements out of the sum and of the count"
        yield name, remedy, lambda: (call(reduction="sum") + extra) / at.numel()


GATES = {"lstm": "ifgo", "lstm_cell": "ifgo", "gru": "rzn", "gru_cell": "rzn"}


def _rebuilt(call, change):
    """Run a recurrent layer or cell with the weights of each layer and direction changed."""
    args = [*call.args]
    if call.name.endswith("cell"):
        args[2:] = change(*args[2:])
    else:
        at = 3 if isinstance(args[3], (tuple, list)) else 2  # after the sizes of packed sequences
        n = 4 if args[at + 1] else 2
        layers = [args[at][i : i + n] for i in range(0, len(args[at]), n)]
        args[at] = [p for layer in layers for p in change(*layer)]
    return call.func(*args)


@family(" ".join(GATES))
def _recurrent(call):
    gates = GATES[call.name]
    for order in map("".join, permutations(gates)):
        if order != gates:
            index = [order.index(gate) for gate in gates]

            def reordered(*layer, index=index):
                blocks = [p.unflatten(0, (len(gates), -1))[index] for p in layer if p is not None]
                return [block.flatten(0, 1) for block in blocks]

            remedy = f"the rows of torch's weights are the gates {', '.join(gates)}"
            name = f"gates in the order {', '.join(order)} for {', '.join(gates)}"
            yield name, remedy, partial(_rebuilt, call, reordered)

    def add(w_ih, w_hh, b_ih, b_hh):
        n = len(b_ih) // 4
        return w_ih, w_hh, b_ih + F.pad(b_ih.new_ones(n), (n, 2 * n)), b_hh

    if gates == "ifgo":
        remedy = "torch adds no 1 to the forget gate"
        yield "forget gate's bias plus 1", remedy, partial(_rebuilt, call, add)
    remedy = "use b_ih + b_hh where the cell has one bias"
    if gates == "rzn":
        remedy = "b_hh's last third stands inside the reset gate's product"
    for i, name in ((2, "b_ih"), (3, "b_hh")):

        def without(*layer, i=i):
            return [0 * p if j == i else p for j, p in enumerate(layer)]

        yield f"{name} left out", remedy, partial(_rebuilt, call, without)

    def turned_weights(w_ih, w_hh, *biases):
        return w_ih, w_hh.unflatten(0, (len(gates), -1)).mT.flatten(0, 1), *biases

    name, remedy = "recurrent weights transposed in each gate", "transpose them, as the input's"
    yield name, remedy, partial(_rebuilt, call, turned_weights)
    if call.name.endswith("cell") or len(call.args) != 9:
        return
    axis, function = 1 if call.args[8] else 0, getattr(torch, call.name)
    if call.args[7] is False:

        def backwards():
            y, *states = function(call.args[0].flip(axis), *call.args[1:])
            return y.flip(axis), *states

        yield "the sequence read backwards", "begin with the first step", backwards
    if call.name == "lstm":
        swapped = (call.args[0], call.args[1][::-1], *call.args[2:])
        yield "h and c swapped in the carry", "flax: (c, h)", lambda: function(*swapped)
    if call.args[7] is True:

        def turned():
            y, *states = call.original()
            forward, backward = y.chunk(2, -1)
            return torch.cat([forward, backward.flip(axis)], -1), *states

        remedy = "put the backward direction's outputs in the order of time: keep_order=True"
        yield "backward direction's outputs not turned back", remedy, turned


@family("gru gru_cell")
def _gru(call):
    for name, remedy in {
        "reset gate before the product": "torch resets the product: r * (W h + b), not W (r * h)",
        "b_hn outside the reset gate": "torch adds b_hn before it multiplies by r",
        "update gate complemented": "torch's z is the share of the old state",
    }.items():
        yield name, remedy, partial(_run_gru, call, name)


def _run_gru(call, mistake):
    x, h, *rest = call.args
    if call.name == "gru_cell":
        return _gru_step(mistake, x, h, *rest)
    params, has_biases, layers, _, _, both, batch_first = rest
    x, n, states = x.transpose(0, 1) if batch_first else x, 4 if has_biases else 2, []
    for layer in range(layers):
        outputs = []
        for direction in range(1 + both):
            at = layer * (1 + both) + direction
            state, ys = h[at], []
            for row in x.flip(0) if direction else x:
                state = _gru_step(mistake, row, state, *params[at * n : at * n + n])
                ys.append(state)
            outputs.append(torch.stack(ys[::-1] if direction else ys))
            states.append(state)
        x = torch.cat(outputs, -1)
    return x.transpose(0, 1) if batch_first else x, torch.stack(states)


def _gru_step(mistake, x, h, w_ih, w_hh, b_ih=None, b_hh=None):
    b_hh = w_hh.new_zeros(len(w_hh)) if b_hh is None else b_hh
    (ir, iz, i), (hr, hz, n) = F.linear(x, w_ih, b_ih).chunk(3, -1), F.linear(h, w_hh).chunk(3, -1)
    br, bz, b = b_hh.chunk(3)
    r, z = torch.sigmoid(ir + hr + br), torch.sigmoid(iz + hz + bz)
    if mistake.startswith("reset"):
        new = torch.tanh(i + F.linear(r * h, w_hh.chunk(3)[2], b))
    else:
        new = torch.tanh(i + (r * n + b if mistake.startswith("b_hn") else r * (n + b)))
    return (1 - z) * h + z * new if "complemented" in mistake else (1 - z) * new + z * h
