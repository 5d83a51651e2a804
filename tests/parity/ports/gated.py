"""A GRU that is read at every step, by an nnx cell with torch's two biases."""

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

ROWS, LENGTH, IN, HIDDEN = 4, 6, 3, 5
LENGTHS = np.array([[6], [3], [5], [2]])


class TorchModel(nn.Module):
    def __init__(self):
        super().__init__()
        self.gru, self.head = nn.GRU(IN, HIDDEN, batch_first=True), nn.Linear(HIDDEN, 1)

    def forward(self, x):
        outputs, _ = self.gru(x, torch.zeros(1, len(x), HIDDEN))
        return self.head(outputs)[..., 0]


def torch_forward(module, batch):
    return module(batch["x"])


def torch_loss(module, batch):
    losses = nn.functional.binary_cross_entropy_with_logits(
        torch_forward(module, batch),
        batch["y"],
        pos_weight=torch.tensor(batch["positive"]),
        reduction="none",
    )
    return losses[batch["valid"]].mean()


def batch(seed):
    rng = np.random.default_rng(seed)
    return {
        "x": rng.standard_normal((ROWS, LENGTH, IN)),
        "y": rng.integers(0, 2, (ROWS, LENGTH)).astype("float64"),
        "valid": np.arange(LENGTH) < LENGTHS,
        "positive": 2.5,
    }


class GRUCell(nnx.GRUCell):
    """With a bias of the recurrent layer, as torch's has."""

    def __init__(self, form, rngs):
        super().__init__(IN, HIDDEN, rngs=rngs)
        self.dense_h = nnx.Linear(HIDDEN, 3 * HIDDEN, rngs=rngs)
        self.form = form

    def __call__(self, carry, inputs):
        h = jax.lax.stop_gradient(carry) if self.form == "cut" else carry
        x_r, x_z, x_n = jnp.split(self.dense_i(inputs), 3, -1)
        h_r, h_z, h_n = jnp.split(self.dense_h(h), 3, -1)
        r, z = nnx.sigmoid(x_r + h_r), nnx.sigmoid(x_z + h_z)
        bias = jnp.asarray(self.dense_h.bias)[2 * HIDDEN :]
        if self.form == "bias outside":  # as nnx.GRUCell with both biases in its one
            h_n = r * (h_n - bias) + bias
        elif self.form == "reset before":
            h_n = (r * h) @ self.dense_h.kernel[:, 2 * HIDDEN :] + bias
        else:
            h_n = r * h_n
        n = nnx.tanh(x_n + h_n)
        new = z * n + (1 - z) * h if self.form == "complement" else (1 - z) * n + z * h
        return new, new


class Model(nnx.Module):
    def __init__(self, rngs, *, form="right", time_major=False, reverse=False):
        self.gru = nnx.RNN(
            GRUCell(form, rngs), time_major=time_major, reverse=reverse, keep_order=True
        )
        self.head = nnx.Linear(HIDDEN, 1, rngs=rngs)

    def __call__(self, x):
        return self.head(self.gru(x)).squeeze(-1)


def forward(module, batch):
    return module(batch["x"])


def loss(module, batch, mean="valid", positive=True, twice=False):
    z, y = forward(module, batch), batch["y"]
    z = nnx.sigmoid(z) if twice else z
    weight = batch["positive"] if positive else 1.0
    losses = -weight * y * nnx.log_sigmoid(z) - (1 - y) * nnx.log_sigmoid(-z)
    used = jnp.ones_like(batch["valid"]) if mean == "unmasked" else batch["valid"]
    losses = jnp.where(used, losses, 0)
    if mean == "rows":
        return (losses.sum(-1) / used.sum(-1)).mean()
    return losses.sum() / (used.size if mean == "all" else used.sum())


NAMES = {"dense_i": ("weight_ih_l0", "bias_ih_l0"), "dense_h": ("weight_hh_l0", "bias_hh_l0")}


def gates(order=(0, 1, 2), transposed=False):
    """Return the layout with torch's gates r, z, n taken in this order."""
    made = {"head/kernel": ("head.weight", (1, 0)), "head/bias": "head.bias"}
    for own, (weight, bias) in NAMES.items():
        kernel, bias = leaf(f"gru.{weight}").T, leaf(f"gru.{bias}")
        columns = kernel.reshape(-1, 3, HIDDEN)
        if transposed and own == "dense_h":
            columns = columns.transpose(2, 1, 0)
        made |= {
            f"gru/cell/{own}/kernel": columns[:, list(order)].reshape(-1, 3 * HIDDEN),
            f"gru/cell/{own}/bias": bias.reshape(3, HIDDEN)[list(order)].reshape(3 * HIDDEN),
        }
    return made


LAYOUT = gates() | {
    "gru/cell/dense_i/kernel": ("gru.weight_ih_l0", (1, 0)),
    "gru/cell/dense_h/kernel": ("gru.weight_hh_l0", (1, 0)),
    "gru/cell/dense_i/bias": "gru.bias_ih_l0",
    "gru/cell/dense_h/bias": "gru.bias_hh_l0",
}


def rmsprop(decay=0.99, eps_in_sqrt=False):
    return optax.rmsprop(0.01, decay, eps_in_sqrt=eps_in_sqrt)


def port(*, loss_=None, optimizer_=None, layout=None, seed=0, **module):
    """Return the port; without arguments it is right."""
    return Port(
        module=Model(nnx.Rngs(seed), **module),
        loss=functools.partial(loss, **(loss_ or {})),
        forward=forward,
        optimizer=rmsprop(**(optimizer_ or {})),
        layout=LAYOUT | (layout or {}),
    )


def optimizer(parameters):
    return torch.optim.RMSprop(parameters, lr=0.01)


BUGS = {
    "gates z, r, n": Bug({"layout": gates((1, 0, 2))}, "gru", "forward", "gate"),
    "bias outside the reset gate": Bug({"form": "bias outside"}, "gru", "forward", "b_hn outside"),
    "reset before the product": Bug({"form": "reset before"}, "gru", "forward", "reset"),
    "update gate's complement": Bug({"form": "complement"}, "gru", "forward", "complement"),
    "cut from the step before": Bug({"form": "cut"}, "gru", "gradient", None),
    "biases swapped": Bug(
        {
            "layout": {
                "gru/cell/dense_i/bias": "gru.bias_hh_l0",
                "gru/cell/dense_h/bias": "gru.bias_ih_l0",
            }
        },
        "gru",
        "forward",
        "swapped",
    ),
    "time before rows": Bug({"time_major": True}, "gru", "forward", None),
    "mean over padding too": Bug({"loss_": {"mean": "all"}}, "loss", "loss", "factor 2/3"),
    "no weight of positives": Bug({"loss_": {"positive": False}}, "loss", "loss", "pos_weight"),
    "sigmoid twice": Bug({"loss_": {"twice": True}}, "loss", "loss", None),
    "RMSprop's epsilon in the root": Bug(
        {"optimizer_": {"eps_in_sqrt": True}}, "optimizer", "parameters", "eps inside"
    ),
    "RMSprop's decay of 0.9": Bug(
        {"optimizer_": {"decay": 0.9}}, "optimizer", "parameters", "alpha"
    ),
}
KIND = Kind(TorchModel, torch_loss, torch_forward, optimizer, batch, port, BUGS)
