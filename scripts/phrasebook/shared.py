"""What both sides share: the loss of what a row returns, and the problem of optimizers."""

from typing import Any

import numpy as np

STEPS, NUM_STEPS = (1, 2, 3), 6  # of training: those that are compared, and the free run


def total(y: Any) -> Any:
    """Return the sum of all floating numbers with fixed random weights; of one number, itself."""
    arrays = floats(y)
    if len(arrays) == 1 and arrays[0].ndim == 0:
        return arrays[0]
    rng = np.random.default_rng(1)
    weights = [rng.standard_normal(tuple(array.shape)) for array in arrays]
    return sum((a * _like(w, a)).sum() for a, w in zip(arrays, weights, strict=True))


def prediction(y: Any) -> Any:
    """Return what `forward` gives: of one number, which is the loss itself, there is no more."""
    found = floats(y)
    return found if len(found) > 1 else found[0] if found[0].ndim else {}


def floats(y: Any) -> list[Any]:
    """Return the floating arrays or tensors in nested dictionaries, tuples and lists."""
    if isinstance(y, dict):
        y = list(y.values())
    if isinstance(y, (tuple, list)):
        return [array for item in y for array in floats(item)]
    return [y] if "float" in str(getattr(y, "dtype", "")) else []


def _like(weights: np.ndarray, array: Any) -> Any:
    return array.new_tensor(weights) if hasattr(array, "new_tensor") else weights


def training_problem(step: int = 0) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
    """Return w (3, 2) and b (2,), and the batch of a step: x (5, 3), t (5, 2)."""
    rng = np.random.default_rng(0)
    params = {"w": rng.standard_normal((3, 2)), "b": rng.standard_normal(2)}
    rng = np.random.default_rng(step + 1)
    return params, {"x": rng.standard_normal((5, 3)), "t": rng.standard_normal((5, 2))}
