"""A residual convnet with batch normalisation in training mode, NCHW against NHWC."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import torch
from flax import nnx
from torch import nn

from jaxnet.parity import leaf
from ports.table import Bug, Kind, Port

ROWS, IN, HEIGHT, WIDTH = 6, 2, 9, 8
FIRST, SECOND, CLASSES = 5, 4, 3
POOLED = (3, 2)  # height and width of the last maps


class TorchModel(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv1 = nn.Conv2d(IN, FIRST, 3, stride=2, padding=1)  # its bias meets a mean
        self.bn1 = nn.BatchNorm2d(FIRST)
        self.relu = nn.ReLU()
        self.conv2 = nn.Conv2d(FIRST, SECOND, (3, 2), padding=(2, 1), dilation=2, bias=False)
        self.bn2 = nn.BatchNorm2d(SECOND, momentum=0.2, eps=1e-3)
        self.conv3 = nn.Conv2d(SECOND, SECOND, 3, padding=1)
        self.pool = nn.MaxPool2d(3, stride=2, padding=1)
        self.smooth = nn.AvgPool2d(3, stride=1, padding=1)
        self.fc = nn.Linear(SECOND * POOLED[0] * POOLED[1], CLASSES)

    def forward(self, images):
        h = self.relu(self.bn1(self.conv1(images)))
        h = self.bn2(self.conv2(h))
        h = torch.tanh(self.conv3(h) + h)
        return self.fc(self.smooth(self.pool(h)).flatten(1))


def torch_forward(module, batch):
    return module(batch["images"])


def torch_loss(module, batch):
    return nn.functional.cross_entropy(
        torch_forward(module, batch), batch["labels"], weight=batch["weights"]
    )


def batch(seed):
    rng = np.random.default_rng(seed)
    return {
        "images": rng.standard_normal((ROWS, IN, HEIGHT, WIDTH)) + 0.5,
        "labels": rng.permutation(np.arange(ROWS) % CLASSES),
        "weights": np.array([0.5, 2.0, 1.2]),
    }


class BatchNorm(nnx.BatchNorm):
    """With torch's running variance, which is the unbiased one; nnx's is not."""

    def __call__(self, x):
        kept = self.momentum * self.var[...]
        y = super().__call__(x)
        if not self.use_running_average:
            n = x.size // x.shape[-1]
            self.var[...] = kept + (self.var[...] - kept) * n / (n - 1)
        return y


def affine(layer, y):
    return y * layer.scale[...] + layer.bias[...]


class UnbiasedNorm(BatchNorm):
    """Normalises by the unbiased variance too."""

    def __call__(self, x):
        super().__call__(x)
        axes = (0, 1, 2)
        centred = (x - x.mean(axes)) / jnp.sqrt(x.var(axes, ddof=1) + self.epsilon)
        return affine(self, centred)


class EachRowNorm(BatchNorm):
    """Takes the statistics of each image alone, as instance normalisation does."""

    def __call__(self, x):
        super().__call__(x)
        axes = (1, 2)
        centred = x - x.mean(axes, keepdims=True)
        centred /= jnp.sqrt(x.var(axes, keepdims=True) + self.epsilon)
        return affine(self, centred)


class FrozenNorm(BatchNorm):
    """Normalises by the batch, and forgets to keep the statistics."""

    def __call__(self, x):
        before = self.mean[...], self.var[...]
        y = super().__call__(x)
        self.mean[...], self.var[...] = before
        return y


def max_pool(x, low=-jnp.inf):
    padded = jnp.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)), constant_values=low)
    return nnx.max_pool(padded, (3, 3), strides=(2, 2))


AROUND = ((1, 1), (1, 1))
WINDOW = {"window_shape": (3, 3), "strides": (2, 2), "padding": AROUND}
torch_pool = functools.partial(nnx.max_pool, **WINDOW)


class Model(nnx.Module):
    def __init__(
        self,
        rngs,
        *,
        norm=BatchNorm,
        momentum=0.9,
        epsilon=1e-5,
        evaluating=False,
        padding1=AROUND,
        bias1=True,
        padding2=((2, 2), (1, 1)),
        dilation=2,
        nonlinear=True,
        residual="right",
        pool=torch_pool,
        counts_padding=True,
        smoothing=True,
        flatten="NCHW",
        images="transposed",
    ):
        conv = functools.partial(nnx.Conv, rngs=rngs)
        self.conv1 = conv(IN, FIRST, (3, 3), strides=2, padding=padding1, use_bias=bias1)
        self.bn1 = norm(
            FIRST,
            momentum=momentum,
            epsilon=epsilon,
            use_running_average=evaluating,
            rngs=rngs,
        )
        self.conv2 = conv(
            FIRST, SECOND, (3, 2), padding=padding2, kernel_dilation=dilation, use_bias=False
        )
        self.bn2 = BatchNorm(SECOND, momentum=0.8, epsilon=1e-3, rngs=rngs)
        self.conv3 = conv(SECOND, SECOND, (3, 3), padding=AROUND)
        self.fc = nnx.Linear(SECOND * POOLED[0] * POOLED[1], CLASSES, rngs=rngs)
        self.nonlinear, self.residual = nonlinear, residual
        self.pool, self.counts_padding, self.smoothing = pool, counts_padding, smoothing
        self.flatten, self.images = flatten, images

    def rows(self, h):
        """Return the maps as the rows that torch's flatten makes."""
        order = {"NCHW": (0, 3, 1, 2), "NHWC": (0, 1, 2, 3), "NCWH": (0, 3, 2, 1)}[self.flatten]
        return h.transpose(order).reshape(len(h), -1)

    def __call__(self, images):
        if self.images == "transposed":
            h = images.transpose(0, 2, 3, 1)
        else:
            h = images.reshape(len(images), HEIGHT, WIDTH, IN)
        h = self.bn1(self.conv1(h))
        h = nnx.relu(h) if self.nonlinear else h
        h = self.bn2(self.conv2(h))
        if self.residual == "right":
            h = jnp.tanh(self.conv3(h) + h)
        else:
            h = jnp.tanh(self.conv3(h)) + (h if self.residual == "after" else 0)
        h = self.pool(h)
        if self.smoothing:
            h = nnx.avg_pool(h, (3, 3), padding=AROUND, count_include_pad=self.counts_padding)
        return self.fc(self.rows(h))


def forward(module, batch):
    return module(batch["images"])


def loss(module, batch, mean="weights"):
    log_p = jax.nn.log_softmax(forward(module, batch))
    weights = batch["weights"][batch["labels"]]
    losses = -jnp.take_along_axis(log_p, batch["labels"][:, None], 1)[:, 0]
    if mean == "unweighted":
        return losses.mean()
    return (losses * weights).sum() / (weights.sum() if mean == "weights" else ROWS)


HWIO = (2, 3, 1, 0)  # nnx's kernel, as axes of torch's (out, in, height, width)
NORM = {"scale": "weight", "bias": "bias", "mean": "running_mean", "var": "running_var"}
LAYOUT = {
    "conv1/kernel": ("conv1.weight", HWIO),
    "conv1/bias": "conv1.bias",
    **{f"bn1/{own}": f"bn1.{name}" for own, name in NORM.items()},
    "conv2/kernel": ("conv2.weight", HWIO),
    **{f"bn2/{own}": f"bn2.{name}" for own, name in NORM.items()},
    "conv3/kernel": ("conv3.weight", HWIO),
    "conv3/bias": "conv3.bias",
    "fc/kernel": ("fc.weight", (1, 0)),
    "fc/bias": "fc.bias",
}


def sgd(decay="coupled", nesterov=False, rate=0.05):
    """torch's SGD: the decay joins the gradient, before the momentum."""
    momentum = optax.trace(0.9, nesterov=nesterov)
    parts = [optax.add_decayed_weights(0.03), momentum]
    return optax.chain(*(parts if decay == "coupled" else parts[::-1]), optax.scale(-rate))


def port(*, loss_=None, optimizer_=None, layout=None, seed=0, **module):
    """Return the port; without arguments it is right."""
    own = LAYOUT | (layout or {})
    return Port(
        module=Model(nnx.Rngs(seed), **module),
        loss=functools.partial(loss, **(loss_ or {})),
        forward=forward,
        optimizer=sgd(**(optimizer_ or {})),
        layout={name: entry for name, entry in own.items() if entry is not None},
    )


def optimizer(parameters):
    return torch.optim.SGD(parameters, lr=0.05, momentum=0.9, weight_decay=0.03)


BUGS = {
    "momentum's complement": Bug({"momentum": 0.1}, "bn1", "buffers", "momentum"),
    "biased running variance": Bug({"norm": nnx.BatchNorm}, "bn1", "buffers", "variance"),
    "statistics not kept": Bug({"norm": FrozenNorm}, "bn1", "buffers", "not updated"),
    "unbiased variance": Bug({"norm": UnbiasedNorm}, "bn1", "forward", "variance"),
    "evaluation mode": Bug({"evaluating": True}, "bn1", "forward", "eval mode"),
    "scale and bias swapped": Bug(
        {"layout": {"bn1/scale": "bn1.bias", "bn1/bias": "bn1.weight"}},
        "bn1",
        "forward",
        "swapped",
    ),
    "statistics swapped": Bug(
        {"layout": {"bn2/mean": "bn2.running_var", "bn2/var": "bn2.running_mean"}},
        "bn2",
        "buffers",
        "swapped",
    ),
    "SAME at stride 2": Bug({"padding1": "SAME"}, "conv1", "forward", "padding"),
    "circular padding": Bug({"padding1": "CIRCULAR"}, "conv1", "forward", "padding"),
    "no dilation": Bug(
        {"dilation": 1, "padding2": ((1, 1), (0, 1))}, "conv2", "forward", "dilation"
    ),
    "a kernel's height for its width": Bug(
        {"layout": {"conv3/kernel": ("conv3.weight", (3, 2, 1, 0))}},
        "conv3",
        "forward",
        "transposed",
    ),
    "a kernel turned": Bug(  # as mathematics' convolution does
        {"layout": {"conv3/kernel": leaf("conv3.weight")[:, :, ::-1, ::-1].transpose(*HWIO)}},
        "conv3",
        "forward",
        "flipped",
    ),
    "ReLU left out": Bug({"nonlinear": False}, "", "forward", "ReLU left out"),
    "residual left out": Bug({"residual": "none"}, "", "forward", "operand of add"),
    "residual after the activation": Bug(
        {"residual": "after"}, "", "forward", "tanh before the addition"
    ),
    "zeros around the maximum": Bug(
        {"pool": functools.partial(max_pool, low=0)}, "", "forward", "padding of zeros"
    ),
    "average for maximum": Bug(
        {"pool": functools.partial(nnx.avg_pool, **WINDOW)},
        "",
        "forward",
        "average pooling",
    ),
    "padding not counted": Bug({"counts_padding": False}, "", "forward", "padding not counted"),
    "flatten in NHWC": Bug({"flatten": "NHWC"}, "", "forward", "NHWC"),
    "images reshaped": Bug({"images": "reshaped"}, "", "forward", None),
    "weighted sum over rows": Bug({"loss_": {"mean": "rows"}}, "loss", "loss", "mean"),
    "no class weights": Bug({"loss_": {"mean": "unweighted"}}, "loss", "loss", "class weights"),
    "decay after the momentum": Bug(
        {"optimizer_": {"decay": "decoupled"}}, "optimizer", "parameters", "decay"
    ),
}
KIND = Kind(TorchModel, torch_loss, torch_forward, optimizer, batch, port, BUGS)
