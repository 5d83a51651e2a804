"""A transformer block: fused and causal attention, tied embedding, cross entropy over tokens."""

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import optax
import torch
from flax import nnx
from torch import nn

from jaxnet.parity import leaf
from ports.table import Bug, Kind, Port

VOCABULARY, LENGTH, WIDTH, HIDDEN, HEADS, ROWS = 11, 5, 6, 10, 2, 4
IGNORED = -100


class TorchBlock(nn.Module):
    def __init__(self):
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(WIDTH), nn.LayerNorm(WIDTH)
        self.attention = nn.MultiheadAttention(WIDTH, HEADS, batch_first=True)
        self.up, self.gelu, self.down = (
            nn.Linear(WIDTH, HIDDEN),
            nn.GELU(),
            nn.Linear(HIDDEN, WIDTH),
        )

    def forward(self, h, hidden, padding):
        x = self.norm1(h)
        mixed, _ = self.attention(
            x, x, x, attn_mask=hidden, key_padding_mask=padding, need_weights=False
        )
        h = h + mixed
        return h + self.down(self.gelu(self.up(self.norm2(h))))


class TorchModel(nn.Module):
    def __init__(self):
        super().__init__()
        self.tokens = nn.Embedding(VOCABULARY, WIDTH, padding_idx=0)
        self.positions = nn.Embedding(LENGTH + 3, WIDTH)
        self.block, self.norm = TorchBlock(), nn.LayerNorm(WIDTH)

    def forward(self, ids, padding):
        length = ids.shape[1]
        h = self.tokens(ids) * math.sqrt(WIDTH) + self.positions(torch.arange(length))
        hidden = torch.ones(length, length, dtype=torch.bool).triu(1)
        return self.norm(self.block(h, hidden, padding)) @ self.tokens.weight.T


def torch_forward(module, batch):
    return module(batch["ids"], batch["padding"])


def torch_loss(module, batch):
    return nn.functional.cross_entropy(
        torch_forward(module, batch).flatten(0, 1),
        batch["targets"].flatten(),
        weight=batch["weight"],
        ignore_index=IGNORED,
        label_smoothing=batch["smoothing"],
    )


def batch(seed):
    rng = np.random.default_rng(seed)
    padding = np.arange(LENGTH) >= np.array([[5], [3], [4], [5]])
    ids = np.where(padding, 0, rng.integers(1, VOCABULARY, (ROWS, LENGTH)))
    targets = np.where(padding, IGNORED, rng.integers(1, VOCABULARY, ids.shape))
    ids[3, 1] = 0  # a blank that is no padding
    targets[0, :2] = IGNORED  # a prompt
    return {
        "ids": ids,
        "padding": padding,
        "targets": targets,
        "smoothing": 0.1,
        "weight": None,
    }


def attend(query, key, value, *, mask, scale="head", axis=-1, low=None, **_):
    """nnx's attention, but for the float32 in it: what jax.nn's computes its softmax in."""
    scores = jnp.einsum("nqhd,nkhd->nhqk", query, key)
    scores = (
        scores / {"head": math.sqrt(query.shape[-1]), "width": math.sqrt(WIDTH), None: 1}[scale]
    )
    if low is None:
        scores = jnp.where(mask, scores, jnp.finfo(scores.dtype).min)
    else:
        scores = scores + jnp.where(mask, 0.0, low)
    return jnp.einsum("nhqk,nkhd->nqhd", jax.nn.softmax(scores, axis), value)


def cut_attend(query, key, *rest, **options):
    return attend(query, jax.lax.stop_gradient(key), *rest, **options)


def affine(layer, y):
    return y * layer.scale[...] + layer.bias[...]


class LayerNorm(nnx.LayerNorm):
    """By hand, in a form that is not torch's."""

    def __init__(self, form, rngs):
        super().__init__(WIDTH, epsilon=1e-5, rngs=rngs)
        self.form = form

    def __call__(self, x):
        centred = x - x.mean(-1, keepdims=True)
        if self.form == "unbiased":
            y = centred / jnp.sqrt(x.var(-1, keepdims=True, ddof=1) + self.epsilon)
        else:
            y = centred / (x.std(-1, keepdims=True) + self.epsilon)
        return affine(self, y)


def layer_norm(form, rngs):
    if isinstance(form, str):
        return LayerNorm(form, rngs)
    return nnx.LayerNorm(WIDTH, epsilon=form, rngs=rngs)


class Block(nnx.Module):
    def __init__(self, rngs, norm1, norm2, attention, gelu, residual, order, up_bias=True):
        self.norm1, self.norm2 = layer_norm(norm1, rngs), layer_norm(norm2, rngs)
        self.attention = nnx.MultiHeadAttention(
            HEADS, WIDTH, decode=False, attention_fn=attention, rngs=rngs
        )
        self.up = nnx.Linear(WIDTH, HIDDEN, rngs=rngs)
        self.down = nnx.Linear(HIDDEN, WIDTH, rngs=rngs)
        self.gelu, self.residual, self.order = gelu, residual, order

    def mlp(self, h):
        return self.down(self.gelu(self.up(h)))

    def __call__(self, h, mask):
        if self.order == "post":
            h = self.norm1(h + self.attention(h, mask=mask))
            return self.norm2(h + self.mlp(h))
        x = self.norm1(h)
        h = (x if self.residual == "normed" else h) + self.attention(x, mask=mask)
        y = self.mlp(self.norm2(h))
        return {"right": h + y, "none": y, "normed": h + y, "doubled": 2 * h + y}[self.residual]


EXACT_GELU = functools.partial(nnx.gelu, approximate=False)


class Model(nnx.Module):
    def __init__(
        self,
        rngs,
        *,
        norm1=1e-5,
        norm2=1e-5,
        norm=1e-5,
        normed=True,
        attention=attend,
        gelu=EXACT_GELU,
        residual="right",
        order="pre",
        mask="right",
        scale=WIDTH**0.5,
        padding_idx=True,
        first_position=0,
        tied=True,
    ):
        self.tokens = nnx.Embed(VOCABULARY, WIDTH, rngs=rngs)
        self.positions = nnx.Embed(LENGTH + 3, WIDTH, rngs=rngs)
        self.block = Block(rngs, norm1, norm2, attention, gelu, residual, order)
        self.norm, self.normed = layer_norm(norm, rngs), normed
        if not tied:
            self.head = nnx.Linear(WIDTH, VOCABULARY, use_bias=False, rngs=rngs)
        self.mask, self.scale, self.padding_idx = mask, scale, padding_idx
        self.first_position, self.tied = first_position, tied

    def seen(self, length, padding):
        """Return which keys (N, 1, length, length) each query attends to."""
        causal = jnp.tril(jnp.ones((length, length), bool))
        causal = {
            "off by one": jnp.tril(jnp.ones((length, length), bool), 1),
            "strict": jnp.tril(jnp.ones((length, length), bool), -1),
            "transposed": causal.T,
            "none": jnp.ones((length, length), bool),
        }.get(self.mask, causal)
        kept = padding if self.mask == "padding inverted" else ~padding
        if self.mask == "no padding":
            kept = jnp.ones_like(padding)
        return causal & kept[:, None, None, :]

    def __call__(self, ids, padding):
        length = ids.shape[1]
        h = self.tokens(ids)
        if self.padding_idx:  # torch gives that row no gradient by the lookup
            h = jnp.where((ids == 0)[..., None], jax.lax.stop_gradient(h), h)
        h = h * self.scale + self.positions(self.first_position + jnp.arange(length))
        h = self.block(h, self.seen(length, padding))
        h = self.norm(h) if self.normed else h
        return self.tokens.attend(h) if self.tied else self.head(h)


def forward(module, batch):
    return module(batch["ids"], batch["padding"])


def loss(module, batch, mean="kept", smoothing="all", kept="targets", shift=0):
    targets, amount = batch["targets"], batch["smoothing"]
    log_p = jax.nn.log_softmax(forward(module, batch))
    used = jnp.ones_like(targets, bool) if kept == "all" else targets != IGNORED
    chosen = jnp.where(targets == IGNORED, 0, targets) + shift
    picked = jnp.take_along_axis(log_p, chosen[..., None], -1)[..., 0]
    if smoothing == "none":
        losses = -picked
    elif smoothing == "all":
        losses = -(1 - amount) * picked - amount * log_p.mean(-1)
    else:  # over the wrong classes only
        rest = (log_p.sum(-1) - picked) / (VOCABULARY - 1)
        losses = -(1 - amount) * picked - amount * rest
    losses = jnp.where(used, losses, 0)
    if mean == "sequences":
        return (losses.sum(-1) / used.sum(-1)).mean()
    return losses.sum() / {"kept": used.sum(), "all": used.size, "sum": 1, "rows": ROWS}[mean]


HEAD = WIDTH // HEADS
IN, IN_BIAS = leaf("block.attention.in_proj_weight"), leaf("block.attention.in_proj_bias")


def fused(k, split=(HEADS, HEAD), axes=(0, 1)):
    """Return the layout of the k-th of query, key and value in torch's fused projection.

    split and axes: how torch's outputs are taken as (heads, features of a head).
    """
    rows = slice(k * WIDTH, (k + 1) * WIDTH)
    return {
        "kernel": IN[rows].T.reshape(WIDTH, *split).transpose(0, *(1 + axis for axis in axes)),
        "bias": IN_BIAS[rows].reshape(*split).transpose(*axes),
    }


def projections(names, **split):
    found = {name: fused(k, **split) for k, name in enumerate(names)}
    return {
        f"block/attention/{name}/{kind}": entry
        for name, entries in found.items()
        for kind, entry in entries.items()
    }


OUT = leaf("block.attention.out_proj.weight")
LAYOUT = {
    "tokens/embedding": "tokens.weight",
    "positions/embedding": "positions.weight",
    **projections(("query", "key", "value")),
    "block/attention/out/kernel": OUT.T.reshape(HEADS, HEAD, WIDTH),
    "block/attention/out/bias": "block.attention.out_proj.bias",
    "block/norm1/scale": "block.norm1.weight",
    "block/norm1/bias": "block.norm1.bias",
    "block/norm2/scale": "block.norm2.weight",
    "block/norm2/bias": "block.norm2.bias",
    "block/up/kernel": ("block.up.weight", (1, 0)),
    "block/up/bias": "block.up.bias",
    "block/down/kernel": ("block.down.weight", (1, 0)),
    "block/down/bias": "block.down.bias",
    "norm/scale": "norm.weight",
    "norm/bias": "norm.bias",
}


def port(*, loss_=None, layout=None, seed=0, **module):
    """Return the port; without arguments it is right."""
    own = LAYOUT | (layout or {})
    return Port(
        module=Model(nnx.Rngs(seed), **module),
        loss=functools.partial(loss, **(loss_ or {})),
        forward=forward,
        optimizer=optax.adamw(0.01, weight_decay=0.02),
        layout={name: entry for name, entry in own.items() if entry is not None},
    )


def optimizer(parameters):
    return torch.optim.AdamW(parameters, lr=0.01, weight_decay=0.02)


def attention(**options):
    return {"attention": functools.partial(attend, **options)}


MIXED = "block.attention"
INTERLEAVED = {"split": (HEAD, HEADS), "axes": (1, 0)}
BUGS = {
    "nnx's epsilon": Bug({"norm1": 1e-6}, "block.norm1", "forward", "epsilon"),
    "epsilon beside the root": Bug({"norm2": "outside"}, "block.norm2", "forward", "epsilon"),
    "no last norm": Bug(
        {"normed": False},
        "",
        "forward",
        "left out",
    ),
    "GELU by tanh": Bug({"gelu": nnx.gelu}, "block", "forward", "tanh"),
    "softmax over queries": Bug(attention(axis=-2), MIXED, "forward", "softmax"),
    "no scale": Bug(attention(scale=None), MIXED, "forward", "scale"),
    "mask by adding -10": Bug(attention(low=-10.0), MIXED, "forward", "mask"),
    "mask sees the next token": Bug({"mask": "off by one"}, MIXED, "forward", "mask"),
    "mask transposed": Bug({"mask": "transposed"}, MIXED, "forward", "mask"),
    "no causal mask": Bug({"mask": "none"}, MIXED, "forward", "mask"),
    "no padding mask": Bug({"mask": "no padding"}, MIXED, "forward", "mask"),
    "heads interleaved": Bug(
        {"layout": projections(("query", "key", "value"), **INTERLEAVED)},
        MIXED,
        "forward",
        "interleaved",
    ),
    "query and key swapped": Bug(
        {"layout": projections(("key", "query", "value"))}, MIXED, "forward", "swapped"
    ),
    "output projection transposed": Bug(
        {"layout": {"block/attention/out/kernel": OUT.reshape(HEADS, HEAD, WIDTH)}},
        MIXED,
        "forward",
        "transposed",
    ),
    "keys without gradient": Bug({"attention": cut_attend}, MIXED, "gradient", None),
    "embedding not scaled": Bug({"scale": 1.0}, "", "forward", "multiplied by 2.44949 left out"),
    "positions from 1": Bug({"first_position": 1}, "", "forward", "arange from 1"),
    "padding row trained": Bug({"padding_idx": False}, "tokens", "gradient", None),
    "head not tied": Bug(
        {"tied": False, "layout": {"head/kernel": ("tokens.weight", (1, 0))}},
        "optimizer",
        "free run",
        None,
    ),
    "residual left out": Bug({"residual": "none"}, "block", "forward", "operand of add"),
    "norm after the residual": Bug({"order": "post"}, "block", "forward", None),
    "mean over all tokens": Bug({"loss_": {"mean": "all"}}, "loss", "loss", "mean"),
    "mean over sequences": Bug({"loss_": {"mean": "sequences"}}, "loss", "loss", "mean over each"),
    "ignored tokens used": Bug({"loss_": {"kept": "all"}}, "loss", "loss", None),
    "no label smoothing": Bug({"loss_": {"smoothing": "none"}}, "loss", "loss", "smoothing"),
    "smoothing over the wrong classes": Bug(
        {"loss_": {"smoothing": "wrong"}}, "loss", "loss", "smoothing"
    ),
}
KIND = Kind(TorchModel, torch_loss, torch_forward, optimizer, batch, port, BUGS)
LIBRARY = {"attention": nnx.dot_product_attention}  # right, but its softmax is in float32
