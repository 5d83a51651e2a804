"""The tutorial's programs: every implementation equals the oracle of its own ReLU rule."""

import functools

import numpy as np
import pytest

from jaxnet.parity import tutorial
from jaxnet.parity.limits import MATHEMATICS, PRECISION
from jaxnet.parity.recording import free_run, trajectory
from jaxnet.parity.tutorial import PROGRAMS

pytestmark = pytest.mark.usefixtures("quick_compilation")

SIZES = (8, 13, 11, 5)
PROBES = {"ties", "dead units", "large", "tiny"}
SLOTS = {"sgd": set(), "momentum": {"momentum"}, "adam": {"m", "v"}}


@functools.cache
def reports(name):
    """Each program is run once for all tests."""
    return list(tutorial.run(name, SIZES, num_steps=10))


@pytest.mark.parametrize("name", PROGRAMS)
def test_every_implementation_of_a_program_equals_the_oracle(name):
    found = reports(name)
    assert [report.verdict for report in found] == ["equal"] * len(found), "\n".join(
        str(report) for report in found if report.verdict != "equal"
    )
    names = " ".join(report.candidate for report in found)
    assert all(kind in names for kind in ("jax relu", "jax custom_vjp", "flax"))
    assert ("torch" in names) or not tutorial.has_torch()
    assert all(report.n_compared > 1000 for report in found)


@pytest.mark.parametrize("name", PROGRAMS)
def test_every_kind_of_number_is_compared_in_both_tiers(name):
    slots = SLOTS[PROGRAMS[name].optimizer]
    wanted = {"forward", "loss", "gradient", "parameters"} | ({"optimizer"} if slots else set())
    layers = set(PROGRAMS[name].spec(SIZES).init(0))
    for report in reports(name):
        for tier, more in ((MATHEMATICS, {"free run"}), (PRECISION, set())):
            leaves = [leaf for leaf in report.leaves if leaf.tier == tier]
            assert {leaf.stage for leaf in leaves} == wanted | more
            assert {leaf.leaf for leaf in leaves if leaf.stage == "gradient"} == layers
            assert {leaf.leaf for leaf in leaves if leaf.stage == "optimizer"} == {
                f"{slot}/{layer}" for slot in slots for layer in layers
            }
            assert {leaf.probe for leaf in leaves} == PROBES | {""}
            locked = {leaf.step for leaf in leaves if leaf.stage != "free run"}
            assert locked == {1, 2, 3, 10}
        assert not report.left_out


@pytest.mark.parametrize("name", PROGRAMS)
def test_drift_is_reported_beside_a_shadow_of_the_reference(name):
    for report in reports(name):
        candidate, shadow = report.drift
        assert candidate == report.candidate
        assert shadow.startswith("shadow of ")
        for by_step in report.drift.values():
            # 2e-4: far above what float32 reaches in 10 steps, far below a wrong implementation
            assert all(0 <= by_step[step] < 2e-4 for step in (1, 10))


@pytest.mark.parametrize("name", PROGRAMS)
def test_a_shadow_is_the_reference_but_rounds_otherwise(name):
    reference = tutorial.in_numpy(PROGRAMS[name], SIZES)
    case = tutorial.make_case(PROGRAMS[name], SIZES, (1,), 20)
    own, shadow = free_run(reference, case, "float32"), trajectory(reference, case).shadow
    assert (own != shadow).any()
    np.testing.assert_allclose(shadow, own, rtol=1e-5)  # 20 steps, 6e-8 of rounding in each


@pytest.mark.parametrize("name", PROGRAMS)
def test_probes_reach_what_random_data_do_not(name):
    case = tutorial.make_case(PROGRAMS[name], SIZES)
    params, batch = case.probes["ties"]
    h = batch.x @ params["w1"]
    assert not h[0].any()  # a row of zeros
    assert not h[:, 0].any()  # a unit that is 0 for every row
    assert set(case.probes) == PROBES
    params, batch = case.probes["dead units"]
    assert (batch.x @ params["w1"] + params.get("b1", 0) <= 0).all()
    assert not (case.batch_at(0).x @ case.params["w1"] == 0).any()


def test_the_dynamic_network_is_compared_at_every_depth():
    case = tutorial.make_case(PROGRAMS["dynamic"], SIZES)
    assert {int(case.batch_at(i).repeats) for i in range(20)} == {0, 1, 2, 3}


def test_an_unknown_program_is_refused():
    with pytest.raises(ValueError, match=r"`program` must be one of tensors, sequential, .*'lstm'"):
        next(tutorial.run("lstm", SIZES))


@pytest.mark.parametrize("sizes", [(0, 13, 11, 5), (8, 13, 11), (8, 0, 11, 5), (8, 13, 11, -5)])
def test_sizes_that_are_no_network_are_refused(sizes):
    with pytest.raises(ValueError, match=r"`sizes` must be"):
        next(tutorial.run("tensors", sizes))


def test_a_run_without_steps_is_refused():
    with pytest.raises(ValueError, match="`num_steps` must be at least 1, got 0"):
        next(tutorial.run("tensors", SIZES, num_steps=0))
