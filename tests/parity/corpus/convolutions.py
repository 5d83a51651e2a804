"""Bugs of convolution and pooling: padding, flipped kernels, and the order of flattened axes.

The references are on NCHW images, the ports on NHWC images.
"""

import jax.numpy as jnp
import torch
from flax import nnx
from torch import nn

from corpus.bug import Bug, normal


class Stem(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv1 = nn.Conv2d(2, 4, 5, stride=2, padding=2, bias=False)
        self.fc = nn.Linear(4, 3)

    def forward(self, x):
        return self.fc(torch.relu(self.conv1(x)).mean((2, 3)))


class StemPort(nnx.Module):
    def __init__(self, wrong, rngs):
        padding = "SAME" if wrong else ((2, 2), (2, 2))
        self.conv1 = nnx.Conv(2, 4, (5, 5), strides=2, padding=padding, use_bias=False, rngs=rngs)
        self.fc = nnx.Linear(4, 3, rngs=rngs)

    def __call__(self, x):
        return self.fc(nnx.relu(self.conv1(x.transpose(0, 2, 3, 1))).mean((1, 2)))


class Block(nn.Module):
    """A residual block that halves the image."""

    def __init__(self):
        super().__init__()
        self.conv1 = nn.Conv2d(3, 5, 3, stride=2, padding=1, bias=False)
        self.conv2 = nn.Conv2d(5, 5, 3, padding=1, bias=False)
        self.shortcut = nn.Conv2d(3, 5, 1, stride=2, bias=False)

    def forward(self, x):
        return torch.relu(self.conv2(torch.relu(self.conv1(x))) + self.shortcut(x))


class ResNet(nn.Module):
    def __init__(self):
        super().__init__()
        self.stem, self.block, self.fc = nn.Conv2d(2, 3, 1), Block(), nn.Linear(5, 2)

    def forward(self, x):
        return self.fc(self.block(self.stem(x)).mean((2, 3)))


class BlockPort(nnx.Module):
    def __init__(self, wrong, rngs):
        given = {
            "padding": "SAME" if wrong else ((1, 1), (1, 1)),
            "use_bias": False,
            "rngs": rngs,
        }
        self.conv1 = nnx.Conv(3, 5, (3, 3), strides=2, **given)
        self.conv2 = nnx.Conv(5, 5, (3, 3), **given)
        self.shortcut = nnx.Conv(3, 5, (1, 1), strides=2, use_bias=False, rngs=rngs)

    def __call__(self, x):
        return nnx.relu(self.conv2(nnx.relu(self.conv1(x))) + self.shortcut(x))


class ResNetPort(nnx.Module):
    def __init__(self, wrong, rngs):
        self.stem, self.block = nnx.Conv(2, 3, (1, 1), rngs=rngs), BlockPort(wrong, rngs)
        self.fc = nnx.Linear(5, 2, rngs=rngs)

    def __call__(self, x):
        return self.fc(self.block(self.stem(x.transpose(0, 2, 3, 1))).mean((1, 2)))


class Downsample(nn.Module):
    """Pads below and on the right only."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3, stride=2)

    def forward(self, x):
        return self.conv(nn.functional.pad(x, (0, 1, 0, 1)))


class UNet(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv_in, self.down = nn.Conv2d(2, 3, 1), Downsample()
        self.conv_out = nn.Conv2d(4, 2, 1)

    def forward(self, x):
        return self.conv_out(nn.functional.silu(self.down(self.conv_in(x))))


class DownsamplePort(nnx.Module):
    def __init__(self, wrong, rngs):
        self.conv = nnx.Conv(3, 4, (3, 3), strides=2, padding="VALID", rngs=rngs)
        self.around = (1, 1) if wrong else (0, 1)

    def __call__(self, x):
        return self.conv(jnp.pad(x, ((0, 0), self.around, self.around, (0, 0))))


class UNetPort(nnx.Module):
    def __init__(self, wrong, rngs):
        self.conv_in, self.down = nnx.Conv(2, 3, (1, 1), rngs=rngs), DownsamplePort(wrong, rngs)
        self.conv_out = nnx.Conv(4, 2, (1, 1), rngs=rngs)

    def __call__(self, x):
        h = self.conv_out(nnx.silu(self.down(self.conv_in(x.transpose(0, 2, 3, 1)))))
        return h.transpose(0, 3, 1, 2)


class Upsample(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(2, 3, 1)
        self.up = nn.ConvTranspose2d(3, 4, 3, stride=2)

    def forward(self, x):
        return self.up(torch.tanh(self.conv(x)))


class UpsamplePort(nnx.Module):
    def __init__(self, wrong, rngs):
        self.conv = nnx.Conv(2, 3, (1, 1), rngs=rngs)
        self.up = nnx.ConvTranspose(
            3, 4, (3, 3), strides=2, padding="VALID", transpose_kernel=not wrong, rngs=rngs
        )

    def __call__(self, x):
        return self.up(jnp.tanh(self.conv(x.transpose(0, 2, 3, 1)))).transpose(0, 3, 1, 2)


class Pooled(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv, self.pool = nn.Conv2d(2, 3, 3, padding=1), nn.MaxPool2d(3, 2, padding=1)
        self.fc = nn.Linear(3, 4)

    def forward(self, x):
        return self.fc(self.pool(self.conv(x)).mean((2, 3)))


class MaxPool(nnx.Module):
    def __init__(self, padding):
        self.padding = padding

    def __call__(self, x):
        return nnx.max_pool(x, (3, 3), strides=(2, 2), padding=self.padding)


class PooledPort(nnx.Module):
    def __init__(self, wrong, rngs):
        self.conv = nnx.Conv(2, 3, (3, 3), padding=((1, 1), (1, 1)), rngs=rngs)
        self.pool = MaxPool("VALID" if wrong else ((1, 1), (1, 1)))
        self.fc = nnx.Linear(3, 4, rngs=rngs)

    def __call__(self, x):
        return self.fc(self.pool(self.conv(x.transpose(0, 2, 3, 1))).mean((1, 2)))


class Flattened(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv, self.fc = nn.Conv2d(2, 3, 2), nn.Linear(3 * 2 * 4, 5)

    def forward(self, x):
        return self.fc(torch.flatten(torch.relu(self.conv(x)), 1))


class FlattenedPort(nnx.Module):
    def __init__(self, wrong, rngs):
        self.conv = nnx.Conv(2, 3, (2, 2), padding="VALID", rngs=rngs)
        self.fc, self.wrong = nnx.Linear(3 * 2 * 4, 5, rngs=rngs), wrong

    def __call__(self, x):
        h = nnx.relu(self.conv(x.transpose(0, 2, 3, 1)))
        h = h if self.wrong else h.transpose(0, 3, 1, 2)
        return self.fc(h.reshape(len(h), -1))


BUGS = [
    Bug(
        "google/flax#2993",
        "The first convolution of a ResNet, stride 2, was ported with SAME: on an even image that "
        "pads one pixel less on the left than PyTorch's symmetric padding.",
        Stem,
        StemPort,
        normal(x=(3, 2, 8, 6), y=(3, 3)),
        stage="forward",
        layer="conv1",
        cause="padding",
    ),
    Bug(
        "google/flax#963",
        "Every convolution of a ResNet kept Flax's default padding, SAME: those with stride 2 see "
        "other pixels than PyTorch's. Classes mostly agreed, probabilities drifted.",
        ResNet,
        ResNetPort,
        normal(x=(2, 2, 6, 8), y=(2, 2)),
        stage="forward",
        layer="block.conv1",
        cause="padding",
    ),
    Bug(
        "huggingface/diffusers#5137",
        "The Flax U-Net halves the image with a padding of 1 on all sides; the model was trained "
        "with one row below and one column on the right only. Images came out poor.",
        UNet,
        UNetPort,
        normal(x=(2, 2, 6, 4), y=(2, 2, 3, 2)),
        stage="forward",
        layer="down",
        cause="padding",
    ),
    Bug(
        "jax-ml/jax#11252",
        "A transposed convolution of PyTorch was ported without `transpose_kernel`: Flax then "
        "slides the kernel unflipped, and the result is another one.",
        Upsample,
        UpsamplePort,
        normal(x=(2, 2, 3, 4), y=(2, 4, 7, 9)),
        stage="forward",
        layer="up",
        cause="flipped",
        layout=lambda wrong: {"up/kernel": ("up.weight", (2, 3, 0, 1) if wrong else (2, 3, 1, 0))},
    ),
    Bug(
        "google/trax#260",
        "The first max-pooling of a ResNet had VALID in place of a padding of 1: one row and one "
        "column less, which the mean at the end hides.",
        Pooled,
        PooledPort,
        normal(x=(3, 2, 8, 6), y=(3, 4)),
        stage="forward",
        layer="pool",
        cause="padding",
    ),
    Bug(
        "microsoft/MMdnn#595",
        "A converted network flattened NHWC images before a dense layer whose weights belong to "
        "flattened NCHW images.",
        Flattened,
        FlattenedPort,
        normal(x=(4, 2, 3, 5), y=(4, 5)),
        stage="forward",
        layer="",
        cause="NHWC for NCHW",
    ),
]
