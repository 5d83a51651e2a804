"""A row compared with torch: its JAX code is the same function, the trap's code is not."""

import re
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np

from jaxnet import parity
from jaxnet.parity.compare import Leaf
from jaxnet.parity.limits import MATHEMATICS, RELATIVE
from phrasebook import jax_side
from phrasebook.reference import Reference
from phrasebook.row import Row

PLACES = {  # the stage of a difference -> how it is named; {} is the place in a leaf
    "forward": "`{}`",
    "loss": "`y`",
    "gradient": "the gradient of `{}`",
    "buffers": "`{}` after the call",
    "parameters": "`{}`",
    "optimizer": "`{}` of the optimizer's state",
}


def assert_equal(row: Row, reference: Reference) -> None:
    """Raise AssertionError, which names the difference, unless JAX's code is torch's function."""
    if isinstance(reference, list):
        different = unequal(jax_side.run(row, row.jax), reference)
        assert not different, different
    else:
        candidate = jax_side.participant(row, row.jax)
        report = parity.check(candidate, against=reference, tiers=(MATHEMATICS,))
        report.raise_for_mismatch()


def trap(row: Row, reference: Reference) -> str:
    """Return in words how the trap's code differs from torch, as measured.

    Raises: AssertionError if it does not differ, or does not raise what the row says.
    """
    if row.raises is None:
        text = _difference(row, reference)
        assert text, f"the trap of {row.slug} must differ from torch"
        return text
    try:
        _difference(row, reference)
    except row.raises:
        return f"raises `{row.raises.__name__}`"
    raise AssertionError(f"the trap of {row.slug} must raise {row.raises.__name__}")


def _difference(row: Row, reference: Reference) -> str:
    if isinstance(reference, list):
        return unequal(jax_side.run(row, row.naive), reference)
    # without a free run, and without a search for the cause, which the row tells
    candidate = replace(jax_side.participant(row, row.naive), layers=None)
    locked = reference._replace(reference=None, losses=np.zeros(0))
    try:
        report = parity.check(candidate, against=locked, tiers=(MATHEMATICS,))
    except ValueError as error:
        if shapes := re.search(r"has shape (\(.*\)), the reference's (\(.*\))", str(error)):
            return f"`y` has the shape {shapes[1]}, PyTorch's {shapes[2]}"
        raise
    return "" if report.first is None else _words(report.first)


def unequal(got: list[np.ndarray], want: list[np.ndarray]) -> str:
    """Return the first result that differs, in words; "" if all are equal."""
    if len(got) != len(want):
        return f"the number of arrays in `y` is {len(got)}, PyTorch's {len(want)}"
    for i, (g, w) in enumerate(zip(got, want, strict=True)):
        y = "`y`" if len(want) == 1 else f"`y[{i}]`"
        if g.shape != w.shape and "U" not in (g.dtype.kind, w.dtype.kind):
            return f"{y} has the shape {g.shape}, PyTorch's {w.shape}"
        if not _same(g, w):
            return "{} is {}, PyTorch's {}".format(y, *_texts(_values, g, w))
    return ""


def _same(got: np.ndarray, want: np.ndarray) -> bool:
    if got.dtype.kind == want.dtype.kind == "f":
        bar = RELATIVE * np.abs(want).max(initial=0)
        return np.allclose(got, want, rtol=0, atol=bar, equal_nan=True)
    return np.array_equal(got, want)


def _words(leaf: Leaf) -> str:
    path = leaf.leaf.removeprefix("y_pred/") if "/" in leaf.leaf else ""
    name = "y" if leaf.stage == "forward" else leaf.leaf
    index = [path, *map(str, leaf.index)] if path and name == "y" else map(str, leaf.index)
    index = ", ".join(index)
    place = PLACES[leaf.stage].format(f"{name}[{index}]" if index else name)
    step = f" after step {leaf.step}" if leaf.stage in ("parameters", "optimizer") else ""
    got, want = _texts(_number, leaf.got, leaf.want)
    return f"{place} is {got}{step}, PyTorch's {want}"


def _texts(write: Callable[[Any, int], str], got: Any, want: Any) -> tuple[str, str]:
    """Write two values with four digits, or as many as tell them apart."""
    pairs = ((write(got, digits), write(want, digits)) for digits in range(4, 18))
    return next(pair for pair in pairs if pair[0] != pair[1])


def _values(array: np.ndarray, digits: int) -> str:
    if array.dtype.kind != "f":
        return str(array.tolist())
    if array.ndim == 0:
        return _number(array, digits)
    return "[" + ", ".join(_values(part, digits) for part in array) + "]"


def _number(value: Any, digits: int) -> str:
    """Return a number with so many digits; what is nothing but rounding is 0."""
    return "0" if abs(value) < 1e-12 else f"{value:.{digits}g}"
