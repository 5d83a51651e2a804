"""The oracle: the network in NumPy with gradients derived by hand, and the optimizers.

Written independently of every framework; it computes in the dtype of its input (float64 for
proofs). The gradient of a layer h = a @ w + b is the tutorial's: grad_w = a.T @ grad_h, grad_b =
the sum of grad_h over rows, grad_a = grad_h @ w.T. A weight applied several times sums its own.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import numpy as np

from jaxnet.spec import (
    QUANTILES,
    Batch,
    check_choice,
    check_forward,
    check_loss,
    check_values,
    layer_order,
)

Params = dict[str, np.ndarray]


def _relu(h):
    return np.maximum(h, 0)


def _relu_backward(h, grad):  # `where` and no product: a masked unit must pass no NaN
    return np.where(h > 0, grad, 0)


def _my_relu_backward(h, grad):  # the tutorial's grad[h < 0] = 0: passes at 0 and at NaN
    return np.where(h < 0, 0, grad)


def _tanh_backward(h, grad):
    return grad * (1 - np.tanh(h) ** 2)


def _normal_cdf(h):
    return (0.5 * (1 + np.vectorize(math.erf, otypes=[float])(h / math.sqrt(2)))).astype(h.dtype)


def _gelu(h):  # the exact form, torch's default, not the tanh approximation
    return h * _normal_cdf(h)


def _gelu_backward(h, grad):
    density = np.exp(-0.5 * h**2) / math.sqrt(2 * math.pi)
    return grad * (_normal_cdf(h) + h * density)


def _sigmoid(h):
    return 0.5 * (1 + np.tanh(0.5 * h))


def _silu(h):
    return h * _sigmoid(h)


def _silu_backward(h, grad):
    s = _sigmoid(h)
    return grad * s * (1 + h * (1 - s))


# name -> (function of h, backward: h and the gradient after it -> the gradient at h)
ACTIVATIONS: dict[str, tuple[Callable, Callable]] = {
    "relu": (_relu, _relu_backward),
    "my_relu": (_relu, _my_relu_backward),
    "tanh": (np.tanh, _tanh_backward),
    "gelu": (_gelu, _gelu_backward),
    "silu": (_silu, _silu_backward),
}


def _sum_squares(y_pred, y, weights=None, label_smoothing=0.0):
    w = 1 if weights is None else weights[:, None]
    return (w * np.square(y_pred - y)).sum(), 2 * w * (y_pred - y)


def _mean_squares(y_pred, y, weights=None, label_smoothing=0.0):
    return _sum_squares(y_pred, y, _shares(y_pred, weights)[:, 0] / y.shape[1])


def _cross_entropy(y_pred, y, weights=None, label_smoothing=0.0):
    shifted = y_pred - y_pred.max(axis=1, keepdims=True)
    log_p = shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True))
    target = np.full_like(log_p, label_smoothing / log_p.shape[1])  # its rows sum to 1
    target[np.arange(len(y)), y] += 1 - label_smoothing
    shares = _shares(y_pred, weights)
    return -(shares * target * log_p).sum(), shares * (np.exp(log_p) - target)


def _quantile(y_pred, y, weights=None, label_smoothing=0.0):  # Koenker and Bassett, 1978
    level, residual = np.resize(QUANTILES, y.shape[1]).astype(y_pred.dtype), y - y_pred
    slope = np.where(residual < 0, level - 1, level)
    shares = _shares(y_pred, weights) / y.shape[1]
    return (shares * slope * residual).sum(), -shares * slope


def _shares(y_pred, weights):  # of each row in a mean, (N, 1); weights that are all 0 have none
    weights = np.ones(len(y_pred), y_pred.dtype) if weights is None else weights
    return (weights / (weights.sum() or 1))[:, None]


# name -> function of (y_pred, y, weights, label_smoothing): the loss and its gradient at y_pred
LOSSES: dict[str, Callable] = {
    "sum_squares": _sum_squares,
    "mean_squares": _mean_squares,
    "cross_entropy": _cross_entropy,
    "quantile": _quantile,
}


def run_layers(
    params: Params, x: np.ndarray, function: Callable, repeats: Any, matmul: Callable, masks=None
):
    """Return the layers in order, the input of each, and its output before the activation."""
    order = layer_order(sum(name.startswith("w") for name in params), repeats)
    inputs, outputs = [], []
    for i, k in enumerate(order):
        h = function(outputs[-1]) if outputs else x
        inputs.append(h if masks is None or i == 0 else h * masks[i - 1])
        h = matmul(inputs[-1], params[f"w{k}"])
        outputs.append(h + params[f"b{k}"] if f"b{k}" in params else h)
    return order, inputs, outputs


def forward(
    params: Params, x: np.ndarray, *, activation: str = "relu", repeats=None, masks=None
) -> np.ndarray:
    """Return y_pred (N, D_out) for rows x (N, D_in). Raises: as `spec.check_forward`."""
    check_forward(params, x, activation, repeats, masks)
    return run_layers(params, x, ACTIVATIONS[activation][0], repeats, np.matmul, masks)[2][-1]


def loss(
    params: Params, batch: Batch, *, activation="relu", loss="sum_squares", label_smoothing=0.0
) -> float:
    """Return the scalar loss, a sum, or a mean: by weights w of rows, sum(w * loss) / sum(w).

    label_smoothing: the share of each row's target that all classes divide, as in torch.
    """
    options = {"activation": activation, "repeats": batch.repeats, "masks": batch.masks}
    y_pred = forward(params, batch.x, **options)
    return _checked_loss(loss, batch, label_smoothing)(y_pred, batch.y, batch.weights)[0]


def value_and_grad(
    params: Params, batch: Batch, *, activation="relu", loss="sum_squares", label_smoothing=0.0
) -> tuple[float, Params]:
    """Return the loss and its gradient, a dictionary like `params`, by backpropagation."""
    check_forward(params, batch.x, activation, batch.repeats, batch.masks)
    checked = _checked_loss(loss, batch, label_smoothing)
    return backpropagate(params, batch, ACTIVATIONS[activation], checked)


def _checked_loss(name: str, batch: Batch, label_smoothing: float) -> Callable:
    def function(y_pred, y, weights):
        check_loss(name, y_pred, y, weights, label_smoothing)
        check_values(name, y_pred.shape[1], batch)
        return LOSSES[name](y_pred, y, weights, label_smoothing)

    return function


def backpropagate(
    params: Params,
    batch: Batch,
    activation: tuple[Callable, Callable],
    loss: Callable,
    *,
    matmul: Callable = np.matmul,
    backward_params: Params | None = None,
    combine: Callable = np.add,
) -> tuple[float, Params]:
    """Return what `value_and_grad` does, unchecked, with parts that a known mistake replaces.

    matmul: the product. backward_params: the weights of the backward pass. combine(sum so far,
    next): adds the gradients of a repeated weight, from its last application to its first.
    """
    (function, backward), masks = activation, batch.masks
    order, inputs, outputs = run_layers(params, batch.x, function, batch.repeats, matmul, masks)
    value, grad_h = loss(outputs[-1], batch.y, batch.weights)
    grads = {name: np.zeros_like(p) for name, p in params.items()}
    for i in reversed(range(len(order))):
        w, b = f"w{order[i]}", f"b{order[i]}"
        grads[w] = combine(grads[w], matmul(inputs[i].T, grad_h))
        if b in params:
            grads[b] = combine(grads[b], grad_h.sum(axis=0))
        if i > 0:
            grad_h = matmul(grad_h, (backward_params or params)[w].T)
            grad_h = grad_h if masks is None else grad_h * masks[i - 1]
            grad_h = backward(outputs[i - 1], grad_h)
    return value, grads


class Optimizer(NamedTuple):
    """init(params) -> state and update(params, grads, state) -> (params, state), both pure.

    The state is a dictionary: `step`, the number of updates made, and moments shaped like `params`.
    """

    init: Callable[[Params], dict[str, Any]]
    update: Callable[[Params, Params, dict[str, Any]], tuple[Params, dict[str, Any]]]


def make_rule(rule: Callable, learning_rate, moments: tuple[str, ...]) -> Optimizer:
    """Return an optimizer of rule(p, g, t, *moments) -> (direction, *moments); t counts from 1."""

    def init(params):
        return {"step": 0} | {m: {k: np.zeros_like(p) for k, p in params.items()} for m in moments}

    def update(params, grads, state):
        t = state["step"] + 1
        rate = float(learning_rate(t - 1) if callable(learning_rate) else learning_rate)
        made = {k: rule(p, grads[k], t, *(state[m][k] for m in moments)) for k, p in params.items()}
        new = {m: {k: values[i] for k, values in made.items()} for i, m in enumerate(moments, 1)}
        return {k: p - rate * made[k][0] for k, p in params.items()}, {"step": t} | new

    return Optimizer(init, update)


def sgd(
    learning_rate, *, momentum=0.0, dampening=0.0, nesterov=False, weight_decay=0.0
) -> Optimizer:
    """Gradient descent as torch.optim.SGD, whose first buffer is the gradient, not damped."""

    def rule(p, g, t, *old):
        g = g + weight_decay * p
        if not old:
            return (g,)
        buf = momentum * old[0] + (1 if t == 1 else 1 - dampening) * g
        return (g + momentum * buf if nesterov else buf), buf

    return make_rule(rule, learning_rate, ("momentum",) if momentum else ())


def adam(
    learning_rate, *, b1=0.9, b2=0.999, eps=1e-8, weight_decay=0.0, decoupled=False, amsgrad=False
) -> Optimizer:
    """Adam (Kingma and Ba, 2015, algorithm 1), with L2 weight decay, or AdamW's if `decoupled`.

    amsgrad takes the maximum of the second moments before their bias is corrected, as torch does.
    """

    def rule(p, g, t, m, v, *v_max):
        if not decoupled:
            g = g + weight_decay * p
        m = b1 * m + (1 - b1) * g
        v = b2 * v + (1 - b2) * g * g
        v_max = tuple(np.maximum(old, v) for old in v_max)
        v_hat = (v_max[0] if amsgrad else v) / (1 - b2**t)
        direction = m / (1 - b1**t) / (np.sqrt(v_hat) + eps)
        return (direction + weight_decay * p if decoupled else direction), m, v, *v_max

    return make_rule(rule, learning_rate, ("m", "v", "v_max") if amsgrad else ("m", "v"))


def rmsprop(learning_rate, *, decay=0.99, eps=1e-8) -> Optimizer:
    """RMSprop with torch's convention: eps outside the root, decay 0.99."""

    def rule(p, g, t, v):
        v = decay * v + (1 - decay) * g * g
        return g / (np.sqrt(v) + eps), v

    return make_rule(rule, learning_rate, ("v",))


def adagrad(learning_rate, *, eps=1e-10) -> Optimizer:
    """Adagrad with torch's convention: the accumulator starts at 0, eps outside the root."""

    def rule(p, g, t, total):
        total = total + g * g
        return g / (np.sqrt(total) + eps), total

    return make_rule(rule, learning_rate, ("sum",))


OPTIMIZERS: dict[str, Callable[..., Optimizer]] = {
    "sgd": sgd,
    "momentum": partial(sgd, momentum=0.9),
    "nesterov": partial(sgd, momentum=0.9, nesterov=True),
    "adam": adam,
    "adamw": partial(adam, weight_decay=1e-2, decoupled=True),
    "rmsprop": rmsprop,
    "adagrad": adagrad,
}


def make_optimizer(name: str, learning_rate, **hyperparameters) -> Optimizer:
    """Return an optimizer by name; the rate may be a function of the step, counted from 0."""
    check_choice("optimizer", name, tuple(OPTIMIZERS))
    return OPTIMIZERS[name](learning_rate, **hyperparameters)
