"""Known mistakes planted in the port of a torch module to Flax, for the self-test."""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import torch
from flax import nnx

from jaxnet.parity.adapters.makers import flax_participant, torch_participant
from jaxnet.parity.points import Case
from jaxnet.parity.recording import Trajectory, trajectory

MOMENTUM = 0.9  # nnx's share of the old average: 1 - torch's


class ModulePlant(NamedTuple):
    """A mistake: the cause as diagnosis must name it, the layer of the torch module, the change."""

    name: str
    layer: str
    change: dict[str, Any]


PLANTS = (
    ModulePlant("LayerNorm epsilon 1e-06 for 1e-05", "norm", {"epsilon": 1e-6}),
    ModulePlant("GELU (tanh) for GELU (erf)", "", {"tanh": True}),
    ModulePlant("BatchNorm momentum 0.9 for 0.1", "batch_norm", {"momentum": 0.1}),
    ModulePlant("padding SAME", "conv", {"padding": "SAME"}),
    ModulePlant("features in the order NHWC for NCHW", "", {"order": (0, 1, 2, 3)}),
    ModulePlant("first operand of add, (4, 5), left out", "", {"residual": False}),
    ModulePlant("first operand of add, (4, 5), without gradient", "", {"stopped": True}),
    ModulePlant("transposed weight mix.weight", "mix", {"layout": {"mix/kernel": "mix.weight"}}),
)


class Reference(torch.nn.Module):
    """A small convolutional network with both norms and a residual connection."""

    def __init__(self):
        super().__init__()
        self.conv = torch.nn.Conv2d(2, 3, 3, stride=2, padding=1)
        self.batch_norm = torch.nn.BatchNorm2d(3)
        self.head = torch.nn.Linear(27, 5)
        self.norm = torch.nn.LayerNorm(5)
        self.mix = torch.nn.Linear(5, 5)

    def forward(self, images):
        h = torch.relu(self.batch_norm(self.conv(images)))
        h = self.norm(self.head(h.flatten(1)))
        return h + self.mix(torch.nn.functional.gelu(h))


class BatchNorm(nnx.BatchNorm):
    """nnx's with torch's running variance, which is n / (n - 1) of the batch's."""

    def __call__(self, x):
        n = x.size / x.shape[-1]
        old = self.var[...]
        y = super().__call__(x)
        self.var[...] += (self.var[...] - self.momentum * old) / (n - 1)
        return y


class Port(nnx.Module):
    """The port; each argument plants a mistake."""

    def __init__(
        self,
        rngs,
        epsilon=1e-5,
        tanh=False,
        momentum=MOMENTUM,
        padding: Any = ((1, 1), (1, 1)),
        order=(0, 3, 1, 2),
        residual=True,
        stopped=False,
    ):
        self.conv = nnx.Conv(2, 3, (3, 3), strides=2, padding=padding, rngs=rngs)
        self.batch_norm = BatchNorm(3, momentum=momentum, rngs=rngs)
        self.head = nnx.Linear(27, 5, rngs=rngs)
        self.norm = nnx.LayerNorm(5, epsilon=epsilon, rngs=rngs)
        self.mix = nnx.Linear(5, 5, rngs=rngs)
        self.tanh, self.order, self.residual, self.stopped = tanh, order, residual, stopped

    def __call__(self, images):
        h = nnx.relu(self.batch_norm(self.conv(images.transpose(0, 2, 3, 1))))
        h = self.norm(self.head(h.transpose(self.order).reshape(len(h), -1)))
        mixed = self.mix(nnx.gelu(h, approximate=self.tanh))
        h = jax.lax.stop_gradient(h) if self.stopped else h
        return h + mixed if self.residual else mixed


LAYOUT = {
    "conv/kernel": ("conv.weight", (2, 3, 1, 0)),
    "conv/bias": "conv.bias",
    "batch_norm/scale": "batch_norm.weight",
    "batch_norm/bias": "batch_norm.bias",
    "batch_norm/mean": "batch_norm.running_mean",
    "batch_norm/var": "batch_norm.running_var",
    "head/kernel": ("head.weight", (1, 0)),
    "head/bias": "head.bias",
    "norm/scale": "norm.weight",
    "norm/bias": "norm.bias",
    "mix/kernel": ("mix.weight", (1, 0)),
    "mix/bias": "mix.bias",
}


def make_reference() -> Trajectory:
    """Return the torch module's trajectory: one step, without an optimizer."""
    torch.manual_seed(0)
    module, rng = Reference(), np.random.default_rng(0)
    batch = {"x": rng.standard_normal((4, 2, 6, 6)), "y": rng.standard_normal((4, 5))}
    reference = torch_participant(
        module,
        lambda module, batch: (module(batch["x"]) - batch["y"]).square().sum(),
        forward=lambda module, batch: module(batch["x"]),
    )
    case = Case("self-test of modules", module.state_dict(), lambda _: batch, (1,), 1)
    return trajectory(reference, case)


def make_port(*, layout: dict[str, Any] | None = None, **change: Any) -> Any:
    """Return the port as a participant, with a mistake in its layout or its module."""
    return flax_participant(
        Port(nnx.Rngs(0), **change),
        lambda module, batch: jnp.square(module(batch["x"]) - batch["y"]).sum(),
        forward=lambda module, batch: module(batch["x"]),
        layout=LAYOUT | (layout or {}),
    )
