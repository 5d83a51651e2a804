"""Permutation importance: how much worse a model gets when one column's values are shuffled."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from jaxnet.runs.evaluation import apply, sums
from jaxnet.runs.model import Model
from jaxnet.spec import Batch, Spec
from jaxnet.tables.statistics import Sample

ROWS = 500, 2**14  # the fewest and the most of a sample
WORK = 10**11  # multiplications, by which the sample is made smaller


class Importance(NamedTuple):
    """A column, and by how much the metric rises: mean and standard deviation over shuffles."""

    name: str
    mean: float
    std: float


class Importances(NamedTuple):
    """The columns, by falling importance; the metric that rises, how many rows, its value."""

    columns: list[Importance]
    metric: str
    rows: int
    value: float


def permutation_importance(
    model: Model, batches: Iterable[Batch], *, repeats: int = 5, seed: int = 0
) -> Importances:
    """Return how much each column of the features matters to a model, by rows with the target.

    A column is shuffled among the rows, with all inputs that it becomes, `repeats` times. The
    metric is the log loss, or for numbers the root mean squared error in the target's units. Of
    many rows a sample is taken, so that all is WORK multiplications.
    """
    widths = [column.width for column in model.encoding.features]
    weights = sum(leaf.size for leaf in model.params.values() if leaf.ndim > 1)
    fewest, most = ROWS
    sample = Sample(int(np.clip(WORK // (len(widths) * repeats * weights), fewest, most)), seed)
    for batch in batches:
        sample.update(batch.x, batch.y)
    x, y = sample.arrays
    rng, model = np.random.default_rng(seed), model.folded()
    orders = np.stack([np.arange(len(x)), *(rng.permutation(len(x)) for _ in range(repeats))])
    column_of = np.repeat(np.arange(len(widths)), widths)
    with jax.enable_x64(x.dtype == np.float64):
        found = _shuffled(model.spec, len(widths))(model.params, x, y, orders, column_of)
    if model.encoding.target.categories:
        metric, values = "log loss", np.asarray(found["loss"], float) / len(x)
    else:
        squares = np.asarray(found["residual"], float) * np.square(model.encoding.target.std)
        metric, values = "root mean squared error", np.sqrt(squares.mean(axis=2) / len(x))
    rises = values[:, 1:] - values[:, :1]
    columns = [
        Importance(column.name, float(rise.mean()), float(rise.std()))
        for column, rise in zip(model.encoding.features, rises, strict=True)
    ]
    columns.sort(key=lambda one: -one.mean)
    return Importances(columns, metric, len(x), float(values[0, 0]))


@functools.cache
def _shuffled(spec: Spec, columns: int) -> Callable:
    """Return the compiled sums (columns, orders) of rows with each column in each order."""

    def all_sums(params, x, y, orders, column_of):
        def of_column(column):
            return lax.map(lambda order: of_order(column, order), orders)

        def of_order(column, order):
            mixed = jnp.where(column_of == column, x[order], x)
            return sums(spec, apply, params, Batch(mixed, y))

        return lax.map(of_column, jnp.arange(columns))

    return jax.jit(all_sums)
