"""Every mistake that is planted is caught and named; what is right is neither."""

import jax
import pytest

from jaxnet import optimizers
from jaxnet.parity import selftest
from jaxnet.parity.checks import check
from jaxnet.parity.compare import MATHEMATICS
from jaxnet.parity.participants import oracle

PLANTS = list(selftest.plants())
# The relative errors are 1e-7 and 1e-4 of a small step: float32 rounds more than that away.
BELOW_FLOAT32 = {"computed in float32", "weight decay 0.0001 (sgd)"}


def label(plant):
    """The name, with the optimizer where the name alone is planted twice."""
    twice = sum(other.name == plant.name for other in PLANTS) > 1
    reference = plant.reference.plan
    more = reference.optimizer if plant.name.startswith("weight") else reference.spec.activation
    return f"{plant.name} ({more})" if twice else plant.name


@pytest.fixture(autouse=True, scope="module")
def quick_compilation():
    """XLA's optimisations change no verdict, and take most of the time."""
    before = jax.config.read("jax_disable_most_optimizations")
    jax.config.update("jax_disable_most_optimizations", True)
    yield
    jax.config.update("jax_disable_most_optimizations", before)


def planted(monkeypatch, *plants):
    """What the self-test says of these plants alone."""
    monkeypatch.setattr(selftest, "plants", lambda: iter(plants))
    return list(selftest.run())


@pytest.mark.parametrize("plant", PLANTS, ids=label)
def test_a_planted_mistake_is_caught_and_named(plant, monkeypatch):
    (result,) = planted(monkeypatch, plant)
    assert result.caught
    assert result.named, f"{result.cause}\n{result.report}"
    assert result.report.causes[0].distance < 0.01  # the replay leaves under 1 % of the difference
    assert result.seen_in_float32 == (label(plant) not in BELOW_FLOAT32)
    assert any(not leaf.equal for leaf in result.report.leaves if leaf.tier == MATHEMATICS)


def test_the_labels_tell_the_plants_apart():
    labels = [label(plant) for plant in PLANTS]
    assert len(set(labels)) == len(labels)
    assert set(labels) > BELOW_FLOAT32


@pytest.mark.parametrize("spec", [selftest.PLAIN, selftest.TIED, selftest.SQUARE])
def test_a_right_candidate_is_not_diagnosed(spec, monkeypatch):
    right = selftest._candidate(spec, optimizers.sgd(selftest.RATE))
    reference = oracle(spec, "sgd", selftest.RATE)
    (result,) = planted(monkeypatch, selftest.Plant("none", reference, right))
    assert not result.caught
    assert not result.named
    assert (result.cause, list(result.report.causes)) == ("", [])


@pytest.mark.parametrize("name", ["momentum", "adam", "adamw"])
def test_a_right_optimizer_is_not_diagnosed(name):
    right = selftest._candidate(selftest.PLAIN, optimizers.make(name, selftest.RATE))
    reference = oracle(selftest.PLAIN, name, selftest.RATE)
    report = check(right, against=reference, case=selftest._case(selftest.PLAIN))
    assert (report.verdict, list(report.causes)) == ("equal", []), str(report)


def test_one_mistake_can_be_run_by_its_name():
    (result,) = selftest.run("stale order")
    assert result.name == "stale order"
    assert not list(selftest.run("no such mistake"))
