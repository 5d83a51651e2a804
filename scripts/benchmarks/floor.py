"""The floor of a step: its matrix products at the best speed measured, and its weights' traffic.

The products are those of forward and backward at exactly the step's shapes, alone, by NumPy, XLA
and PyTorch; the traffic is one read and one write of parameters and optimizer state, as one buffer
of that size updated in place. A measurement is the least of several tries.
"""

from __future__ import annotations

import functools
import time
from collections.abc import Callable
from itertools import pairwise
from typing import Any

import numpy as np

from .workloads import Workload

TRY_SECONDS = 0.02  # a try repeats what it measures for so long
TRIES = 3
STATES = {"sgd": 1, "adam": 3}  # arrays shaped like the parameters that a step reads and writes

Product = tuple[int, int, int, str]  # m, k, n, and which operand is held transposed


def products(workload: Workload) -> list[Product]:
    """The (m, k) @ (k, n) of a step, layer by layer: forward, weights' gradient, inputs'."""
    found: list[Product] = []
    rows = workload.step_rows
    for k, (fan_in, fan_out) in enumerate(pairwise(workload.sizes)):
        found.append((rows, fan_in, fan_out, ""))
        found.append((fan_in, rows, fan_out, "left"))
        if k > 0:
            found.append((rows, fan_out, fan_in, "right"))
    return found


def traffic_bytes(workload: Workload) -> int:
    """The bytes of parameters and optimizer state."""
    number = sum(int(np.prod(shape)) for shape in workload.spec.shapes().values())
    return 4 * number * STATES[workload.optimizer] * max(1, workload.members)


def flops(workload: Workload) -> int:
    """Floating-point operations of the products."""
    return max(1, workload.members) * sum(2 * m * k * n for m, k, n, _ in products(workload))


def least(function: Callable[[int], Any]) -> float:
    """Seconds of one of function(n)'s n repeats, the least of several tries."""
    number, best = 1, float("inf")
    while True:
        spent = _seconds(function, number)
        if spent >= TRY_SECONDS / 4:
            break
        number *= 4
    number = max(1, round(number * TRY_SECONDS / spent))
    for _ in range(TRIES):
        best = min(best, _seconds(function, number) / number)
    return best


def _seconds(function: Callable[[int], Any], number: int) -> float:
    began = time.perf_counter()
    function(number)
    return time.perf_counter() - began


def operands(workload: Workload, product: Product) -> tuple[np.ndarray, np.ndarray]:
    """Random operands in the layout that the step has them in; of a sweep, the members first."""
    m, k, n, transposed = product
    lead = (workload.members,) if workload.members else ()
    rng = np.random.default_rng(0)

    def draw(rows, columns, turned):
        shape = (columns, rows) if turned else (rows, columns)
        values = rng.standard_normal((*lead, *shape), dtype=np.float32)
        return values.swapaxes(-1, -2) if turned else values

    return draw(m, k, transposed == "left"), draw(k, n, transposed == "right")


def by_numpy(workload: Workload) -> Callable[[], dict[str, Any]]:
    """NumPy and its BLAS, which has float32 only."""
    buffer = np.ones(traffic_bytes(workload) // 4, np.float32)

    def product(a, b):
        out = np.matmul(a, b)

        def repeat(number):
            for _ in range(number):
                np.matmul(a, b, out=out)

        return repeat

    def traffic(number):
        for _ in range(number):
            np.add(buffer, 1, out=buffer)

    return _measure(workload, product, traffic)


def by_torch(workload: Workload) -> Callable[[], dict[str, Any]]:
    """PyTorch and its BLAS."""
    import torch

    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    dtype = getattr(torch, workload.dtype)
    wait = torch.cuda.synchronize if device.type == "cuda" else lambda: None
    buffer = torch.ones(traffic_bytes(workload) // 4, device=device)

    def product(a, b):
        a, b = (torch.from_numpy(value).to(device, dtype) for value in (a, b))
        out = torch.matmul(a, b)

        def repeat(number):
            for _ in range(number):
                torch.matmul(a, b, out=out)
            wait()

        return repeat

    def traffic(number):
        for _ in range(number):
            buffer.add_(1)
        wait()

    return _measure(workload, product, traffic)


def by_xla(workload: Workload) -> Callable[[], dict[str, Any]]:
    """XLA, one call of the device for all repeats."""
    import jax
    import jax.numpy as jnp
    from jax import lax

    from jaxnet.engine import epochs

    buffer = jnp.ones(traffic_bytes(workload) // 4, jnp.float32)
    options = dict(epochs.compiler_options(workload.dtype, jax.default_backend()))

    @functools.partial(jax.jit, compiler_options=options)
    def products_of(a, b, turned_a, turned_b, number):
        a = a.swapaxes(-1, -2) if turned_a.shape else a
        b = b.swapaxes(-1, -2) if turned_b.shape else b

        def one(_, carry):
            a, b, out = lax.optimization_barrier(carry)  # each product is made anew
            del out
            return a, b, a @ b

        return lax.fori_loop(0, number, one, (a, b, a @ b))[2]

    @jax.jit
    def updates_of(buffer, number):
        return lax.fori_loop(0, number, lambda _, a: lax.optimization_barrier(a) + 1, buffer)

    def product(a, b):
        # an array (1,) stands for a transposed operand: the program reads it as it is held
        turned = [np.zeros(() if value.flags.c_contiguous else 1) for value in (a, b)]
        held = [v.swapaxes(-1, -2) if t.shape else v for v, t in zip((a, b), turned, strict=True)]
        x, y = (jnp.asarray(value, workload.dtype) for value in held)
        return lambda number: products_of(x, y, *turned, number).block_until_ready()

    return _measure(workload, product, lambda n: updates_of(buffer, n).block_until_ready())


def _measure(workload, product: Callable, traffic: Callable) -> Callable[[], dict[str, Any]]:
    repeats = [product(*operands(workload, each)) for each in products(workload)]

    def measure():
        return {"products": [least(repeat) for repeat in repeats], "traffic": least(traffic)}

    return measure


BACKENDS: dict[str, Callable[[Workload], Callable[[], dict[str, Any]]]] = {
    "numpy": by_numpy,
    "xla": by_xla,
    "torch": by_torch,
}
NEEDS = {"numpy": "numpy", "xla": "jax", "torch": "torch"}
