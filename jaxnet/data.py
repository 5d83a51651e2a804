"""Data as arrays: the tutorial's random problem, the digits, a seeded split, and step number ->
batch (NumPy).
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from importlib import resources
from pathlib import Path
from typing import Any

import numpy as np

from jaxnet import order
from jaxnet.spec import Batch, Spec

LARGE = 2**20  # rows; the indices of more are not held in memory


def random_problem(
    spec: Spec | None = None, num_rows: int = 64, seed: int = 0, dtype: str = "float32"
) -> Batch:
    """The tutorial's data for a network: x (N, D_in) and y (N, D_out) from N(0, 1), or y (N,)
    random classes.

    The same seed gives the same values in every dtype, rounded.
    """
    spec = Spec() if spec is None else spec
    rng = np.random.default_rng(seed)
    x = rng.standard_normal((num_rows, spec.sizes[0])).astype(dtype)
    if spec.loss == "cross_entropy":
        return Batch(x, rng.integers(0, spec.sizes[-1], num_rows, dtype=np.int32))
    return Batch(x, rng.standard_normal((num_rows, spec.sizes[-1])).astype(dtype))


def digits_path() -> Path:
    """The file of the handwritten digits: `pixels` (1797, 64) and `digit` (1797,), both uint8.

    Source and licence (CC BY 4.0): jaxnet/datasets/digits.txt.
    """
    return Path(str(resources.files("jaxnet") / "datasets" / "digits.npz"))


def split(num_rows: int, validation: float = 0.2, seed: int = 0) -> tuple[Any, Any]:
    """Return the shuffled row indices for training and for validation, at least one of each.

    Of more than LARGE rows, a share of each block of `order.BLOCK` rows is held out, and the
    indices are sequences that compute them, `order.Rows`.

    Raises: ValueError for a share outside (0, 1) or fewer than two rows.
    """
    if not 0 < validation < 1:
        raise ValueError(
            f"`validation` must be a share of the rows between 0 and 1, got {validation}"
        )
    if num_rows < 2:
        raise ValueError(
            f"the table must have at least 2 rows, to train and to validate; got {num_rows}"
        )
    if num_rows > LARGE:
        return order.split(num_rows, validation, seed)
    rows = np.random.default_rng(seed).permutation(num_rows)
    held_out = min(max(round(validation * num_rows), 1), num_rows - 1)
    return rows[held_out:], rows[:held_out]


def aligned(shape: tuple[int, ...], dtype: Any) -> np.ndarray:
    """Return an empty array aligned to 64 bytes, so that JAX on a CPU uses its memory as it is."""
    size = math.prod(shape) * np.dtype(dtype).itemsize
    buffer = np.empty(size + 64, np.uint8)
    start = -buffer.ctypes.data % 64
    return buffer[start : start + size].view(dtype).reshape(shape)


def row_batches(num_rows: int, batch_size: int, seed: int = 0) -> Callable[[int], np.ndarray]:
    """Return the function from a step number to the row indices (batch_size,) int32 of its batch.

    Each epoch is num_rows // batch_size steps over a permutation of its own; the rows left over are
    another set in every epoch. It is a pure function of seed and step: a resumed run sees the same
    batches. Of more than LARGE rows, an epoch takes blocks of rows in random order and shuffles
    within windows of them (`order`); the indices are int64 where int32 does not do.

    Raises: ValueError for a batch size below 1 or above the number of rows.
    """
    if not 1 <= batch_size <= num_rows:
        raise ValueError(
            f"`batch_size` must be 1..{num_rows}, the number of training rows; got {batch_size}"
        )
    if num_rows > LARGE:
        return order.row_batches(num_rows, batch_size, seed)
    steps_per_epoch = num_rows // batch_size

    @functools.lru_cache(maxsize=2)
    def permutation(epoch: int) -> np.ndarray:
        return np.random.default_rng([seed, epoch]).permutation(num_rows).astype(np.int32)

    def rows_at(step: int) -> np.ndarray:
        epoch, i = divmod(step, steps_per_epoch)
        return permutation(epoch)[i * batch_size : (i + 1) * batch_size]

    return rows_at


def batches(batch: Batch, batch_size: int, seed: int = 0) -> Callable[[int], Batch]:
    """Return the function from a step number to its batch: the rows of `batch` that `row_batches`
    names.
    """
    rows_at = row_batches(len(batch.x), batch_size, seed)

    def batch_at(step: int) -> Batch:
        rows = rows_at(step)
        return Batch(batch.x[rows], batch.y[rows])

    return batch_at
