"""What the probabilities of a classifier are worth, block after block: ROC AUC and calibration."""

from __future__ import annotations

import numpy as np

EXACT = 2**22  # scores up to which the AUC is exact
BINS = 2**20  # of all classes together, into which more scores are counted
MOST_BINS = 2**14  # of a class: they stay in the processor's cache
LEVELS = 15  # of confidence, between 0 and 1, in a calibration curve


class RocAuc:
    """The area under the ROC curve of each class against the others, in bounded memory.

    Up to `EXACT` scores are kept, and the area is exact. Of more, the scores are counted in bins,
    which hold equally many of the first ones; a pair of rows in one bin counts as a tie.
    """

    def __init__(self, classes: int):
        self._classes, self._held, self._number = classes, [], 0
        self._edges: list[np.ndarray] = []  # of each class
        self._counts: list[np.ndarray] = []  # of each class: (2, bins), the others and its own

    def update(self, scores: np.ndarray, y: np.ndarray) -> None:
        """Add a block: scores (N, C) that grow with the probability of the class, classes (N,)."""
        self._number += scores.size
        if self._counts:
            self._count(scores, y)
            return
        self._held.append((scores, y))
        if self._number > EXACT:
            scores, y = self._kept()
            bins = min(max(BINS // self._classes, 100), MOST_BINS, len(y))
            places = np.linspace(0, len(y) - 1, bins).astype(int)
            self._edges = [np.unique(np.sort(column)[places]) for column in scores.T]
            self._counts = [np.zeros((2, len(edges) + 1), np.int64) for edges in self._edges]
            self._held = []
            self._count(scores, y)

    def _kept(self) -> tuple[np.ndarray, np.ndarray]:
        scores, y = zip(*self._held, strict=True)
        return np.concatenate(scores), np.concatenate(y)

    def _count(self, scores: np.ndarray, y: np.ndarray) -> None:
        for k, (edges, counts) in enumerate(zip(self._edges, self._counts, strict=True)):
            for own, count in zip((y != k, y == k), counts, strict=True):
                bins = np.searchsorted(edges, np.sort(scores[own, k]), side="right")
                count += np.bincount(bins, minlength=len(count))

    def result(self) -> np.ndarray:
        """Return the areas (C,); NaN for a class that no row has, or all rows have."""
        if self._counts:
            return np.array([_area(counts) for counts in self._counts])
        if not self._held:
            return np.full(self._classes, np.nan)
        scores, y = self._kept()
        return np.array([_exact_area(s[y != k], s[y == k]) for k, s in enumerate(scores.T)])


def _exact_area(others: np.ndarray, own: np.ndarray) -> float:
    """As `_area`, of the scores themselves."""
    others, own = np.sort(others), np.sort(own)
    twice = sum(int(np.searchsorted(others, own, side).sum()) for side in ("left", "right"))
    pairs = len(others) * len(own)
    return twice / (2 * pairs) if pairs else float("nan")


def _area(counts: np.ndarray) -> float:
    """The share of pairs (another, own) in which the own score is higher; ties count half."""
    others, own = counts.astype(float)
    pairs = others.sum() * own.sum()
    below = np.cumsum(others) - others / 2
    return float(own @ below / pairs) if pairs else float("nan")


class Calibration:
    """How often the predicted class is right, by the probability that was given to it.

    rows, right, confidence: (LEVELS,) of each level of confidence, the number of its rows, of those
    that are right, and the sum of their probabilities.
    """

    def __init__(self):
        self.rows, self.right, self.confidence = np.zeros((3, LEVELS))

    def update(self, p: np.ndarray, right: np.ndarray) -> None:
        """Add a block: the probability (N,) of the predicted class, and which (N,) are right."""
        levels = np.minimum((p * LEVELS).astype(int), LEVELS - 1)
        self.rows += np.bincount(levels, minlength=LEVELS)
        self.right += np.bincount(levels, right, minlength=LEVELS)
        self.confidence += np.bincount(levels, p, minlength=LEVELS)

    @property
    def error(self) -> float:
        """The expected calibration error (Guo et al., 2017): the mean distance of accuracy and
        confidence, weighted by the rows of each level.
        """
        return float(np.abs(self.right - self.confidence).sum() / max(self.rows.sum(), 1))
