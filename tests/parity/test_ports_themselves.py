"""The ports of `ports` are right, and each planted bug changes numbers, shown without `parity`."""

import functools

import pytest
from port_proof import STAGES, distances, port_run, torch_run
from ports import KINDS

STEPS = 5
RIGHTS = {
    f"{name}: {right}": (name, change)
    for name, kind in KINDS.items()
    for right, change in {"right": {}, **kind.rights}.items()
}
BUGS = {f"{name}: {bug}": (name, bug) for name, kind in KINDS.items() for bug in kind.bugs}

reference = functools.cache(lambda name, ties: torch_run(KINDS[name], STEPS, ties))


def measure(name, change, optimizing=True, ties=False):
    initial, want = reference(name, ties)
    port = KINDS[name].port(**change)
    batches = [KINDS[name].batch(i) for i in range(STEPS)]
    got = port_run(port, initial, batches, optimizing, ties)
    return distances(want, got, port.layout)


@pytest.mark.parametrize(("name", "change"), RIGHTS.values(), ids=RIGHTS)
def test_a_right_port_is_right(quick_compilation, name, change):
    found = measure(name, change)
    after = found.pop("optimizer")
    assert max(found.values()) < 1e-12, found  # float64, small sums
    assert after < 1e-9  # Adam divides a gradient that is rounding only by its epsilon of 1e-8


@pytest.mark.parametrize(("name", "bug"), BUGS.values(), ids=BUGS)
def test_a_planted_bug_changes_its_stage_first(quick_compilation, name, bug):
    planted = KINDS[name].bugs[bug]
    optimizing = planted.where == "optimizer" or planted.stage == "parameters"
    found = measure(name, planted.change, optimizing, planted.ties)
    stage = {"parameters": "optimizer"}.get(planted.stage, planted.stage)
    first = next((s for s in STAGES if found[s] > 1e-9), None)
    assert first == stage, found
