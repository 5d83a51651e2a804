"""Bugs of recurrent networks: biases left out, and gates in another order."""

import jax
import jax.numpy as jnp
from flax import nnx
from torch import nn

from corpus.bug import Bug, normal
from jaxnet import parity

INPUT, HIDDEN = 3, 4


class Tagger(nn.Module):
    """A recurrent layer and a dense one at each time."""

    def __init__(self, kind):
        super().__init__()
        self.rnn, self.head = kind(INPUT, HIDDEN, batch_first=True), nn.Linear(HIDDEN, 2)

    def forward(self, x):
        return self.head(self.rnn(x)[0])


def lstm(state, a, b, order="ifgo"):
    """order: the gates as they lie in the weights. a: from the input, b: from the last state."""
    c, _ = state
    gates = dict(zip(order, jnp.split(a + b, 4, -1), strict=True))
    i, f, o = (jax.nn.sigmoid(gates[name]) for name in "ifo")
    c = f * c + i * jnp.tanh(gates["g"])
    return c, o * jnp.tanh(c)


def gru(state, a, b, order="rzn"):
    _, h = state
    a, b = (dict(zip(order, jnp.split(part, 3, -1), strict=True)) for part in (a, b))
    r, z = (jax.nn.sigmoid(a[name] + b[name]) for name in "rz")
    n = jnp.tanh(a["n"] + r * b["n"])
    return h, (1 - z) * n + z * h


class Recurrent(nnx.Module):
    """torch's LSTM or GRU, with torch's weights; wrong as people got it wrong."""

    def __init__(self, cell, gates, input_bias=True):
        self.cell, self.input_bias = cell, input_bias
        self.weight_ih_l0 = nnx.Param(jnp.zeros((gates * HIDDEN, INPUT)))
        self.weight_hh_l0 = nnx.Param(jnp.zeros((gates * HIDDEN, HIDDEN)))
        self.bias_ih_l0 = nnx.Param(jnp.zeros(gates * HIDDEN))
        self.bias_hh_l0 = nnx.Param(jnp.zeros(gates * HIDDEN))

    def __call__(self, x):
        inputs = x @ self.weight_ih_l0[...].T
        inputs = inputs + self.bias_ih_l0[...] if self.input_bias else inputs
        weight, bias = self.weight_hh_l0[...], self.bias_hh_l0[...]

        def step(state, a):
            state = self.cell(state, a, state[1] @ weight.T + bias)
            return state, state[1]

        start = jnp.zeros((len(x), HIDDEN), x.dtype)
        _, outputs = jax.lax.scan(step, (start, start), inputs.swapaxes(0, 1))
        return outputs.swapaxes(0, 1)


class TaggerPort(nnx.Module):
    def __init__(self, rnn, rngs):
        self.rnn, self.head = rnn, nnx.Linear(HIDDEN, 2, rngs=rngs)

    def __call__(self, x):
        return self.head(self.rnn(x))


def lstm_port(wrong, rngs):
    return TaggerPort(Recurrent(lstm, 4, input_bias=not wrong), rngs)


def lstm_order_port(wrong, rngs):
    def cell(*given):
        return lstm(*given, order="iofg" if wrong else "ifgo")

    return TaggerPort(Recurrent(cell, 4), rngs)


def gru_order_port(wrong, rngs):
    def cell(*given):
        return gru(*given, order="zrn" if wrong else "rzn")

    return TaggerPort(Recurrent(cell, 3), rngs)


def gru_port(wrong, rngs):
    if not wrong:
        return TaggerPort(Recurrent(gru, 3), rngs)
    return TaggerPort(nnx.RNN(nnx.GRUCell(INPUT, HIDDEN, rngs=rngs)), rngs)


def gru_layout(wrong):
    """One bias for two: right for two gates, wrong for the third."""
    if not wrong:
        return {}
    return {
        "rnn/cell/dense_i/kernel": ("rnn.weight_ih_l0", (1, 0)),
        "rnn/cell/dense_i/bias": parity.leaf("rnn.bias_ih_l0") + parity.leaf("rnn.bias_hh_l0"),
        "rnn/cell/dense_h/kernel": ("rnn.weight_hh_l0", (1, 0)),
    }


SEQUENCES = normal(x=(2, 5, INPUT), y=(2, 5, 2))
BUGS = [
    Bug(
        "google/flax#3746",
        "PyTorch's LSTM adds two biases, Flax's has one: weights copied one to one leave the bias "
        "of the input out.",
        lambda: Tagger(nn.LSTM),
        lstm_port,
        SEQUENCES,
        stage="forward",
        layer="rnn",
        cause="b_ih left out",
    ),
    Bug(
        "google/flax#5594",
        "nnx.GRUCell lacks the bias that the reset gate multiplies (b_hn), so that weights of "
        "PyTorch, or of Flax's older cell, compute something else in it.",
        lambda: Tagger(nn.GRU),
        gru_port,
        SEQUENCES,
        stage="forward",
        layer="rnn",
        cause="b_hn outside the reset gate",
        layout=gru_layout,
    ),
    Bug(
        "keras-team/keras#8720",
        "Keras keeps a GRU's gates as update, reset, new, PyTorch as reset, update, new: copied "
        "weights fit in shape and exchange two gates.",
        lambda: Tagger(nn.GRU),
        gru_order_port,
        SEQUENCES,
        stage="forward",
        layer="rnn",
        cause="gates in the order",
    ),
    Bug(
        "CrispStrobe/CrispASR#106",
        "LSTM weights in ONNX's order (input, output, forget, cell) were read in PyTorch's (input, "
        "forget, cell, output). All speakers became one.",
        lambda: Tagger(nn.LSTM),
        lstm_order_port,
        SEQUENCES,
        stage="forward",
        layer="rnn",
        cause="gates in the order",
    ),
]
