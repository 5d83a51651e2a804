"""Every mistake that is planted is caught and named; what is right is neither."""

import pytest

from jaxnet import optimizers
from jaxnet.parity import plants, selftest
from jaxnet.parity.checks import check
from jaxnet.parity.limits import MATHEMATICS
from jaxnet.parity.participants import oracle

pytestmark = pytest.mark.usefixtures("quick_compilation")

PLANTS = list(plants.plants())
# The relative errors are 1e-7 and 1e-4 of a small step: float32 rounds more than that away.
BELOW_FLOAT32 = {"computed in float32", "weight decay 0.0001 (sgd)"}


def label(plant):
    """The name, with the optimizer where the name alone is planted twice."""
    twice = sum(other.name == plant.name for other in PLANTS) > 1
    reference = plant.reference.plan
    more = reference.optimizer if plant.name.startswith("weight") else reference.spec.activation
    return f"{plant.name} ({more})" if twice else plant.name


def planted(monkeypatch, *plants):
    """What the self-test says of these plants alone."""
    monkeypatch.setattr(selftest, "plants", lambda: iter(plants))
    monkeypatch.setattr(selftest, "has_torch", lambda: False)
    return list(selftest.run())


@pytest.mark.parametrize("plant", PLANTS, ids=label)
def test_a_planted_mistake_is_caught_and_named(plant, monkeypatch):
    (result,) = planted(monkeypatch, plant)
    assert result.caught
    assert result.named, f"{result.cause}\n{result.report}"
    assert result.report.causes[0].distance < 0.01  # the replay leaves under 1 % of the difference
    assert result.seen_in_float32 == (label(plant) not in BELOW_FLOAT32)
    wrong = [leaf for leaf in result.report.leaves if not leaf.equal]
    assert any(leaf.tier == MATHEMATICS for leaf in wrong)
    if plant.name.startswith("ReLU derivative"):  # the rules differ at 0, and only there
        assert {leaf.probe for leaf in wrong} == {"ties"}


def test_the_labels_tell_the_plants_apart():
    labels = [label(plant) for plant in PLANTS]
    assert len(set(labels)) == len(labels)
    assert set(labels) > BELOW_FLOAT32


@pytest.mark.parametrize("spec", [plants.PLAIN, plants.SQUARE], ids=["plain", "square"])
def test_a_right_candidate_is_not_diagnosed(spec, monkeypatch):
    reference = oracle(spec, "sgd", plants.RATE)
    (result,) = planted(monkeypatch, plants.Plant("none", reference, plants.right_candidate()))
    assert not result.caught
    assert not result.named
    assert (result.cause, list(result.report.causes)) == ("", [])


@pytest.mark.parametrize("name", ["momentum", "adam", "adamw"])
def test_a_right_optimizer_is_not_diagnosed(name):
    right = plants.with_optimizer(optimizers.make(name, plants.RATE))
    reference = oracle(plants.PLAIN, name, plants.RATE)
    report = check(right, against=reference, case=selftest.make_case(plants.PLAIN))
    assert (report.verdict, list(report.causes)) == ("equal", []), str(report)


def test_one_mistake_can_be_run_by_its_name():
    (result,) = selftest.run("stale order")
    assert result.name == "stale order"
    assert not list(selftest.run("no such mistake"))
