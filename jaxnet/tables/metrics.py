"""Metrics of predictions, accumulated over blocks of rows: loss, accuracy and confusion matrix, or
loss, root mean squared error and r2 (NumPy).
"""

from __future__ import annotations

from typing import Any

import numpy as np

from jaxnet import numpy_net
from jaxnet.tables.encoding import Column


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
        # Of each column of the target, standardised: sum of squared residuals, mean, sum of squares
        # about the mean, least and greatest value.
        self._residual = self._mean = self._total = np.zeros(target.width)
        self._low, self._high = np.full(target.width, np.inf), np.full(target.width, -np.inf)

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
            self._add_squares(y_pred, y.astype(float))
        self.rows += len(y)

    def _add_squares(self, y_pred: np.ndarray, y: np.ndarray) -> None:
        """Merge the block's sums by Chan, Golub and LeVeque's update of the variance."""
        rows, mean = self.rows + len(y), y.mean(axis=0)
        shift = mean - self._mean
        self._total = self._total + np.square(y - mean).sum(axis=0)
        self._total = self._total + np.square(shift) * (self.rows * len(y) / rows)
        self._mean = self._mean + shift * (len(y) / rows)
        self._residual = self._residual + np.square(y_pred - y).sum(axis=0)
        self._low = np.minimum(self._low, y.min(axis=0))
        self._high = np.maximum(self._high, y.max(axis=0))

    def result(self) -> dict[str, float | None]:
        """Return loss and accuracy, or loss, rmse (in the target's units) and r2.

        r2 is the mean over the target's columns of 1 - residual / total sum of squares; None if a
        column is constant.
        """
        loss = self._sum / self.rows
        if self.confusion is not None:
            return {"loss": loss, "accuracy": float(np.trace(self.confusion) / self.rows)}
        return {"loss": loss} | self._errors(self._residual)

    def of_sums(self, loss: float, hits: int = 0, residual: Any = None) -> dict[str, float | None]:
        """As `result`, for other outputs on the same rows, of which only sums are known.

        loss: their mean. hits: how many rows are classified right. residual: the sum of squared
        residuals of each column (D_out,), of the standardised target.
        """
        if self.confusion is not None:
            return {"loss": float(loss), "accuracy": int(hits) / self.rows}
        return {"loss": float(loss)} | self._errors(np.asarray(residual, float))

    def _errors(self, residual: np.ndarray) -> dict[str, float | None]:
        rmse = float(np.sqrt(np.mean(residual * np.square(self._std)) / self.rows))
        constant = (self._low == self._high).any()  # whose mean rounds, so its total may not be 0
        r2 = None if constant else float((1 - residual / self._total).mean())
        return {"rmse": rmse, "r2": r2}
