"""The recordings are what the installed torch does, live, at the tutorial's own sizes."""

import pytest
from helpers import HYPERPARAMETERS, STAGES, assert_close, assert_losses_close
from record_torch import run_optimizer, run_stage
from test_recorded import FIFTY_STEPS, TUTORIAL, by_net, recording

from jaxnet import torch_net

pytestmark = pytest.mark.usefixtures("x64")

VARIANTS = {name: (name, {}) for name in torch_net.OPTIMIZERS} | HYPERPARAMETERS


@pytest.mark.parametrize("name", STAGES)
def test_torchs_five_hundred_losses_are_the_recorded_and_nets(name):
    live = run_stage(name, "tutorial")
    assert_losses_close(live["losses"], recording("stages_tutorial.npz", name)[0], TUTORIAL)
    last, losses = by_net(name, "tutorial")
    assert_losses_close(losses, live.pop("losses"), TUTORIAL)
    assert_close(last, live, TUTORIAL)


@pytest.mark.parametrize("name", STAGES)
def test_a_recorded_stage_in_small_is_not_stale(name):
    live = run_stage(name, "small")
    want_losses, want = recording("stages_small.npz", name)
    assert_losses_close(live.pop("losses"), want_losses, FIFTY_STEPS)
    assert_close(live, want, FIFTY_STEPS)


@pytest.mark.parametrize("variant", VARIANTS)
def test_a_recorded_optimizer_is_not_stale(variant):
    live = run_optimizer(*VARIANTS[variant])
    want_losses, want = recording("optimizers.npz", variant)
    assert_losses_close(live.pop("losses"), want_losses, FIFTY_STEPS)
    assert_close(live, want, FIFTY_STEPS)
