"""Epochs of training on rows that stay on the disk, read for the next steps while the device works.

The same training as `epochs.run`, which needs all rows on the device, to the same bits.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from typing import Any, NamedTuple

import jax
import numpy as np

from jaxnet.engine.epochs import (
    Best,
    Chunk,
    CompilerOptions,
    compiled,
    empty_losses,
    judge,
    make_steps,
)
from jaxnet.train import Step, TrainState

BYTES = 2**24  # of a slab: the batches of some steps, or rows to evaluate


_judge = jax.jit(judge)


class Stream(NamedTuple):
    """Where a run's batches come from, and what is computed of them.

    step: a pytree, as `jax.tree_util.Partial` makes one. batches(start, stop): those of the steps
    start..stop, stacked, in host memory; put(batches): where `step` wants them. size: the steps of
    a slab. blocks: functions that each read a block of the validation rows. sums(params, block):
    scalars or small arrays, summed over the blocks; "loss", a scalar among them, is then divided by
    "count", or by `num_rows` where there is none. options: as `epochs.compiler_options`.
    """

    step: Step
    batches: Callable[[int, int], Any]
    put: Callable[[Any], Any]
    size: int
    sums: Callable[[Any, Any], dict[str, jax.Array]]
    blocks: list[Callable[[], Any]]
    num_rows: int
    options: CompilerOptions = ()


def run(
    stream: Stream, state: TrainState, best: Best, segments: list[tuple[int, bool]], max_wait: int
) -> Chunk:
    """Make the steps of the segments, as `epochs.run`; `state` is donated."""
    program = compiled(_make, ("state",), stream.options)
    losses: list[tuple[jax.Array, int]] = []
    evaluations: list[dict[str, Any]] = []
    slabs = list(_slabs(int(state.step), segments, stream.size))
    batches = _ahead(partial(_padded, stream, start, stop) for start, stop, _ in slabs)
    for (start, stop, ends), slab in zip(slabs, batches, strict=True):
        state, of_slab, finite = program(stream.step, state, slab, stop - start, stream.size)
        best = best._replace(finite=best.finite & finite)
        losses.append((of_slab, stop - start))
        if ends:
            values = _evaluate(stream, state.params)
            best = _judge(best, state.params, values["loss"], max_wait)
            evaluations.append(jax.device_get(values | {"wait": best.wait, "finite": best.finite}))
            if best.wait >= max_wait:
                break
    fetched = [np.asarray(of_slab)[:number] for of_slab, number in losses]
    stacked = {name: np.stack([e[name] for e in evaluations]) for name in (evaluations or [{}])[0]}
    return Chunk(state, best, np.concatenate(fetched), stacked)


def _slabs(first: int, segments: list, size: int) -> Iterator[tuple[int, int, bool]]:
    """Cut the segments into slabs: first step, last step, and whether an evaluation follows."""
    for length, ends in segments:
        for start in range(first, first + length, size):
            stop = min(start + size, first + length)
            yield start, stop, ends and stop == first + length
        first += length


def _make(step, state, batches, num_steps, capacity):
    losses = empty_losses(step, state, batches, capacity)
    return make_steps(step, state, losses, batches, 0, num_steps)


def _padded(stream: Stream, start: int, stop: int) -> Any:
    """The batches of the steps, filled up to a whole slab: one program serves all lengths."""

    def fill(leaf):
        whole = np.zeros((stream.size, *leaf.shape[1:]), leaf.dtype)
        whole[: len(leaf)] = leaf
        return whole

    batches = stream.batches(start, stop)
    return stream.put(batches if stop - start == stream.size else jax.tree.map(fill, batches))


def _evaluate(stream: Stream, params: Any) -> dict[str, np.ndarray]:
    """The sums over all validation rows, in float64; "loss" is their mean."""
    sums = (jax.device_get(stream.sums(params, block)) for block in _ahead(stream.blocks))
    total = jax.tree.map(lambda *leaves: sum(leaf.astype(float) for leaf in leaves), *sums)
    return total | {"loss": total["loss"] / total.pop("count", stream.num_rows)}


def _ahead(jobs: Iterable[Callable[[], Any]]) -> Iterator[Any]:
    """Yield what the jobs return, each begun while the result before it is in use."""
    double = jax.dtypes.canonicalize_dtype("float64") == "float64"  # each thread has its own

    def run_job(job):
        with jax.enable_x64(double):
            return job()

    with ThreadPoolExecutor(1) as pool:
        begun = (pool.submit(run_job, job) for job in jobs)
        for one, _ in itertools.pairwise(itertools.chain(begun, [Future()])):
            yield one.result()  # while the other of the pair is at work
