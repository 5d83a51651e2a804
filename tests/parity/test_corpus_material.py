"""The corpus of real bugs, without the harness: a repaired port is equal in float64.

Each reference is run by torch alone, each port by JAX alone, on the reference's own parameters.
"""

import functools
import re

import jax
import numpy as np
import optax
import pytest
import torch
from corpus import BUGS
from corpus.bug import (
    batch_at,
    make_loss,
    make_params,
    make_port,
    make_reference,
    usual_layout,
)
from flax import nnx

from jaxnet import parity

STAGES = ["forward", "loss", "gradient", "buffers", "parameters"]
STEPS = 3
ROUNDING = 1e-10  # of float64, relative to a stage's largest value
SMALLEST = 1e-7  # what float32 rounds, about: the bugs are larger, or not to be seen in training


def load(module, params):
    values = {name: torch.from_numpy(value.copy()) for name, value in params.items()}
    module.load_state_dict(module.state_dict() | values)


@functools.cache
def run_reference(source):
    """Return what torch computes: stage -> {name: array}, after STEPS steps for the parameters."""
    bug = BUGS[source]
    module = make_reference(bug)
    load(module, make_params(bug))
    optimizer = bug.optimizer(module.parameters())
    scheduler = bug.scheduler(optimizer) if bug.scheduler else None
    found = {}
    for step in range(STEPS):
        batch = {name: torch.from_numpy(value) for name, value in batch_at(bug, step).items()}
        prediction = bug.forward(module, batch)
        loss = bug.loss(prediction, batch)
        optimizer.zero_grad()
        loss.backward()
        if step == 0:
            found = {
                "forward": {"y_pred": prediction.detach().numpy()},
                "loss": {"loss": loss.detach().numpy()},
                "gradient": {
                    k: np.full(p.shape, np.nan) if p.grad is None else p.grad.numpy().copy()
                    for k, p in module.named_parameters()
                },
                "buffers": {k: b.numpy().copy() for k, b in module.named_buffers() if b.ndim},
            }
        if bug.clip:
            torch.nn.utils.clip_grad_norm_(module.parameters(), bug.clip)
        optimizer.step()
        if scheduler:
            scheduler.step()
    found["parameters"] = {k: p.detach().numpy() for k, p in module.named_parameters()}
    return found


def to_own(layout, leaves, params):
    """Return the port's leaves (an nnx state) with values from the reference's."""

    def take(entry):
        if isinstance(entry, str | tuple):
            return params[entry] if isinstance(entry, str) else params[entry[0]].transpose(entry[1])
        return parity.convert({name: params[name] for name in entry.names}, {"own": entry})["own"]

    flat = nnx.to_flat_state(leaves)
    return nnx.from_flat_state(
        [(path, leaf.replace(take(layout[name(path)]))) for path, leaf in flat]
    )


def name(path):
    return "/".join(map(str, path))


def values(leaves):
    return {name(path): np.asarray(leaf[...]) for path, leaf in nnx.to_flat_state(leaves)}


@functools.cache
def run_port(source, wrong):
    """Return what JAX computes and what it must be, both as stage -> {the port's leaf: array}."""
    bug = BUGS[source]
    module = make_port(bug, wrong)
    for _, part in nnx.iter_graph(module):
        if isinstance(part, nnx.Embed | nnx.GRUCell):  # made in float32, they would compute so
            part.dtype = part.param_dtype = np.float64
    graphdef, trained, stats, rest = nnx.split(module, nnx.Param, nnx.BatchStat, ...)
    layout = usual_layout(values(trained) | values(stats), bug.layout(wrong))
    loss, optimizer = make_loss(bug, wrong), bug.port_optimizer(wrong)

    def evaluate(trained, stats, batch):
        module = nnx.merge(graphdef, trained, stats, rest, copy=True)
        return loss(module, batch), nnx.state(module, nnx.BatchStat)

    @jax.jit
    def step(trained, stats, state, batch):
        module = nnx.merge(graphdef, trained, stats, rest, copy=True)
        prediction = bug.forward(module, batch)
        (value, stats), grads = jax.value_and_grad(evaluate, has_aux=True)(trained, stats, batch)
        updates, state = optimizer.update(grads, state, trained)
        return prediction, value, grads, optax.apply_updates(trained, updates), stats, state

    params = make_params(bug)
    want, got = dict(run_reference(source)), {}
    for stage, leaves in [("gradient", trained), ("buffers", stats), ("parameters", trained)]:
        want[stage] = values(to_own(layout, leaves, want[stage]))
    trained, stats = to_own(layout, trained, params), to_own(layout, stats, params)
    state = optimizer.init(trained)
    for i in range(STEPS):
        batch = batch_at(bug, i)
        prediction, value, grads, trained, stats, state = step(trained, stats, state, batch)
        if i == 0:
            got = {
                "forward": {"y_pred": prediction},
                "loss": {"loss": value},
                "gradient": values(grads),
                "buffers": values(stats),
            }
    return got | {"parameters": values(trained)}, want


def error(got, want):
    """Return the largest error of a stage, relative to the largest value in it.

    Not to the leaf's: the bias of an attention's keys has no gradient but rounding. A frozen leaf
    of the reference has no gradient: it is NaN here, and not compared.
    """
    assert set(got) == set(want)
    for leaf, value in want.items():
        assert np.shape(got[leaf]) == np.shape(value), leaf
        assert np.asarray(got[leaf]).dtype == np.float64, leaf
    want = {leaf: value for leaf, value in want.items() if not np.isnan(value).all()}
    largest = max((np.abs(value).max() for value in want.values()), default=1)
    return max((np.abs(got[leaf] - want[leaf]).max() for leaf in want), default=0) / largest


@pytest.mark.usefixtures("x64", "quick_compilation")
@pytest.mark.parametrize("source", BUGS)
def test_the_repaired_port_is_equal_in_every_stage(source):
    got, want = run_port(source, wrong=False)
    assert {stage: error(got[stage], want[stage]) for stage in STAGES} == pytest.approx(
        dict.fromkeys(STAGES, 0), abs=ROUNDING
    )


@pytest.mark.usefixtures("x64", "quick_compilation")
@pytest.mark.parametrize("source", BUGS)
def test_the_bug_shows_first_in_its_stage(source):
    got, want = run_port(source, wrong=True)
    errors = {stage: error(got[stage], want[stage]) for stage in STAGES}
    first = next(stage for stage in STAGES if errors[stage] > ROUNDING)
    assert first == BUGS[source].stage, errors
    assert errors[first] > SMALLEST


def test_sources_are_cited_once_and_told():
    assert len(BUGS) >= 24
    assert len({bug.story for bug in BUGS.values()}) == len(BUGS)
    for bug in BUGS.values():
        assert re.fullmatch(r"[\w-]+/[\w-]+#\d+", bug.source)
