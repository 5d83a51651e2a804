"""Metrics of predictions, accumulated over blocks of rows: loss, accuracy and confusion matrix, or
loss, root mean squared error and r2 (NumPy).
"""

from __future__ import annotations

from typing import Any

import numpy as np

from jaxnet import numpy_net
from jaxnet.tables.column import Column
from jaxnet.tables.statistics import Moments


class Metrics:
    """What a network's outputs are worth, block after block.

    confusion: (classes, classes) int64, the true class by row and the predicted by column; None
    for regression. rows: how many there were.
    """

    def __init__(self, loss: str, target: Column):
        classes = len(target.categories)
        self.confusion = np.zeros((classes, classes), np.int64) if classes else None
        self._loss, self._std = loss, np.asarray(target.std)
        self.rows, self._sum = 0, 0.0
        # Of each column of the target, standardised.
        self._residual, self._target = np.zeros(target.width), Moments()

    def update(self, y_pred: np.ndarray, y: np.ndarray) -> None:
        """Add a block: outputs (N, D_out); y (N,) classes or (N, D_out) standardised numbers."""
        if not len(y):
            return
        y_pred = y_pred.astype(float)
        with np.errstate(invalid="ignore"):  # the loss says so
            self._sum += float(numpy_net.LOSSES[self._loss](y_pred, y)[0]) * len(y)
        if self.confusion is not None:
            np.add.at(self.confusion, (y, y_pred.argmax(axis=1)), 1)
        else:
            self._residual = self._residual + np.square(y_pred - y).sum(axis=0)
            self._target.update(y)
        self.rows += len(y)

    def result(self) -> dict[str, float | None]:
        """Return loss and accuracy, or loss, rmse (in the target's units) and r2.

        r2 is the mean over the target's columns of 1 - residual / total sum of squares; None if a
        column is constant.
        """
        hits = 0 if self.confusion is None else int(np.trace(self.confusion))
        return self.of_sums(self._sum / self.rows, hits, self._residual)

    def of_sums(self, loss: float, hits: int = 0, residual: Any = None) -> dict[str, float | None]:
        """As `result`, for other outputs on the same rows, of which only sums are known.

        loss: their mean. hits: how many rows are classified right. residual: the sum of squared
        residuals of each column (D_out,), of the standardised target.
        """
        if self.confusion is not None:
            return {"loss": float(loss), "accuracy": int(hits) / self.rows}
        residual = np.asarray(residual, float)
        rmse = float(np.sqrt(np.mean(residual * np.square(self._std)) / self.rows))
        total = self._target.squares  # exactly 0 of a constant
        r2 = float((1 - residual / total).mean()) if total.all() else None
        return {"loss": float(loss), "rmse": rmse, "r2": r2}
