"""An LSTM that reads its last valid step, and a GRU that is read at every step."""

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

ROWS, LENGTH, IN, HIDDEN, OUT = 4, 5, 3, 6, 2
LENGTHS = np.array([[5], [2], [4], [3]])


class TorchLSTM(nn.Module):
    def __init__(self):
        super().__init__()
        self.lstm, self.head = nn.LSTM(IN, HIDDEN, batch_first=True), nn.Linear(HIDDEN, OUT)

    def forward(self, x, lengths, state):
        h, c = state
        outputs, _ = self.lstm(x, (h[None], c[None]))
        return self.head(outputs[torch.arange(len(x)), lengths - 1])


def torch_lstm_forward(module, batch):
    return module(batch["x"], batch["lengths"], batch["state"])


def torch_lstm_loss(module, batch):
    return nn.functional.smooth_l1_loss(
        torch_lstm_forward(module, batch), batch["y"], beta=batch["beta"]
    )


def lstm_batch(seed):
    rng = np.random.default_rng(seed)
    state = rng.standard_normal((2, ROWS, HIDDEN))
    return {
        "x": rng.standard_normal((ROWS, LENGTH, IN)),
        "lengths": rng.permutation(LENGTHS[:, 0]),
        "state": (state[0], state[1]),
        "y": rng.standard_normal((ROWS, OUT)),
        "beta": 0.7,
    }


class LSTMCell(nnx.OptimizedLSTMCell):
    """In a form that is not torch's."""

    def __init__(self, form, rngs):
        super().__init__(IN, HIDDEN, rngs=rngs)
        self.form = form

    def __call__(self, carry, inputs):
        c, h = carry
        i, f, g, o = jnp.split(self.dense_i(inputs) + self.dense_h(h), 4, -1)
        f = f + 1 if self.form == "forget bias" else f
        c = nnx.sigmoid(f) * c + nnx.sigmoid(i) * nnx.tanh(g)
        if self.form == "coupled":
            c = nnx.sigmoid(f) * carry[0] + (1 - nnx.sigmoid(f)) * nnx.tanh(g)
        h = nnx.sigmoid(o) * (c if self.form == "no tanh" else nnx.tanh(c))
        return (c, h), h


class FlaxLSTM(nnx.Module):
    def __init__(
        self,
        rngs,
        *,
        cell=nnx.OptimizedLSTMCell,
        form=None,
        gate=nnx.sigmoid,
        carry="right",
        reverse=False,
        step="last valid",
    ):
        made = LSTMCell(form, rngs) if form else cell(IN, HIDDEN, gate_fn=gate, rngs=rngs)
        self.lstm = nnx.RNN(made, reverse=reverse, keep_order=True)
        self.head = nnx.Linear(HIDDEN, OUT, rngs=rngs)
        self.carry, self.step = carry, step

    def __call__(self, x, lengths, state):
        h, c = state
        carry = {"right": (c, h), "swapped": (h, c), "zeros": (0 * c, 0 * h)}[self.carry]
        outputs = self.lstm(x, initial_carry=carry)
        last = {
            "last valid": lengths - 1,
            "off by one": jnp.minimum(lengths, LENGTH - 1),
            "last": jnp.full_like(lengths, LENGTH - 1),
        }[self.step]
        return self.head(outputs[jnp.arange(len(x)), last])


def lstm_forward(module, batch):
    return module(batch["x"], batch["lengths"], batch["state"])


def lstm_loss(module, batch, form="smooth", mean="all"):
    error, beta = lstm_forward(module, batch) - batch["y"], batch["beta"]
    if form == "squares":
        losses = jnp.square(error) / 2
    else:
        losses = optax.huber_loss(error, delta=beta) / (beta if form == "smooth" else 1)
    return losses.sum() / {"all": error.size, "rows": ROWS}[mean]


INPUT, RECURRENT = leaf("lstm.weight_ih_l0"), leaf("lstm.weight_hh_l0")
BIASES = leaf("lstm.bias_ih_l0"), leaf("lstm.bias_hh_l0")


def gates(order=(0, 1, 2, 3), transposed=False):
    """Return the layout of nnx.LSTMCell, which has a layer for each of the gates i, f, g, o."""
    made = {}
    for name, k in zip("ifgo", order, strict=True):
        rows = slice(k * HIDDEN, (k + 1) * HIDDEN)
        hidden = RECURRENT[rows] if transposed else RECURRENT[rows].T
        made |= {
            f"lstm/cell/i{name}{'_' if name == 'f' else ''}/kernel": INPUT[rows].T,
            f"lstm/cell/h{name}/kernel": hidden,
            f"lstm/cell/h{name}/bias": BIASES[0][rows] + BIASES[1][rows],
        }
    return made


HEAD = {"head/kernel": ("head.weight", (1, 0)), "head/bias": "head.bias"}
FUSED = {
    "lstm/cell/dense_i/kernel": ("lstm.weight_ih_l0", (1, 0)),
    "lstm/cell/dense_h/kernel": ("lstm.weight_hh_l0", (1, 0)),
    "lstm/cell/dense_h/bias": BIASES[0] + BIASES[1],
}


def rates_by_leaf(rate, twice):
    """SGD; with twice the rate for the one bias that stands for two, as torch updates both."""

    def group(path, _):
        names = {str(getattr(key, "key", key)) for key in path}
        return "twice" if names >= {"lstm", "bias"} else "once"

    def labels(params):
        return jax.tree_util.tree_map_with_path(group, params)

    return optax.multi_transform(
        {"once": optax.sgd(rate), "twice": optax.sgd(2 * rate if twice else rate)}, labels
    )


def lstm_port(*, loss_=None, optimizer_=None, layout=None, separate=None, seed=0, **module):
    """Return the port; without arguments it is right. separate: by nnx.LSTMCell, see `gates`."""
    if separate is not None:
        own, module = HEAD | gates(**separate), module | {"cell": nnx.LSTMCell}
    else:
        own = HEAD | FUSED | (layout or {})
    return Port(
        module=FlaxLSTM(nnx.Rngs(seed), **module),
        loss=functools.partial(lstm_loss, **(loss_ or {})),
        forward=lstm_forward,
        optimizer=rates_by_leaf(**({"rate": 0.1, "twice": True} | (optimizer_ or {}))),
        layout=own,
    )


def lstm_optimizer(parameters):
    return torch.optim.SGD(parameters, lr=0.1)


LSTM_BUGS = {
    "gates i, f, o, g": Bug({"separate": {"order": (0, 1, 3, 2)}}, "lstm", "forward", "gate"),
    "recurrent weights transposed": Bug(
        {"separate": {"transposed": True}}, "lstm", "forward", "transposed"
    ),
    "a bias added to the forget gate": Bug({"form": "forget bias"}, "lstm", "forward", "forget"),
    "no tanh of the cell": Bug({"form": "no tanh"}, "lstm", "forward", None),
    "h for c in the carry": Bug({"carry": "swapped"}, "lstm", "forward", "h and c swapped"),
    "reads backwards": Bug({"reverse": True}, "lstm", "forward", "read backwards"),
    "reads the last step": Bug({"step": "last"}, "", "forward", None),
    "Huber for smooth L1": Bug({"loss_": {"form": "huber"}}, "loss", "loss", "factor"),
    "squares for smooth L1": Bug({"loss_": {"form": "squares"}}, "loss", "loss", None),
    "mean over rows": Bug({"loss_": {"mean": "rows"}}, "loss", "loss", "factor 2"),
    "one bias at the plain rate": Bug(
        {"optimizer_": {"twice": False}}, "optimizer", "parameters", None
    ),
}
LSTM = Kind(
    TorchLSTM,
    torch_lstm_loss,
    torch_lstm_forward,
    lstm_optimizer,
    lstm_batch,
    lstm_port,
    LSTM_BUGS,
    rights={"a layer for each gate": {"separate": {}}},
)
