"""Bugs of normalisation: epsilon, running statistics, scale, and the place in the block."""

import jax
import jax.numpy as jnp
import torch
from flax import nnx
from torch import nn

from corpus.bug import Bug, normal


class Head(nn.Module):
    def __init__(self):
        super().__init__()
        self.dense, self.norm = nn.Linear(7, 5), nn.LayerNorm(5, eps=1e-12)
        self.out = nn.Linear(5, 3)

    def forward(self, x):
        return self.out(self.norm(nn.functional.gelu(self.dense(x))))


class HeadPort(nnx.Module):
    def __init__(self, wrong, rngs):
        self.dense = nnx.Linear(7, 5, rngs=rngs)
        self.norm = nnx.LayerNorm(5, epsilon=1e-5 if wrong else 1e-12, rngs=rngs)
        self.out = nnx.Linear(5, 3, rngs=rngs)

    def __call__(self, x):
        return self.out(self.norm(nnx.gelu(self.dense(x), approximate=False)))


class Encoder(nn.Module):
    def __init__(self, momentum=0.1):
        super().__init__()
        self.fc, self.norm = nn.Linear(6, 4), nn.BatchNorm1d(4, momentum=momentum)
        self.mean = nn.Linear(4, 2)

    def forward(self, x):
        return self.mean(torch.relu(self.norm(self.fc(x))))


class BatchNorm(nnx.BatchNorm):
    """Flax's batch norm, but its running variance is torch's: divided by n - 1."""

    def __call__(self, x, use_running_average=None, *, mask=None):
        old = self.momentum * self.var[...]
        y = super().__call__(x, use_running_average, mask=mask)
        n = x.size // x.shape[-1]
        self.var[...] = old + (self.var[...] - old) * n / (n - 1)
        return y


class EncoderPort(nnx.Module):
    def __init__(self, rngs, momentum, epsilon=1e-5, norm=BatchNorm):
        self.fc = nnx.Linear(6, 4, rngs=rngs)
        self.norm = norm(4, momentum=momentum, epsilon=epsilon, rngs=rngs)
        self.mean = nnx.Linear(4, 2, rngs=rngs)

    def __call__(self, x):
        return self.mean(nnx.relu(self.norm(self.fc(x))))


class Probe(nn.Module):
    """A dense layer on the features of a frozen network, whose batch norm is not in training."""

    def __init__(self):
        super().__init__()
        self.backbone, self.norm = nn.Linear(5, 6), nn.BatchNorm1d(6).eval()
        self.fc = nn.Linear(6, 3)
        for frozen in (self.backbone, self.norm):
            frozen.requires_grad_(False)

    def forward(self, x):
        return self.fc(torch.relu(self.norm(self.backbone(x))))


class ProbePort(nnx.Module):
    def __init__(self, wrong, rngs):
        self.backbone = nnx.Linear(5, 6, rngs=rngs)
        self.norm = nnx.BatchNorm(
            6, use_running_average=not wrong, momentum=0.9, epsilon=1e-5, rngs=rngs
        )
        self.fc = nnx.Linear(6, 3, rngs=rngs)

    def __call__(self, x):
        return self.fc(jax.lax.stop_gradient(nnx.relu(self.norm(self.backbone(x)))))


class ImageNorm(nn.Module):
    """A norm between two convolutions, on NCHW images; its port is on NHWC images."""

    def __init__(self, norm):
        super().__init__()
        self.conv_in, self.norm, self.conv_out = nn.Conv2d(2, 6, 1), norm(), nn.Conv2d(6, 3, 1)

    def forward(self, x):
        h = self.conv_out(nn.functional.silu(self.norm(self.conv_in(x))))
        return h.mean((2, 3))


class ImageNormPort(nnx.Module):
    def __init__(self, norm, rngs):
        self.conv_in, self.norm = nnx.Conv(2, 6, (1, 1), rngs=rngs), norm
        self.conv_out = nnx.Conv(6, 3, (1, 1), rngs=rngs)

    def __call__(self, x):
        h = self.conv_in(x.transpose(0, 2, 3, 1))
        return self.conv_out(nnx.silu(self.norm(h))).mean((1, 2))


class RMSNorm(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(width))

    def forward(self, x):
        return x * torch.rsqrt((x * x).mean(-1, keepdim=True) + 1e-6) * (1 + self.weight)


class RMSNormPort(nnx.Module):
    def __init__(self, width, offset):
        self.scale, self.offset = nnx.Param(jnp.zeros(width)), offset

    def __call__(self, x):
        inverse = jax.lax.rsqrt((x * x).mean(-1, keepdims=True) + 1e-6)
        return x * inverse * (self.offset + self.scale[...])


class Decoder(nn.Module):
    def __init__(self):
        super().__init__()
        self.proj, self.norm, self.head = nn.Linear(5, 6), RMSNorm(6), nn.Linear(6, 3)

    def forward(self, x):
        return self.head(self.norm(self.proj(x)))


class DecoderPort(nnx.Module):
    def __init__(self, wrong, rngs):
        self.proj = nnx.Linear(5, 6, rngs=rngs)
        self.norm = RMSNormPort(6, offset=0 if wrong else 1)
        self.head = nnx.Linear(6, 3, rngs=rngs)

    def __call__(self, x):
        return self.head(self.norm(self.proj(x)))


class FeedForward(nn.Module):
    def __init__(self):
        super().__init__()
        self.norm, self.up, self.down = nn.LayerNorm(4), nn.Linear(4, 7), nn.Linear(7, 4)

    def forward(self, x):
        return x + self.down(torch.relu(self.up(self.norm(x))))


class PreNorm(nn.Module):
    def __init__(self):
        super().__init__()
        self.embed, self.block, self.head = nn.Linear(5, 4), FeedForward(), nn.Linear(4, 3)

    def forward(self, x):
        return self.head(self.block(self.embed(x)))


class FeedForwardPort(nnx.Module):
    def __init__(self, wrong, rngs):
        self.norm = nnx.LayerNorm(4, epsilon=1e-5, rngs=rngs)
        self.up, self.down = nnx.Linear(4, 7, rngs=rngs), nnx.Linear(7, 4, rngs=rngs)
        self.wrong = wrong

    def __call__(self, x):
        normed = self.norm(x)
        residual = normed if self.wrong else x
        return residual + self.down(nnx.relu(self.up(normed)))


class PreNormPort(nnx.Module):
    def __init__(self, wrong, rngs):
        self.embed, self.block = nnx.Linear(5, 4, rngs=rngs), FeedForwardPort(wrong, rngs)
        self.head = nnx.Linear(4, 3, rngs=rngs)

    def __call__(self, x):
        return self.head(self.block(self.embed(x)))


IMAGES = normal(x=(3, 2, 5, 4), y=(3, 3))
BUGS = [
    Bug(
        "huggingface/transformers#15332",
        "ELECTRA's prediction head in PyTorch left out the LayerNorm epsilon of the configuration "
        "(1e-12) and took the framework's 1e-5; TensorFlow's did not. Logits parted by 1e-3.",
        Head,
        HeadPort,
        normal(x=(4, 7), y=(4, 3)),
        stage="forward",
        layer="norm",
        cause="epsilon",
    ),
    Bug(
        "scverse/scvi-tools#2309",
        "The batch norms of the JAX model had momentum 0.99 and epsilon 1e-3; PyTorch's defaults, "
        "in Flax's terms, are 0.9 and 1e-5.",
        Encoder,
        lambda wrong, rngs: EncoderPort(rngs, *((0.99, 1e-3) if wrong else (0.9, 1e-5))),
        normal(x=(5, 6), y=(5, 2)),
        stage="forward",
        layer="norm",
        cause="epsilon",
    ),
    Bug(
        "pytorch/vision#8312",
        "MaxViT, ported from TensorFlow, kept its momentum 0.99 in PyTorch's batch norm, where the "
        "same thing is called 0.01: running statistics were those of the last batch only.",
        lambda: ImageNorm(lambda: nn.BatchNorm2d(6, momentum=0.01)),
        lambda wrong, rngs: ImageNormPort(
            BatchNorm(6, momentum=0.01 if wrong else 0.99, epsilon=1e-5, rngs=rngs), rngs
        ),
        IMAGES,
        stage="buffers",
        layer="norm",
        cause="momentum",
    ),
    Bug(
        "ml-explore/mlx#3817",
        "Batch norm stored the variance of the batch, divided by n, as running variance; PyTorch "
        "stores the one divided by n - 1. Only evaluation differed. Flax's layer does the same.",
        lambda: Encoder(momentum=0.3),
        lambda wrong, rngs: EncoderPort(rngs, 0.7, norm=nnx.BatchNorm if wrong else BatchNorm),
        normal(x=(5, 6), y=(5, 2)),
        stage="buffers",
        layer="norm",
        cause="biased running variance",
    ),
    Bug(
        "kdexd/virtex#16",
        "A linear probe on frozen features left the network in training mode: its batch norms used "
        "the statistics of the batch and went on to move their own.",
        Probe,
        ProbePort,
        normal(x=(4, 5), y=(4, 3)),
        stage="forward",
        layer="norm",
        cause="training mode",
    ),
    Bug(
        "ml-explore/mlx-examples#1434",
        "One group norm of Stable Diffusion's U-Net has epsilon 1e-6, the others 1e-5; the port "
        "took the default 1e-5 for all of them.",
        lambda: ImageNorm(lambda: nn.GroupNorm(2, 6, eps=1e-6)),
        lambda wrong, rngs: ImageNormPort(
            nnx.GroupNorm(6, num_groups=2, epsilon=1e-5 if wrong else 1e-6, rngs=rngs), rngs
        ),
        IMAGES,
        stage="forward",
        layer="norm",
        cause="epsilon",
    ),
    Bug(
        "linkedin/Liger-Kernel#74",
        "Gemma's RMSNorm multiplies by 1 + weight; the kernel for it multiplied by the weight, as "
        "Llama's does.",
        Decoder,
        DecoderPort,
        normal(x=(4, 5), y=(4, 3)),
        stage="forward",
        layer="norm",
        cause="plus 1 left out",
    ),
    Bug(
        "tracel-ai/burn#1054",
        "The pre-norm transformer normalised the residual path too: norm(x) + f(norm(x)) in place "
        "of x + f(norm(x)).",
        PreNorm,
        PreNormPort,
        normal(x=(4, 5), y=(4, 3)),
        stage="forward",
        layer="block",
        cause="residual",
    ),
]
