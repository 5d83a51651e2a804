"""What a program must give, by NumPy in float64, and how far rounding may move each number."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from jaxnet import numpy_net
from jaxnet.parity import bars, limits
from jaxnet.parity.doctor.programs import Program
from jaxnet.parity.participants import cast
from jaxnet.spec import Batch, Spec

Leaves = dict[str, np.ndarray]
UNIT = {"float64": 2.0**-53, "float32": 2.0**-24}
BITS = {"bfloat16": 8, "tensorfloat32": 11}  # of the operands' mantissas
# Rounded operands: multiples of the largest error of NumPy's own such runs, on inputs moved at
# random; right programs stay below 2.
COARSE, DRAWS = 10.0, 8


def named(output: Any) -> Leaves:
    """Return what a program gives as float64 arrays by name: the loss, gradients, or the result."""
    if not isinstance(output, tuple):
        return {"result": np.asarray(output, float)}
    value, grads = output
    return {"loss": np.asarray(value, float)} | {
        f"gradient of {name}": np.asarray(leaf, float) for name, leaf in grads.items()
    }


def exact(program: Program, args: Any) -> Leaves:
    """Return what the program must give for its `args`."""
    args = cast(args, "float64")
    if program.form in _SUMS:
        return {"result": np.asarray(_SUMS[program.form](*args))}
    if program.form == "rows":
        ((spec, params, batch),) = _networks(program, args)
        y_pred = numpy_net.forward(params, batch.x, activation=spec.activation)
        return {"result": _row_losses(spec.loss, y_pred, batch.y)[0]}
    found = []
    for spec, params, batch in _networks(program, args):
        value, grads = _value_and_grad(spec, params, batch)
        gradients = {("gradient", name): grad for name, grad in grads.items()}
        found.append({("loss", "loss"): np.asarray(value)} | gradients)
    return _as_given(program, found)


def quick_limit(program: Program, want: Leaves) -> Leaves:
    """Return a limit in float64 that costs nothing, and is too narrow where terms cancel."""
    share = limits.RELATIVE if program.dtype == "float64" else 0.0
    return {name: share * np.abs(leaf).max(initial=0) for name, leaf in want.items()}


def limit(program: Program, args: Any, coarse: str | None) -> Leaves:
    """Return how far each number may be from the exact one.

    coarse: what the device rounds the operands of products to, in `BITS`, if it does.
    """
    args, unit = cast(args, "float64"), UNIT[program.dtype]
    if program.form in _SUMS:  # of n terms: n roundings of the sum of their sizes, at the worst
        sizes = _SUMS[program.form](*(np.abs(arg) for arg in args))
        terms = program.sizes[0] * (program.rows if program.form == "constant" else 1)
        unit = 2.0 ** -BITS[coarse] if coarse else unit
        return {"result": (2 * terms + 8) * unit * sizes}
    found = []
    for spec, params, batch in _networks(program, args):
        bar = bars.network_bars(spec, params, batch)
        off = {key: bars.LIMIT * unit / bars.U * value for key, value in bar.items()}
        partial = program.products == "bfloat16"
        for key, error in _coarse(spec, params, batch, coarse, partial).items():
            off[key] = off[key] + error
        if program.form == "rows":
            return {"result": _row_limit(spec, params, batch, off["forward", "y_pred"], unit)}
        value, grads = _value_and_grad(spec, params, batch)
        totals = {("loss", "loss"): value} | {("gradient", k): g for k, g in grads.items()}
        # partial sums that grow row by row to the total, each rounded, beside bars of random terms
        grown = bars.LIMIT * unit * math.sqrt(program.rows / 3)
        found.append({key: off[key] + grown * np.abs(total) for key, total in totals.items()})
    return _as_given(program, found)


def _row_limit(
    spec: Spec, params: Leaves, batch: Batch, off: np.ndarray, unit: float
) -> np.ndarray:
    """How far each row's loss may be, where y_pred (N, D_out) is within `off`."""
    y_pred = numpy_net.forward(params, batch.x, activation=spec.activation)
    losses, grad = _row_losses(spec.loss, y_pred, batch.y)
    own = 4 * bars.LIMIT * unit * (np.abs(losses) + np.abs(y_pred).max(axis=1))
    return np.abs(grad * off).sum(axis=1) + (off**2).sum(axis=1) + own


_SUMS: dict[str, Callable] = {
    "matvec": lambda m, x: np.square(x @ m.T).sum(axis=1),
    "constant": lambda x, c: (x.sum(axis=1) * c * x.sum(axis=1)).sum(),
}


def _networks(program: Program, args: Any) -> Iterator[tuple[Spec, Leaves, Batch]]:
    """Yield each network with weights (in, out); a dual first layer as one of wider rows."""
    spec = Spec(program.sizes, program.bias, program.activation, program.loss)
    params, batch, *offset = args
    for i in range(program.members):
        own = {k: leaf[i] for k, leaf in params.items()} if program.form == "mapped" else params
        if program.transposed:
            own = {k: leaf.T for k, leaf in own.items()}
        if offset:
            hidden = program.sizes[1]
            own = own | {"w1": np.vstack([own["w1"], 0.5 * np.eye(hidden)])}
            batch = batch._replace(x=np.hstack([batch.x, offset[0]]))
            wider = (program.sizes[0] + hidden, *program.sizes[1:])
            spec = Spec(wider, program.bias, program.activation, program.loss)
        yield spec, own, batch


def _as_given(program: Program, found: list[dict[tuple[str, str], Any]]) -> Leaves:
    """Return leaves of each network as the program gives them."""
    leaves: Leaves = {}
    for stage, name in found[0]:
        parts = [np.asarray(one[stage, name]) for one in found]
        if program.form == "gram" and name == "w1":
            parts = [part[: program.sizes[0]] for part in parts]
        parts = [part.T for part in parts] if program.transposed else parts
        whole = np.stack(parts) if program.form == "mapped" else parts[0]
        leaves["loss" if stage == "loss" else f"gradient of {name}"] = whole
    return leaves


def _value_and_grad(spec: Spec, params: Leaves, batch: Batch, matmul: Callable = np.matmul):
    return numpy_net.backpropagate(
        params,
        batch,
        numpy_net.ACTIVATIONS[spec.activation],
        lambda y_pred, y, *_: numpy_net.LOSSES[spec.loss](y_pred, y),
        matmul=matmul,
    )


def _row_losses(loss: str, y_pred: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the loss (N,) of each row alone, and its gradient (N, D_out) at y_pred."""
    if loss == "cross_entropy":
        shifted = y_pred - y_pred.max(axis=1, keepdims=True)
        log_p = shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True))
        hit = y[:, None] == np.arange(y_pred.shape[1])
        return -log_p[hit], np.exp(log_p) - hit
    share = 1 / y.shape[1] if loss == "mean_squares" else 1.0
    return share * np.square(y_pred - y).sum(axis=1), 2 * share * (y_pred - y)


def _coarse(
    spec: Spec, params: Leaves, batch: Batch, coarse: str | None, partial: bool
) -> dict[tuple[str, str], float]:
    """Return what products of rounded operands may move each leaf by, {} if none are rounded.

    It is a multiple of the largest error of NumPy with such products, on moved inputs. partial:
    whether the device may round each partial sum too, as it may where the result is bfloat16.
    """
    if coarse is None:
        return {}
    rng, bits = np.random.default_rng(0), BITS[coarse]
    worst: dict[tuple[str, str], float] = {}

    def product(a, b):
        return _rounded(_rounded(a, bits) @ _rounded(b, bits), bits)

    def summed(a, b):
        a, b, total = _rounded(a, bits), _rounded(b, bits), np.zeros((len(a), b.shape[1]))
        for i in range(len(b)):
            total = _rounded(total + a[:, i : i + 1] * b[i], bits)
        return total

    def moved(leaf):
        return leaf * (1 + 2.0**-bits * rng.standard_normal(leaf.shape))

    for _ in range(DRAWS):
        own = {name: moved(leaf) for name, leaf in params.items()}
        rows = batch._replace(x=moved(batch.x))
        exact = _stages(spec, own, rows, np.matmul)
        for matmul in (product, summed) if partial else (product,):
            for key, value in _stages(spec, own, rows, matmul).items():
                error = float(np.abs(value - exact[key]).max(initial=0))
                worst[key] = max(worst.get(key, 0.0), error)
    return {key: COARSE * error for key, error in worst.items()}


def _stages(spec: Spec, params: Leaves, batch: Batch, matmul: Callable) -> dict:
    """Prediction, loss and gradients, with another product."""
    value, grads = _value_and_grad(spec, params, batch, matmul)
    function = numpy_net.ACTIVATIONS[spec.activation][0]
    y_pred = numpy_net.run_layers(params, batch.x, function, None, matmul)[2][-1]
    named = {("gradient", name): grad for name, grad in grads.items()}
    return {("forward", "y_pred"): y_pred, ("loss", "loss"): value} | named


def _rounded(a: np.ndarray, bits: int) -> np.ndarray:
    mantissa, exponent = np.frexp(a)
    return np.ldexp(np.rint(np.ldexp(mantissa, bits)), exponent - bits)
