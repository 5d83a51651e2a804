"""Fit an encoding to a table, in memory or on disk, in one pass over its blocks."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from itertools import pairwise
from typing import Any

import numpy as np

from jaxnet.tables import dates
from jaxnet.tables.column import Column, Encoding
from jaxnet.tables.encoding import category_texts
from jaxnet.tables.missing import sentences
from jaxnet.tables.statistics import Moments
from jaxnet.tables.store import Store
from jaxnet.tables.summary import Summary, summarise
from jaxnet.tables.table import check_wanted, fault, too_many
from jaxnet.tables.targets import MAX_CLASSES, Source, target_of

EXACT = 2**53  # integers from here on are rounded in a store
BINS = 16  # of a number
# On 50 tables 16 bins beside each number took up to 65 % off the loss. They added up to 30 % where
# there were more bins than rows to train on, hardly 100 rows of a linear target, or 100 numbers.
BINNED_ROWS, BINNED_NUMBERS = 200, 60  # at least so many, and at most, for auto


def fit_encoding(
    table: Source,
    target: str,
    task: str,
    rows: np.ndarray,
    categorical: Collection[str] = (),
    *,
    numbers: str = "standard",
    missing: str = "fill",
    say: Callable[[str], None] = lambda sentence: None,
) -> Encoding:
    """Fit an encoding: numbers standardised by the statistics of `rows`, text one-hot.

    Categories and classes are those of the whole table; columns in `categorical` are text. Medians
    and quantiles are those of `rows`, or of a sample, the same in memory and on disk (`summarise`).
    numbers: "bins" for a piecewise-linear encoding beside each (Gorishniy et al. 2022), "standard"
    for none, "auto" for bins if there are at most as many as `rows`, these are BINNED_ROWS, and
    the numbers at most BINNED_NUMBERS. missing: as in `Encoding`. say: called with a sentence for
    each column that is filled or left out.

    Text that hardly repeats, as an identifier does, is left out, unless it is in `categorical`.

    Raises: ValueError for an unknown column, no features, a target of one value only or of classes
    that hardly repeat, and more than MAX_CATEGORIES.
    """
    column = target_of(table, target)
    check_wanted(table.path, list(table.columns), categorical)
    if task == "regression" and column.dtype.kind == "O":
        what = f"the target {target!r} must be numbers for regression, got text"
        raise ValueError(f"{table.path}: {what}")
    found = summarise(table, rows, [*categorical, *[target] * (task == "classification")])
    y = _fit_target(table, target, found.pop(target))
    _leave_out(table, found, categorical, say)
    if not (features := _fit_features(table, found, numbers, len(rows), say)):
        raise ValueError(f"{table.path}: there is no feature column beside the target {target!r}")
    return Encoding(features, y, missing)


def _leave_out(
    table: Source,
    found: dict[str, Summary],
    categorical: Collection[str],
    say: Callable[[str], None],
) -> None:
    """Remove the columns without a value to train on, and those of text that hardly repeats."""
    for name, summary in list(found.items()):
        number = 0 if name in categorical or summary.moments is not None else len(summary.texts)
        if summary.is_empty:
            say(f"column {name!r} has no value to train on, and is left out")
        elif number > _most_categories(table):
            what = f"has {number:,} distinct texts in {table.num_rows:,} rows, as an id has"
            say(f"column {name!r} {what}, and is left out; `categorical` {name!r} takes it")
        else:
            continue
        del found[name]


def _most_categories(table: Source) -> int:
    """Return how many distinct values a column may have that is not an id."""
    return max(MAX_CLASSES, table.num_rows // 2)


def _fit_features(
    table: Source,
    found: dict[str, Summary],
    numbers: str,
    num_rows: int,
    say: Callable[[str], None],
) -> tuple[Column, ...]:
    """Return the columns of the features."""
    width = sum(len(s.moments.rows) for s in found.values() if s.moments is not None)
    binned = numbers == "bins" or (
        numbers == "auto" and num_rows >= BINNED_ROWS and width <= BINNED_NUMBERS
    )
    columns = [
        _categories(table, name, summary, is_target=False)
        if summary.moments is None
        else _numbers(table, name, summary, summary.moments, binned)
        for name, summary in found.items()
    ]
    if numbers == "auto" and sum(len(column.bins) for column in columns) > num_rows:
        columns = [column._replace(bins=()) for column in columns]
    for sentence in sentences(zip(columns, (s.missing for s in found.values()), strict=True)):
        say(sentence)
    return tuple(columns)


def _fit_target(table: Source, target: str, summary: Summary) -> Column:
    """Return the target's column. Raises: ValueError if it has one value only."""
    value: Sequence[Any]
    if summary.moments is None:
        y = _categories(table, target, summary, is_target=True)._replace(missing=())
        value = y.categories if len(y.categories) == 1 else ()
    else:
        y = _numbers(table, target, summary, summary.moments, False)._replace(missing=())
        value = [y.mean[place] for place in np.flatnonzero(summary.moments.squares == 0)]
    if value:
        raise ValueError(f"{table.path}: the target {target!r} has one value only, {value[0]}")
    return y


def _numbers(table: Source, name: str, summary: Summary, moments: Moments, binned: bool) -> Column:
    """Return a column of numbers, or of a date."""
    mean, std = moments.mean, moments.std
    if not np.isfinite(std).all():
        largest = max(np.abs(b.columns[name].astype(float)).max() for b in table.blocks([name]))
        what = f"has values up to {largest:.4g}, too large to standardise; rescale it"
        raise fault(table.path, name, what)
    sample, cycles = summary.sample, ()
    if table.kind(name).startswith("date"):
        d = 2 if std[1] > 0 else 1  # without a time of day the days are enough
        mean, std, sample = mean[:d], std[:d], sample[:, :d]
        cycles = dates.varying(sample[~np.isnan(sample).any(axis=1)])
    std = np.where(std > 0, std, 1.0)
    return Column(
        name,
        tuple(mean.tolist()),
        tuple(std.tolist()),
        kind=table.kind(name),
        fill=_medians(sample, mean),
        missing=tuple(np.flatnonzero(summary.absent).tolist()),
        bins=_bins(sample) if binned else (),
        cycles=cycles,
    )


def _medians(sample: np.ndarray, mean: np.ndarray) -> tuple[float, ...]:
    """Return the median of each number of a sample (N, D), or its mean if none is sampled."""
    if sample.dtype.kind != "f" or not np.isnan(sample).any():
        return tuple(np.median(sample, axis=0).tolist())
    columns = [column[~np.isnan(column)] for column in sample.T]
    pairs = zip(columns, mean.tolist(), strict=True)
    return tuple(float(np.median(c)) if len(c) else other for c, other in pairs)


def _bins(sample: np.ndarray) -> tuple[tuple[int, float, float], ...]:
    """Return the bins between the distinct quantiles of each number of a sample (N, D)."""
    bins = []
    for place, column in enumerate(sample.T):
        known = column[~np.isnan(column)].astype(float)
        edges = np.unique(np.quantile(known, np.linspace(0, 1, BINS + 1)) if len(known) else known)
        if len(edges) > 2:  # one bin is what the standardised number is
            bins += [(place, *pair) for pair in pairwise(edges.tolist())]
    return tuple(bins)


def _categories(table: Source, name: str, summary: Summary, *, is_target: bool) -> Column:
    """Return a column of categories: the distinct texts, or the distinct numbers as texts."""
    kind, distinct = table.kind(name), summary.distinct
    if distinct is None:
        texts = set(summary.texts)
    elif (numbers := distinct.found) is None:
        raise too_many(table.path, name)
    else:
        rounded = numbers.dtype.kind in "iu" and isinstance(table, Store)
        if rounded and max(abs(int(number)) for number in numbers) >= EXACT:
            what = f"must hold integers below {EXACT:,} to be categories of a table on disk"
            raise fault(table.path, name, f"{what}; write them as text")
        texts = {str(text) for text in category_texts(numbers, kind.split()[0])}
    if is_target and len(texts) > _most_categories(table):
        what = f"has {len(texts)} distinct categories in {table.num_rows} rows"
        advice = "choose another target, or `task` regression if it is a quantity"
        raise fault(table.path, name, f"{what}; {advice}")
    missing = (0,) if summary.absent.any() else ()
    return Column(name, categories=tuple(sorted(texts)), kind=kind, missing=missing)
