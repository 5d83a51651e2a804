"""What torch did, recorded: NumPy, JAX and Flax do the same, in float64, without torch."""

from functools import partial
from pathlib import Path

import numpy as np
import pytest
from flax import nnx
from helpers import (
    HYPERPARAMETERS,
    RATES,
    SIZES,
    STAGES,
    assert_close,
    assert_losses_close,
    jax_run,
    numpy_run,
    problem,
    stage_problem,
    undrawn,
)

from jaxnet import flax_net, net, numpy_net, optimizers
from jaxnet.spec import Spec

pytestmark = pytest.mark.usefixtures("x64")

FIFTY_STEPS = 1e-10  # float64: rounding of 1e-16 a step, amplified; 1e-12 is what is seen
TUTORIAL = 1e-8  # float64: 500 steps, in which the loss falls to 1e-13 of itself; at worst 7e-10


def recording(file, run):
    """Return the losses and the last parameters that torch had."""
    with np.load(Path(__file__).parent / "recordings" / file, allow_pickle=False) as arrays:
        assert str(arrays["torch"]).startswith("2.13.0")
        found = {key: arrays[key] for key in arrays.files if key.startswith(f"{run}/")}
    params = {key.removeprefix(f"{run}/"): value for key, value in found.items()}
    return params.pop("losses"), params


def by_numpy(name, size):
    stage = STAGES[name]
    spec, params, batch, depths = stage_problem(stage, size)
    optimizer = numpy_net.make_optimizer(stage.optimizer, stage.rates[size])
    return numpy_run(params, batch, depths, optimizer, activation=spec.activation)


def by_net(name, size):
    stage = STAGES[name]
    spec, params, batch, depths = stage_problem(stage, size)
    optimizer = optimizers.make(stage.optimizer, stage.rates[size])
    loss = partial(net.loss, activation=spec.activation)
    return jax_run(loss, params, batch, depths, optimizer)


def by_flax(name, size):
    stage = STAGES[name]
    spec, params, batch, depths = stage_problem(stage, size)
    d_in, hidden, d_out = spec.sizes[0], spec.sizes[1], spec.sizes[-1]
    make = {
        "sequential": lambda: flax_net.sequential(spec, rngs=nnx.Rngs(0)),
        "module": lambda: flax_net.TwoLayerNet(d_in, hidden, d_out, rngs=nnx.Rngs(0)),
        "dynamic": lambda: flax_net.DynamicNet(d_in, hidden, d_out, rngs=nnx.Rngs(0)),
    }[name]
    graphdef, split = nnx.split(flax_net.from_params(undrawn(make), params))
    optimizer = optimizers.make(stage.optimizer, stage.rates[size])
    last, losses = jax_run(flax_net.loss(graphdef), split, batch, depths, optimizer)
    return flax_net.to_params(nnx.merge(graphdef, last)), losses


RUNS = [
    (name, run)
    for name in STAGES
    for run in (by_numpy, by_net, by_flax)
    if (name, run) != ("tensors", by_flax)  # a stage without a module
]


@pytest.mark.usefixtures("quick_compilation")
@pytest.mark.parametrize(("name", "run"), RUNS)
def test_a_stage_in_small_is_torchs_in_losses_and_parameters(name, run):
    want_losses, want = recording("stages_small.npz", name)
    got, losses = run(name, "small")
    assert_losses_close(losses, want_losses, FIFTY_STEPS)
    assert_close(got, want, FIFTY_STEPS)


@pytest.mark.parametrize("name", STAGES)
def test_the_tutorials_five_hundred_losses_are_torchs(name):
    want, _ = recording("stages_tutorial.npz", name)
    assert len(want) == 500
    assert_losses_close(by_net(name, "tutorial")[1], want, TUTORIAL)


@pytest.mark.parametrize(("name", "run"), [case for case in RUNS if case[1] is not by_net])
def test_the_first_of_the_tutorials_losses_are_torchs_in_numpy_and_flax(name, run, monkeypatch):
    sizes, rows, _ = SIZES["tutorial"]
    monkeypatch.setitem(SIZES, "tutorial", (sizes, rows, 50))
    want, _ = recording("stages_tutorial.npz", name)
    assert_losses_close(run(name, "tutorial")[1], want[:50], TUTORIAL)


VARIANTS = {name: (name, {}) for name in optimizers.OPTIMIZERS} | HYPERPARAMETERS


@pytest.mark.usefixtures("quick_compilation")
@pytest.mark.parametrize("variant", VARIANTS)
def test_fifty_steps_of_an_optimizer_are_torchs(variant):
    name, options = VARIANTS[variant]
    want_losses, want = recording("optimizers.npz", variant)
    params, batch = problem(Spec((7, 5, 3), bias=True))
    rate, depths = RATES.get(name, 0.005), [None] * 50
    optimizer = optimizers.make(name, rate, **options)
    got, losses = jax_run(net.loss, params, batch, depths, optimizer)
    assert_losses_close(losses, want_losses, FIFTY_STEPS)
    assert_close(got, want, FIFTY_STEPS)
    if name not in ("rmsprop", "adagrad") or not options:  # the oracle has no options of these
        oracle = numpy_net.make_optimizer(name, rate, **options)
        got, losses = numpy_run(params, batch, depths, oracle)
        assert_losses_close(losses, want_losses, FIFTY_STEPS)
        assert_close(got, want, FIFTY_STEPS)
