"""The self-test's mistakes in the port of a torch module: caught, located and named."""

import pytest
import torch

from jaxnet import parity
from jaxnet.parity import module_plants, selftest

torch.set_num_threads(1)


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
