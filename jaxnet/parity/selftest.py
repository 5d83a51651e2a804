"""The self-test: known mistakes are planted in JAX and Flax, and must be caught and named."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

from jaxnet import data
from jaxnet.parity.checks import check
from jaxnet.parity.limits import PRECISION
from jaxnet.parity.plants import plants
from jaxnet.parity.points import Case
from jaxnet.parity.report import Report
from jaxnet.parity.tutorial import has_torch, make_probes
from jaxnet.spec import Spec


class Result(NamedTuple):
    """What became of a planted mistake: `named` is whether the diagnosis gave its name.

    Of a mistake in a module, also whether it gave its layer.
    """

    name: str
    caught: bool
    named: bool
    cause: str
    seen_in_float32: bool
    report: Report


def run(name: str | None = None) -> Iterator[Result]:
    """Plant each mistake in turn (or the one of that name) and report what became of it.

    With PyTorch installed, also mistakes in the port of a torch module to Flax.
    """
    for plant in plants():
        if name is None or plant.name == name:
            assert plant.reference.plan is not None
            report = check(
                plant.candidate, against=plant.reference, case=make_case(plant.reference.plan.spec)
            )
            float32 = any(not leaf.equal and leaf.tier == PRECISION for leaf in report.leaves)
            named = report.cause.startswith(plant.name)
            caught = report.verdict != "equal"
            yield Result(plant.name, caught, named, report.cause, float32, report)
    if has_torch():
        yield from _in_modules(name)


def _in_modules(name: str | None) -> Iterator[Result]:
    from jaxnet.parity import module_plants

    reference = module_plants.make_reference()
    for plant in module_plants.PLANTS:
        if name is None or plant.name == name:
            report = check(module_plants.make_port(**plant.change), against=reference)
            float32 = any(not leaf.equal and leaf.tier == PRECISION for leaf in report.leaves)
            located = report.located is not None and report.located.path == plant.layer
            named = located and report.cause.startswith(plant.name)
            caught = report.verdict != "equal"
            yield Result(plant.name, caught, named, report.cause, float32, report)


def make_case(spec: Spec) -> Case:
    """Return data, parameters and probes for a network, which is applied twice if it is square."""
    batch = data.random_problem(spec, 6, seed=1, dtype="float64")
    params = spec.init(2, "float64")
    if len(spec.sizes) > 3:
        batch = batch._replace(repeats=np.int64(2))
    probes = make_probes(spec, params, batch)
    return Case("self-test", params, lambda _: batch, (1, 2, 3), 6, probes)
