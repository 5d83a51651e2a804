"""Bugs of transformers: activation, rotation, mask, scale, fused projections and embeddings."""

import math

import jax
import jax.numpy as jnp
import torch
from flax import nnx
from torch import nn

from corpus.bug import Bug, normal

WIDTH, HEADS, HEAD = 8, 2, 4
TOKENS = 9
PAD = 1


class MLP(nn.Module):
    def __init__(self):
        super().__init__()
        self.up, self.down = nn.Linear(5, 7), nn.Linear(7, 5)

    def forward(self, x):
        return self.down(nn.functional.gelu(self.up(x)))


class GatedMLP(nn.Module):
    def __init__(self):
        super().__init__()
        self.gate, self.up = nn.Linear(5, 6, bias=False), nn.Linear(5, 6, bias=False)
        self.down = nn.Linear(6, 5, bias=False)

    def forward(self, x):
        return self.down(nn.functional.gelu(self.gate(x), approximate="tanh") * self.up(x))


class Layer(nn.Module):
    def __init__(self, mlp):
        super().__init__()
        self.mlp, self.norm, self.head = mlp(), nn.LayerNorm(5), nn.Linear(5, 3)

    def forward(self, x):
        return self.head(self.norm(x + self.mlp(x)))


class MLPPort(nnx.Module):
    def __init__(self, wrong, rngs):
        self.up, self.down = nnx.Linear(5, 7, rngs=rngs), nnx.Linear(7, 5, rngs=rngs)
        self.wrong = wrong

    def __call__(self, x):
        return self.down(nnx.gelu(self.up(x), approximate=self.wrong))


class GatedMLPPort(nnx.Module):
    def __init__(self, wrong, rngs):
        self.gate = nnx.Linear(5, 6, use_bias=False, rngs=rngs)
        self.up = nnx.Linear(5, 6, use_bias=False, rngs=rngs)
        self.down = nnx.Linear(6, 5, use_bias=False, rngs=rngs)
        self.wrong = wrong

    def __call__(self, x):
        return self.down(nnx.gelu(self.gate(x), approximate=not self.wrong) * self.up(x))


class LayerPort(nnx.Module):
    def __init__(self, mlp, rngs):
        self.mlp, self.norm = mlp, nnx.LayerNorm(5, epsilon=1e-5, rngs=rngs)
        self.head = nnx.Linear(5, 3, rngs=rngs)

    def __call__(self, x):
        return self.head(self.norm(x + self.mlp(x)))


def torch_rotate(x):
    """Rotate the pairs (0, 1), (2, 3), ... of each head by angles that grow with the position."""
    _, length, _, width = x.shape
    frequency = 0.1 ** (torch.arange(0, width, 2, dtype=x.dtype) / width)
    angle = torch.arange(length, dtype=x.dtype)[:, None, None] * frequency
    even, odd = x[..., ::2], x[..., 1::2]
    cos, sin = torch.cos(angle), torch.sin(angle)
    return torch.stack((even * cos - odd * sin, even * sin + odd * cos), -1).flatten(-2)


def rotate(x, halves):
    """As torch_rotate; halves: rotate the pairs (i, i + width/2), as other libraries do."""
    _, length, _, width = x.shape
    frequency = 0.1 ** (jnp.arange(0, width, 2, dtype=x.dtype) / width)
    angle = jnp.arange(length, dtype=x.dtype)[:, None, None] * frequency
    cos, sin = jnp.cos(angle), jnp.sin(angle)
    first, second = jnp.split(x, 2, -1) if halves else (x[..., ::2], x[..., 1::2])
    turned = first * cos - second * sin, first * sin + second * cos
    if halves:
        return jnp.concatenate(turned, -1)
    return jnp.stack(turned, -1).reshape(x.shape)


class Attention(nn.Module):
    """Causal self-attention; one projection holds queries, keys and values, or three do.

    fused: "per head" (q, k, v of the first head, then of the second) or None.
    """

    def __init__(self, rotary=False, fused=None):
        super().__init__()
        self.rotary, self.fused = rotary, fused
        if fused:
            self.qkv = nn.Linear(WIDTH, 3 * WIDTH)
        else:
            self.q, self.k, self.v = (nn.Linear(WIDTH, WIDTH) for _ in range(3))
        self.out = nn.Linear(WIDTH, WIDTH)

    def forward(self, x):
        heads = (*x.shape[:2], HEADS, HEAD)
        if self.fused:
            q, k, v = self.qkv(x).reshape(*heads[:3], 3 * HEAD).chunk(3, -1)
        else:
            q, k, v = self.q(x).reshape(heads), self.k(x).reshape(heads), self.v(x).reshape(heads)
        if self.rotary:
            q, k = torch_rotate(q), torch_rotate(k)
        scores = torch.einsum("nqhd,nkhd->nhqk", q, k) / math.sqrt(HEAD)
        future = torch.ones(x.shape[1], x.shape[1], dtype=torch.bool).triu(1)
        weights = scores.masked_fill(future, -math.inf).softmax(-1)
        return self.out(torch.einsum("nhqk,nkhd->nqhd", weights, v).flatten(2))


class Transformer(nn.Module):
    def __init__(self, **given):
        super().__init__()
        self.proj, self.attention = nn.Linear(5, WIDTH), Attention(**given)
        self.head = nn.Linear(WIDTH, 3)

    def forward(self, x):
        h = self.proj(x)
        return self.head(h + self.attention(h))


class AttentionPort(nnx.Module):
    """As Attention, and what people got wrong: `bug` is "" or one of the words below."""

    def __init__(self, rngs, rotary=False, fused=False, bug=""):
        self.rotary, self.fused, self.bug = rotary, fused, bug
        if fused:
            self.qkv = nnx.Linear(WIDTH, 3 * WIDTH, rngs=rngs)
        else:
            self.q, self.k = (nnx.Linear(WIDTH, WIDTH, rngs=rngs) for _ in range(2))
            self.v = nnx.Linear(WIDTH, WIDTH, rngs=rngs)
        self.out = nnx.Linear(WIDTH, WIDTH, rngs=rngs)

    def split(self, x):
        heads = (*x.shape[:2], HEADS, HEAD)
        if not self.fused:
            return self.q(x).reshape(heads), self.k(x).reshape(heads), self.v(x).reshape(heads)
        if self.bug == "thirds":
            return [part.reshape(heads) for part in jnp.split(self.qkv(x), 3, -1)]
        return jnp.split(self.qkv(x).reshape(*heads[:3], 3 * HEAD), 3, -1)

    def __call__(self, x):
        q, k, v = self.split(x)
        if self.rotary:
            q, k = rotate(q, self.bug == "halves"), rotate(k, self.bug == "halves")
        q = q / math.sqrt(HEAD) if self.bug == "scaled twice" else q
        scores = jnp.einsum("nqhd,nkhd->nhqk", q, k) / math.sqrt(HEAD)
        if self.bug != "no mask":
            past = jnp.tril(jnp.ones((x.shape[1], x.shape[1]), bool))
            scores = jnp.where(past, scores, -jnp.inf)
        weights = jax.nn.softmax(scores, -1)
        return self.out(jnp.einsum("nhqk,nkhd->nqhd", weights, v).reshape(x.shape))


class TransformerPort(nnx.Module):
    def __init__(self, rngs, **given):
        self.proj, self.attention = nnx.Linear(5, WIDTH, rngs=rngs), AttentionPort(rngs, **given)
        self.head = nnx.Linear(WIDTH, 3, rngs=rngs)

    def __call__(self, x):
        h = self.proj(x)
        return self.head(h + self.attention(h))


def attention_bug(source, story, cause, bug, **given):
    """Return a bug of the attention layer alone."""
    return Bug(
        source,
        story,
        lambda: Transformer(**given),
        lambda wrong, rngs: TransformerPort(rngs, bug=bug if wrong else "", **given),
        normal(x=(2, 3, 5), y=(2, 3, 3)),
        stage="forward",
        layer="attention",
        cause=cause,
    )


class TiedLM(nn.Module):
    """A language model whose last layer is its embedding, scaled as T5 does."""

    def __init__(self):
        super().__init__()
        self.embed, self.dense = nn.Embedding(TOKENS, 4), nn.Linear(4, 4)

    def forward(self, tokens):
        h = torch.tanh(self.dense(self.embed(tokens)))
        return nn.functional.linear(h * 4**-0.5, self.embed.weight)


class TiedLMPort(nnx.Module):
    def __init__(self, wrong, rngs):
        self.embed, self.dense = nnx.Embed(TOKENS, 4, rngs=rngs), nnx.Linear(4, 4, rngs=rngs)
        self.scale = 1.0 if wrong else 4**-0.5

    def __call__(self, tokens):
        return self.embed.attend(jnp.tanh(self.dense(self.embed(tokens))) * self.scale)


class Embeddings(nn.Module):
    """RoBERTa's: positions count the tokens that are not padding, from PAD + 1."""

    def __init__(self):
        super().__init__()
        self.word, self.position = nn.Embedding(TOKENS, 4), nn.Embedding(7, 4)

    def forward(self, tokens):
        real = tokens != PAD
        return self.word(tokens) + self.position(real.cumsum(1) * real + PAD)


class Roberta(nn.Module):
    def __init__(self):
        super().__init__()
        self.embeddings, self.head = Embeddings(), nn.Linear(4, 3)

    def forward(self, tokens):
        return self.head(self.embeddings(tokens))


class EmbeddingsPort(nnx.Module):
    def __init__(self, wrong, rngs):
        self.word, self.position = nnx.Embed(TOKENS, 4, rngs=rngs), nnx.Embed(7, 4, rngs=rngs)
        self.wrong = wrong

    def __call__(self, tokens):
        real = tokens != PAD
        positions = real.cumsum(1) * real + PAD
        if self.wrong:
            positions = jnp.broadcast_to(jnp.arange(tokens.shape[1]), tokens.shape)
        return self.word(tokens) + self.position(positions)


class RobertaPort(nnx.Module):
    def __init__(self, wrong, rngs):
        self.embeddings, self.head = EmbeddingsPort(wrong, rngs), nnx.Linear(4, 3, rngs=rngs)

    def __call__(self, tokens):
        return self.head(self.embeddings(tokens))


class Dropped(nn.Module):
    """An embedding, dropout with a given mask, and a norm, in this order."""

    def __init__(self):
        super().__init__()
        self.word, self.norm, self.head = nn.Embedding(TOKENS, 5), nn.LayerNorm(5), nn.Linear(5, 2)

    def forward(self, tokens, keep):
        return self.head(self.norm(self.word(tokens) * keep / 0.75))


class DroppedPort(nnx.Module):
    def __init__(self, wrong, rngs):
        self.word, self.norm = (
            nnx.Embed(TOKENS, 5, rngs=rngs),
            nnx.LayerNorm(5, epsilon=1e-5, rngs=rngs),
        )
        self.head, self.wrong = nnx.Linear(5, 2, rngs=rngs), wrong

    def __call__(self, tokens, keep):
        if self.wrong:
            return self.head(self.norm(self.word(tokens)) * keep / 0.75)
        return self.head(self.norm(self.word(tokens) * keep / 0.75))


class Padded(nn.Module):
    def __init__(self):
        super().__init__()
        self.word, self.head = nn.Embedding(TOKENS, 4, padding_idx=PAD), nn.Linear(4, 3)

    def forward(self, tokens):
        return self.head(torch.tanh(self.word(tokens)))


class PaddedPort(nnx.Module):
    def __init__(self, wrong, rngs):
        self.word, self.head = nnx.Embed(TOKENS, 4, rngs=rngs), nnx.Linear(4, 3, rngs=rngs)
        self.wrong = wrong

    def __call__(self, tokens):
        h = self.word(tokens)
        if not self.wrong:
            h = jnp.where((tokens == PAD)[..., None], jax.lax.stop_gradient(h), h)
        return self.head(jnp.tanh(h))


def tokens(*shape, **others):
    """Return a function that draws a batch of tokens x, the last of each row padding."""

    def draw(rng):
        x = rng.integers(PAD + 1, TOKENS, shape)
        x[:, -1] = PAD
        return {"x": x} | normal(**others)(rng)

    return draw


def draw_kept(rng):
    kept = rng.random((2, 4, 5)) < 0.75
    return tokens(2, 4, y=(2, 4, 2))(rng) | {"keep": kept.astype(float)}


BUGS = [
    Bug(
        "huggingface/transformers#11364",
        "FlaxBert computed GELU by tanh; BERT uses the exact one, by erf.",
        lambda: Layer(MLP),
        lambda wrong, rngs: LayerPort(MLPPort(wrong, rngs), rngs),
        normal(x=(4, 5), y=(4, 3)),
        stage="forward",
        layer="mlp",
        cause="GELU",
    ),
    Bug(
        "google/gemma_pytorch#37",
        "The PyTorch port of Gemma used the exact GELU; the model was trained, in JAX, with the "
        "one by tanh.",
        lambda: Layer(GatedMLP),
        lambda wrong, rngs: LayerPort(GatedMLPPort(wrong, rngs), rngs),
        normal(x=(4, 5), y=(4, 3)),
        stage="forward",
        layer="mlp",
        cause="GELU",
    ),
    attention_bug(
        "rasbt/LLMs-from-scratch#750",
        "Llama 2's own checkpoints rotate neighbouring pairs of each head; the code that loaded "
        "them rotated first against second half, and the weights were not reordered.",
        None,
        "halves",
        rotary=True,
    ),
    attention_bug(
        "deepspeedai/DeepSpeed#3844",
        "A fused projection holds q, k, v for each head in some models, and all q, all k, all v in "
        "others. Split the wrong way it fits, raises nothing, and gives another attention.",
        "fused parts",
        "thirds",
        fused="per head",
    ),
    attention_bug(
        "huggingface/transformers#38290",
        "OPT divided its queries by the root of the head size, and the attention function did so "
        "once more.",
        "divided by 2 twice",
        "scaled twice",
    ),
    attention_bug(
        "facebookresearch/xformers#103",
        "The causal mask was skipped wherever no other mask was given.",
        "mask left out",
        "no mask",
    ),
    Bug(
        "ml-explore/mlx-examples#591",
        "T5 scales the last hidden state by d_model**-0.5 if the embedding is also the last layer; "
        "the port scaled in the other case.",
        TiedLM,
        TiedLMPort,
        tokens(2, 3, y=(2, 3, TOKENS)),
        stage="forward",
        layer="",
        cause="multiplied by 0.5 left out",
    ),
    Bug(
        "huggingface/transformers#47496",
        "RoBERTa's positions begin at padding_idx + 1; the collator for packed sequences numbered "
        "from 0, so that every token read another row of the position embedding.",
        Roberta,
        RobertaPort,
        tokens(3, 4, y=(3, 4, 3)),
        stage="forward",
        layer="embeddings",
        cause=None,
    ),
    Bug(
        "huggingface/transformers#17842",
        "FlaxBigBird's embeddings were normalised before dropout, PyTorch's after it. (Both sides "
        "get the same mask here.)",
        Dropped,
        DroppedPort,
        draw_kept,
        stage="forward",
        layer="",
        cause=None,
        forward=lambda module, batch: module(batch["x"], batch["keep"]),
    ),
    Bug(
        "google/torchax#11",
        "PyTorch gives the row `padding_idx` of an embedding no gradient; run by JAX, it got one, "
        "and the padding vector was trained.",
        Padded,
        PaddedPort,
        tokens(3, 4, y=(3, 4, 3)),
        stage="gradient",
        layer="word",
        cause="padding row",
    ),
]
