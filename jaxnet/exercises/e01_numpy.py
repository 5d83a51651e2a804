"""01: gradients by hand."""

from __future__ import annotations

from functools import partial

import numpy as np

from jaxnet.exercises.exercise import Exercise, Mistake, take
from jaxnet.exercises.numpy_twins import draw_network, network
from jaxnet.spec import Spec

MEAN = 1 / 18  # of the 6 x 3 elements of y


def draw(rng):
    first = draw_network(rng)
    return [first, draw_network(rng), first]


def ask(module, params, x, y):
    return take(module.value_and_grad(params, x, y), "value_and_grad", "loss", "grads"), {}


def _other_way(params, x, y):
    """y - y_pred in place of y_pred - y in the gradient."""
    return network(params, x, y, residual=-2.0)


def _no_mask(h, grad):
    return grad


def _own_mask(h, grad):
    return np.where(grad < 0, 0, grad)


def _mean_gradient(params, x, y):
    return network(params, x, y) | {"grads": network(params, x, y, value=MEAN)["grads"]}


def _by_rows(params, x, y):
    return network(params, x, y) | {"grads": network(params, x, y, value=1 / len(x))["grads"]}


EXERCISE = Exercise(
    number="01",
    idea="gradients by hand",
    functions=("value_and_grad",),
    draw=draw,
    ask=ask,
    want=network,
    spec=Spec((7, 5, 3), activation="my_relu"),
    mistakes=(
        Mistake(
            "the factor 2 is missing: your gradient is the reference's times 1/2; the derivative "
            "of (y_pred - y)**2 is 2 * (y_pred - y)",
            partial(network, residual=1.0),
        ),
        Mistake(
            "the sign is wrong: your gradient is the reference's times -1; the loss is the square "
            "of y_pred - y, so its derivative is 2 * (y_pred - y), not 2 * (y - y_pred)",
            _other_way,
        ),
        Mistake(
            "the gradient is divided by the number of rows: the loss is a sum over them, no mean",
            _by_rows,
        ),
        Mistake(
            "the ReLU is missing on the way back: where h < 0 the ReLU gave 0 whatever h was, so "
            "no gradient passes there",
            partial(network, mask=_no_mask),
        ),
        Mistake(
            "the ReLU's mask is that of the gradient: no gradient passes where h < 0, whatever the "
            "sign of the gradient itself",
            partial(network, mask=_own_mask),
        ),
        Mistake(
            "the gradient of w2 takes h: what was multiplied by w2 was h_relu",
            partial(network, hidden=lambda h: h),
        ),
        Mistake(
            "the gradient is that of the mean: the loss is the sum, which divides by nothing",
            _mean_gradient,
        ),
        Mistake("the loss is the mean: it must be the sum", partial(network, value=MEAN)),
    ),
)
