"""Dates as numbers: days since 1970 and seconds of the day, and the cycles they go through."""

from __future__ import annotations

import numpy as np

DAY = 86_400_000_000  # microseconds
# (place, period, times): of days the year and the week, of seconds the day, each several times
CYCLES = (
    *((0, 365.2425, times) for times in (1, 2)),
    *((0, 7.0, times) for times in (1, 2, 3)),  # which tell the seven days apart
    *((1, 86400.0, times) for times in (1, 2)),
)
CONSTANT = 0.05  # sines and cosines within it are one: 1 January moves by a day, 0.017, in a year


def split(values: np.ndarray) -> np.ndarray:
    """Return the whole days since 1970-01-01 and the seconds of the day, (N, 2) float64, NaN for a
    missing date.

    values: (N,) datetime64, or float64 microseconds since 1970.
    """
    if values.dtype.kind == "M":
        micros = values.astype("M8[us]").astype(np.int64)
        days, rest = np.divmod(micros, DAY)
    else:
        days, rest = np.divmod(values, DAY)
    numbers = np.stack([days, rest / 1e6], axis=1).astype(float)
    if values.dtype.kind == "M":
        numbers[np.isnat(values)] = np.nan
    return numbers


def angles(numbers: np.ndarray, cycles: tuple[tuple[int, float, int], ...]) -> np.ndarray:
    """Return the angle (N, C) of numbers (N, D), none missing, in each of C cycles."""
    places = [place for place, _, _ in cycles]
    periods, times = (np.array([cycle[i] for cycle in cycles]) for i in (1, 2))
    return 2 * np.pi * times * (numbers[:, places] % periods) / periods


def varying(numbers: np.ndarray) -> tuple[tuple[int, float, int], ...]:
    """Return those of CYCLES in which numbers (N, D), none missing, have more than one angle."""
    cycles = tuple(cycle for cycle in CYCLES if cycle[0] < numbers.shape[1])
    turned = angles(numbers, cycles)
    spread = np.maximum(np.ptp(np.sin(turned), axis=0), np.ptp(np.cos(turned), axis=0))
    return tuple(cycle for cycle, wide in zip(cycles, spread > CONSTANT, strict=True) if wide)


def text(numbers: tuple[float, ...]) -> str:
    """Return days since 1970, and seconds if there are, in ISO form."""
    days, seconds = (*numbers, 0.0)[:2]
    date = str(np.datetime64(round(days * 86400 + seconds), "s"))
    return date if len(numbers) > 1 else date[:10]
