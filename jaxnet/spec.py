"""The one description of a network: names, shapes, initial values, and input checks.

A network is a dictionary of parameters in (in, out) layout: `w1` (D_in, H), `b1` (H,), `w2` (H,
D_out), ... Every implementation (NumPy, JAX, Flax, PyTorch) takes that dictionary, and refuses bad
input with the messages written here. The checks of shapes and dtypes cost nothing under `jax.jit`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, NamedTuple

import numpy as np

ACTIVATIONS = ("relu", "my_relu", "tanh", "gelu", "silu")
LOSSES = ("sum_squares", "mean_squares", "cross_entropy", "quantile")
QUANTILES = (0.1, 0.5, 0.9)  # that the quantile loss has for outputs 0, 1, 2, and for 3, 4, 5, ...
MAX_LAYERS = 1000  # of a network: each one takes some 0.1 s to compile
MAX_REPEATS = 3  # the tutorial's dynamic network draws 0, 1, 2 or 3


class Batch(NamedTuple):
    """The rows of one step, as arrays of any one framework.

    x: (N, D_in) floats, of the parameters' dtype.
    y: (N, D_out) floats of the same dtype, or (N,) integer classes for `cross_entropy`.
    repeats: how often the hidden-to-hidden layers are applied, an integer 0..3; None means once.
    weights: (N,) of x's dtype, at least 0: how much each row counts in the loss; None for equally.
    masks: the factors (N, H) of each hidden layer's activations, as dropout draws them: 0, or 1
    over the share that is kept. None for no dropout; a network with `repeats` takes none.
    """

    x: Any
    y: Any
    repeats: Any = None
    weights: Any = None
    masks: Any = None


@dataclass(frozen=True)
class Spec:
    """A feed-forward network: layer sizes (D_in, hidden..., D_out), biases, activation and loss.

    label_smoothing: the share of each row's target that all classes divide in training.

    Raises: ValueError for sizes below 1, too few or too many, and for unknown names.
    """

    sizes: tuple[int, ...] = (1000, 100, 10)
    bias: bool = False
    activation: str = "relu"
    loss: str = "sum_squares"
    label_smoothing: float = 0.0

    def __post_init__(self):
        sizes = tuple(self.sizes) if isinstance(self.sizes, Sequence) else ()
        if len(sizes) < 2 or not all(_is_integer(n) and n >= 1 for n in sizes):
            raise ValueError(
                f"`sizes` must be two or more integers of at least 1, got {self.sizes!r}"
            )
        if len(sizes) > MAX_LAYERS + 1:
            got = f"got {len(sizes) - 1}"
            raise ValueError(f"`sizes` must be of at most {MAX_LAYERS} layers, {got}")
        check_choice("activation", self.activation, ACTIVATIONS)
        check_choice("loss", self.loss, LOSSES)
        check_label_smoothing(self.label_smoothing, self.loss)
        object.__setattr__(self, "sizes", tuple(int(n) for n in sizes))

    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Return the shape of each parameter by name, in the order `w1, b1, w2, b2, ...`."""
        shapes: dict[str, tuple[int, ...]] = {}
        for k, (fan_in, fan_out) in enumerate(pairwise(self.sizes), start=1):
            shapes[f"w{k}"] = (fan_in, fan_out)
            if self.bias:
                shapes[f"b{k}"] = (fan_out,)
        return shapes

    def scale(self, name: str) -> float:
        """Return 1/sqrt(fan_in), the bound of the uniform initial values, as `torch.nn.Linear`."""
        return self.sizes[int(name[1:]) - 1] ** -0.5

    def init(self, seed: int | Sequence[int], dtype: str = "float32") -> dict[str, np.ndarray]:
        """Draw initial parameters by NumPy; the same seed gives the same values in every dtype.

        Without biases weights are N(0, 1), as in the tutorial's tensor stages; with biases weights
        and biases are U(-1/sqrt(fan_in), 1/sqrt(fan_in)), as in `torch.nn.Linear`.
        """
        rng = np.random.default_rng(seed)
        params = {}
        for name, shape in self.shapes().items():
            bound = self.scale(name)
            value = rng.uniform(-bound, bound, shape) if self.bias else rng.standard_normal(shape)
            params[name] = value.astype(dtype)
        return params


def layer_order(num_layers: int, repeats: int | None) -> list[int]:
    """Return the layers, counted from 1, in order; the hidden-to-hidden ones `repeats` times."""
    hidden = list(range(2, num_layers)) * (1 if repeats is None else int(repeats))
    return [1, *hidden, num_layers] if num_layers > 1 else [1]


def check_choice(argument: str, value: object, known: Sequence[str]) -> None:
    """Raise ValueError unless `value` is one of the `known` names, which the message lists."""
    if value not in known:
        raise ValueError(f"`{argument}` must be one of {', '.join(known)}; got {value!r}")


def check_params(params: Mapping[str, Any]) -> int:
    """Return the number of layers. Raises: ValueError naming the wrong leaf."""
    if not isinstance(params, Mapping):
        raise ValueError(
            f"`params` must be a dictionary w1, b1, w2, ..., got {type(params).__name__}"
        )
    num_layers = sum(str(name).startswith("w") for name in params)
    weights, biases = ({f"{kind}{k}" for k in range(1, num_layers + 1)} for kind in "wb")
    if not num_layers or not weights <= set(params) <= weights | biases:
        raise ValueError(
            "`params` must hold the weights w1, w2, ... without a gap, and for each at most its "
            f"bias b1, b2, ...; got {sorted(map(str, params))}"
        )
    dtype = _dtype("params['w1']", params["w1"])
    for k in range(1, num_layers + 1):
        w, b = f"w{k}", f"b{k}"
        fan_in = "D_in" if k == 1 else int(params[f"w{k - 1}"].shape[1])
        shape = _shape(f"params['{w}']", params[w])
        if len(shape) != 2 or (k > 1 and shape[0] != fan_in):
            raise ValueError(f"`params['{w}']` must have shape ({fan_in}, out), got {shape}")
        if b in params and _shape(f"params['{b}']", params[b]) != (shape[1],):
            raise ValueError(
                f"`params['{b}']` must have shape ({shape[1]},), got {tuple(params[b].shape)}"
            )
    for name, leaf in params.items():
        _check_dtype(f"params['{name}']", leaf, dtype)
    return num_layers


def check_forward(
    params: Mapping[str, Any], x: Any, activation: str, repeats: Any = None, masks: Any = None
) -> int:
    """Check the arguments of a forward pass, and return the number of layers.

    Raises: ValueError for an unknown activation, a rank, width or dtype of `x` or `masks` that does
    not fit the parameters, or `repeats` with `masks`, or without square hidden-to-hidden layers.
    """
    check_choice("activation", activation, ACTIVATIONS)
    num_layers = check_params(params)
    d_in = int(params["w1"].shape[0])
    shape = _shape("x", x)
    if len(shape) != 2 or shape[1] != d_in:
        raise ValueError(f"`x` must have shape (N, {d_in}), got {shape}")
    _check_dtype("x", x, _dtype("params['w1']", params["w1"]))
    if repeats is not None:
        _check_repeats(params, num_layers, repeats)
    if masks is not None:
        _check_masks(params, num_layers, masks, shape[0], repeats)
    return num_layers


def check_module(dynamic: bool, batch: Batch) -> None:
    """Raise ValueError unless `repeats` is given to a dynamic network and to no other module, and
    `masks` to none.
    """
    if dynamic != (batch.repeats is not None):
        raise ValueError(
            f"`repeats` must be given to a DynamicNet and only there, got {batch.repeats}"
        )
    if batch.masks is not None:
        raise ValueError("`masks` must be None for a module, which has layers of its own for them")


def check_loss(
    loss: str, y_pred: Any, y: Any, weights: Any = None, label_smoothing: float = 0.0
) -> None:
    """Check a loss's name and the target's shape and dtype against the prediction's (N, D_out), and
    the options of the loss.

    Raises: ValueError; (N,) against (N, 1) too is refused, never broadcast.
    """
    check_choice("loss", loss, LOSSES)
    n, d_out = _shape("y_pred", y_pred)
    if weights is not None:
        if _shape("weights", weights) != (n,):
            raise ValueError(f"`weights` must have shape ({n},), got {tuple(weights.shape)}")
        _check_dtype("weights", weights, _dtype("y_pred", y_pred))
    check_label_smoothing(label_smoothing, loss)
    if loss == "cross_entropy":
        if _shape("y", y) != (n,):
            raise ValueError(f"`y` must have shape ({n},) for cross_entropy, got {tuple(y.shape)}")
        if "int" not in _dtype("y", y):
            raise ValueError(
                f"`y` must be integer classes for cross_entropy, got dtype {_dtype('y', y)}"
            )
    else:
        if _shape("y", y) != (n, d_out):
            raise ValueError(f"`y` must have shape ({n}, {d_out}) for {loss}, got {tuple(y.shape)}")
        _check_dtype("y", y, _dtype("y_pred", y_pred))


def check_label_smoothing(label_smoothing: Any, loss: str) -> None:
    """Raise ValueError for a share outside 0..1, or one above 0 for another loss than
    `cross_entropy`; a traced one is not checked.
    """
    if not isinstance(label_smoothing, (int, float)):
        return
    if not 0 <= label_smoothing < 1:
        raise ValueError(f"`label_smoothing` must be at least 0 and below 1, got {label_smoothing}")
    if label_smoothing and loss != "cross_entropy":
        raise ValueError(f"`label_smoothing` must be 0 for {loss}, got {label_smoothing}")


def check_values(loss: str, d_out: int, batch: Batch) -> None:
    """Raise ValueError for classes, repeats or weights out of range; not for traced arrays."""
    if loss == "cross_entropy" and len(batch.y):
        low, high = int(batch.y.min()), int(batch.y.max())
        if low < 0 or high >= d_out:
            raise ValueError(
                f"`y` must hold classes 0..{d_out - 1}, got {low if low < 0 else high}"
            )
    if batch.repeats is not None and not 0 <= int(batch.repeats) <= MAX_REPEATS:
        raise ValueError(f"`repeats` must be 0..{MAX_REPEATS}, got {int(batch.repeats)}")
    if batch.weights is not None and len(batch.weights) and not float(batch.weights.min()) >= 0:
        raise ValueError(f"`weights` must be at least 0, got {float(batch.weights.min())}")


def _check_masks(
    params: Mapping[str, Any], num_layers: int, masks: Any, num_rows: int, repeats: Any
) -> None:
    if repeats is not None:
        raise ValueError("`masks` must be None where `repeats` is given")
    wanted = [(num_rows, int(params[f"w{k}"].shape[1])) for k in range(1, num_layers)]
    got = [_shape(f"masks[{i}]", mask) for i, mask in enumerate(masks)]
    if got != wanted:
        raise ValueError(f"`masks` must have the shapes {wanted}, got {got}")
    for i, mask in enumerate(masks):
        _check_dtype(f"masks[{i}]", mask, _dtype("params['w1']", params["w1"]))


def _check_repeats(params: Mapping[str, Any], num_layers: int, repeats: Any) -> None:
    integer = _is_integer(repeats) or (
        hasattr(repeats, "dtype") and "int" in _dtype("repeats", repeats)
    )
    if not integer or tuple(getattr(repeats, "shape", ())) != ():
        raise ValueError(f"`repeats` must be one integer 0..{MAX_REPEATS}, got {repeats!r}")
    if isinstance(repeats, (int, np.integer, np.ndarray)) and not 0 <= repeats <= MAX_REPEATS:
        raise ValueError(f"`repeats` must be 0..{MAX_REPEATS}, got {repeats}")
    if num_layers < 3:
        raise ValueError("`repeats` must be None for a network without hidden-to-hidden layers")
    for k in range(2, num_layers):
        rows, columns = params[f"w{k}"].shape
        if rows != columns:
            raise ValueError(f"`repeats` needs a square `params['w{k}']`, got ({rows}, {columns})")


def _is_integer(value: object) -> bool:
    return isinstance(value, (int, np.integer)) and not isinstance(value, bool)


def _shape(argument: str, array: Any) -> tuple[int, ...]:
    if not hasattr(array, "shape") or not hasattr(array, "dtype"):
        raise ValueError(f"`{argument}` must be an array, got {type(array).__name__}")
    return tuple(array.shape)


def _dtype(argument: str, array: Any) -> str:
    _shape(argument, array)
    return str(array.dtype).removeprefix("torch.")


def _check_dtype(argument: str, array: Any, dtype: str) -> None:
    got = _dtype(argument, array)
    if "float" not in dtype or got != dtype:
        wanted = f"dtype {dtype}, that of params['w1']" if "float" in dtype else "a floating dtype"
        raise ValueError(f"`{argument}` must have {wanted}; got {got}")
