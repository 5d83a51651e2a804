"""Pictures of a run, drawn by matplotlib without a screen."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure

TRAIN, VALIDATION = (
    "#4477aa",
    "#cc6677",
)  # told apart by colour-blind readers too (Tol's bright scheme)
LABELS = {
    "sum_squares": "sum of squared errors",
    "mean_squares": "mean squared error (standardised target)",
    "cross_entropy": "cross-entropy (nats per row)",
    "val_accuracy": "accuracy",
    "val_rmse": "root mean squared error (target's units)",
}


def learning_curves(
    metrics: Sequence[dict[str, Any]], loss: str, title: str, path: str | Path
) -> None:
    """Draw the losses, and the validation metric, against the epoch, and write a PNG.

    metrics: the lines of `metrics.jsonl`. A loss that spans more than a factor of ten gets a log
    scale.
    """
    figure = Figure(figsize=(10, 4), dpi=120, layout="constrained")
    figure.suptitle(title)
    left, right = figure.subplots(1, 2)
    epochs = [line["epoch"] for line in metrics]
    _draw(
        left, epochs, [line["train_loss"] for line in metrics], TRAIN, "train (mean over the epoch)"
    )
    losses = [line["val_loss"] for line in metrics]
    _draw(left, epochs, losses, VALIDATION, "validation")
    best = losses.index(min(losses))
    left.plot(
        epochs[best], losses[best], "o", color=VALIDATION, label=f"best, epoch {epochs[best]}"
    )
    positive = [v for line in metrics for v in (line["train_loss"], line["val_loss"]) if v > 0]
    if positive and max(positive) > 10 * min(positive):
        left.set_yscale("log")
    left.set(xlabel="epoch", ylabel=LABELS[loss])
    left.legend()
    name = "val_accuracy" if "val_accuracy" in metrics[0] else "val_rmse"
    values = [line[name] for line in metrics]
    _draw(right, epochs, values, VALIDATION, f"validation, last {values[-1]:.4g}")
    right.set(xlabel="epoch", ylabel=LABELS[name])
    right.legend()
    figure.savefig(path, format="png")


def _draw(axes: Axes, x: Sequence[float], y: Sequence[float], color: str, label: str) -> None:
    axes.plot(x, y, color=color, label=label, marker="." if len(x) < 20 else None)
    axes.grid(alpha=0.3)
    axes.margins(x=0.02)
