"""A function of one step h, looked at over a whole ladder of steps: its derivative, with a bar."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np

LADDER = 2.0 ** -np.arange(33)  # the steps h along v, which has the scale of the parameters
SCATTER = 2.0**-22  # the segment on which the rounding of f is measured, ahead of any kink at 0
EPS = 2.0**-52
SURE = 64.0  # times the rounding of f: surely no rounding, which is at most 10 in what is compared
GRADIENT = 1e-10  # of the slope of f: the rounding of the gradient itself
RESOLUTION = 1e-3  # of the slope of f: a wider bar decides nothing


class Line:
    """f along one direction: its changes at the steps of the ladder, both ways; its rounding."""

    def __init__(self, phi: Callable[[float], float], rng: np.random.Generator):
        zero = phi(0.0)
        self.change = lambda t: phi(t) - zero
        self.ahead = np.array([self.change(h) for h in LADDER])
        self.back = np.array([self.change(-h) for h in LADDER])
        self.odd, self.even = (self.ahead - self.back) / 2, self.ahead + self.back
        self.bend = np.abs(self.even[:-1] - 4 * self.even[1:])  # 0 for a parabola
        self.most = np.fmax(np.abs(self.ahead), np.abs(self.back))
        x = rng.uniform(0, 1, 12)
        y = np.array([self.change(t) for t in x * SCATTER])
        fitted = np.vander(x, 3) @ np.linalg.lstsq(np.vander(x, 3), y)[0]
        scatter = math.sqrt(np.square(y - fitted).sum() / (len(x) - 3))
        self.noise = np.maximum(scatter, EPS * (abs(zero) + self.most))
        bent = np.flatnonzero(self.bend > SURE * self.noise[:-1])
        self.bent = int(bent[-1]) if len(bent) else -1  # the finest step that is no parabola

    def derivative(self) -> tuple[float, float, int]:
        """The derivative at 0, its bar, and the place of its step in the ladder."""
        d, kinked = self.odd / LADDER, self.bend / LADDER[:-1]
        bar = np.abs(d[:-2] - d[1:-1]) + 1.5 * np.maximum(kinked[:-1], kinked[1:])
        return smallest(d[1:-1], bar + 8 * self.noise[:-2] / LADDER[1:-1])

    def sides(self) -> tuple[float, float]:
        """The middle between the one-sided derivatives at 0, and half their distance with bars."""
        ends = []
        for e in (self.ahead / LADDER, -self.back / LADDER):
            bar = np.abs(e[:-1] - e[1:]) + 16 * self.noise[:-1] / LADDER[1:]
            value, bar, _ = smallest(2 * e[1:] - e[:-1], bar)
            ends += [value - bar, value + bar]
        return (min(ends) + max(ends)) / 2, (max(ends) - min(ends)) / 2

    def is_tie(self) -> bool:
        """Whether the even part falls as h down to its rounding: no step is below the kink."""
        sure = np.flatnonzero(np.abs(self.even) > SURE * self.noise)
        if len(sure) < 3 or sure[-1] < 2:
            return False
        even = self.even[sure[-1] - 2 : sure[-1] + 1]
        return bool(np.all(np.abs(even[:-1] / even[1:] - 2) < 0.4))

    def kink(self) -> float:
        """The distance of a kink, the nearest if it stands out; infinite if none was found."""
        curvature = self.even[self.bent + 1] / LADDER[self.bent + 1] ** 2
        for start in range(self.bent - 2, -1, -4):
            at = self._narrow(start, curvature)
            if at is not None:
                return abs(at)
        return math.inf

    def _narrow(self, start: int, curvature: float) -> float | None:
        """Narrow (-h, h) about its largest second difference, 14 times by half, and say where.

        The second difference over the width then stays what it is at a kink (in the worst case it
        is halved), and halves each time where f is smooth: there the answer is None.
        """
        width, middle, ratios, size = LADDER[start], 0.0, [], [0.0]
        low, mid, high = self.back[start], 0.0, self.ahead[start]
        for _ in range(14):
            width /= 2
            values = [low, self.change(middle - width), mid, self.change(middle + width), high]
            seconds = np.diff(values, 2) - curvature * width**2
            size = np.abs(seconds)
            i = int(np.argmax(size))
            low, mid, high = values[i : i + 3]
            middle += (i - 1) * width
            ratios.append(size[i] / width)
        sharp = ratios[-1] > ratios[-5] / 4 and max(size) > SURE * self.noise[start]
        return middle if sharp else None

    def slope(self, claimed: float, kink: float) -> float:
        """The slope of the odd remainder over its four finest steps above rounding."""
        left = np.abs(self.odd - LADDER * claimed)
        seen = np.flatnonzero(left > SURE * self.noise)
        seen = seen[seen > (self.bent if math.isfinite(kink) else -1)][-4:]
        if len(seen) < 3:
            return math.nan
        return float(np.polyfit(np.log2(LADDER[seen]), np.log2(left[seen]), 1)[0])


def smallest(values: np.ndarray, bars: np.ndarray) -> tuple[float, float, int]:
    """The value with the smallest bar, of those with which all values at finer steps agree."""
    known = np.isfinite(values) & np.isfinite(bars)
    values, bars = np.where(known, values, 0.0), np.where(known, bars, np.inf)
    apart = np.abs(values[:, None] - values) > bars[:, None] + bars
    i = int(np.argmin(np.where(np.triu(apart, 1).any(axis=1), np.inf, bars)))
    return float(values[i]), float(bars[i]), i
