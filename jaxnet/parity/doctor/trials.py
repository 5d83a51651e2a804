"""Compiled against NumPy: check one program, search at random, and shrink one that is wrong."""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import numpy as np

from jaxnet.parity.doctor import reference
from jaxnet.parity.doctor.programs import Program, draw

OP_BY_OP = 20  # one program of so many is run op by op, which takes as long as five compiled ones


class Wrong(NamedTuple):
    """A program that is wrong, in its worst leaf.

    error: the largest difference, as a share of the leaf's largest number. wrong of count: the
    numbers beyond rounding. compiled: whether it was compiled, or run op by op. other: whether it
    is right the other way.
    """

    program: Program
    leaf: str
    error: float
    wrong: int
    count: int
    compiled: bool = True
    other: bool | None = None


class Checked(NamedTuple):
    """What became of a program: the largest difference in limits, and what is wrong, if it is."""

    share: float
    wrong: Wrong | None


def check(program: Program, *, compiled: bool = True) -> Checked:
    """Compile and run a program, or run it op by op, and compare it with NumPy in float64."""
    got, args = run(program, compiled)
    want = reference.exact(program, args)
    found = _worst(program, got, want, reference.quick_limit(program, want))
    if found.wrong:
        limit = reference.limit(program, args, _coarse(program))
        found = _worst(program, got, want, limit)
    return found._replace(wrong=found.wrong and found.wrong._replace(compiled=compiled))


def run(program: Program, compiled: bool) -> tuple[reference.Leaves, Any]:
    """Return what a program gives, and its arguments."""
    import jax

    with program.settings():
        f, args = program.load()
        if compiled:
            return reference.named(jax.jit(f)(*args)), args
        with jax.disable_jit():
            return reference.named(f(*args)), args


def platform() -> str:
    """Return the platform that JAX computes on: cpu, gpu, tpu."""
    import jax

    return jax.default_backend()


def _coarse(program: Program) -> str | None:
    """What the operands of the program's products are rounded to on this device, if they are."""
    if program.products == "bfloat16":
        return "bfloat16"
    if program.dtype == "float64" or program.products == "highest":
        return None
    return {"cpu": None, "gpu": "tensorfloat32"}.get(platform(), "bfloat16")


def _worst(program: Program, got: reference.Leaves, want: reference.Leaves, limit: Any) -> Checked:
    """The worst leaf; a NaN where a number is wanted is infinitely far."""
    tiny = float(np.finfo(program.dtype).tiny)  # XLA flushes what is smaller to 0
    worst = Checked(-1.0, None)
    for name, leaf in want.items():
        difference = np.abs(got[name] - leaf)
        difference = np.where(np.isnan(difference), np.inf, difference)
        share = difference / (limit[name] + tiny)
        largest = float(share.max(initial=0))
        if largest > worst.share:
            wrong = None
            if largest > 1:
                error = float(difference.max() / max(np.abs(leaf).max(), tiny))
                wrong = Wrong(program, name, error, int((share > 1).sum()), leaf.size)
            worst = Checked(largest, wrong)
    return worst


def search(seconds: float, seed: int, say: Callable[[Program], None]) -> Iterator[Checked]:
    """Yield what became of programs at random until the time is over; `say` each one before."""
    rng, end = np.random.default_rng(seed), time.perf_counter() + seconds
    for i in itertools.count(1):
        if time.perf_counter() > end:
            return
        program = draw(rng, platform())
        say(program)
        yield check(program, compiled=i % OP_BY_OP != 0)


def shrink(wrong: Wrong, seconds: float, say: Callable[[Program], None]) -> Wrong:
    """Return the smallest program that is found wrong in that time, beginning from one that is."""
    end = time.perf_counter() + seconds
    tried = {wrong.program}

    def attempt(program: Program) -> bool:
        nonlocal wrong
        if program in tried or time.perf_counter() > end:
            return False
        tried.add(program)
        say(program)
        found = check(program, compiled=wrong.compiled).wrong
        wrong = found or wrong
        return found is not None

    before = None
    while before != wrong.program:
        before = wrong.program
        while any(attempt(program) for program in _simpler(wrong.program)):
            pass
        for i in range(-1, len(wrong.program.sizes)):
            low, high = 0, _size(wrong.program, i)
            while high - low > 1:
                middle = (low + high) // 2
                if attempt(_resized(wrong.program, i, middle)):
                    high = middle
                else:
                    low = middle
    return wrong


def _simpler(p: Program) -> Iterator[Program]:
    """Yield programs that are simpler in one respect, other than their sizes."""
    if p.form == "mapped":
        yield p._replace(form="network", members=1)
        yield p._replace(members=2)
    if p.form not in ("matvec", "constant"):
        for i in range(len(p.sizes) if len(p.sizes) > 2 + (p.form == "gram") else 0):
            yield p._replace(sizes=p.sizes[:i] + p.sizes[i + 1 :])
        yield p._replace(transposed=False)
        yield p._replace(bias=False)
        yield p._replace(products="default")
        if _coarse(p) is None:  # a ReLU's kink has no limit then
            yield p._replace(activation="relu")
        yield p._replace(loss="sum_squares")
    yield p._replace(seed=0)


def _size(p: Program, i: int) -> int:
    """A width, or for -1 the number of rows."""
    return p.rows if i < 0 else p.sizes[i]


def _resized(p: Program, i: int, size: int) -> Program:
    if i < 0:
        return p._replace(rows=size)
    return p._replace(sizes=(*p.sizes[:i], size, *p.sizes[i + 1 :]))
