"""The catalogue's attention, masks, residuals, and the order of axes and elements."""

from __future__ import annotations

import math
from functools import partial
from itertools import combinations

import torch

from jaxnet.parity.causes.torch_calls import NORMS, family

FAR = -1e30  # no softmax lets it through; it is finite, so that a row of nothing else is defined


def _mask_changes(blocked, apply):
    """Yield the changes of a mask. apply(blocked or None, fill) -> the call's result.

    fill: what replaces blocked scores; None: 10 is subtracted from them.
    """
    yield "mask left out", "apply the mask", partial(apply, None, FAR)
    remedy = "one library blocks where the mask is True, the other keeps"
    yield "mask inverted", remedy, partial(apply, ~blocked, FAR)
    remedy = "block by -inf, or by the dtype's least number, before the softmax"
    yield "mask of -10 for -inf", remedy, partial(apply, blocked, -10.0)
    yield "mask by adding -10", remedy, partial(apply, blocked, None)
    yield "mask of 0 for -inf", remedy, partial(apply, blocked, 0.0)
    if blocked.ndim < 2 or blocked.shape[-1] != blocked.shape[-2]:
        return
    remedy = "the last two axes of a mask are query, key"
    ones = torch.ones_like(blocked[(0,) * (blocked.ndim - 2)])
    padding = blocked.all(-2, keepdim=True)  # keys that no query sees
    turned = ones.tril(-1) | padding if torch.equal(blocked, ones.triu(1) | padding) else blocked.mT
    yield "mask transposed", remedy, partial(apply, turned, FAR)
    if (blocked | ~ones.triu(1)).all():  # causal, with other masks or without
        if padding.any():
            only = partial(apply, padding.expand_as(blocked), FAR)
            yield "causal mask left out", "no query sees a later key", only
            name, remedy = "padding mask left out", "block the keys that are padding"
            yield name, remedy, partial(apply, ones.triu(1).expand_as(blocked), FAR)
            name, remedy = "padding mask inverted", "torch's key_padding_mask is True where padded"
            yield name, remedy, partial(apply, ones.triu(1) | ~padding, FAR)
        remedy = "row i sees the columns up to i: tril with diagonal 0"
        more = blocked & ~(ones.triu(1) & ~ones.triu(2)) | padding
        yield "causal mask that shows the next position", remedy, partial(apply, more, FAR)
        less = partial(apply, blocked | ones.triu(0), FAR)
        yield "causal mask that hides a position from itself", remedy, less


def _filled(x, blocked, fill):
    if blocked is None:
        return x
    return x - 10.0 * blocked if fill is None else x.masked_fill(blocked, fill)


@family("masked_fill where add")
def _score_mask(call):
    """Yield the changes of a mask that is filled into scores, selected with, or added."""
    x, mask, value = call["input"], call["mask"], call["value"]
    if call.name == "add":
        x, value = call["other"], call["input"]
        if not isinstance(x, torch.Tensor) or not (value < -9e3).any():
            x, value = value, x
        mask, value = (value < -9e3, FAR) if isinstance(value, torch.Tensor) else (None, 0)
    elif call.name == "where" and not (isinstance(x, torch.Tensor) and x.ndim):
        x, mask, value = value, ~mask, x  # where(keep, scores, -inf)
    if isinstance(value, torch.Tensor) and value.ndim == 0:
        value = value.item()
    made = x.unique().numel() == 1  # not scores: a mask is made here, which is added later
    if not made and not isinstance(value, torch.Tensor) and value < -9 and mask.any():
        yield from _mask_changes(mask, partial(_filled, x))


@family("scaled_dot_product_attention")
def _attention(call):
    q, k, mask = call["query"], call["key"], call["attn_mask"]
    if call["dropout_p"] or call["enable_gqa"]:
        return
    causal = torch.ones(q.shape[-2], k.shape[-2], dtype=torch.bool).triu(1)
    bias, blocked = mask, causal if call["is_causal"] else None
    if mask is not None and mask.dtype == torch.bool:
        bias, blocked = None, ~mask
    elif mask is not None and (mask < -9e3).any():
        blocked = mask < -9e3
        bias = mask.masked_fill(blocked, 0)
    attend = partial(_attend, call, bias, blocked)
    if blocked is not None:
        yield from _mask_changes(blocked, partial(_attend, call, bias))
    elif q.shape[-2] == k.shape[-2] > 1:
        yield "causal mask added", "use no mask here", partial(_attend, call, bias, causal)
    d, scale = q.shape[-1], call["scale"] or 1 / math.sqrt(q.shape[-1])
    scales = {"without scale": 1.0, "scaled by 1/d": 1 / d, "scaled twice": scale * scale}
    scales["scaled by the size of all heads"] = 1 / math.sqrt(d * math.prod(q.shape[1:-2]))
    remedy = f"multiply the product of query and key by {scale:.4g}"
    done = {scale}
    for name, value in scales.items():
        if value not in done:
            done.add(value)
            yield f"attention {name}", remedy, partial(attend, scale=value)
    yield "attention's softmax over the queries", "set axis=-1", partial(attend, axis=-2)
    for a, b in combinations(("query", "key", "value"), 2):
        swapped = partial(attend, **{a: call[b], b: call[a]})
        yield f"attention's {a} and {b} swapped", "compare the parts of a fused weight", swapped
    remedy = "reshape features (T, H * D) to (T, H, D), transpose to (H, T, D); merge them back so"
    for name, split, merge in _HEADS if q.ndim > 3 else ():
        inputs = {part: split(call[part]) for part in ("query", "key", "value")}
        yield name, remedy, lambda i=inputs, m=merge: m(attend(**i))
        yield f"{name}, only when split", remedy, partial(attend, **inputs)
        yield f"{name}, only when merged", remedy, lambda m=merge: m(attend())


def _attend(call, bias, blocked, fill=FAR, scale=None, axis=-1, **changed):
    """Return attention written out, with its `weights` (..., queries, keys)."""
    q, k, v = (changed.get(part, call[part]) for part in ("query", "key", "value"))
    scores = q @ k.mT * (scale or call["scale"] or 1 / math.sqrt(q.shape[-1]))
    scores = scores if bias is None else scores + bias
    weights = _filled(scores, blocked, fill).softmax(axis)
    out = weights @ v
    out.weights = weights
    return out


def _rows(x):
    """Return heads (..., H, T, D) as (..., T, H, D), or back."""
    return x.transpose(-3, -2)


_HEADS = (  # what heads (..., H, T, D) become when they are split wrongly, and merged wrongly
    (
        "heads interleaved, (D, H) for (H, D)",
        lambda x: _rows(x).reshape(_rows(x).mT.shape).movedim(-1, -3),
        lambda x: _rows(x.movedim(-3, -1).reshape(_rows(x).shape)),
    ),
    (
        "heads by a reshape without transpose",
        lambda x: _rows(x).reshape(x.shape),
        lambda x: _rows(x.reshape(_rows(x).shape)),
    ),
)


@family("reshape view flatten unflatten")
def _order(call):
    """Yield the same reshape with the merged or split axes in another order."""
    x, shape = call.args[0], call.original().shape
    if not x.is_floating_point():
        return
    remedy = "transpose before the reshape: NHWC and NCHW, (heads, size) and (size, heads) differ"
    name = "features in the order NHWC for NCHW"
    if x.ndim >= 4 and shape == (len(x), x[0].numel()):
        yield name, remedy, lambda: x.movedim(1, -1).reshape(shape)
    elif len(shape) >= 4 and x.shape == (shape[0], math.prod(shape[1:])):
        last = (shape[0], *shape[2:], shape[1])
        yield name, remedy, lambda: x.reshape(last).movedim(-1, 1)
    elif x.ndim >= 2 and shape == (*x.shape[:-2], x.shape[-2] * x.shape[-1]):
        yield "last two axes interleaved", remedy, lambda: x.mT.reshape(shape)
    elif len(shape) >= 2 and x.shape == (*shape[:-2], shape[-2] * shape[-1]):
        last = (*shape[:-2], shape[-1], shape[-2])
        yield "last two axes interleaved", remedy, lambda: x.reshape(last).mT


@family("transpose permute movedim")
def _axes(call):
    x, y = call.args[0], call.original()
    if x.is_floating_point():
        if x.shape == y.shape:
            yield "transpose left out", "transpose here", lambda: x
        else:
            last = " of the last two axes" if y.stride() == x.mT.stride() else ""
            remedy = "transpose: a reshape moves no elements"
            yield f"reshape for transpose{last}", remedy, lambda: x.reshape(y.shape)


@family("chunk split unbind")
def _parts(call):
    parts = call.original()
    for i, j in combinations(range(min(len(parts), 4)), 2):
        order = [{i: j, j: i}.get(n, n) for n in range(len(parts))]
        remedy = "compare the order of the parts of a fused weight"
        yield f"parts {i} and {j} swapped", remedy, lambda o=order: tuple(parts[n] for n in o)


@family("chunk split")
def _fused(call):
    """Yield parts of the last axis that lie inside each head, or one after another."""
    x, parts = call.args[0], call.original()
    n, width = len(parts), parts[0].shape[-1]
    if any(part.shape != (*x.shape[:-1], width) for part in parts):
        return
    remedy = "split a fused weight's features as (parts, heads, size), or (heads, parts, size)"
    if x.ndim > 2:
        whole = x.flatten(-2).unflatten(-1, (n, x.shape[-2], width))
        name = "fused parts one after another, not inside each head"
        yield name, remedy, lambda: whole.unbind(-3)
    for heads in [h for h in (2, 4, 8, 12, 16) if width % h == 0 and width > h]:
        within = [part.flatten(-2) for part in x.unflatten(-1, (heads, n, -1)).unbind(-2)]
        yield f"fused parts inside each of {heads} heads", remedy, lambda w=within: tuple(w)


@family("__getitem__")
def _index(call):
    x, keys = call.args
    keys = keys if isinstance(keys, tuple) else (keys,)
    for i, key in enumerate(keys):
        if isinstance(key, slice) and key.step is None and (key.stop or 0) > 0:
            name, new = "slice off by one", slice((key.start or 0) + 1, key.stop + 1)
        elif isinstance(key, int) and key in (0, -1):
            name, new = f"element {-1 - key} for {key}", -1 - key
        else:
            continue
        moved = (*keys[:i], new, *keys[i + 1 :])
        yield name, f"take {key}: positions are counted from 0", partial(x.__getitem__, moved)


@family("arange")
def _range(call):
    yield "arange from 1", "positions are counted from 0", lambda: call.original() + 1


@family("add")
def _residual(call):
    """Yield the sum with what a norm returned for what it was given."""
    for key, kept in (("input", call["other"]), ("other", call["input"])):
        for norm in [made for made in call.made.values() if made.name in NORMS]:
            if isinstance(call[key], torch.Tensor) and torch.equal(norm["input"], call[key]):
                name, y = f"residual taken after {NORMS[norm.name]}", norm.result
                y = getattr(y, "locked", y)
                yield name, "add what the norm was given", lambda y=y, x=kept: y + x
