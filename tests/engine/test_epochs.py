"""The rules of a training: the best epoch, patience, losses that are not finite."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxnet.engine.epochs import NEVER, Best, Chunk, evaluations_to_wait, judge, segments

NAN, INF = np.nan, np.inf

# validation losses -> (index of the best, evaluations until it stops, finite), with a wait of 2
CASES = {
    "falls": ([3.0, 2.0, 1.0], (2, None, True)),
    "waits": ([1.0, 2.0, 3.0, 0.5], (0, 3, True)),
    "equal is not lower": ([1.0, 1.0, 1.0, 0.5], (0, 3, True)),
    "recovers in time": ([2.0, 3.0, 1.0, 4.0], (2, None, True)),
    "nan ends": ([2.0, NAN, 1.0], (0, 2, False)),
    "infinite ends": ([2.0, INF, 1.0], (0, 2, False)),
    "nan from the first": ([NAN, 1.0], (None, 1, False)),
}


def judged(losses, judge=judge):
    """Index of the best, evaluations until it stops, and whether all before were finite."""
    best, stopped, finite = Best(jnp.full((2, 3), -1.0)), None, True
    for i, loss in enumerate(losses):
        best = judge(best, jnp.full((2, 3), float(i)), jnp.asarray(loss), 2)
        if stopped is None:
            finite = bool(best.finite)
            stopped = i + 1 if int(best.wait) >= 2 else None
    assert len(np.unique(best.params)) == 1
    at = int(best.params[0, 0])
    return None if at < 0 else at, stopped, finite


@pytest.mark.parametrize("case", CASES)
def test_the_best_stays_once_training_has_stopped(case):
    losses, wanted = CASES[case]
    assert judged(losses) == judged(losses, jax.jit(judge)) == wanted


def test_many_networks_are_judged_as_each_alone():
    table = np.array([losses[:2] + losses[-1:] for losses, _ in CASES.values()], "float32")
    best = Best(jnp.zeros((7, 2, 3)), jnp.full(7, INF), jnp.zeros(7, int), jnp.ones(7, bool))
    for i, losses in enumerate(table.T):
        best = judge(best, jnp.full((7, 2, 3), float(i)), jnp.asarray(losses), 2)
    for j, losses in enumerate(table):
        alone = Best(jnp.zeros((2, 3)))
        for i, loss in enumerate(losses):
            alone = judge(alone, jnp.full((2, 3), float(i)), jnp.asarray(loss), 2)
        for got, want in zip(best, alone, strict=True):
            np.testing.assert_array_equal(got[j], want)


def test_a_training_loss_that_was_not_finite_is_never_forgotten():
    best = judge(Best(jnp.zeros(3), finite=False), jnp.ones(3), jnp.asarray(0.5), NEVER)
    assert (int(best.wait), float(best.params.sum())) == (NEVER, 0)


def test_without_patience_a_run_waits_forever():
    best = Best(jnp.zeros(3), 1.0, NEVER - 2)
    for _ in range(3):
        best = judge(best, jnp.ones(3), jnp.asarray(2.0), evaluations_to_wait(None, 1))
    assert int(best.wait) == NEVER  # and has not become negative


@pytest.mark.parametrize(("patience", "every", "wait"), [(1, 1, 1), (5, 2, 3), (2, 3, 1)])
def test_patience_is_counted_in_evaluations(patience, every, wait):
    assert evaluations_to_wait(patience, every) == wait


@pytest.mark.parametrize(
    ("first", "stop", "wanted"),
    [
        (0, 9, [(4, True), (4, True), (1, False)]),
        (3, 4, [(1, True)]),
        (5, 10, [(3, True), (2, True)]),  # the last step of all
        (1, 2, [(1, False)]),
    ],
)
def test_segments_end_at_evaluations(first, stop, wanted):
    assert segments(first, stop, 4, 10) == wanted


def test_a_chunk_that_stopped_early_has_the_segments_that_were_made():
    chunk: Chunk = Chunk(None, None, np.arange(5.0), {"loss": np.array([7.0])})  # type: ignore[bad-argument-type]
    found = list(chunk.by_segment(10, [(2, False), (3, True), (4, True)]))
    assert [(stop, losses.tolist()) for stop, losses, _ in found] == [
        (12, [0.0, 1.0]),
        (15, [2.0, 3.0, 4.0]),
    ]
    assert [values for *_, values in found] == [None, {"loss": 7.0}]
