"""scikit-learn's multilayer perceptron from given weights, over given batches."""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
from sklearn.exceptions import ConvergenceWarning
from sklearn.neural_network import MLPClassifier, MLPRegressor

from jaxnet.spec import Batch

from .participant import applies
from .workloads import Workload, take

ROWS_BYTES = 2**28  # of permuted rows handed to one call


class Mlp:
    """Minibatches: `partial_fit` of many at once. The whole table: `fit`, warm, over epochs.

    `fit` begins its optimizer anew at each call, so Adam's moments are those of the call's steps;
    what is checked is one call from the initial weights, and no call costs more for it.
    """

    def __init__(self, workload: Workload, table: Batch, member: int = 0):
        applies(workload, {"bias": (True,), "activation": ("relu",)})
        self._workload, self._table, self._rows_at = workload, table, workload.rows_at()
        self._made, squares = 0, workload.loss == "sum_squares"
        make: Any = MLPRegressor if squares else MLPClassifier
        rate = workload.learning_rates()[member] if workload.members else workload.learning_rate
        # its squared loss is half the mean over rows: the sum's gradient is 2 x rows that of it,
        # which Adam does not see but in epsilon
        scale = 2 * workload.step_rows if squares else 1
        if squares:
            applies(workload, {"optimizer": ("adam",)})
        self._scale = 2 * workload.step_rows * workload.sizes[-1] if squares else 1
        self._mlp = make(
            hidden_layer_sizes=workload.sizes[1:-1], alpha=0, solver=workload.optimizer, momentum=0,
            nesterovs_momentum=False, learning_rate_init=rate, epsilon=1e-8 / scale,
            batch_size=workload.step_rows, shuffle=False, tol=0,
            warm_start=workload.batch is None, n_iter_no_change=10**9,
        )  # fmt: skip
        self._begin(workload.params(member), squares)

    def _begin(self, params, squares):
        first = take(self._table, np.arange(self._workload.step_rows))
        classes = {} if squares else {"classes": np.arange(self._workload.sizes[-1])}
        self._mlp.partial_fit(first.x, first.y, **classes)
        del self._mlp._optimizer
        layers = range(1, len(self._workload.sizes))
        self._mlp.coefs_ = [params[f"w{k}"].copy() for k in layers]
        self._mlp.intercepts_ = [params[f"b{k}"].copy() for k in layers]

    def run(self, num_steps):
        if self._workload.batch is None:
            return self._epochs(num_steps)
        size = 4 * self._workload.step_rows * self._workload.sizes[0]
        largest = max(1, ROWS_BYTES // size)
        losses = []
        for start in range(0, num_steps, largest):
            number = min(largest, num_steps - start)
            rows: Any = [self._rows_at(self._made + i) for i in range(number)]
            self._made += number
            batch = take(self._table, np.concatenate(rows))
            self._mlp.partial_fit(batch.x, batch.y)
            losses.append(self._mlp.loss_)
        return np.array(losses)

    def _epochs(self, num_steps):
        self._mlp.set_params(max_iter=num_steps)
        before = len(self._mlp.loss_curve_)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ConvergenceWarning)
            self._mlp.fit(self._table.x, self._table.y)
        return np.array(self._mlp.loss_curve_[before:]) * self._scale

    def params(self):
        params = {}
        for k, (w, b) in enumerate(zip(self._mlp.coefs_, self._mlp.intercepts_, strict=True), 1):
            params |= {f"w{k}": np.array(w), f"b{k}": np.array(b)}
        return params


def mlp(workload: Workload, table: Batch) -> Mlp:
    """The network of the workload."""
    return Mlp(workload, table)
