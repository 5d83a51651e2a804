"""Data as arrays: the tutorial's random problem, the digits, a seeded split, and step number ->
batch (NumPy).
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from importlib import resources
from pathlib import Path

import numpy as np

from jaxnet.spec import Batch, Spec

LARGE = 2**20  # rows; of more, those that are near each other on disk are read together
BLOCK = 1024  # rows that follow each other, of which an epoch of more than LARGE takes all at once


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


def split(
    num_rows: int, validation: float = 0.2, seed: int = 0, classes: np.ndarray | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """Return the row indices for training and for validation, at least one of each.

    They are int32 where that does, and shuffled; those of more than LARGE rows are ascending, so
    that reading them in order is local. classes: (N,) integers from 0 on, the class of each row;
    then each class is held out in proportion, to within a row, and keeps a row to train on: one of
    a single row is not held out, unless there is no other.

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
    rng = np.random.default_rng(seed)
    rows = rng.permutation(_range(num_rows))
    held_out = min(max(round(validation * num_rows), 1), num_rows - 1)
    chosen = np.arange(num_rows) < held_out
    if classes is not None and (counts := np.bincount(classes)).max() > 1:
        classes = classes.astype(np.min_scalar_type(len(counts)))[rows]  # which sorts faster
        chosen = _rank(classes) < _shares(counts, held_out, rng)[classes]
    train, validate = rows[~chosen], rows[chosen]
    return (train, validate) if num_rows <= LARGE else (np.sort(train), np.sort(validate))


def folds(
    num_rows: int, number: int, seed: int = 0, classes: np.ndarray | None = None
) -> list[np.ndarray]:
    """Return the row indices of so many folds, whose sizes differ by one at most.

    classes: as `split` takes them; then the rows of a class differ by one at most too.
    """
    rows = np.random.default_rng(seed).permutation(num_rows)
    if classes is not None:
        rows = rows[np.argsort(classes[rows], kind="stable")]
    return [rows[fold::number] for fold in range(number)]


def _shares(counts: np.ndarray, held_out: int, rng: np.random.Generator) -> np.ndarray:
    """Return how many of each class's rows (C,) to hold out: its share, rounded by the largest
    remainders, and all but one at most.
    """
    share = held_out * counts / counts.sum()
    whole = np.minimum(np.floor(share), np.maximum(counts - 1, 0)).astype(int)
    order = np.lexsort([rng.random(len(counts)), whole - share])
    able = [place for place in order if whole[place] < counts[place] - 1]
    whole[able[: held_out - whole.sum()]] += 1
    return whole


def _rank(classes: np.ndarray) -> np.ndarray:
    """Return the place (N,) of each row among those of its class."""
    order, counts = np.argsort(classes, kind="stable"), np.bincount(classes)
    ranks = np.empty_like(order)
    ranks[order] = np.arange(len(order)) - np.repeat(np.cumsum(counts) - counts, counts)
    return ranks


def row_batches(num_rows: int, batch_size: int, seed: int = 0) -> Callable[[int], np.ndarray]:
    """Return the function from a step number to the row indices (batch_size,) of its batch.

    Each epoch is num_rows // batch_size steps over a permutation of its own; the rows left over are
    another set in every epoch. It is a pure function of seed and step: a resumed run sees the same
    batches. Of more than LARGE rows, an epoch takes blocks of rows in random order and shuffles the
    rows of LARGE // BLOCK blocks at a time. The indices are int32 where that does.

    Raises: ValueError for a batch size below 1 or above the number of rows.
    """
    if not 1 <= batch_size <= num_rows:
        raise ValueError(
            f"`batch_size` must be 1..{num_rows}, the number of training rows; got {batch_size}"
        )
    steps_per_epoch = num_rows // batch_size

    @functools.lru_cache(maxsize=2)
    def order(epoch: int) -> np.ndarray:
        rng = np.random.default_rng([seed, epoch])
        if num_rows <= LARGE:
            return rng.permutation(_range(num_rows))
        starts = BLOCK * rng.permutation(_range(-(-num_rows // BLOCK), num_rows + BLOCK))
        rows = (starts[:, None] + np.arange(BLOCK, dtype=starts.dtype)).ravel()
        rows = rows[rows < num_rows]
        for start in range(0, num_rows, LARGE):
            rng.shuffle(rows[start : start + LARGE])
        return rows

    def rows_at(step: int) -> np.ndarray:
        epoch, i = divmod(step, steps_per_epoch)
        return order(epoch)[i * batch_size : (i + 1) * batch_size]

    return rows_at


def _range(number: int, most: int = 0) -> np.ndarray:
    """Return 0..number-1, as int32 if that holds it, and `most`."""
    small = max(number, most) <= np.iinfo(np.int32).max
    return np.arange(number, dtype=np.int32 if small else np.int64)


def batches(batch: Batch, batch_size: int, seed: int = 0) -> Callable[[int], Batch]:
    """Return the function from a step number to its batch: the rows of `batch` that `row_batches`
    names.
    """
    rows_at = row_batches(len(batch.x), batch_size, seed)

    def batch_at(step: int) -> Batch:
        rows = rows_at(step)
        return Batch(batch.x[rows], batch.y[rows])

    return batch_at
