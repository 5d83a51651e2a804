"""The corpus through `parity.check`: torch is the reference, Flax's port the candidate."""

import functools

import numpy as np
import torch
from flax import nnx

from corpus import BUGS
from corpus.bug import batch_at, make_loss, make_params, make_port, make_reference, usual_layout
from jaxnet import parity

STEPS = (1, 2)


@functools.cache
def reference(source: str) -> parity.Trajectory:
    """Return what torch computes, recorded once for the wrong port and the right one."""
    bug = BUGS[source]

    def clip(parameters):
        torch.nn.utils.clip_grad_norm_(parameters, bug.clip)

    made = parity.torch_participant(
        make_reference(bug),
        lambda module, batch: bug.loss(bug.forward(module, batch), batch),
        bug.optimizer,
        forward=bug.forward,
        clip=clip if bug.clip else None,
        scheduler=bug.scheduler,
    )
    case = parity.Case(
        source, make_params(bug), functools.partial(batch_at, bug), steps=STEPS, num_steps=2
    )
    made = parity.trajectory(made, case)
    return made._replace(losses=np.empty(0))  # so that no free run is compared


def check(source: str, wrong: bool) -> parity.Report:
    """Return the report of a bug's port, wrong or repaired."""
    bug = BUGS[source]
    module = make_port(bug, wrong)
    _, variables, _ = nnx.split(module, (nnx.Param, nnx.BatchStat), ...)
    leaves = {
        "/".join(map(str, path)): np.asarray(v[...]) for path, v in nnx.to_flat_state(variables)
    }
    candidate = parity.flax_participant(
        module,
        make_loss(bug, wrong),
        bug.port_optimizer(wrong),
        forward=bug.forward,
        layout=usual_layout(leaves, bug.layout(wrong)),
    )
    return parity.check(candidate, against=reference(source), tiers=("mathematics",))
