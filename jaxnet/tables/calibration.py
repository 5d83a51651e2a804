"""Fit what turns a classifier's outputs into decisions: a temperature, and a threshold (NumPy)."""

from __future__ import annotations

import numpy as np

STEPS = 40  # of a bisection, which find 1 / temperature to 11 digits
LOWEST, HIGHEST = 1e-2, 1e2  # of 1 / temperature


def softmax(y_pred: np.ndarray) -> np.ndarray:
    """The probabilities of logits (N, classes), in their dtype."""
    exps = np.exp(y_pred - y_pred.max(axis=1, keepdims=True))
    return exps / exps.sum(axis=1, keepdims=True)


def log_loss(logits: np.ndarray, y: np.ndarray) -> float:
    """The mean of -log p over rows: logits (N, classes), classes (N,)."""
    shifted = logits - logits.max(axis=1, keepdims=True)
    log_p = shifted[np.arange(len(y)), y] - np.log(np.exp(shifted).sum(axis=1))
    return float(-log_p.mean())


def fit_temperature(logits: np.ndarray, y: np.ndarray) -> float:
    """Return the T for which softmax(logits / T) has the lowest log loss on rows.

    As Platt (1999) does, a row's own class is taken to be sure only to (N + 1) / (N + 2), and all
    classes share the rest: N rows that are all right support no higher confidence. Returns 1.0 if
    the T so found has no lower log loss than 1.

    logits: (N, classes). y: (N,) classes.
    """
    logits = logits.astype(float, order="F")  # a sum over few classes is faster so
    rest = 1 / (len(y) + 2)
    own = (1 - rest) * logits[np.arange(len(y)), y] + rest * logits.mean(axis=1)
    low, high = np.log([LOWEST, HIGHEST])
    for _ in range(STEPS):  # the loss is convex in 1 / T
        middle = (low + high) / 2
        slope = ((softmax(logits * np.exp(middle)) * logits).sum(axis=1) - own).mean()
        low, high = (low, middle) if slope > 0 else (middle, high)
    temperature = float(np.exp(-(low + high) / 2))
    return temperature if log_loss(logits / temperature, y) < log_loss(logits, y) else 1.0


def balanced_threshold(p: np.ndarray, y: np.ndarray) -> float | None:
    """Return the probability of class 1 from which on to predict it, so that both classes are found
    equally often; None if one of them has no row.

    p: (N,) probabilities of class 1. y: (N,) classes, 0 or 1.
    """
    edges, bins = np.unique(p, return_inverse=True)
    others, own = (np.bincount(bins[y == k], minlength=len(edges)) for k in (0, 1))
    if not others.any() or not own.any():
        return None
    # recalls of the two classes if the threshold is each edge in turn, or above all of them
    found = 1 - np.append(0, np.cumsum(own)) / own.sum()
    passed = np.append(0, np.cumsum(others)) / others.sum()
    at = int(np.argmin(np.abs(found - passed)))
    sides = np.concatenate([[0], edges, [1]])[at : at + 2]
    return float(sides.mean())
