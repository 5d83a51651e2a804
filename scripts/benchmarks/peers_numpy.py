"""NumPy with gradients by hand, as the tutorial's first script, and the optimizer in place."""

from __future__ import annotations

import numpy as np

from jaxnet.spec import Batch

from .workloads import Workload, take


class Hand:
    """Forward and backward through matrix products; moments and weights are written in place."""

    def __init__(self, workload: Workload, table: Batch):
        self._workload, self._table, self._rows_at = workload, table, workload.rows_at()
        self._params = workload.params()
        self._moments = {
            name: (np.zeros_like(p), np.zeros_like(p), np.empty_like(p))
            for name, p in self._params.items()
        }
        self._made = 0

    def run(self, num_steps):
        losses = []
        for _ in range(num_steps):
            rows = self._rows_at(self._made)
            self._made += 1
            losses.append(self._step(self._table if rows is None else take(self._table, rows)))
        return np.array(losses)

    def params(self):
        return self._params

    def _step(self, batch):
        params, layers = self._params, len(self._workload.sizes) - 1
        inputs = [batch.x]
        for k in range(1, layers + 1):
            h = inputs[-1] @ params[f"w{k}"]
            if self._workload.bias:
                h += params[f"b{k}"]
            inputs.append(np.maximum(h, 0, out=h) if k < layers else h)
        loss, grad = self._loss(inputs.pop(), batch.y)
        for k in range(layers, 0, -1):
            below = grad @ params[f"w{k}"].T if k > 1 else None
            self._update(f"w{k}", inputs[k - 1].T @ grad)
            if self._workload.bias:
                self._update(f"b{k}", grad.sum(axis=0))
            if below is not None:
                below[inputs[k - 1] <= 0] = 0
                grad = below
        return loss

    def _loss(self, y_pred, y):
        if self._workload.loss == "sum_squares":
            grad = y_pred - y
            loss = np.vdot(grad, grad)
            grad *= 2
            return loss, grad
        y_pred -= y_pred.max(axis=1, keepdims=True)
        grad = np.exp(y_pred)
        total = grad.sum(axis=1, keepdims=True)
        rows = np.arange(len(y))
        loss = np.log(total).mean() - y_pred[rows, y].mean()
        grad /= total
        grad[rows, y] -= 1
        grad /= len(y)
        return loss, grad

    def _update(self, name, grad):
        rate = self._workload.learning_rate
        if self._workload.optimizer == "sgd":
            grad *= rate
            self._params[name] -= grad
            return
        m, v, buffer = self._moments[name]
        m += np.multiply(np.subtract(grad, m, out=buffer), 0.1, out=buffer)
        grad *= grad
        v += np.multiply(np.subtract(grad, v, out=buffer), 0.001, out=buffer)
        np.sqrt(np.divide(v, 1 - 0.999**self._made, out=buffer), out=buffer)
        buffer += 1e-8
        np.divide(m, buffer, out=buffer)
        buffer *= rate / (1 - 0.9**self._made)
        self._params[name] -= buffer


def hand(workload: Workload, table: Batch) -> Hand:
    """The tutorial's NumPy, for any depth."""
    return Hand(workload, table)
