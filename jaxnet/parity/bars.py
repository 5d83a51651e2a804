"""How far rounding may move each number: float32 error bars through the NumPy backpropagation.

For C = A @ B of reduction length n, with u = 2**-24 and independent roundings,

    bar_C**2 = bar_A**2 @ B**2 + A**2 @ bar_B**2 + u**2 * (n * (A**2 @ B**2) + C**2).

That takes roundings as independent, which in deep networks, and where a weight is used again,
they are not: there a bar is at least the spread of replays with random roundings (Monte Carlo
arithmetic, Parker, 1997). Correct float32 programs stay below 4 bars, whatever their order of
summation; the limit is 8. A unit whose |h| is below 8 of its bars may be on either side of the
ReLU's kink: its whole gradient joins the bar.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from jaxnet import numpy_net
from jaxnet.spec import Batch, Spec, layer_order

U = 2.0**-24  # half the spacing of float32 just below 1
LIMIT = 8.0  # bars
REPLAYS = 8


class Barred(NamedTuple):
    """Values in float64 and the squares of their bars."""

    value: np.ndarray
    square: np.ndarray


def network_bars(
    spec: Spec, params: dict[str, np.ndarray], batch: Batch
) -> dict[tuple[str, str], np.ndarray]:
    """The bars of the prediction, the loss and each gradient; inputs are taken as exact.

    params and batch: float64, of values that float32 holds. Keys are (stage, leaf).
    """
    carried = _carried(spec, params, batch)
    spread = _spread(spec, params, batch, {key: barred.value for key, barred in carried.items()})
    return {key: np.sqrt(np.maximum(b.square, spread[key])) for key, b in carried.items()}


def _spread(
    spec: Spec,
    params: dict[str, np.ndarray],
    batch: Batch,
    exact: dict[tuple[str, str], np.ndarray],
) -> dict[tuple[str, str], np.ndarray]:
    """The mean square distance of noisy replays from the exact values."""
    rng = np.random.default_rng(0)
    function, backward = numpy_net.ACTIVATIONS[spec.activation]

    def noisy(value):
        return value * (1 + U * rng.standard_normal(np.shape(value)))

    def product(a, b):
        value = a @ b
        own = np.sqrt(a.shape[1] * (a**2 @ b**2) + value**2)
        return value + U * own * rng.standard_normal(value.shape)

    def loss(y_pred, y, weights):
        predictions.append(y_pred)
        options = weights, spec.label_smoothing
        value, grad = numpy_net.LOSSES[spec.loss](noisy(y_pred), y, *options)
        return value, noisy(grad)

    activation = (lambda h: function(noisy(h)), lambda h, grad: noisy(backward(h, grad)))
    squares = {key: np.zeros(np.shape(value)) for key, value in exact.items()}
    for _ in range(REPLAYS):
        predictions: list[np.ndarray] = []
        value, grads = numpy_net.backpropagate(params, batch, activation, loss, matmul=product)
        found = {("forward", "y_pred"): predictions[0], ("loss", "loss"): value}
        found |= {("gradient", name): grad for name, grad in grads.items()}
        for key, got in found.items():
            squares[key] += (got - exact[key]) ** 2 / REPLAYS
    return squares


def _carried(
    spec: Spec, params: dict[str, np.ndarray], batch: Batch
) -> dict[tuple[str, str], Barred]:
    """Values and bars by the formula, kinks counted in; see `network_bars`."""
    order = layer_order(sum(name.startswith("w") for name in params), batch.repeats)
    smooth = spec.activation not in ("relu", "my_relu")
    x = _exact(batch.x)
    inputs, outputs = [], []
    masks = batch.masks
    for i, k in enumerate(order):
        inputs.append(_activate(spec.activation, outputs[-1], smooth) if outputs else x)
        if i and masks is not None:
            inputs[-1] = _times(inputs[-1], masks[i - 1])
        h = _matmul(inputs[-1], _exact(params[f"w{k}"]))
        outputs.append(_add(h, params[f"b{k}"]) if f"b{k}" in params else h)
    value, grad_h = _loss(spec, outputs[-1], batch)
    grads: dict[str, Barred] = {}
    for i in reversed(range(len(order))):
        w, b = f"w{order[i]}", f"b{order[i]}"
        grads[w] = _accumulate(grads.get(w), _matmul(_transpose(inputs[i]), grad_h))
        if b in params:
            ones = np.ones((1, len(grad_h.value)))
            row = _matmul(_exact(ones), grad_h)
            grads[b] = _accumulate(grads.get(b), Barred(row.value[0], row.square[0]))
        if i > 0:
            grad_a = _matmul(grad_h, _transpose(_exact(params[w])))
            grad_a = grad_a if masks is None else _times(grad_a, masks[i - 1])
            grad_h = _deactivate(spec.activation, outputs[i - 1], grad_a, smooth)
    unused = {k: _exact(np.zeros_like(p)) for k, p in params.items() if k not in grads}
    return {
        ("forward", "y_pred"): outputs[-1],
        ("loss", "loss"): value,
        **{("gradient", name): bar for name, bar in (grads | unused).items()},
    }


def update_bar(old: np.ndarray, new: np.ndarray) -> np.ndarray:
    """The bar of a value that an optimizer moved: its own rounding, and 100 of its change's.

    100, since float32 loses that much in 1 - b2**t at the first steps of optax's own Adam.
    """
    return U * (np.abs(new) + np.abs(old) + 100 * np.abs(new - old))


def _exact(value: np.ndarray) -> Barred:
    return Barred(value, np.zeros_like(value))


def _transpose(a: Barred) -> Barred:
    return Barred(a.value.T, a.square.T)


def _matmul(a: Barred, b: Barred) -> Barred:
    value = a.value @ b.value
    squares = a.value**2 @ b.value**2
    carried = a.square @ b.value**2 + a.value**2 @ b.square
    return Barred(value, carried + U**2 * (a.value.shape[1] * squares + value**2))


def _add(a: Barred, b: np.ndarray) -> Barred:
    value = a.value + b
    return Barred(value, a.square + U**2 * value**2)


def _accumulate(total: Barred | None, term: Barred) -> Barred:
    if total is None:
        return term
    value = total.value + term.value
    return Barred(value, total.square + term.square + U**2 * value**2)


def _ambiguous(h: Barred) -> np.ndarray:
    return np.abs(h.value) < LIMIT * np.sqrt(h.square)


def _slope(activation: str, h: np.ndarray) -> np.ndarray:
    return numpy_net.ACTIVATIONS[activation][1](h, np.ones_like(h))


def _activate(activation: str, h: Barred, smooth: bool) -> Barred:
    value = numpy_net.ACTIVATIONS[activation][0](h.value)
    if not smooth:
        return Barred(value, np.where((h.value > 0) | _ambiguous(h), h.square, 0))
    slope = _slope(activation, h.value)
    own = (4 * U) ** 2 * (value**2 + (slope * h.value) ** 2) + _cancelled(activation, h.value)
    return Barred(value, slope**2 * h.square + own)


def _cancelled(activation: str, h: np.ndarray) -> np.ndarray:
    """The square of what gelu and silu lose far below 0, where 1 + erf and 1 + tanh cancel."""
    return (U * h) ** 2 if activation in ("gelu", "silu") else np.zeros_like(h)


def _deactivate(activation: str, h: Barred, grad: Barred, smooth: bool) -> Barred:
    value = numpy_net.ACTIVATIONS[activation][1](h.value, grad.value)
    if not smooth:
        passed = _slope(activation, h.value) != 0
        square = np.where(passed, grad.square, 0)
        return Barred(value, np.where(_ambiguous(h), grad.square + grad.value**2, square))
    slope = _slope(activation, h.value)
    curvature = (_slope(activation, h.value + 1e-5) - _slope(activation, h.value - 1e-5)) / 2e-5
    own = (4 * U) ** 2 * (value**2 + grad.value**2)
    own = own + _cancelled(activation, h.value) * grad.value**2
    return Barred(value, slope**2 * grad.square + (grad.value * curvature) ** 2 * h.square + own)


def _times(a: Barred, mask: np.ndarray) -> Barred:
    value = a.value * mask
    return Barred(value, a.square * mask**2 + U**2 * value**2)


def _loss(spec: Spec, y_pred: Barred, batch: Batch) -> tuple[Barred, Barred]:
    y, weights = batch.y, batch.weights
    value, grad = numpy_net.LOSSES[spec.loss](y_pred.value, y, weights, spec.label_smoothing)
    if spec.loss == "cross_entropy":
        p = np.exp(y_pred.value - np.logaddexp.reduce(y_pred.value, axis=1, keepdims=True))
        spread = p * (1 - p)
        mixed = p**2 * ((p**2 * y_pred.square).sum(axis=1, keepdims=True))
        square = (spread**2 * y_pred.square + mixed + (4 * U) ** 2) * _shares(weights, y) ** 2
        scale = np.abs(y_pred.value).max() + abs(value)
        own = (4 * U) ** 2 * scale**2
        return Barred(value, (grad**2 * y_pred.square).sum() + own), Barred(grad, square)
    factor = np.ones((len(y), 1)) if weights is None else weights[:, None]  # of each row's squares
    if spec.loss == "mean_squares":
        factor = _shares(weights, y) / y.shape[1]
    residual = y_pred.value - y
    square = y_pred.square + U**2 * residual**2
    if spec.loss == "quantile":
        return _kinked(Barred(residual, square), value, grad, _shares(weights, y) / y.shape[1])
    terms = factor**2 * ((2 * residual) ** 2 * square + 2 * U**2 * residual**4)
    # partial sums grow, all positive
    own = U**2 * residual.size / 3 * (factor * residual**2).sum() ** 2
    grad_square = 4 * factor**2 * square + U**2 * grad**2
    return Barred(value, terms.sum() + own), Barred(grad, grad_square)


def _kinked(
    residual: Barred, value: np.ndarray, grad: np.ndarray, shares: np.ndarray
) -> tuple[Barred, Barred]:
    """The loss and its gradient with bars, for a mean of |residual| times a slope for each side: a
    residual near 0 may be on either. shares: (N, 1), of each element in the mean.
    """
    terms = grad**2 * residual.square + U**2 * (grad * residual.value) ** 2
    own = U**2 * grad.size / 3 * value**2  # partial sums grow, all positive
    joined = np.where(_ambiguous(residual), shares**2, 0)  # the slopes differ by 1
    return Barred(value, terms.sum() + own), Barred(grad, U**2 * grad**2 + joined)


def _shares(weights: np.ndarray | None, y: np.ndarray) -> np.ndarray:
    """The share (N, 1) of each row in a mean."""
    weights = np.ones(len(y)) if weights is None else weights
    return (weights / weights.sum())[:, None]
