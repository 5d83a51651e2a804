"""The catalogue's layers with weights, and losses: convolutions, pooling and embeddings."""

from __future__ import annotations

from functools import partial

import torch
import torch.nn.functional as F

from jaxnet.parity.causes.torch_calls import LOSSES, family


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
    remedy = "declare the axes in `layout`"
    if axes:  # that of a linear layer is a leaf: `layout` is wrong
        yield f"weight of {call.name} transposed", remedy, partial(call, weight=weight.mT)
    if axes and weight.shape[0] == weight.shape[1]:
        name = f"weight of {call.name} transposed, inputs for outputs"
        yield name, remedy, partial(call, weight=weight.transpose(0, 1))


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
    if same != pads and any(before for before, _ in same):  # else it is one of the others
        after = [(0, a + b) for a, b in pads]
        yield f"padding {after} for {pads}", remedy, padded(after)
    if any(map(any, pads)):
        around = partial(F.pad, x, [side for pair in reversed(pads) for side in pair], "circular")
        yield "circular padding for zeros", remedy, lambda: call(input=around(), padding=0)
    dilations = _each(call["dilation"] or 1, len(sizes))
    if max(dilations) > 1:
        less = [(d - 1) * (k - 1) for d, k in zip(dilations, sizes, strict=True)]
        remedy = f"set kernel_dilation={dilations}"
        odd = any(n % 2 for n in less)
        for text, up in (("", 0), (" (padded more at the end)", 1))[: 1 + odd]:
            more = [
                (a - (n + up) // 2, b - n + (n + up) // 2)
                for (a, b), n in zip(pads, less, strict=True)
            ]
            yield f"dilation 1 for {dilations}{text}", remedy, partial(padded(more), dilation=1)


@family("max_pool1d max_pool2d")
def _max_pool(call):
    pads, same = _windows(call, _each(call["kernel_size"], int(call.name[-2])))
    if same != pads:
        changed = partial(call, input=_pad(call["input"], same, float("-inf")), padding=0)
        yield f"pooling with padding SAME {same} for {pads}", f"set padding={pads}", changed
    if any(map(any, pads)):
        remedy = f"set padding={pads}"
        yield f"pooling with padding VALID for {pads}", remedy, partial(call, padding=0)
        zeros = partial(call, input=_pad(call["input"], pads), padding=0)
        yield "pooling with padding of zeros for -inf", "nnx.max_pool pads by -inf", zeros
    sizes = [call[key] for key in ("kernel_size", "stride", "padding")]
    average = getattr(F, call.name.replace("max", "avg"))
    sizes = [size for size in sizes if size is not None]
    yield "average pooling for maximum", "use max_pool", lambda: average(call["input"], *sizes)


@family("avg_pool1d avg_pool2d")
def _avg_pool(call):
    counted = call["count_include_pad"] is not False
    if any(_each(call["padding"] or 0, 1)):
        what = "padding not counted in the average" if counted else "padding counted in the average"
        remedy = f"set count_include_pad={counted}"
        yield what, remedy, partial(call, count_include_pad=not counted)
    yield "average pooling left out", "apply it here", lambda: call["input"]


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
