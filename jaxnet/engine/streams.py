"""Epochs of training on rows that stay on the disk, read for the next steps while the device works.

The same training as `epochs.run`, which needs all rows on the device, to the same bits.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from typing import Any, NamedTuple

import jax
import numpy as np

from jaxnet import files
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

BYTES = 2**24  # of a slab: the batches of some steps
AHEAD = 1  # slabs that are read while one is in use


_judge = jax.jit(judge)


class Slabs:
    """The batches of a run's steps, stacked, `size` steps at a time; the next are read while one is
    in use, whichever calls of `run` they belong to.

    batches(start, stop): those of the steps start..stop, in host memory; put(batches): where a step
    wants them. num_steps: of the whole run.
    """

    def __init__(
        self, batches: Callable[[int, int], Any], put: Callable, size: int, num_steps: int
    ):
        self.size, self._num_steps = size, num_steps
        self._batches, self._put = batches, put
        self._pool, self._begun = ThreadPoolExecutor(AHEAD), dict[int, Future]()

    def __getitem__(self, number: int) -> Any:
        """Return the slab of the steps from `number * size` on."""
        last = min(number + AHEAD, (self._num_steps - 1) // self.size)
        begun = self._begun
        self._begun = {
            n: begun.get(n) or self._pool.submit(_in_thread(partial(self._read, n)))
            for n in range(number, last + 1)
        }
        return self._begun[number].result()

    def _read(self, number: int) -> Any:
        """Read a slab, filled up if it is the last: one program serves all lengths."""
        start = number * self.size
        stop = min(start + self.size, self._num_steps)

        def fill(leaf):
            whole = np.zeros((self.size, *leaf.shape[1:]), leaf.dtype)
            whole[: len(leaf)] = leaf
            return whole

        batches = self._batches(start, stop)
        whole = stop - start == self.size
        return self._put(batches if whole else jax.tree.map(fill, batches))


class Stream(NamedTuple):
    """Where a run's batches come from, and what is computed of them.

    step: a pytree, as `jax.tree_util.Partial` makes one. blocks: functions that each read a block
    of the validation rows. sums(params, block): scalars or small arrays, summed over the blocks;
    "loss", a scalar among them, is then divided by "count", or by `num_rows` where there is none.
    options: as `epochs.compiler_options`.
    """

    step: Step
    slabs: Slabs
    sums: Callable[[Any, Any], dict[str, jax.Array]]
    blocks: list[Callable[[], Any]]
    num_rows: int
    options: CompilerOptions = ()


def run(
    stream: Stream, state: TrainState, best: Best, segments: list[tuple[int, bool]], max_wait: int
) -> Chunk:
    """Make the steps of the segments, as `epochs.run`; `state` is donated."""
    program = compiled(_make, ("state",), stream.options)
    losses: list[tuple[jax.Array, slice]] = []
    evaluations: list[dict[str, Any]] = []
    size = stream.slabs.size
    for start, stop, ends in _parts(int(state.step), segments, size):
        number, here = start // size, slice(start % size, start % size + stop - start)
        slab = stream.slabs[number]
        state, of_slab, finite = program(stream.step, state, slab, here.start, here.stop, size)
        best = best._replace(finite=best.finite & finite)
        losses.append((of_slab, here))
        if ends:
            values = _evaluate(stream, state.params)
            best = _judge(best, state.params, values["loss"], max_wait)
            evaluations.append(jax.device_get(values | {"wait": best.wait, "finite": best.finite}))
            if best.wait >= max_wait:
                break
    fetched = [np.asarray(of_slab)[here] for of_slab, here in losses]
    stacked = {name: np.stack([e[name] for e in evaluations]) for name in (evaluations or [{}])[0]}
    return Chunk(state, best, np.concatenate(fetched), stacked)


def _parts(first: int, segments: list, size: int) -> Iterator[tuple[int, int, bool]]:
    """Cut the segments where a slab ends: first step, last step, and whether an evaluation
    follows.
    """
    for length, ends in segments:
        end = first + length
        while first < end:
            stop = min(first // size * size + size, end)
            yield first, stop, ends and stop == end
            first = stop


def _make(step, state, batches, start, stop, capacity):
    losses = empty_losses(step, state, batches, capacity)
    return make_steps(step, state, losses, batches, start, stop)


def _evaluate(stream: Stream, params: Any) -> dict[str, np.ndarray]:
    """The sums over all validation rows, in float64; "loss" is their mean."""
    jobs = map(_in_thread, stream.blocks)
    sums = (jax.device_get(stream.sums(params, block)) for block in files.read_ahead(jobs))
    total = jax.tree.map(lambda *leaves: sum(leaf.astype(float) for leaf in leaves), *sums)
    return total | {"loss": total["loss"] / total.pop("count", stream.num_rows)}


def _in_thread(job: Callable[[], Any]) -> Callable[[], Any]:
    """Return the job with the precision of this thread, since each has its own."""
    double = jax.dtypes.canonicalize_dtype("float64") == "float64"

    def run_job():
        with jax.enable_x64(double):
            return job()

    return run_job
