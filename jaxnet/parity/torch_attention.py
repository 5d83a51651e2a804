"""The catalogue's attention, masks, and the order of axes and elements."""

from __future__ import annotations

import math
from functools import partial
from itertools import combinations

import torch

from jaxnet.parity.torch_causes import family

FAR = -1e30  # no softmax lets it through; it is finite, so that a row of nothing else is defined


def _mask_changes(blocked, apply):
    """Yield the changes of a mask. apply(blocked or None, value) -> the call's result."""
    yield "mask left out", "apply the mask", partial(apply, None, FAR)
    yield (
        "mask inverted",
        "True blocks in one library and keeps in another",
        partial(apply, ~blocked, FAR),
    )
    remedy = "block by -inf, or by the dtype's least number, before the softmax"
    yield "mask of -10 for -inf", remedy, partial(apply, blocked, -10.0)
    yield "mask of 0 for -inf", remedy, partial(apply, blocked, 0.0)
    if blocked.ndim < 2 or blocked.shape[-1] != blocked.shape[-2]:
        return
    remedy = "the last two axes of a mask are query, key"
    yield "mask transposed", remedy, partial(apply, blocked.mT, FAR)
    ones = torch.ones_like(blocked[(0,) * (blocked.ndim - 2)])
    if (blocked | ~ones.triu(1)).all():  # causal, with other masks or without
        remedy = "row i sees the columns up to i: tril with diagonal 0"
        more = blocked & ~(ones.triu(1) & ~ones.triu(2)) | blocked.all(-2, keepdim=True)
        yield "causal mask off by one: sees the next position", remedy, partial(apply, more, FAR)
        less = partial(apply, blocked | ones.triu(0), FAR)
        yield "causal mask off by one: does not see its own position", remedy, less


@family("masked_fill where")
def _fill(call):
    x, mask, value = call["input"], call["mask"], call["value"]
    if call.name == "where" and isinstance(value, torch.Tensor) and value.ndim:
        x, mask, value = value, ~mask, x  # where(keep, scores, -inf)
    value = float(value) if not isinstance(value, torch.Tensor) or not value.ndim else 0.0
    if value < -9:

        def apply(blocked, value):
            return x if blocked is None else x.masked_fill(blocked, value)

        yield from _mask_changes(mask, apply)


@family("add")
def _additive(call):
    for mask, x in ((call["other"], call["input"]), (call["input"], call["other"])):
        if isinstance(mask, torch.Tensor) and mask.is_floating_point() and (mask < -9e3).any():

            def apply(blocked, value, x=x):
                return x if blocked is None else x.masked_fill(blocked, value)

            yield from _mask_changes(mask < -9e3, apply)
            return


@family("scaled_dot_product_attention")
def _attention(call):
    q, k, mask = call["query"], call["key"], call["attn_mask"]
    if call["dropout_p"] or call["enable_gqa"]:
        return
    bias, blocked = mask, None
    if call["is_causal"]:
        blocked = torch.ones(q.shape[-2], k.shape[-2], dtype=torch.bool).triu(1)
    elif mask is not None and mask.dtype == torch.bool:
        bias, blocked = None, ~mask
    elif mask is not None and mask.isneginf().any():
        blocked = mask.isneginf()
        bias = mask.masked_fill(blocked, 0)
    attend = partial(_attend, call, bias, blocked)
    if blocked is not None:
        yield from _mask_changes(blocked, lambda b, v: _attend(call, bias, b, fill=v))
    elif q.shape[-2] == k.shape[-2]:
        causal = torch.ones(q.shape[-2], k.shape[-2], dtype=torch.bool).triu(1)
        yield "causal mask added", "no mask here", partial(_attend, call, bias, causal)
    d, scale = q.shape[-1], call["scale"] or 1 / math.sqrt(q.shape[-1])
    scales = {"no scale": 1.0, "scale 1/d": 1 / d, "scale taken twice": scale * scale}
    if q.ndim > 3:
        scales["scale by all heads' size"] = 1 / math.sqrt(d * q.shape[-3])
    remedy = f"multiply the product of query and key by {scale:.4g}, 1/sqrt(size of a head)"
    done = {scale}
    for name, value in scales.items():
        if value not in done:
            done.add(value)
            yield f"attention: {name}", remedy, partial(attend, scale=value)
    yield "attention: softmax over the queries", "set axis=-1", partial(attend, axis=-2)
    for a, b in combinations(("query", "key", "value"), 2):
        swapped = partial(attend, **{a: call[b], b: call[a]})
        yield f"attention: {a} and {b} swapped", "compare the fused weights' order", swapped
    if q.ndim > 3:
        yield from _head_orders(call, attend)


def _head_orders(call, attend):
    """Yield wrong orders in which heads are split from and merged to the features (T, H * D)."""

    def interleaved(x):  # features read as (D, H)
        rows = x.transpose(-3, -2)
        return rows.reshape(*rows.shape[:-2], x.shape[-1], x.shape[-3]).movedim(-1, -3)

    def back(x):
        rows = x.movedim(-3, -1)
        return rows.reshape(*rows.shape[:-2], x.shape[-3], x.shape[-1]).transpose(-3, -2)

    def reshaped(x):  # (T, H * D) reshaped to (H, T, D) at once
        return x.transpose(-3, -2).reshape(x.shape)

    def reshaped_back(x):
        rows = x.transpose(-3, -2)
        return x.reshape(rows.shape).transpose(-3, -2)

    remedy = "reshape the features to (T, H, D), then transpose to (H, T, D), and back"
    parts = ("query", "key", "value")
    for name, split, merge in (
        ("heads interleaved", interleaved, back),
        ("heads split by a reshape without transpose", reshaped, reshaped_back),
    ):
        inputs = {part: split(call[part]) for part in parts}
        yield f"attention: {name}", remedy, lambda i=inputs, m=merge: m(attend(**i))
        yield f"attention: {name}, only split", remedy, partial(attend, **inputs)
        yield f"attention: {name}, only merged", remedy, lambda m=merge: m(attend())


def _attend(call, bias, blocked, fill=FAR, scale=None, axis=-1, **changed):
    """Return attention written out; the result's `weights` are (..., queries, keys)."""
    q, k, v = (changed.get(part, call[part]) for part in ("query", "key", "value"))
    scores = q @ k.mT * (scale or call["scale"] or 1 / math.sqrt(q.shape[-1]))
    scores = scores if bias is None else scores + bias
    scores = scores if blocked is None else scores.masked_fill(blocked, fill)
    out = scores.softmax(axis) @ v
    out.weights = scores.softmax(axis)
    return out


@family("reshape view flatten unflatten")
def _order(call):
    """Yield the same reshape with the merged or split axes in another order."""
    x, shape = call.args[0], call.original().shape
    if not isinstance(x, torch.Tensor) or not x.is_floating_point():
        return
    remedy = "transpose before the reshape: NHWC and NCHW, (heads, size) and (size, heads) differ"
    if x.ndim >= 4 and shape == (len(x), x[0].numel()):
        name = "features in the order NHWC for NCHW"
        yield name, remedy, lambda: x.movedim(1, -1).reshape(shape)
    elif len(shape) >= 4 and x.shape == (shape[0], math.prod(shape[1:])):
        name, last = "features in the order NHWC for NCHW", (shape[0], *shape[2:], shape[1])
        yield name, remedy, lambda: x.reshape(last).movedim(-1, 1)
    elif x.ndim >= 2 and shape == (*x.shape[:-2], x.shape[-2] * x.shape[-1]):
        yield "last two axes interleaved", remedy, lambda: x.mT.reshape(shape)
    elif len(shape) >= 2 and x.shape == (*shape[:-2], shape[-2] * shape[-1]):
        last = (*shape[:-2], shape[-1], shape[-2])
        yield "last two axes interleaved", remedy, lambda: x.reshape(last).mT


@family("transpose permute movedim swapaxes")
def _axes(call):
    x, y = call.args[0], call.original()
    if x.is_floating_point():
        if x.shape == y.shape:
            yield "transpose left out", "transpose here", lambda: x
        yield (
            "reshape for transpose",
            "transpose: a reshape moves no axes",
            lambda: x.reshape(y.shape),
        )


@family("chunk split unbind")
def _parts(call):
    parts = call.original()
    for i, j in combinations(range(min(len(parts), 4)), 2):
        order = [{i: j, j: i}.get(n, n) for n in range(len(parts))]
        remedy = "compare the order of the parts of a fused weight"
        yield f"parts {i} and {j} swapped", remedy, lambda o=order: tuple(parts[n] for n in o)
    if call.name != "unbind" and len({part.shape for part in parts}) == 1:
        dim, x = call["dim"] or 0, call["input"]

        def strided():
            index = torch.arange(x.shape[dim])
            return tuple(x.index_select(dim, index[i :: len(parts)]) for i in range(len(parts)))

        yield "parts interleaved", "the parts are blocks, not every n-th element", strided


@family("cat")
def _concatenation(call):
    if len(call["tensors"]) == 2:
        remedy = "swap the two arrays"
        yield (
            "concatenated in the other order",
            remedy,
            partial(call, tensors=call["tensors"][::-1]),
        )


@family("__getitem__")
def _index(call):
    x, key = call.args
    key = key if isinstance(key, tuple) else (key,)
    for i, part in enumerate(key):
        if isinstance(part, int) and part in (0, -1):
            new = (*key[:i], -1 - part, *key[i + 1 :])
            yield (
                f"element {-1 - part} for {part}",
                f"take element {part}",
                partial(x.__getitem__, new),
            )
        elif isinstance(part, slice) and part.step is None and (part.stop or 0) > 0:
            moved = slice((part.start or 0) + 1, part.stop + 1)
            new = (*key[:i], moved, *key[i + 1 :])
            remedy = "positions are counted from 0"
            yield "slice off by one", remedy, partial(x.__getitem__, new)


@family("arange")
def _range(call):
    yield "arange from 1", "positions are counted from 0", lambda: call.original() + 1


@family("mean sum")
def _mean(call):
    x, y = call.args[0], call.original()
    n = x.numel() // y.numel()
    if call.name == "sum":
        yield "mean for sum", f"sum over the {n} elements", lambda: call.original() / n
    else:
        yield "sum for mean", f"divide by the {n} elements", lambda: call.original() * n
    dim = call["dim"]
    for axis in range(x.ndim) if isinstance(dim, int) else ():
        if axis != dim % x.ndim:
            name = f"{call.name} over axis {axis} for {dim}"
            yield name, f"set axis={dim}", partial(call, dim=axis)


@family("var std")
def _variance(call):
    x, y = call.args[0], call.original()
    n = x.numel() // y.numel()
    biased = call.kwargs.get("correction") == 0 or call.kwargs.get("unbiased") is False
    biased = biased or any(value is False for value in call.args[1:3])
    factor = (n / (n - 1) if biased else (n - 1) / n) ** (1 if call.name == "var" else 0.5)
    name, ddof = ("unbiased", 0) if biased else ("biased", 1)
    yield f"{name} {call.name}", f"set ddof={ddof}", lambda: call.original() * factor
