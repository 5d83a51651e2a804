"""Epochs of training on rows that stay on the disk: gathered for the next steps while the device
makes these.

The same training as `epochs.run`, which needs all rows on the device, to the same losses and bits.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxnet.engine.epochs import Best, Chunk
from jaxnet.train import Step, TrainState, scan_steps, take

BYTES = 2**24  # of a slab: the batches of some steps, or rows to evaluate


class Stream(NamedTuple):
    """Where a run's batches come from, and what is computed of them.

    step: a pytree, as `jax.tree_util.Partial` makes one. batches(start, stop): those of the steps
    start..stop, stacked, in host memory; put(batches): where `step` wants them. size: the steps of
    a slab. blocks: functions that each
    make a block of the validation rows. sums(params, block): scalars or small arrays, to be summed
    over the blocks; "loss", a scalar among them, is then divided by `num_rows`.
    """

    step: Step
    batches: Callable[[int, int], Any]
    put: Callable[[Any], Any]
    size: int
    sums: Callable[[Any, Any], dict[str, jax.Array]]
    blocks: list[Callable[[], Any]]
    num_rows: int


def run(
    stream: Stream,
    state: TrainState,
    best: Best,
    parts: list[tuple[int, bool]],
    max_wait: int,
) -> Chunk:
    """Make the steps of the parts (`epochs.segments`), evaluating after each that says so; stop
    early once `max_wait` evaluations in a row have found no lower loss. `state` is donated.
    """
    losses: list[tuple[jax.Array, int]] = []
    evaluations: list[dict[str, np.ndarray]] = []
    slabs = list(_slabs(int(state.step), parts, stream.size))
    batches = _ahead([partial(_padded, stream, start, stop) for start, stop, _ in slabs])
    for (start, stop, ends), slab in zip(slabs, batches, strict=True):
        state, of_slab = _make(stream.step, state, slab, stop - start, stream.size)
        losses.append((of_slab, stop - start))
        if ends:
            evaluations.append(evaluate(stream, state.params))
            best = _better(best, state.params, evaluations[-1]["loss"])
            if best.wait >= max_wait:
                break
    fetched = [np.asarray(of_slab)[:number] for of_slab, number in losses]
    stacked = {name: np.stack([e[name] for e in evaluations]) for name in (evaluations or [{}])[0]}
    return Chunk(state, best, np.concatenate(fetched), stacked)


def evaluate(stream: Stream, params: Any) -> dict[str, np.ndarray]:
    """The sums over all validation rows, in float64; "loss" is their mean."""
    total: dict[str, np.ndarray] = {}
    for block in _ahead(stream.blocks):
        sums = jax.device_get(stream.sums(params, block))
        total = {
            name: total.get(name, 0) + np.asarray(value, float) for name, value in sums.items()
        }
    return total | {"loss": total["loss"] / stream.num_rows}


def _slabs(first: int, parts: list[tuple[int, bool]], size: int) -> Iterator[tuple[int, int, bool]]:
    """Cut the parts into slabs: first step, last step, and whether an evaluation follows."""
    for length, ends in parts:
        for start in range(first, first + length, size):
            stop = min(start + size, first + length)
            yield start, stop, ends and stop == first + length
        first += length


def _ahead(jobs: Iterable[Callable[[], Any]]) -> Iterator[Any]:
    """Yield what the jobs return, each begun while the one before is in use."""
    double = jax.dtypes.canonicalize_dtype("float64") == "float64"  # each thread has its own

    def run_job(job):
        with jax.enable_x64(double):
            return job()

    with ThreadPoolExecutor(1) as pool:
        waiting: Future | None = None
        for job in jobs:
            begun = pool.submit(run_job, job)
            if waiting is not None:
                yield waiting.result()
            waiting = begun
        if waiting is not None:
            yield waiting.result()


def _padded(stream: Stream, start: int, stop: int) -> Any:
    """The batches of the steps, filled up to a whole slab: one program serves all lengths."""

    def fill(leaf):
        whole = np.zeros((stream.size, *leaf.shape[1:]), leaf.dtype)
        whole[: len(leaf)] = leaf
        return whole

    batches = stream.batches(start, stop)
    return stream.put(batches if stop - start == stream.size else jax.tree.map(fill, batches))


@partial(jax.jit, static_argnames="capacity", donate_argnames="state")
def _make(step, state, batches, num_steps, capacity):
    losses = jnp.zeros(capacity, jax.eval_shape(step, state, take(batches, 0))[1].dtype)
    return scan_steps(step, state, losses, batches, 0, num_steps)


def _better(best: Best, params: Any, loss: np.ndarray) -> Best:
    """The best of the old and the new, which is copied, since the state will be donated."""
    if loss < best.loss:
        return Best(jax.tree.map(jnp.copy, params), float(loss), 0)
    return best._replace(wait=best.wait + 1)
