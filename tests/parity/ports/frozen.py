"""A frozen backbone, an unused head and a detached target, with weight decay on all the rest."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import torch
from flax import nnx
from torch import nn

from ports.table import Bug, Kind, Port

ROWS, IN, WIDTH, OUT, AUXILIARY = 5, 7, 4, 3, 2
RATE, DECAY = 0.02, 0.1


class TorchModel(nn.Module):
    def __init__(self):
        super().__init__()
        self.register_buffer("center", torch.randn(IN))
        self.backbone, self.norm = nn.Linear(IN, WIDTH), nn.LayerNorm(WIDTH)
        self.adapter, self.head = nn.Linear(WIDTH, WIDTH), nn.Linear(WIDTH, OUT)
        self.auxiliary = nn.Linear(WIDTH, AUXILIARY)  # for another task
        for layer in (self.backbone, self.norm):
            layer.requires_grad_(False)

    def features(self, x):
        return torch.tanh(self.norm(self.backbone(x - self.center)))

    def forward(self, x):
        h = self.features(x)
        return self.head(h + torch.relu(self.adapter(h)))


def torch_forward(module, batch):
    return module(batch["x"])


def torch_loss(module, batch):
    """Squares, and a second view that must follow the first, which stays as it is."""
    first, second = module(batch["x"]), module(batch["view"])
    following = (second - first.detach()).square().mean()
    return (first - batch["y"]).square().mean() + batch["share"] * following


def batch(seed):
    rng = np.random.default_rng(seed)
    x = rng.standard_normal((ROWS, IN))
    return {
        "x": x,
        "view": x + 0.3 * rng.standard_normal((ROWS, IN)),
        "y": rng.standard_normal((ROWS, OUT)),
        "share": 0.5,
    }


def optimizer(parameters):
    """AdamW of all parameters, as people have it: those without a gradient are left alone."""
    return torch.optim.AdamW(parameters, lr=RATE, weight_decay=DECAY)


class Held(nnx.Variable):
    """A leaf that is not trained."""


@jax.custom_vjp
def turned(x):
    """A layer that reverses the gradient."""
    return x


turned.defvjp(lambda x: (x, None), lambda _, g: (-g,))


class Model(nnx.Module):
    """by: how the backbone is frozen, in the module or by the optimizer."""

    def __init__(self, rngs, *, by="optimizer", cut="right", epsilon=1e-5, residual=True):
        self.center = nnx.Variable(jnp.zeros(IN))
        self.backbone = nnx.Linear(IN, WIDTH, rngs=rngs)
        self.norm = nnx.LayerNorm(WIDTH, epsilon=epsilon, rngs=rngs)
        self.adapter = nnx.Linear(WIDTH, WIDTH, rngs=rngs)
        self.head = nnx.Linear(WIDTH, OUT, rngs=rngs)
        self.auxiliary = nnx.Linear(WIDTH, AUXILIARY, rngs=rngs)
        if by == "variables":
            for layer, names in ((self.backbone, "kernel bias"), (self.norm, "scale bias")):
                for name in names.split():
                    setattr(layer, name, Held(getattr(layer, name)[...]))
        self.by, self.cut, self.residual = by, cut, residual

    def features(self, x):
        h = jnp.tanh(self.norm(self.backbone(x - self.center[...])))
        return jax.lax.stop_gradient(h) if self.by == "stop_gradient" else h

    def __call__(self, x):
        h = self.features(x)
        extra = nnx.relu(self.adapter(h))
        if self.cut == "adapter":
            extra = jax.lax.stop_gradient(extra)
        if self.cut == "turned":
            extra = turned(extra)
        return self.head(h + extra if self.residual else extra)


def forward(module, batch):
    return module(batch["x"])


def loss(module, batch, target="detached", auxiliary=False, share=1.0):
    first, second = module(batch["x"]), module(batch["view"])
    stop = jax.lax.stop_gradient
    following = {
        "detached": lambda: second - stop(first),
        "live": lambda: second - first,
        "the other": lambda: stop(second) - first,
    }[target]()
    value = jnp.square(first - batch["y"]).mean()
    value += share * batch["share"] * jnp.square(following).mean()
    if auxiliary:  # a task without weight still makes gradients of zeros
        value += 0.0 * module.auxiliary(module.features(batch["x"])).sum()
    return value


IDLE = ("backbone", "norm", "auxiliary")  # the leaves that torch's optimizer leaves alone


def label(params, idle, only=None):
    """Name each leaf's group. only: freeze no more than the leaves of that name."""

    def of(path, _):
        names = {str(getattr(key, "key", key)) for key in path}
        held = names & set(idle) and (only is None or only in names)
        return "freeze" if held else "train"

    return jax.tree_util.tree_map_with_path(of, params)


def make_optimizer(form="multi_transform", idle=IDLE, only=None, decay=DECAY, rate=RATE):
    labels = functools.partial(label, idle=idle, only=only)

    def mask(name):
        return lambda params: jax.tree.map(lambda group: group == name, labels(params))

    adamw = optax.adamw(rate, weight_decay=decay)
    if form == "zeros before":  # the gradient is 0, but the decay is not
        return optax.chain(optax.masked(optax.set_to_zero(), mask("freeze")), adamw)
    if form == "zeros after":
        return optax.chain(adamw, optax.masked(optax.set_to_zero(), mask("freeze")))
    if form == "decay masked":  # enough where the gradient is 0
        return optax.adamw(rate, weight_decay=decay, mask=mask("train"))
    if form == "plain":
        return adamw
    return optax.multi_transform({"train": adamw, "freeze": optax.set_to_zero()}, labels)


LAYOUT = {
    "center": "center",
    "norm/scale": "norm.weight",
    "norm/bias": "norm.bias",
}
for name in ("backbone", "adapter", "head", "auxiliary"):
    LAYOUT |= {f"{name}/kernel": (f"{name}.weight", (1, 0)), f"{name}/bias": f"{name}.bias"}


def port(*, loss_=None, optimizer_=None, layout=None, seed=0, **module):
    """Return the port; without arguments it is right."""
    return Port(
        module=Model(nnx.Rngs(seed), **module),
        loss=functools.partial(loss, **(loss_ or {})),
        forward=forward,
        optimizer=make_optimizer(**(optimizer_ or {})),
        layout=LAYOUT | (layout or {}),
    )


RIGHTS = {
    "set_to_zero after AdamW": {"optimizer_": {"form": "zeros after"}},
    "stop_gradient, no decay": {
        "by": "stop_gradient",
        "optimizer_": {"form": "decay masked"},
    },
    "backbone in other variables": {
        "by": "variables",
        "optimizer_": {"form": "decay masked", "idle": ("auxiliary",)},
    },
}
BUGS = {
    "backbone trained": Bug(
        {"optimizer_": {"idle": ("auxiliary",)}}, "backbone", "parameters", "frozen"
    ),
    "backbone's norm trained": Bug(
        {"optimizer_": {"idle": ("backbone", "auxiliary")}}, "norm", "parameters", "frozen"
    ),
    "backbone's bias trained": Bug(
        {"optimizer_": {"form": "zeros after", "only": "kernel"}},
        "backbone",
        "parameters",
        "frozen",
    ),
    "backbone decayed": Bug(
        {"by": "stop_gradient", "optimizer_": {"idle": ("auxiliary",), "form": "decay masked"}},
        "backbone",
        "parameters",
        "decay",
    ),
    "zeros before the decay": Bug(
        {"optimizer_": {"form": "zeros before"}}, "backbone", "parameters", "decay"
    ),
    "unused head decayed": Bug(
        {"optimizer_": {"idle": ("backbone", "norm")}}, "auxiliary", "parameters", "decay"
    ),
    "unused head given zeros": Bug(
        {
            "loss_": {"auxiliary": True},
            "by": "variables",
            "optimizer_": {"form": "plain"},
        },
        "auxiliary",
        "parameters",
        "decay",
    ),
    "head frozen": Bug(
        {"optimizer_": {"idle": (*IDLE, "head")}}, "head", "parameters", "does not move"
    ),
    "torch's default decay": Bug(
        {"optimizer_": {"decay": 1e-2}}, "optimizer", "parameters", "decay"
    ),
    "learning rate": Bug({"optimizer_": {"rate": 0.03}}, "optimizer", "parameters", "rate"),
    "adapter cut off": Bug({"cut": "adapter"}, "", "gradient", None),
    "adapter's gradient reversed": Bug({"cut": "turned"}, "", "gradient", "sign"),
    "target not detached": Bug({"loss_": {"target": "live"}}, "loss", "gradient", "gradient"),
    "the other side detached": Bug({"loss_": {"target": "the other"}}, "loss", "gradient", None),
    "the share twice": Bug({"loss_": {"share": 2.0}}, "loss", "loss", "multiplied by 0.5 left out"),
    "frozen norm's epsilon": Bug({"epsilon": 1e-6}, "norm", "forward", "epsilon"),
    "residual left out": Bug({"residual": False}, "", "forward", "operand of add"),
    "adapter transposed": Bug(
        {"layout": {"adapter/kernel": "adapter.weight"}}, "adapter", "forward", "transposed"
    ),
    "norm's scale and bias swapped": Bug(
        {"layout": {"norm/scale": "norm.bias", "norm/bias": "norm.weight"}},
        "norm",
        "forward",
        "swapped",
    ),
}
KIND = Kind(TorchModel, torch_loss, torch_forward, optimizer, batch, port, BUGS, rights=RIGHTS)
