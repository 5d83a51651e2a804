"""The self-test's mistakes in the port of a torch module: caught, located and named."""

import pytest
import torch

from jaxnet import parity
from jaxnet.parity import module_plants, selftest

torch.set_num_threads(1)


READ_FROM_NUMBERS = {  # a recording cannot be replayed with a mistake in it
    "first operand of add, (4, 5), left out": "the output of the model has the values of the output"
    " of mix",
}


@pytest.fixture(scope="module")
def reference():
    return module_plants.make_reference()


def test_the_right_port_is_equal(reference):
    report = parity.check(module_plants.make_port(), against=reference)
    report.raise_for_mismatch()
    assert {leaf.stage for leaf in report.leaves} == {"forward", "loss", "gradient", "buffers"}


@pytest.mark.parametrize("plant", module_plants.PLANTS, ids=lambda plant: plant.name)
def test_a_mistake_in_a_module_is_caught_located_and_named(plant):
    (result,) = selftest.run(plant.name)
    assert result.caught
    located = result.report.located
    assert located is not None
    assert located.path == plant.layer
    assert result.named, str(result.report)


def test_a_recording_of_a_module_locates_the_layer_without_it(reference, tmp_path):
    participant = reference.reference
    parity.record(tmp_path / "module.npz", participant, reference.case)
    recorded = parity.load(tmp_path / "module.npz")
    assert recorded.reference is None
    parity.check(module_plants.make_port(), against=recorded).raise_for_mismatch()
    for plant in module_plants.PLANTS:
        live = parity.check(module_plants.make_port(**plant.change), against=reference)
        report = parity.check(module_plants.make_port(**plant.change), against=recorded)
        assert live.located is not None
        assert report.located is not None
        assert report.located.path == live.located.path == plant.layer, plant.name
        assert report.cause in ("unknown", READ_FROM_NUMBERS.get(plant.name)), plant.name
        assert report.remedy
