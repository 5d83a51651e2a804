"""Proof: are two programs the same function? Where do they part, and why?

    report = parity.check(candidate, against=reference, case=parity.Case(...))
    report.raise_for_mismatch()

A participant is made from a JAX loss and an optax optimizer, a Flax module, a torch module, NumPy
functions, or by hand. To import this package needs NumPy only.
"""

from jaxnet.parity.adapters.makers import flax_participant, jax_participant, torch_participant
from jaxnet.parity.checks import check
from jaxnet.parity.compare import Leaf
from jaxnet.parity.gradient import GradientReport, check_gradient
from jaxnet.parity.layers.calls import tap
from jaxnet.parity.layouts.convert import convert
from jaxnet.parity.layouts.expression import concatenate, leaf, stack
from jaxnet.parity.layouts.layout import with_layout
from jaxnet.parity.layouts.propose import propose_layout
from jaxnet.parity.loss_check import check_loss
from jaxnet.parity.participants import Participant, numpy_participant, oracle
from jaxnet.parity.points import Case
from jaxnet.parity.recording import Trajectory, load, record, trajectory
from jaxnet.parity.report import Cause, ParityError, Report

__all__ = [
    "Case",
    "Cause",
    "GradientReport",
    "Leaf",
    "ParityError",
    "Participant",
    "Report",
    "Trajectory",
    "check",
    "check_gradient",
    "check_loss",
    "concatenate",
    "convert",
    "flax_participant",
    "jax_participant",
    "leaf",
    "load",
    "numpy_participant",
    "oracle",
    "propose_layout",
    "record",
    "stack",
    "tap",
    "torch_participant",
    "trajectory",
    "with_layout",
]
