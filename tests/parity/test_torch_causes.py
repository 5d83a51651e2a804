"""Each known mistake, written by hand, is what its replay computes, and no other replay does."""

import math
import re
from collections.abc import Callable
from contextlib import nullcontext, suppress
from functools import cache, partial
from itertools import permutations
from typing import Any, NamedTuple

import pytest
import torch

from jaxnet.parity.causes.torch_replay import replays

F, nn = torch.nn.functional, torch.nn
SAME = 1e-9  # float64, values of size 1: a form written by hand rounds otherwise, by 1e-14


@pytest.fixture(autouse=True)
def _one_thread():
    torch.set_num_threads(1)


class Case(NamedTuple):
    """A reference with its inputs and buffers, and the same with each mistake, by its name."""

    reference: Callable[..., Any]
    inputs: list[Any]
    mistakes: dict[str, Callable[..., Any]]
    buffers: tuple = ()


def draw(*shape, seed=0, scale=1.0):
    numbers = torch.Generator().manual_seed(seed)
    return scale * torch.randn(shape, generator=numbers, dtype=torch.double)


def observe(function, case, context=nullcontext()):  # noqa: B008
    """Return outputs, the gradients of all inputs, and the buffers as they are afterwards."""
    inputs = [x.clone().requires_grad_(x.is_floating_point()) for x in case.inputs]
    buffers = [x.clone() for x in case.buffers]
    with context:
        result = function(*inputs, *buffers)
    outputs = [y for y in (result if isinstance(result, tuple) else (result,)) if y is not None]
    total: Any = sum((y * draw(*y.shape, seed=7)).sum() for y in outputs)
    leaves = [x for x in inputs if x.requires_grad]
    grads = torch.autograd.grad(total, leaves, materialize_grads=True)
    return [x.detach() for x in (*outputs, *grads, *buffers)]


def agree(a, b):
    pairs = [(x, y) for x, y in zip(a, b, strict=True) if x.numel()]
    return all(x.shape == y.shape and near(x, y) for x, y in pairs)


def near(x, y):
    return (x - y).abs().max() <= SAME * max(1, y.abs().max())


X, W, B = draw(4, 3, 5), draw(5, seed=1), draw(5, seed=2)
EPSILONS = (1e-3, 1e-4, 1e-5, 1e-6, 1e-7, 1e-8, 1e-12)


def standard(x, axes, w, b, eps, outside=False, ddof=0, centred=True):
    mean = x.mean(axes, keepdim=True) if centred else 0.0
    n = math.prod(x.shape[axis] for axis in axes)
    variance = ((x - mean) ** 2).sum(axes, keepdim=True) / (n - ddof)
    scale = 1 / (torch.sqrt(variance) + eps) if outside else torch.rsqrt(variance + eps)
    return (x - mean) * scale * w + b


def norm_mistakes(kind, own, normalize, ddof=True) -> dict[str, Callable[..., Any]]:
    """normalize(x, w, b, *buffers, eps=, outside=, ddof=)"""
    found: dict[str, Callable[..., Any]] = {
        f"{kind} epsilon {value:g} for {own:g}": partial(normalize, eps=value)
        for value in EPSILONS
        if value != own
    }
    found[f"{kind} epsilon outside the root"] = partial(normalize, eps=own, outside=True)
    found[f"{kind} left out"] = lambda x, *_: x + 0
    found[f"{kind} scale 1 + weight"] = lambda x, w, *rest: normalize(x, 1 + w, *rest, eps=own)
    if ddof:
        found[f"{kind} unbiased variance"] = partial(normalize, eps=own, ddof=1)
    return found


def layer(x, w, b, **options):
    return standard(x, (-1,), w, b, **options)


def rms(x, w, **options):
    return standard(x, (-1,), w, 0, **{"centred": False} | options)


def group(x, w, b, **options):
    y = standard(x.reshape(4, 2, -1), (2,), 1, 0, **options)
    return y.reshape(x.shape) * w[:, None] + b[:, None]


def batch(x, w, b, mean, var, old=False, keep=False, momentum=0.1, biased=False, **options):
    eps, n = options.setdefault("eps", 1e-5), x.shape[0] * x.shape[2]
    if old:
        root = var.sqrt() + eps if options.get("outside") else (var + eps).sqrt()
        return (x - mean[:, None]) * (w / root)[:, None] + b[:, None]
    if not keep:
        with torch.no_grad():
            new = x.transpose(0, 1).reshape(x.shape[1], -1)
            mean.copy_((1 - momentum) * mean + momentum * new.mean(1))
            new_var = new.var(1) * ((n - 1) / n if biased else 1)
            var.copy_((1 - momentum) * var + momentum * new_var)
    return standard(x, (0, 2), w[:, None], b[:, None], **options)


W3, B3, STATISTICS = draw(3, seed=3), draw(3, seed=4), (draw(3, seed=5), draw(3, seed=6).exp())
SMALL = 0.05 * X  # of a variance at which every epsilon shows
CASES: dict[str, Case] = {
    "layer norm": Case(
        lambda x, w, b: F.layer_norm(x, (5,), w, b),
        [SMALL, W, B],
        norm_mistakes("LayerNorm", 1e-5, layer)
        | {"RMSNorm for LayerNorm": partial(layer, eps=1e-5, centred=False)},
    ),
    "rms norm": Case(
        lambda x, w: F.rms_norm(x, (5,), w, 1e-6),
        [SMALL, W],
        norm_mistakes("RMSNorm", 1e-6, rms, ddof=False)
        | {"LayerNorm for RMSNorm": partial(rms, eps=1e-6, centred=True)},
    ),
    "group norm": Case(
        lambda x, w, b: F.group_norm(x, 2, w, b, 1e-5),
        [draw(4, 6, 5, scale=0.05), draw(6, seed=1), draw(6, seed=2)],
        norm_mistakes("GroupNorm", 1e-5, group),
    ),
    "batch norm": Case(
        lambda x, w, b, m, v: F.batch_norm(x, m, v, w, b, training=True),
        [SMALL, W3, B3],
        norm_mistakes("BatchNorm", 1e-5, batch)
        | {
            f"BatchNorm momentum {m:g} for 0.1": partial(batch, momentum=m)
            for m in (0.9, 0.01, 0.001)
        }
        | {
            "BatchNorm biased running variance": partial(batch, biased=True),
            "BatchNorm running statistics not updated": partial(batch, keep=True),
            "BatchNorm in eval mode": partial(batch, old=True),
        },
        STATISTICS,
    ),
    "batch norm in eval mode": Case(
        lambda x, w, b, m, v: F.batch_norm(x, m, v, w, b),
        [X, W3, B3],
        norm_mistakes("BatchNorm", 1e-5, partial(batch, old=True), ddof=False)
        | {"BatchNorm in training mode": batch},
        (STATISTICS[0], 0.01 * STATISTICS[1]),
    ),
}


ACTIVATIONS = {
    "ReLU": (F.relu, lambda x: x * (x > 0)),
    "GELU (erf)": (F.gelu, lambda x: x * (1 + torch.erf(x / math.sqrt(2))) / 2),
    "GELU (tanh)": (
        partial(F.gelu, approximate="tanh"),
        lambda x: x * (1 + torch.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3))) / 2,
    ),
    "GELU (x * sigmoid(1.702 x))": (None, lambda x: x / (1 + torch.exp(-1.702 * x))),
    "SiLU": (F.silu, lambda x: x / (1 + torch.exp(-x))),
    "ELU": (F.elu, lambda x: torch.where(x > 0, x, torch.exp(x) - 1)),
    "softplus": (F.softplus, lambda x: torch.log(1 + torch.exp(x))),
    "tanh": (torch.tanh, lambda x: 1 - 2 / (1 + torch.exp(2 * x))),
    "sigmoid": (torch.sigmoid, lambda x: 1 / (1 + torch.exp(-x))),
    "leaky ReLU 0.01": (F.leaky_relu, lambda x: x * (x > 0).double().clamp(min=0.01)),
    "leaky ReLU 0.1": (
        partial(F.leaky_relu, negative_slope=0.1),
        lambda x: x * (x > 0).double().clamp(min=0.1),
    ),
    "leaky ReLU 0.2": (nn.LeakyReLU(0.2), lambda x: x * (x > 0).double().clamp(min=0.2)),
}
for own, (function, _) in ACTIVATIONS.items():
    if function is not None:
        others = {f"{n} for {own}": f for n, (_, f) in ACTIVATIONS.items() if n != own}
        CASES[own] = Case(function, [X], others | {f"{own} left out": lambda x: x})

TIES = torch.tensor([-2.0, -1.0, 0.0, 0.0, 1.0, 3.0], dtype=torch.double)


def with_tie(slope):  # |x| has the derivative 0 at 0
    return lambda x: (x + x.abs()) / 2 + (slope - 0.5) * torch.where(x == 0, x, 0)


CASES |= {
    "ReLU at 0": Case(
        F.relu, [TIES], {f"ReLU derivative {s:g} at 0": with_tie(s) for s in (0.5, 1)}
    ),
    "clamp at 0": Case(
        lambda x: x.clamp(min=0),
        [TIES],
        {f"ReLU derivative {s:g} at 0": with_tie(s) for s in (0, 0.5)},
    ),
    "ReLU of a sum": Case(
        lambda a, b: F.relu(a + b),
        [X, X.flip(0)],
        {
            "ReLU before the addition, of its first operand": lambda a, b: F.relu(a) + b,
            "ReLU before the addition, of its second operand": lambda a, b: a + F.relu(b),
            "first operand of add, (4, 3, 5), left out": lambda a, b: F.relu(b),
            "second operand of add, (4, 3, 5), left out": lambda a, b: F.relu(a),
            "first operand of add, (4, 3, 5), without gradient": lambda a, b: F.relu(
                a.detach() + b
            ),
            "second operand of add, (4, 3, 5), without gradient": lambda a, b: F.relu(
                a + b.detach()
            ),
        },
    ),
    "residual": Case(
        lambda a, b: a + torch.tanh(b),
        [X, X.flip(0)],
        {
            "tanh after the addition": lambda a, b: torch.tanh(a + b),
            "tanh left out": lambda a, b: a + b,
        },
    ),
    "softmax": Case(
        lambda x: F.softmax(x, -1),
        [X],
        {
            f"softmax over axis {i} for -1": lambda x, i=i: x.exp() / x.exp().sum(i, keepdim=True)
            for i in (0, 1)
        }
        | {"softmax left out": lambda x: x},
    ),
    "log softmax": Case(
        lambda x: x.log_softmax(1),
        [X],
        {
            f"log_softmax over axis {i} for 1": lambda x, i=i: x - x.logsumexp(i, keepdim=True)
            for i in (0, 2)
        },
    ),
    "mean": Case(
        lambda x: x.mean(-1),
        [draw(5, 5)],
        {"mean over axis 0 for -1": lambda x: x.sum(0) / 5, "sum for mean": lambda x: x.sum(1)},
    ),
    "sum": Case(
        lambda x: torch.sum(x, 0),
        [draw(5, 5)],
        {"sum over axis 1 for 0": lambda x: x.mean(1) * 5, "mean for sum": lambda x: x.mean(0)},
    ),
    "gate": Case(
        lambda a, b: a * b,
        [X, X.flip(0)],
        {
            "first operand of mul, (4, 3, 5), left out": lambda a, b: b + 0,
            "second operand of mul, (4, 3, 5), left out": lambda a, b: a + 0,
            "first operand of mul, (4, 3, 5), without gradient": lambda a, b: a.detach() * b,
            "second operand of mul, (4, 3, 5), without gradient": lambda a, b: a * b.detach(),
        },
    ),
    "matrix product": Case(
        lambda a, b: a @ b,
        [draw(3, 4), draw(4, 4, seed=1)],
        {
            "first operand of matmul, (3, 4), without gradient": lambda a, b: a.detach().mm(b),
            "second operand of matmul, (4, 4), without gradient": lambda a, b: a.mm(b.detach()),
            "product with the second operand transposed": lambda a, b: (b @ a.T).T,
        },
    ),
    "scaled": Case(
        lambda x: x * 3.0 / math.sqrt(5),
        [X],
        {
            "multiplied by 3 left out": lambda x: x / math.sqrt(5),
            "multiplied by 3 twice": lambda x: 9 * x / math.sqrt(5),
            "divided by 2.23607 left out": lambda x: 3 * x,
            "divided by 2.23607 twice": lambda x: 0.6 * x,
        },
    ),
    "epsilon": Case(
        lambda x: 1 / (x.square().mean(-1) + 1e-6).sqrt(),
        [SMALL],
        {
            f"epsilon {v:g} for 1e-06": lambda x, v=v: ((x * x).sum(-1) / 5 + v).rsqrt()
            for v in EPSILONS
            if v != 1e-6
        }
        | {"plus 1e-06 left out": lambda x: ((x * x).sum(-1) / 5).rsqrt()},
    ),
    "minus": Case(lambda x: x - 3, [X], {"minus 3 left out": lambda x: x + 0}),
    "variance": Case(
        lambda x: x.var(-1),
        [X],
        {"biased var": lambda x: (x - x.mean(-1, keepdim=True)).square().sum(-1) / 5},
    ),
    "deviation": Case(
        lambda x: torch.std(x, -1, correction=0),
        [X],
        {"unbiased std": lambda x: ((x - x.mean(-1, keepdim=True)).square().sum(-1) / 4).sqrt()},
    ),
    "detached": Case(
        lambda a, b: a * b.detach(),
        [X, X.flip(0)],
        {"gradient through a detached array": lambda a, b: a * b},
    ),
}


FAR = -1e30
CAUSAL = torch.ones(5, 5, dtype=torch.bool).triu(1)
SCORES = draw(2, 5, 5, seed=8)


def hide(scores, rule, fill=FAR):
    """Fill where rule(row, column) holds, in a loop over the elements."""
    kept = torch.tensor([[not rule(i, j) for j in range(5)] for i in range(5)])
    return torch.where(kept, scores, fill)


MASKS = {
    "mask left out": lambda s: s,
    "mask inverted": lambda s: hide(s, lambda i, j: j <= i),
    "mask of -10 for -inf": lambda s: hide(s, lambda i, j: j > i, -10.0),
    "mask of 0 for -inf": lambda s: hide(s, lambda i, j: j > i, 0.0),
    "mask transposed": lambda s: hide(s, lambda i, j: i > j),
    "causal mask that shows the next position": lambda s: hide(s, lambda i, j: j > i + 1),
    "causal mask that hides a position from itself": lambda s: hide(s, lambda i, j: j >= i),
}


def masked(function):
    mistakes = {
        name: lambda s, m=m: m(s).exp().div(m(s).exp().sum(-1, keepdim=True))
        for name, m in MASKS.items()
    }
    far = ("mask inverted", "causal mask that hides a position from itself")
    mistakes |= {name: lambda s, m=MASKS[name]: torch.softmax(m(s), -1) for name in far}
    return Case(lambda s: function(s).softmax(-1), [SCORES], mistakes)


CASES |= {
    "mask filled": masked(lambda s: s.masked_fill(CAUSAL, -math.inf)),
    "mask filled in place": masked(lambda s: (s * 1).masked_fill_(CAUSAL, -math.inf)),
    "mask selected": masked(lambda s: torch.where(CAUSAL, -math.inf, s)),
    "mask selected otherwise": masked(lambda s: torch.where(~CAUSAL, s, -math.inf)),
    "mask made and added": masked(
        lambda s: s + torch.zeros(5, 5, dtype=torch.double).masked_fill(CAUSAL, -math.inf)
    ),
}

CASES["mask filled"].mistakes["mask by adding -10"] = lambda s: torch.softmax(
    s + hide(torch.zeros_like(s), lambda i, j: j > i, -10.0), -1
)
HEADS = [draw(2, 3, 5, 4, seed=seed) for seed in range(3)]  # batch, heads, positions, size


def attention(q, k, v, scores=lambda s: s / 2, axis=-1):
    return torch.softmax(scores(torch.einsum("bhid,bhjd->bhij", q, k)), axis) @ v


def heads_of(features, order):
    """Split (B, T, H * D) by index: feature h * D + d, or d * H + h."""
    index = [[h * 4 + d if order == "HD" else d * 3 + h for d in range(4)] for h in range(3)]
    return features[..., torch.tensor(index)].permute(0, 2, 1, 3)


def features_of(heads, order):
    flat = [heads[:, h, :, d] for h in range(3) for d in range(4)]
    if order == "DH":
        flat = [heads[:, h, :, d] for d in range(4) for h in range(3)]
    return torch.stack(flat, -1)


def interleave(x):
    return heads_of(features_of(x, "HD"), "DH")


def merged_interleaved(x):
    return heads_of(features_of(x, "DH"), "HD")


def reshaped(x):
    return features_of(x, "HD").reshape(2, 3, 5, 4)


def merged_reshaped(x):
    return heads_of(x.reshape(2, 5, 12), "HD")


ATTENTION = {
    "attention without scale": partial(attention, scores=lambda s: s),
    "attention scaled by 1/d": partial(attention, scores=lambda s: s / 4),
    "attention scaled by the size of all heads": partial(
        attention, scores=lambda s: s / math.sqrt(12)
    ),
    "attention's softmax over the queries": partial(attention, axis=-2),
    "attention's query and key swapped": lambda q, k, v: attention(k, q, v),
    "attention's query and value swapped": lambda q, k, v: attention(v, k, q),
    "attention's key and value swapped": lambda q, k, v: attention(q, v, k),
    "heads interleaved, (D, H) for (H, D)": lambda *x: merged_interleaved(
        attention(*map(interleave, x))
    ),
    "heads interleaved, (D, H) for (H, D), only when split": lambda *x: attention(
        *map(interleave, x)
    ),
    "heads interleaved, (D, H) for (H, D), only when merged": lambda *x: merged_interleaved(
        attention(*x)
    ),
    "heads by a reshape without transpose": lambda *x: merged_reshaped(
        attention(*map(reshaped, x))
    ),
    "heads by a reshape without transpose, only when split": lambda *x: attention(
        *map(reshaped, x)
    ),
    "heads by a reshape without transpose, only when merged": lambda *x: merged_reshaped(
        attention(*x)
    ),
}
SDPA = F.scaled_dot_product_attention
CASES |= {
    "attention": Case(
        SDPA,
        HEADS,
        ATTENTION
        | {
            "causal mask added": partial(
                attention, scores=lambda s: hide(s / 2, lambda i, j: j > i)
            )
        },
    ),
    "attention with another scale": Case(
        partial(SDPA, scale=0.7),
        HEADS,
        {"attention scaled twice": partial(attention, scores=lambda s: 0.49 * s)},
    ),
} | {
    name: Case(
        partial(SDPA, **options),
        HEADS,
        {n: partial(attention, scores=lambda s, m=m: m(s / 2)) for n, m in MASKS.items()},
    )
    for name, options in {
        "causal attention": {"is_causal": True},
        "attention with a mask": {"attn_mask": ~CAUSAL},
        "attention with an added mask": {
            "attn_mask": torch.zeros(5, 5, dtype=torch.double).masked_fill(CAUSAL, -math.inf)
        },
    }.items()
}

IMAGES = draw(2, 3, 4, 5)
CASES |= {
    "flatten": Case(
        lambda x: x.flatten(1),
        [IMAGES],
        {
            "features in the order NHWC for NCHW": lambda x: torch.stack(
                [x[:, c, h, w] for h in range(4) for w in range(5) for c in range(3)], 1
            )
        },
    ),
    "unflatten": Case(
        lambda x: x.view(2, 3, 4, 5),
        [IMAGES.flatten(1)],
        {
            "features in the order NHWC for NCHW": lambda x: torch.stack(
                [x[:, c::3].reshape(2, 4, 5) for c in range(3)], 1
            )
        },
    ),
    "split": Case(
        lambda x: x.unflatten(-1, (4, 3)),
        [draw(2, 12)],
        {"last two axes interleaved": lambda x: torch.stack([x[:, i::4] for i in range(4)], 1)},
    ),
    "merge": Case(
        lambda x: x.reshape(2, 12),
        [draw(2, 4, 3)],
        {"last two axes interleaved": lambda x: torch.cat([x[:, :, i] for i in range(3)], 1)},
    ),
    "transpose": Case(
        lambda x: x.transpose(1, 2),
        [draw(2, 3, 3)],
        {"transpose left out": lambda x: x + 0},
    ),
    "permute": Case(
        lambda x: x.permute(0, 2, 1),
        [draw(2, 3, 4)],
        {"reshape for transpose of the last two axes": lambda x: x.flatten(1).unflatten(1, (4, 3))},
    ),
    "movedim": Case(
        lambda x: x.movedim(0, -1),
        [draw(2, 3, 4)],
        {"reshape for transpose": lambda x: x.flatten().unflatten(0, (3, 4, 2))},
    ),
    "chunk": Case(
        lambda x: tuple(x.chunk(3, -1)),
        [draw(2, 12)],
        {
            f"parts {i} and {j} swapped": lambda x, o=o: tuple(x[:, 4 * n : 4 * n + 4] for n in o)
            for i, j, o in ((0, 1, (1, 0, 2)), (0, 2, (2, 1, 0)), (1, 2, (0, 2, 1)))
        }
        | {
            "fused parts inside each of 2 heads": lambda x: tuple(
                x[:, [2 * i, 2 * i + 1, 2 * i + 6, 2 * i + 7]] for i in range(3)
            )
        },
    ),
    "chunk of heads": Case(
        lambda x: tuple(x.chunk(3, -1)),
        [draw(2, 5, 2, 6)],
        {
            "fused parts one after another, not inside each head": lambda x: tuple(
                x.reshape(2, 5, 12)[..., 4 * i : 4 * i + 4].reshape(2, 5, 2, 2) for i in range(3)
            )
        },
    ),
    "slice": Case(lambda x: x[:3], [draw(5, 2)], {"slice off by one": lambda x: x[1:4]}),
    "first position": Case(
        lambda x: x[:, 0], [draw(4, 5)], {"element -1 for 0": lambda x: x[:, 4]}
    ),
    "last position": Case(
        lambda x: x[:, -1], [draw(4, 5)], {"element 0 for -1": lambda x: x.select(1, 0)}
    ),
    "positions": Case(
        lambda x: x * torch.arange(5),
        [draw(4, 5)],
        {"arange from 1": lambda x: x * (1 + torch.tensor([0, 1, 2, 3, 4]))},
    ),
}

SIGNAL, KERNEL, KERNEL2 = draw(2, 3, 8), draw(4, 3, 3, seed=1), draw(4, 3, 3, 3, seed=1)


def slide(x, w, b, pads, stride=1, dilation=1):
    """A convolution in one dimension as a sum over the kernel's places."""
    before, after = pads
    x = torch.cat([x.new_zeros(2, 3, before), x, x.new_zeros(2, 3, after)], -1)
    n = (x.shape[-1] - dilation * (w.shape[-1] - 1) - 1) // stride + 1
    places = [
        torch.einsum(
            "oc,ncl->nol",
            w[:, :, k],
            x[:, :, k * dilation :][:, :, : (n - 1) * stride + 1 : stride],
        )
        for k in range(w.shape[-1])
    ]
    return sum(places) + b[:, None]


CASES |= {
    "convolution with stride": Case(
        partial(F.conv1d, stride=2, padding=1),
        [SIGNAL, KERNEL, draw(4)],
        {
            "padding SAME [(0, 1)] for [(1, 1)]": partial(slide, pads=(0, 1), stride=2),
            "circular padding for zeros": lambda x, w, b: slide(
                torch.cat([x[..., -1:], x, x[..., :1]], -1), w, b, (0, 0), 2
            ),
            "kernel of conv1d flipped": lambda x, w, b: slide(
                x, torch.stack([w[..., 2], w[..., 1], w[..., 0]], -1), b, (1, 1), 2
            ),
            "weight of conv1d transposed": lambda x, w, b: slide(
                x, w.transpose(1, 2), b, (1, 1), 2
            ),
            "bias of conv1d left out": lambda x, w, b: slide(x, w, 0 * b, (1, 1), 2),
        },
    ),
    "convolution": Case(
        partial(F.conv1d, padding="same"),
        [SIGNAL, KERNEL, draw(4)],
        {
            "padding [(0, 2)] for [(1, 1)]": partial(slide, pads=(0, 2)),
            "padding [(2, 0)] for [(1, 1)]": partial(slide, pads=(2, 0)),
        },
    ),
    "dilated convolution": Case(
        partial(F.conv1d, padding=2, dilation=2),
        [SIGNAL, KERNEL, draw(4)],
        {"dilation 1 for [2]": partial(slide, pads=(1, 1))},
    ),
    "convolution that keeps its shape": Case(
        partial(F.conv1d, padding=1),
        [SIGNAL, draw(3, 3, 3)],
        {
            "conv1d left out": lambda x, w: x + 0,
            "weight of conv1d transposed, inputs for outputs": lambda x, w: slide(
                x, w.transpose(0, 1), draw(3) * 0, (1, 1)
            ),
            "padding VALID for [(1, 1)]": lambda x, w: slide(x, w, draw(3) * 0, (0, 0)),
        },
    ),
    "convolution of images": Case(
        partial(F.conv2d, padding=1),
        [IMAGES, KERNEL2, draw(4)],
        {
            "weight of conv2d transposed": lambda x, w, b: F.conv2d(x.mT, w, b, padding=1).mT,
            "kernel of conv2d flipped": lambda x, w, b: F.conv2d(
                x.flip(2, 3), w, b, padding=1
            ).flip(2, 3),
            "padding VALID for [(1, 1), (1, 1)]": lambda x, w, b: F.conv2d(x, w, b),
            "padding [(0, 2), (0, 2)] for [(1, 1), (1, 1)]": lambda x, w, b: F.conv2d(
                F.pad(x, (0, 2, 0, 2)), w, b
            ),
            "padding [(2, 0), (2, 0)] for [(1, 1), (1, 1)]": lambda x, w, b: F.conv2d(
                F.pad(x, (2, 0, 2, 0)), w, b
            ),
        },
    ),
    "transposed convolution": Case(
        partial(F.conv_transpose1d, stride=2, padding=1),
        [SIGNAL, draw(3, 4, 3), draw(4)],
        {
            "kernel of conv_transpose1d flipped": lambda x, w, b: F.conv_transpose1d(
                x.flip(-1), w, b, 2, 1
            ).flip(-1),
            "bias of conv_transpose1d left out": lambda x, w, b: F.conv_transpose1d(
                x, w, None, 2, 1
            ),
        },
    ),
    "linear": Case(
        F.linear,
        [X, draw(5, 5), B],
        {
            "linear left out": lambda x, w, b: x + 0,
            "bias of linear left out": lambda x, w, b: x @ w.T,
        },
    ),
    "pooling": Case(
        lambda x: F.max_pool1d(x, 3, 2, 1),
        [SIGNAL],
        {
            "pooling with padding SAME [(0, 1)] for [(1, 1)]": lambda x: torch.stack(
                [x[..., i : i + 3].amax(-1) for i in (0, 2, 4, 6)], -1
            ),
            "pooling with padding VALID for [(1, 1)]": lambda x: torch.stack(
                [x[..., i : i + 3].amax(-1) for i in (0, 2, 4)], -1
            ),
            "average pooling for maximum": lambda x: F.pad(x, (1, 1)).unfold(-1, 3, 2).mean(-1),
            "pooling with padding of zeros for -inf": lambda x: (
                F.pad(x, (1, 1)).unfold(-1, 3, 2).amax(-1)
            ),
        },
    ),
    "causal padding": Case(
        lambda x: F.pad(x, (2, 0)),
        [SIGNAL],
        {
            "padding [1, 1] for [2, 0]": lambda x: torch.cat(
                [0 * x[..., :1], x, 0 * x[..., :1]], -1
            ),
            "padding [0, 2] for [2, 0]": lambda x: torch.cat([x, 0 * x[..., :2]], -1),
        },
    ),
    "circular padding": Case(
        lambda x: F.pad(x, (1, 1), mode="circular"),
        [SIGNAL],
        {"zero padding for circular": lambda x: torch.cat([0 * x[..., :1], x, 0 * x[..., :1]], -1)},
    ),
}

WORDS = torch.tensor([[1, 0, 5], [2, 2, 0]])
CASES |= {
    "embedding": Case(
        F.embedding,
        [WORDS, draw(6, 4)],
        {
            "embedding times sqrt(d)": lambda i, w: 2 * w[i],
            "padding row 0 not trained": lambda i, w: torch.cat([w[:1].detach(), w[1:]])[i],
            "padding row 0 masked": lambda i, w: w[i] * (i > 0)[..., None],
            "index +1 off": lambda i, w: w[torch.tensor([[2, 1, 5], [3, 3, 1]])],
            "index -1 off": lambda i, w: w[torch.tensor([[0, 0, 4], [1, 1, 0]])],
        },
    ),
    "embedding with padding": Case(
        partial(F.embedding, padding_idx=2),
        [WORDS, draw(6, 4)],
        {
            "padding row 2 trained": lambda i, w: w[i],
            "padding row 2 masked": lambda i, w: w[i] * (i != 2)[..., None],
        },
    ),
}


def dropped(x, seed=3):
    torch.manual_seed(seed)
    return F.dropout(x, 0.4, training=True)


CASES["dropout"] = Case(
    dropped,
    [X],
    {
        "dropout without its scale 1 / (1 - p)": lambda x: x * (dropped(torch.ones_like(x)) > 0),
        "dropout left out": lambda x: x + 0,
    },
)

LOGITS, LABELS, CLASS_WEIGHTS = draw(6, 4), torch.tensor([0, 3, 1, 1, 2, 3]), draw(4, seed=1).exp()
SEQUENCES, TAGS = (
    draw(3, 4, 5),
    torch.tensor([[0, 3, 1, 1, -100], [2, 3, -100, -100, -100], [1, 1, 1, 2, 0]]),
)


def each_loss(x, y, axis=1):
    """Minus log of each row's probability, 0 where the label is -100."""
    logs = x - x.exp().sum(axis, keepdim=True).log()
    hot = torch.stack([y == c for c in range(x.shape[axis])], axis)
    return -(logs * hot).sum(axis)


def smoothed(x, y, amount):
    return (1 - amount) * each_loss(x, y) - amount * x.log_softmax(1).mean(1)


def weighted(x, y):
    return each_loss(x, y) * CLASS_WEIGHTS[y]


CASES |= {
    "cross-entropy": Case(
        F.cross_entropy,
        [LOGITS, LABELS],
        {
            "sum for the mean over the elements not ignored": lambda x, y: each_loss(x, y).sum(),
            "half of the loss": lambda x, y: each_loss(x, y).mean() / 2,
            "label smoothing 0.1 for 0": lambda x, y: smoothed(x, y, 0.1).mean(),
            "softmax taken twice": lambda x, y: each_loss(
                x.exp() / x.exp().sum(1, keepdim=True), y
            ).mean(),
        },
    ),
    "cross-entropy, smoothed": Case(
        partial(F.cross_entropy, label_smoothing=0.2),
        [LOGITS, LABELS],
        {
            f"label smoothing {v:g} for 0.2": lambda x, y, v=v: smoothed(x, y, v).mean()
            for v in (0.0, 0.1)
        }
        | {
            "label smoothing that takes s / K from the right class, not s": lambda x, y: (
                smoothed(x, y, 0.2) + 0.15 * each_loss(x, y)
            ).mean(),
            "label smoothing over the other classes only": lambda x, y: (
                0.8 * each_loss(x, y) - 0.2 / 3 * (x.log_softmax(1).sum(1) + each_loss(x, y))
            ).mean(),
        },
    ),
    "cross-entropy with weights": Case(
        partial(F.cross_entropy, weight=CLASS_WEIGHTS),
        [LOGITS, LABELS],
        {
            "class weights left out": lambda x, y: each_loss(x, y).mean(),
            "mean over the elements not ignored for the mean weighted by class": lambda x, y: (
                weighted(x, y).mean()
            ),
            "sum for the mean weighted by class": lambda x, y: weighted(x, y).sum(),
        },
    ),
    "cross-entropy of sequences": Case(
        F.cross_entropy,
        [SEQUENCES, TAGS],
        {
            "sum for the mean over the elements not ignored": lambda x, y: each_loss(x, y).sum(),
            "mean over the batch for the mean over the elements not ignored": lambda x, y: (
                each_loss(x, y).sum() / 3
            ),
            "mean over all elements for the mean over the elements not ignored": lambda x, y: (
                each_loss(x, y).mean()
            ),
        },
    ),
    "cross-entropy with padding": Case(
        partial(F.cross_entropy, ignore_index=1),
        [LOGITS, LABELS],
        {"ignore_index not ignored": lambda x, y: each_loss(x, y).mean()},
    ),
    "squared error": Case(
        F.mse_loss,
        [draw(3, 4), draw(3, 4, seed=1)],
        {
            "sum for the mean over all elements": lambda x, y: ((x - y) ** 2).sum(),
            "mean over the batch for the mean over all elements": lambda x, y: (
                ((x - y) ** 2).sum(1).mean()
            ),
            "half of the loss": lambda x, y: ((x - y) ** 2).mean() / 2,
        },
    ),
    "summed error": Case(
        partial(F.l1_loss, reduction="sum"),
        [draw(3, 4), draw(3, 4, seed=1)],
        {
            "mean over all elements for the sum": lambda x, y: (x - y).abs().mean(),
            "mean over the batch for the sum": lambda x, y: (x - y).abs().sum() / 3,
        },
    ),
    "binary cross-entropy": Case(
        lambda x, y: F.binary_cross_entropy_with_logits(x, y.round(), pos_weight=torch.tensor(2.5)),
        [draw(3, 4), draw(3, 4, seed=1)],
        {"pos_weight left out": lambda x, y: ((1 + x.exp()).log() - y.round() * x).mean()},
    ),
}


STEPS, HIDDEN, CELL = draw(5, 2, 3), draw(1, 2, 4, seed=1), draw(1, 2, 4, seed=2)


def recurrent_weights(gates, inputs=3):
    return [
        draw(*shape, seed=i, scale=0.5)
        for i, shape in enumerate([(gates * 4, inputs), (gates * 4, 4), (gates * 4,), (gates * 4,)])
    ]


def run_lstm(x, h, c, w, u, b, d, order="ifgo", forget=0.0, biases=(1, 1)):
    h, c, ys = h[0], c[0], []
    for row in x:
        z = row @ w.T + h @ u.T + biases[0] * b + biases[1] * d
        gate = {name: z[:, 4 * i : 4 * i + 4] for i, name in enumerate(order)}
        c = torch.sigmoid(gate["f"] + forget) * c + torch.sigmoid(gate["i"]) * torch.tanh(gate["g"])
        h = torch.sigmoid(gate["o"]) * torch.tanh(c)
        ys.append(h)
    return torch.stack(ys), h[None], c[None]


def backwards_lstm(x, *rest):
    ys, *states = run_lstm(x.flip(0), *rest)
    return ys.flip(0), *states


def run_gru(x, h, w, u, b, d, order="rzn", biases=(1, 1), reset="after", keep="z"):
    def block(a, gate):
        at = 4 * order.index(gate)
        return a[..., at : at + 4]

    h, d, ys = h[0], biases[1] * d, []
    for row in x:
        p, q = row @ w.T + biases[0] * b, h @ u.T
        r, z = (torch.sigmoid(block(p + q + d, gate)) for gate in "rz")
        inner = {
            "after": r * block(q + d, "n"),
            "outside": r * block(q, "n") + block(d, "n"),
            "before": (r * h) @ block(u.T, "n") + block(d, "n"),
        }
        n = torch.tanh(block(p, "n") + inner[reset])
        h = z * h + (1 - z) * n if keep == "z" else z * n + (1 - z) * h
        ys.append(h)
    return torch.stack(ys), h[None]


def orders(gates, run) -> dict[str, Callable[..., Any]]:
    return {
        f"gates in the order {', '.join(order)} for {', '.join(gates)}": partial(
            run, order="".join(order)
        )
        for order in permutations(gates)
        if "".join(order) != gates
    }


BIASES = {"b_ih left out": (0, 1), "b_hh left out": (1, 0)}
LSTM_MISTAKES = orders("ifgo", run_lstm) | {
    "forget gate's bias plus 1": partial(run_lstm, forget=1.0),
    "b_ih left out": partial(run_lstm, biases=(0, 1)),
}
GRU_MISTAKES = (
    orders("rzn", run_gru)
    | {name: partial(run_gru, biases=pair) for name, pair in BIASES.items()}
    | {
        "reset gate before the product": partial(run_gru, reset="before"),
        "b_hn outside the reset gate": partial(run_gru, reset="outside"),
        "update gate complemented": partial(run_gru, keep="1 - z"),
    }
)


def cell(run):
    """Use a whole layer of one step as a cell."""

    def step(*arguments):
        states, weights = arguments[1:-4], arguments[-4:]
        result = run(arguments[0][None], *(s[None] for s in states), *weights)
        return tuple(s[0] for s in result[1:])

    return step


def both_directions(x, h, c, *weights):
    a = run_lstm(x, h[:1], c[:1], *weights[:4])
    b = run_lstm(x.flip(0), h[1:], c[1:], *weights[4:])
    states = [torch.cat(pair) for pair in zip(a[1:], b[1:], strict=True)]
    return torch.cat([a[0], b[0]], -1), *states


LSTM, GRU = recurrent_weights(4), recurrent_weights(3)
CASES |= {
    "LSTM": Case(
        lambda x, h, c, *w: torch.lstm(x, (h, c), w, True, 1, 0.0, True, False, False),
        [STEPS, HIDDEN, CELL, *LSTM],
        LSTM_MISTAKES
        | {
            "b_hh left out": partial(run_lstm, biases=(1, 0)),
            "h and c swapped in the carry": lambda x, h, c, *w: run_lstm(x, c, h, *w),
            "recurrent weights transposed in each gate": lambda x, h, c, w, u, *b: run_lstm(
                x, h, c, w, torch.cat([gate.mT for gate in u.chunk(4)]), *b
            ),
            "the sequence read backwards": backwards_lstm,
        },
    ),
    "LSTM cell": Case(
        lambda x, h, c, *w: torch.lstm_cell(x, (h, c), *w),
        [STEPS[0], HIDDEN[0], CELL[0], *LSTM],
        {name: cell(run) for name, run in LSTM_MISTAKES.items()},
    ),
    "LSTM in two directions": Case(
        lambda x, h, c, *w: torch.lstm(x, (h, c), w, True, 1, 0.0, True, True, False),
        [STEPS, draw(2, 2, 4), draw(2, 2, 4, seed=1), *LSTM, *(w.flip(0) for w in LSTM)],
        {"backward direction's outputs not turned back": both_directions},
    ),
    "GRU": Case(
        lambda x, h, *w: torch.gru(x, h, w, True, 1, 0.0, True, False, False),
        [STEPS, HIDDEN, *GRU],
        GRU_MISTAKES,
    ),
    "GRU cell": Case(
        lambda x, h, *w: torch.gru_cell(x, h, *w)[None][0],
        [STEPS[0], HIDDEN[0], *GRU],
        {name: lambda *a, run=run: cell(run)(*a)[0] for name, run in GRU_MISTAKES.items()},
    ),
}


class Twice(nn.Module):
    def forward(self, x):
        return torch.cos(x) * 2 + x.flip(0)


CASES["module"] = Case(Twice(), [X], {"Twice left out": lambda x: x + 0})


@cache
def replays_of(case):
    reference = CASES[case]
    inputs = [x.clone().requires_grad_(x.is_floating_point()) for x in reference.inputs]
    buffers = [x.clone() for x in reference.buffers]
    return [*replays(lambda: reference.reference(*inputs, *buffers))]


@cache
def found_by(case):
    """Return what each replay of a case computes, by name; nothing where it has another shape."""
    found = {}
    for name, _, context in replays_of(case):
        with suppress(RuntimeError):
            found[name] = observe(CASES[case].reference, CASES[case], context)
    return found


PLANTED = [(case, name) for case, made in CASES.items() for name in made.mistakes]
MEANT = {}


@pytest.mark.parametrize(
    ("case", "name"), PLANTED, ids=[" / ".join(planted) for planted in PLANTED]
)
def test_a_mistake_written_by_hand_is_its_replay_and_no_other(case, name):
    reference = CASES[case]
    wanted = observe(reference.mistakes[name], reference)
    assert not agree(observe(reference.reference, reference), wanted), "the mistake shows nothing"
    assert agree(found_by(case)[name], wanted)
    same = {other for other, found in found_by(case).items() if agree(found, wanted)} - {name}
    assert same <= MEANT.get((case, name), set()), same


def family_of(name):
    return re.sub(r"\d[\d.e+-]*|\d", "#", re.sub(r" \(call [\d, ]+ of \d+\)", "", name))


def test_every_entry_of_the_catalogue_is_planted():
    offered = {family_of(name) for case in CASES for name, _, _ in replays_of(case)}
    assert sorted(offered - {family_of(name) for _, name in PLANTED}) == []


def test_attention_is_changed_inside_a_multi_head_attention_with_its_weights():
    module = nn.MultiheadAttention(12, 3, batch_first=True, dtype=torch.double)
    x, mask = draw(2, 5, 12), torch.zeros(5, 5, dtype=torch.double).masked_fill(CAUSAL, -math.inf)
    run = partial(module, x, x, x, attn_mask=mask)
    plain = run()
    q, k, v = (heads_of(y, "HD") for y in F.linear(x, module.in_proj_weight).chunk(3, -1))
    weights = hide(q @ k.mT, lambda i, j: j > i).softmax(-1)
    wanted = module.out_proj(features_of(weights @ v, "HD")), weights.mean(1)
    found = {name: context for name, _, context in replays(run)}
    with found["attention without scale"]:
        assert agree(run(), wanted)
    assert agree(run(), plain)


class Block(nn.Module):
    def __init__(self):
        super().__init__()
        self.norms = nn.ModuleList(nn.LayerNorm(5, dtype=torch.double) for _ in range(2))

    def forward(self, x):
        return self.norms[1](torch.tanh(self.norms[0](x)))


def test_one_call_of_several_is_changed_alone_in_every_run_inside_the_context():
    block, name = Block(), "LayerNorm epsilon 0.001 for 1e-05"
    plain = block(SMALL)
    found = {name: context for name, _, context in replays(lambda: block(SMALL))}
    mistaken = Block()
    norms: list[Any] = list(mistaken.norms)
    for i in range(2):
        norms[i].eps = 1e-3
        for _ in range(2):  # a context may be entered again
            with found[f"{name} (call {i + 1} of 2)"]:
                assert agree([block(SMALL), block(SMALL)], [mistaken(SMALL)] * 2)
        norms[i].eps = 1e-5
    for norm in norms:
        norm.eps = 1e-3
    with found[name]:
        assert agree([block(SMALL)], [mistaken(SMALL)])
    assert torch.equal(block(SMALL), plain)


def test_a_gru_of_two_layers_and_directions_is_written_out_rightly():
    module = nn.GRU(3, 4, num_layers=2, bidirectional=True, batch_first=True, dtype=torch.double)
    with torch.no_grad():
        for name, p in module.named_parameters():
            if name.startswith("bias_hh"):
                p[8:] = 0.0  # b_hn, whose place makes no difference then
    x = draw(2, 5, 3)
    found = {name: context for name, _, context in replays(lambda: module(x))}
    plain = module(x)
    with found["b_hn outside the reset gate"]:
        assert agree(module(x), plain)
    with found["update gate complemented"]:
        assert not agree(module(x), plain)


def attend_by_hand(qkv, split, merge):
    q, k, v = (split(x) for x in qkv.chunk(3, -1))
    return merge((q @ k.transpose(-2, -1) / 2).softmax(-1) @ v)


def right_split(x):
    return x.view(2, 5, 3, 4).transpose(1, 2)


def right_merge(x):
    return x.transpose(1, 2).reshape(2, 5, 12)


@pytest.mark.parametrize(
    ("split", "merge", "name"),
    [
        (lambda x: x.reshape(2, 3, 5, 4), right_merge, "reshape for transpose (call 1, 2, 3 of 4)"),
        (lambda x: x.reshape(2, 3, 5, 4), lambda x: x.reshape(2, 5, 12), "reshape for transpose"),
        (
            lambda x: heads_of(x, "DH"),
            right_merge,
            "last two axes interleaved (call 1, 2, 3 of 4)",
        ),
        (
            lambda x: heads_of(x, "DH"),
            lambda x: features_of(x, "DH"),
            "last two axes interleaved",
        ),
    ],
)
def test_heads_that_a_reference_splits_by_hand_are_changed_together(split, merge, name):
    right = Case(lambda x: attend_by_hand(x, right_split, right_merge), [draw(2, 5, 36)], {})
    wanted = observe(lambda x: attend_by_hand(x, split, merge), right)
    (x,) = right.inputs
    found = {n: context for n, _, context in replays(lambda: right.reference(x.requires_grad_()))}
    same = [
        n for n, context in found.items() if agree(observe(right.reference, right, context), wanted)
    ]
    assert same == [name]
