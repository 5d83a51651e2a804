"""Metrics of predictions, accumulated over blocks of rows, by the names of scikit-learn (NumPy)."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any

import numpy as np

from jaxnet import numpy_net
from jaxnet.spec import QUANTILES
from jaxnet.tables.calibration import log_loss, softmax
from jaxnet.tables.column import Column, decode
from jaxnet.tables.ranking import Calibration, RocAuc
from jaxnet.tables.statistics import Moments, Sample

PAIRS = 5000  # of predicted and true numbers that are kept for a picture


class Metrics(ABC):
    """What a network's outputs are worth, block after block, for a target's classes or numbers.

    rows: how many there were.
    """

    confusion: Any = None

    def __init__(self, loss: str, target: Column):
        self.target, self.loss = target, loss
        self.rows, self._sum, self._weight = 0, 0.0, 0.0

    def update(self, y_pred: np.ndarray, y: np.ndarray, weights: np.ndarray | None = None) -> None:
        """Add a block: outputs (N, D_out); y (N,) classes or (N, D) standardised numbers.

        weights: (N,) of the rows, in the mean that the loss is, and there alone.
        """
        if len(y):
            y_pred = y_pred.astype(float, order="F")  # a sum over few columns is faster so
            self.count(y)
            wide = np.repeat(y, len(QUANTILES), axis=1) if self.loss == "quantile" else y
            with np.errstate(invalid="ignore"):  # the loss says so
                weight = len(y) if weights is None else float(weights.sum(dtype=float))
                self._sum += float(numpy_net.LOSSES[self.loss](y_pred, wide, weights)[0]) * weight
                self._weight += weight
            self._add(y_pred, y)

    def count(self, y: np.ndarray) -> None:
        """Add a block of which only the target matters, for `of_sums`."""
        self.rows += len(y)

    @abstractmethod
    def _add(self, y_pred: np.ndarray, y: np.ndarray) -> None:
        """Add a block that is not empty, to what is not the loss."""

    # (**sums) -> the metrics of other outputs on the same rows, of which only sums are known
    of_sums: Callable[..., dict[str, float | None]]

    @property
    def _mean_loss(self) -> float:
        return self._sum / (self._weight or 1)

    @abstractmethod
    def short(self) -> dict[str, float | None]:
        """Return those metrics of `result` that training has of every epoch (`of_sums`)."""

    @abstractmethod
    def result(self) -> dict[str, float | None]:
        """Return the metrics in one number each."""

    @property
    def calibration(self) -> dict[str, Any]:
        """What is known of the probabilities; nothing for numbers."""
        return {}

    def report(self) -> dict[str, Any]:
        """Return all metrics, as JSON holds them."""
        return {"rows": self.rows, **self.result()}


class ClassMetrics(Metrics):
    """Of classes: loss, accuracy, balanced accuracy, ROC AUC, and those of each class.

    confusion: (classes, classes) int64, the true class by row and the predicted by column.
    uncalibrated, calibrated: of the probabilities without and with the temperature.
    """

    def __init__(
        self, loss: str, target: Column, temperature: float = 1.0, threshold: float | None = None
    ):
        super().__init__(loss, target)
        classes = len(target.categories)
        self.confusion = np.zeros((classes, classes), np.int64)
        self.temperature, self.threshold = temperature, threshold
        self._log_losses = np.zeros(2)  # without and with the temperature
        self._auc = RocAuc(1 if classes == 2 else classes)
        self.calibrated = self.uncalibrated = Calibration()
        if temperature != 1:
            self.uncalibrated = Calibration()

    def _add(self, y_pred: np.ndarray, y: np.ndarray) -> None:
        likely = np.ascontiguousarray(y_pred).argmax(axis=1)
        cut = self.threshold is not None
        choice = chosen(y_pred, self.temperature, self.threshold) if cut else likely
        np.add.at(self.confusion, (y, choice), 1)
        if not np.isfinite(y_pred).all():
            self._log_losses = np.full(2, np.nan)
            return
        scaled, binary = y_pred / self.temperature, y_pred.shape[1] == 2
        p = softmax(scaled)
        raw = log_loss(y_pred, y)
        both = raw, raw if self.temperature == 1 else log_loss(scaled, y)
        self._log_losses += np.multiply(both, len(y))
        self._auc.update(p[:, 1:] if binary else p, y - 1 if binary else y)
        self.calibrated.update(p.max(axis=1), likely == y)
        if self.temperature != 1:
            self.uncalibrated.update(softmax(y_pred).max(axis=1), likely == y)

    def of_sums(self, *, loss: float, hits: int = 0) -> dict[str, float | None]:
        """Return the loss and the accuracy. loss: the mean. hits: the rows that are right."""
        return {"loss": float(loss), "accuracy": int(hits) / self.rows}

    def short(self) -> dict[str, float | None]:
        return self.of_sums(loss=self._mean_loss, hits=int(np.trace(self.confusion)))

    def result(self) -> dict[str, float | None]:
        """Return loss, accuracy, balanced_accuracy and roc_auc.

        loss: of the outputs as they are, without a temperature. balanced_accuracy, roc_auc: means
        over the classes that have rows; that of two classes is one area. None where there is none.
        """
        recall = [value for value in self.recall if value is not None]
        areas = self._auc.result()
        areas = areas[np.isfinite(areas)]
        return self.short() | {
            "balanced_accuracy": float(np.mean(recall)),
            "roc_auc": float(areas.mean()) if len(areas) else None,
        }

    @property
    def recall(self) -> list[float | None]:
        """The share of each true class that is found; None for one without rows."""
        return _shares(self.confusion.diagonal(), self.confusion.sum(axis=1))

    @property
    def precision(self) -> list[float | None]:
        """The share of each predicted class that is right; None for one that is never predicted."""
        return _shares(self.confusion.diagonal(), self.confusion.sum(axis=0))

    @property
    def calibration(self) -> dict[str, Any]:
        """log_loss and expected_calibration_error of the probabilities as `predict` writes them,
        the temperature, and both without it.
        """
        raw, log_loss = (self._log_losses / self.rows).tolist()
        return {
            "log_loss": log_loss,
            "expected_calibration_error": self.calibrated.error,
            "temperature": self.temperature,
            "uncalibrated": {
                "log_loss": raw,
                "expected_calibration_error": self.uncalibrated.error,
            },
        }

    def report(self) -> dict[str, Any]:
        """Return the metrics, those of each class by its name, and the confusion matrix."""
        names, found = self.target.categories, super().report()
        return {
            **{name: value for name, value in found.items() if name != "loss"},
            **self.calibration,
            "threshold": self.threshold,
            "precision": dict(zip(names, self.precision, strict=True)),
            "recall": dict(zip(names, self.recall, strict=True)),
            "support": dict(zip(names, self.confusion.sum(axis=1).tolist(), strict=True)),
            "classes": list(names),
            "confusion_matrix": self.confusion.tolist(),
        }


class NumberMetrics(Metrics):
    """Of numbers, in the target's units: root mean squared and mean absolute error, and r2.

    They are of the median, where quantiles are predicted; then `coverage` is the share of the true
    values that are within the interval.
    """

    def __init__(self, loss: str, target: Column):
        super().__init__(loss, target)
        self._std = np.asarray(target.std)
        # Of each column of the target, standardised.
        self._residual, self._absolute = np.zeros((2, target.width))
        self._target, self._pairs, self._inside = Moments(), Sample(PAIRS), 0

    def count(self, y: np.ndarray) -> None:
        super().count(y)
        self._target.update(y)

    def _add(self, y_pred: np.ndarray, y: np.ndarray) -> None:
        if self.loss == "quantile":
            low, y_pred, high = quantiles(y_pred)
            self._inside += int(((low <= y) & (y <= high)).sum())
        self._residual = self._residual + np.square(y_pred - y).sum(axis=0)
        self._absolute = self._absolute + np.abs(y_pred - y).sum(axis=0)
        self._pairs.update(y_pred, y)

    @property
    def names(self) -> list[str]:
        """The names of the target's columns."""
        name, width = self.target.name, self.target.width
        return [f"{name}_{i}" for i in range(width)] if width > 1 else [name]

    @property
    def pairs(self) -> list[np.ndarray]:
        """At most PAIRS predicted and true values, drawn of all rows: (M, D) each."""
        scaled = (decode(array, self.target) for array in self._pairs.arrays)
        return [array.reshape(len(array), -1) for array in scaled]

    def of_sums(self, *, loss: float, residual: Any = None) -> dict[str, float | None]:
        """Return loss, rmse and r2. loss: the mean. residual: the sum of squared residuals of each
        column (D,), of the standardised target.

        r2 is the mean over the target's columns of 1 - residual / total sum of squares; None if a
        column is constant.
        """
        residual = np.asarray(residual, float)
        rmse = float(np.sqrt(np.mean(residual * np.square(self._std)) / self.rows))
        total = self._target.squares  # exactly 0 of a constant
        r2 = float((1 - residual / total).mean()) if total.all() else None
        return {"loss": float(loss), "rmse": rmse, "r2": r2}

    def short(self) -> dict[str, float | None]:
        return self.of_sums(loss=self._mean_loss, residual=self._residual)

    def result(self) -> dict[str, float | None]:
        """Return loss, rmse, mae, r2, and for quantiles coverage."""
        found = self.short()
        mae = float(np.mean(self._absolute * self._std) / self.rows)
        found = {"loss": found["loss"], "rmse": found["rmse"], "mae": mae, "r2": found["r2"]}
        if self.loss == "quantile":
            found["coverage"] = self._inside / (self.rows * self.target.width)
        return found


def metrics_for(loss: str, target: Column, **calibration: Any) -> Metrics:
    """Return the metrics for a target. calibration: `temperature` and `threshold`, of classes."""
    if target.categories:
        return ClassMetrics(loss, target, **calibration)
    return NumberMetrics(loss, target)


def quantiles(y_pred: np.ndarray) -> np.ndarray:
    """Return the outputs (N, 3 D) of a network of quantiles as (3, N, D), low to high."""
    return np.sort(y_pred.reshape(len(y_pred), -1, len(QUANTILES))).transpose(2, 0, 1)


def chosen(
    y_pred: np.ndarray, temperature: float = 1.0, threshold: float | None = None
) -> np.ndarray:
    """Return the class (N,) to predict for logits (N, classes): the most probable, or of two the
    second where its probability is at least `threshold`.
    """
    if threshold is None:
        return y_pred.argmax(axis=1)
    return (softmax(y_pred / temperature)[:, 1] >= threshold).astype(int)


def _shares(parts: np.ndarray, wholes: np.ndarray) -> list[float | None]:
    pairs = zip(parts.tolist(), wholes.tolist(), strict=True)
    return [part / whole if whole else None for part, whole in pairs]
