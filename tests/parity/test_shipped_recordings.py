"""The shipped recordings are what the installed torch does."""

import numpy as np
import pytest

from jaxnet.parity import tutorial
from jaxnet.parity.points import Point
from jaxnet.parity.recording import load

# Both are float64, of the same release: another CPU may sum in another order, no more than that.
RELATIVE = 1e-12


@pytest.fixture(scope="module")
def again(tmp_path_factory):
    """Every program recorded once more."""
    folder = tmp_path_factory.mktemp("recordings")
    tutorial.record_all(folder)
    return folder


def assert_near(got, want, where):
    got, want = np.asarray(got, float), np.asarray(want, float)
    assert got.shape == want.shape, where
    assert np.abs(got - want).max(initial=0) <= RELATIVE * np.abs(want).max(initial=0), where


@pytest.mark.parametrize("name", tutorial.PROGRAMS)
def test_recording_again_reproduces_the_shipped_inputs_and_outputs(name, again):
    shipped, made = load(tutorial.RECORDINGS / f"{name}.npz"), load(again / f"{name}.npz")
    assert (made.name, made.case.name, made.case.steps) == (
        shipped.name,
        shipped.case.name,
        shipped.case.steps,
    )
    assert_near(made.losses, shipped.losses, "losses")
    assert len(made.points) == len(shipped.points)
    for new, old in zip(made.points, shipped.points, strict=True):
        assert (new.tier, new.step, new.probe) == (old.tier, old.step, old.probe)
        for group in ("params", "state", "grads", "want"):
            assert_group_near(new, old, group)
        assert_near(new.batch.x, old.batch.x, "x")
        assert_near(new.batch.y, old.batch.y, "y")


def assert_group_near(new: Point, old: Point, group: str):
    got, want = getattr(new, group), getattr(old, group)
    assert list(got) == list(want)
    for key in want:
        assert_near(got[key], want[key], (new.tier, new.step, new.probe, group, key))
