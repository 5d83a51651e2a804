"""Real ports through `parity.check`: the right ones are equal, planted bugs located and named."""

import functools
from dataclasses import replace

import jax
import pytest
from ports import KINDS
from ports.checking import candidate, check, reference_run, trains

from jaxnet import parity

RIGHTS = {
    f"{name}: {right}": (name, change)
    for name, kind in KINDS.items()
    for right, change in {"right": {}, **kind.rights}.items()
}
BUGS = {f"{name}: {bug}": (name, bug) for name, kind in KINDS.items() for bug in kind.bugs}
UPDATED = ("parameters", "optimizer", "free run")
MATHEMATICS = ("mathematics",)

right = functools.cache(candidate)


def check_bug(name, planted):
    """The report of a bug in one tier; before the update at one step."""
    if not trains(planted):
        # for a single call it is quicker uncompiled; nnx.RNN must be compiled
        with jax.disable_jit(name not in ("LSTM", "GRU")):
            return check(name, planted.change, training=False, tiers=MATHEMATICS)
    bug = candidate(name, **planted.change)
    if planted.change.keys() == {"optimizer_"} and planted.stage != "free run":
        bug = replace(right(name), init=bug.init, update=bug.update, run=None)  # compiled once
    return parity.check(bug, against=reference_run(name), tiers=MATHEMATICS)


def place(report, planted):
    """The reference's layer at which a report puts a bug, as `Bug.where` has it."""
    if planted.stage in UPDATED and report.first is not None:
        leaf = report.first.leaf.rpartition("/")[2]
        return planted.where if planted.where in ("optimizer", leaf.partition(".")[0]) else leaf
    if report.located is None:
        return None
    layer = report.located.reference or report.located.layer
    layer = layer.partition("#")[0]
    return {"the model": "", "the loss function": "loss"}.get(layer, layer)


@pytest.mark.parametrize(("name", "change"), RIGHTS.values(), ids=RIGHTS)
def test_a_right_port_is_equal_in_every_stage(quick_compilation, name, change):
    report = check(name, change)
    assert report.verdict == "equal", report
    stages = {leaf.stage for leaf in report.leaves}
    buffers = {"buffers"} if name in ("convolution", "frozen") else set()
    state = {"optimizer"} if name != "LSTM" else set()  # plain SGD has none
    before = {"forward", "loss", "gradient"} | buffers
    assert stages == before | {"parameters", "free run"} | state


@pytest.mark.parametrize(("name", "bug"), BUGS.values(), ids=BUGS)
def test_a_planted_bug_is_found_at_its_layer_and_named(quick_compilation, name, bug):
    planted = KINDS[name].bugs[bug]
    report = check_bug(name, planted)
    assert report.verdict == "mismatch"
    assert report.first is not None
    stage = report.first.stage
    assert stage == planted.stage or (stage in UPDATED and planted.stage in UPDATED), report
    assert place(report, planted) == planted.where, report
    if planted.cause is None:
        assert report.cause in ("unknown", "ambiguous"), report
    else:
        assert planted.cause in report.cause, report
