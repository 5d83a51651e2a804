"""A small network in NumPy, for tests of `parity.check`: the right participant, and a check."""

import json

import numpy as np

from jaxnet import numpy_net, parity

X = np.random.default_rng(0).standard_normal((6, 4))
Y = np.random.default_rng(1).standard_normal((6, 4))
PARAMS = {"w": np.random.default_rng(2).standard_normal((4, 4)), "b": np.zeros(4)}


def forward(params, batch):
    return np.tanh(batch["x"] @ params["w"] + params["b"])


def value_and_grad(params, batch):
    y_pred = forward(params, batch)
    grad_h = 2 * (y_pred - batch["y"]) * (1 - y_pred**2)
    loss = np.square(y_pred - batch["y"]).sum()
    return loss, {"w": batch["x"].T @ grad_h, "b": grad_h.sum(axis=0)}


def make(function=value_and_grad, optimizer="momentum", forward=forward, **given):
    """A NumPy participant: as it stands, the right one."""
    made = None if optimizer is None else numpy_net.make_optimizer(optimizer, 0.01, **given)
    return parity.numpy_participant(lambda p, b: function(p, b), made, forward=forward)


def batch_at(i):
    return {"x": X + 0.1 * i, "y": Y}


def case(params=PARAMS, batch_at=batch_at, steps=(1, 2), num_steps=3):
    return parity.Case("tanh layer", params, batch_at, steps, num_steps)


def check(candidate, reference=None, **given):
    return parity.check(candidate, against=reference or make(), case=case(**given))


def strict_json(text):
    """JSON without the NaN and Infinity that Python's own reader lets pass."""

    def refuse(token):
        raise AssertionError(token)

    return json.loads(text, parse_constant=refuse)["reports"][0]
