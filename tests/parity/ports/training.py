"""An MLP in pure JAX: dropout by given masks, clipping, AdamW by groups, and a schedule."""

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import optax
import torch
from torch import nn

from jaxnet.parity import tap
from ports.table import Bug, Kind, Port

ROWS, IN, HIDDEN, OUT = 5, 7, 6, 3
DROPPED, RATE, DECAY, WARMUP, STEPS, NORM = 0.3, 0.02, 0.1, 2, 8, 1.0


class MaskedDropout(nn.Module):
    """Dropout with a mask from outside, so that both sides drop the same units."""

    def __init__(self, p):
        super().__init__()
        self.p = p

    def forward(self, x, kept):
        return x * kept / (1 - self.p)


class TorchModel(nn.Module):
    def __init__(self):
        super().__init__()
        self.first, self.second = nn.Linear(IN, HIDDEN), nn.Linear(HIDDEN, HIDDEN)
        self.last = nn.Linear(HIDDEN, OUT)
        self.relu, self.silu = nn.ReLU(), nn.SiLU()
        self.drop1, self.drop2 = MaskedDropout(DROPPED), MaskedDropout(DROPPED)

    def forward(self, x, kept):
        h = self.drop1(self.relu(self.first(x)), kept[0])
        h = self.drop2(self.silu(self.second(h)), kept[1])
        return self.last(h)


def torch_forward(module, batch):
    return module(batch["x"], batch["kept"])


def torch_loss(module, batch):
    return nn.functional.mse_loss(torch_forward(module, batch), batch["y"])


def batch(seed):
    rng = np.random.default_rng(seed)
    kept = rng.random((2, ROWS, HIDDEN)) > DROPPED
    return {
        "x": rng.standard_normal((ROWS, IN)),
        "y": (0.1 if seed == 1 else 3) * rng.standard_normal((ROWS, OUT)),  # one small gradient
        "kept": (kept[0], kept[1]),
    }


def optimizer(parameters):
    """AdamW that decays weights, and no biases."""
    parameters = list(parameters)
    groups = [
        {"params": [p for p in parameters if p.ndim > 1], "weight_decay": DECAY},
        {"params": [p for p in parameters if p.ndim == 1], "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(groups, lr=RATE)


def factor(step):
    """Return the share of the learning rate: linear warm-up, then a cosine."""
    if step < WARMUP:
        return (step + 1) / (WARMUP + 1)
    return 0.5 * (1 + math.cos(math.pi * (step - WARMUP) / (STEPS - WARMUP)))


def scheduler(optimizer):
    return torch.optim.lr_scheduler.LambdaLR(optimizer, factor)


def clip(parameters):
    return nn.utils.clip_grad_norm_(parameters, NORM)


def clip_by_norm(form="torch"):
    """torch's clipping, which adds 1e-6 to the norm, where optax's does not."""

    def scaled(updates, norm):
        scale = jnp.minimum(1.0, NORM / (norm + 1e-6))
        return jax.tree.map(lambda g: g * scale, updates)

    def update(updates, state, params=None):
        if form == "each leaf":
            return jax.tree.map(lambda g: scaled(g, jnp.linalg.norm(g)), updates), state
        if form == "always":
            norm = optax.tree.norm(updates)
            return jax.tree.map(lambda g: g * NORM / (norm + 1e-6), updates), state
        return scaled(updates, optax.tree.norm(updates)), state

    return optax.GradientTransformation(lambda params: optax.EmptyState(), update)


def schedule(form="right"):
    total = {"right": STEPS - WARMUP, "warm-up counted twice": STEPS}.get(form, STEPS - WARMUP)

    def rate(count):
        count = jnp.asarray(count, float)  # or JAX divides it in float32, also under x64
        count = {"a step late": count - 1, "a step early": count + 1}.get(form, count)
        warm = (count + 1) / (WARMUP + 1)
        if form == "from zero":
            warm = count / WARMUP
        if form == "no warm-up":
            warm = 1.0
        cosine = 0.5 * (1 + jnp.cos(jnp.pi * (count - WARMUP) / total))
        if form == "linear":
            cosine = 1 - (count - WARMUP) / total
        return RATE * jnp.where(count < WARMUP, warm, cosine)

    return RATE if form == "constant" else rate


def matrices(params):
    return jax.tree.map(lambda leaf: leaf.ndim > 1, params)


def everything(params):
    return jax.tree.map(lambda leaf: True, params)


def make_optimizer(
    clipping=clip_by_norm,
    order="clip first",
    decayed=matrices,
    decay=DECAY,
    coupled=False,
    rates="right",
    **adam,
):
    rate = schedule(rates)
    if coupled:  # L2: the decay joins the gradient
        step = optax.chain(optax.add_decayed_weights(decay, decayed), optax.adam(rate, **adam))
    else:
        step = optax.adamw(rate, weight_decay=decay, mask=decayed, **adam)
    parts = [clipping(), step] if clipping is not None else [step]
    return optax.chain(*(parts if order == "clip first" else parts[::-1]))


def dropout(x, kept, form="right"):
    return {
        "right": x * kept / (1 - DROPPED),
        "unscaled": x * kept,
        "by the rate": x * kept / DROPPED,
        "scaled at test": x * (1 - DROPPED),
        "inverted": x * ~kept / (1 - DROPPED),
        "none": x,
    }[form]


def forward(
    params, batch, relu=jax.nn.relu, silu=jax.nn.silu, drop1="right", drop2="right", order="right"
):
    first, second, last = params["layers"]
    kept1, kept2 = batch["kept"]
    h = tap("first", batch["x"] @ first["w"] + first["b"])
    h = tap("drop1", dropout(tap("relu", relu(h)), kept1, drop1))
    if order != "second left out":
        h = tap("second", h @ second["w"] + second["b"])
    if order == "dropped before":
        h = tap("silu", silu(dropout(h, kept2, drop2)))
    else:
        h = tap("drop2", dropout(tap("silu", silu(h)), kept2, drop2))
    return tap("last", h @ last["w"] + last["b"])


def loss(params, batch, mean="all", half=False, **options):
    errors = jnp.square(forward(params, batch, **options) - batch["y"])
    return errors.sum() / {"all": errors.size, "rows": ROWS}[mean] / (2 if half else 1)


LIKE = {
    "layers": [
        {"w": np.zeros((IN, HIDDEN)), "b": np.zeros(HIDDEN)},
        {"w": np.zeros((HIDDEN, HIDDEN)), "b": np.zeros(HIDDEN)},
        {"w": np.zeros((HIDDEN, OUT)), "b": np.zeros(OUT)},
    ]
}
LAYOUT = {}
for k, name in enumerate(("first", "second", "last")):
    LAYOUT |= {f"layers/{k}/w": (f"{name}.weight", (1, 0)), f"layers/{k}/b": f"{name}.bias"}


def port(*, loss_=None, optimizer_=None, layout=None, seed=0, **options):
    """Return the port; without arguments it is right. `seed` is not used: nothing is drawn."""
    return Port(
        module=None,
        loss=functools.partial(loss, **(loss_ or {}), **options),
        forward=functools.partial(forward, **options),
        optimizer=make_optimizer(**(optimizer_ or {})),
        layout=LAYOUT | (layout or {}),
        like=LIKE,
    )


def optimizer_bug(cause, stage="parameters", **change):
    return Bug({"optimizer_": change}, "optimizer", stage, cause)


BUGS = {
    "optax's clipping has no epsilon": optimizer_bug(
        "clip", clipping=functools.partial(optax.clip_by_global_norm, NORM)
    ),
    "each leaf clipped": optimizer_bug(
        "clip", clipping=functools.partial(clip_by_norm, "each leaf")
    ),
    "clipped by value": optimizer_bug("clip", clipping=functools.partial(optax.clip, NORM)),
    "scaled where it need not be": optimizer_bug(
        "small gradients", clipping=functools.partial(clip_by_norm, "always")
    ),
    "no clipping": optimizer_bug("clipping left out", clipping=None),
    "biases decayed": optimizer_bug("decay", decayed=everything),
    "optax's decay": optimizer_bug("decay", decay=1e-4),
    "decay in the gradient": optimizer_bug("decay", coupled=True),
    "schedule a step late": optimizer_bug("another schedule", rates="a step late"),
    "schedule a step early": optimizer_bug("schedule", rates="a step early"),
    "no schedule": optimizer_bug("another schedule", rates="constant"),
    "warm-up counted twice": optimizer_bug("another schedule", rates="warm-up counted twice"),
    "Adam's epsilon": optimizer_bug("eps", eps=1e-7),
    "Adam's epsilon in the root": optimizer_bug("root", eps=0.0, eps_root=1e-8),
    "Adam's b2": optimizer_bug("b2", b2=0.99),
    "dropout not scaled": Bug({"drop1": "unscaled"}, "drop1", "forward", "divided by 0.7 left out"),
    "dropout scaled by the rate": Bug({"drop1": "by the rate"}, "drop1", "forward", "factor 7/3"),
    "dropout left out": Bug({"drop2": "none"}, "drop2", "forward", "left out"),
    "dropout before the activation": Bug({"order": "dropped before"}, "silu", "forward", None),
    "a layer left out": Bug({"order": "second left out"}, "silu", "forward", None),
    "ReLU's rule at 0": Bug(
        {"relu": functools.partial(jnp.maximum, 0.0)}, "relu", "gradient", "ReLU"
    ),
    "GELU for SiLU": Bug({"silu": jax.nn.gelu}, "silu", "forward", "GELU"),
    "two biases swapped": Bug(
        {"layout": {"layers/0/b": "second.bias", "layers/1/b": "first.bias"}},
        "first",
        "forward",
        "swapped",
    ),
    "mean over rows": Bug({"loss_": {"mean": "rows"}}, "loss", "loss", "mean"),
}
KIND = Kind(
    TorchModel,
    torch_loss,
    torch_forward,
    optimizer,
    batch,
    port,
    BUGS,
    scheduler=scheduler,
    clip=clip,
)
