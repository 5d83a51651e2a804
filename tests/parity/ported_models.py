"""Two torch models and their right ports to Flax, for tests of `parity.check`."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import torch
from flax import nnx
from helpers import undrawn
from torch import nn

from jaxnet import optimizers, parity

ROWS = 6
OPTIMIZERS = {
    "adam": (
        functools.partial(optimizers.adam, 1e-2),
        functools.partial(torch.optim.Adam, lr=1e-2),
    ),
    "momentum": (
        functools.partial(optimizers.sgd, 1e-2, momentum=0.9),
        functools.partial(torch.optim.SGD, lr=1e-2, momentum=0.9),
    ),
}


EXACT_GELU = functools.partial(nnx.gelu, approximate=False)
torch.set_num_threads(1)  # the models are tiny


class TorchMLP(nn.Module):
    def __init__(self):
        super().__init__()
        self.first, self.norm = nn.Linear(5, 4), nn.LayerNorm(4)
        self.square, self.last = nn.Linear(4, 4), nn.Linear(4, 3)

    def forward(self, x):
        h = nn.functional.gelu(self.norm(self.first(x)))
        return self.last(torch.relu(self.square(h)))


def stop_bias(linear):
    """The layer with its bias cut off from the gradient."""
    bias = jax.lax.stop_gradient(linear.bias[...])
    return lambda x: x @ linear.kernel[...] + bias


class FlaxMLP(nnx.Module):
    def __init__(self, rngs, epsilon=1e-5, gelu=EXACT_GELU, frozen=False):
        self.first = nnx.Linear(5, 4, rngs=rngs)
        self.norm = nnx.LayerNorm(4, epsilon=epsilon, rngs=rngs)
        self.square, self.last = nnx.Linear(4, 4, rngs=rngs), nnx.Linear(4, 3, rngs=rngs)
        self.gelu, self.frozen = gelu, frozen

    def __call__(self, x):
        h = self.norm(self.first(x))
        square = stop_bias(self.square) if self.frozen else self.square
        return self.last(nnx.relu(square(self.gelu(h))))


MLP_LAYOUT = {
    "first/kernel": ("first.weight", (1, 0)),
    "first/bias": "first.bias",
    "norm/scale": "norm.weight",
    "norm/bias": "norm.bias",
    "square/kernel": ("square.weight", (1, 0)),
    "square/bias": "square.bias",
    "last/kernel": ("last.weight", (1, 0)),
    "last/bias": "last.bias",
}


class TorchConv(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(2, 3, 3, padding=1, stride=2)
        self.mix = nn.Conv2d(3, 3, 1, bias=False)
        self.last = nn.Linear(3, 2)

    def forward(self, images):
        return self.last(self.mix(torch.tanh(self.conv(images))).mean((2, 3)))


class FlaxConv(nnx.Module):
    """On NHWC images, where torch's are NCHW."""

    def __init__(self, rngs, padding=((1, 1), (1, 1)), strides=2):
        self.conv = nnx.Conv(2, 3, (3, 3), strides=strides, padding=padding, rngs=rngs)
        self.mix = nnx.Conv(3, 3, (1, 1), use_bias=False, rngs=rngs)
        self.last = nnx.Linear(3, 2, rngs=rngs)

    def __call__(self, images):
        h = self.mix(jnp.tanh(self.conv(images.transpose(0, 2, 3, 1))))
        return self.last(h.mean((1, 2)))


HWIO = (2, 3, 1, 0)  # Flax's kernel, as axes of torch's (out, in, height, width)
CONV_LAYOUT = {
    "conv/kernel": ("conv.weight", HWIO),
    "conv/bias": "conv.bias",
    "mix/kernel": ("mix.weight", HWIO),
    "last/kernel": ("last.weight", (1, 0)),
    "last/bias": "last.bias",
}

# kind -> the two models, the layout, and the shapes of a batch
MODELS = {
    "MLP": (TorchMLP, FlaxMLP, MLP_LAYOUT, (ROWS, 5), (ROWS, 3)),
    "convolution": (TorchConv, FlaxConv, CONV_LAYOUT, (ROWS, 2, 6, 6), (ROWS, 2)),
}


def flax_loss(module, batch):
    return jnp.square(module(batch["x"]) - batch["y"]).sum()


@functools.cache
def reference(kind, optimizer="adam"):
    """The torch participant's trajectory: a batch of its own for each step."""
    torch.manual_seed(0)
    make, _, _, *shapes = MODELS[kind]
    module = make()
    params = {k: p.detach().double().numpy() for k, p in module.named_parameters()}

    def batch_at(i):
        rng = np.random.default_rng(i)
        return {k: rng.standard_normal(s) for k, s in zip("xy", shapes, strict=True)}

    participant = parity.torch_participant(
        module,
        lambda module, batch: (module(batch["x"]) - batch["y"]).square().sum(),
        OPTIMIZERS[optimizer][1],
        forward=lambda module, batch: module(batch["x"]),
    )
    case = parity.Case(f"{kind} {optimizer}", params, batch_at, (1, 2), 3)
    return parity.trajectory(participant, case)


def port(kind, optimizer=None, loss=flax_loss, layout=None, **given):
    """The port to Flax as a participant; `given` goes to the module. Its values are not used."""
    _, make, right, *_ = MODELS[kind]
    return parity.flax_participant(
        undrawn(lambda: make(nnx.Rngs(0), **given)),
        loss,
        optimizer,
        forward=lambda module, batch: module(batch["x"]),
        layout=right | (layout or {}),
    )


@functools.cache
def right_port(kind, optimizer):
    return port(kind, OPTIMIZERS[optimizer][0]())
