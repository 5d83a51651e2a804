"""Keras on its JAX backend."""

from __future__ import annotations

import keras
import numpy as np
from keras import ops

from jaxnet.spec import Batch

from .workloads import Workload, take

ROWS_BYTES = 2**28  # of permuted rows handed to one call of `fit`


def _sum_squares(y, y_pred):
    return ops.sum(ops.square(y_pred - y))


class Fit:
    """`model.fit` over the rows of many steps, permuted before, in one call."""

    def __init__(self, workload: Workload, table: Batch, steps_per_execution: int):
        self._workload, self._table, self._rows_at = workload, table, workload.rows_at()
        self._made = 0
        last = len(workload.sizes) - 2
        if workload.dtype == "bfloat16":
            keras.config.set_dtype_policy("mixed_bfloat16")
        layers = [
            keras.layers.Dense(
                size, use_bias=workload.bias, activation="relu" if k < last else None
            )
            for k, size in enumerate(workload.sizes[1:])
        ]
        self._model = keras.Sequential([keras.Input((workload.sizes[0],)), *layers])
        params = workload.params()
        self._model.set_weights([params[name] for name in workload.spec.shapes()])
        optimizer = {
            "sgd": keras.optimizers.SGD(workload.learning_rate),
            "adam": keras.optimizers.Adam(workload.learning_rate, epsilon=1e-8),
        }[workload.optimizer]
        cross_entropy = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
        self._model.compile(
            optimizer,
            loss=_sum_squares if workload.loss == "sum_squares" else cross_entropy,
            jit_compile=True,
            steps_per_execution=steps_per_execution,
        )

    def run(self, num_steps):
        size = self._workload.step_rows
        largest = max(1, ROWS_BYTES // (4 * size * self._workload.sizes[0]))
        losses = []
        for start in range(0, num_steps, largest):
            losses += [self._fit(min(largest, num_steps - start))]
        return np.array(losses[:1]) if len(losses) == 1 else np.array(losses)

    def _fit(self, num_steps):
        rows = [self._rows_at(self._made + i) for i in range(num_steps)]
        self._made += num_steps
        every = np.arange(self._workload.rows)
        batch = take(self._table, np.concatenate([every if i is None else i for i in rows]))
        history = self._model.fit(
            batch.x, batch.y, batch_size=self._workload.step_rows, shuffle=False, verbose=0
        )
        return history.history["loss"][0]

    def params(self):
        return dict(
            zip(
                self._workload.spec.shapes(),
                map(np.asarray, self._model.get_weights()),
                strict=True,
            )
        )


def fit(workload: Workload, table: Batch) -> Fit:
    """Keras as its documentation says for speed."""
    return Fit(workload, table, steps_per_execution=32)


def fit_default(workload: Workload, table: Batch) -> Fit:
    """Keras as most programs use it."""
    return Fit(workload, table, steps_per_execution=1)
