"""The corpus through `parity.check`: torch is the reference, Flax's port the candidate."""

import functools
from dataclasses import replace

import numpy as np
import torch
from flax import nnx

from corpus import BUGS
from corpus.bug import batch_at, make_loss, make_params, make_port, make_reference, usual_layout
from jaxnet import parity


@functools.cache
def reference(source: str) -> parity.Trajectory:
    """Return what torch computes, for the wrong port and the repaired one."""
    bug = BUGS[source]

    def clip(parameters):
        assert bug.clip is not None
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
        source, make_params(bug), functools.partial(batch_at, bug), steps=(1, 2), num_steps=2
    )
    return parity.trajectory(made, case)._replace(losses=np.empty(0))  # no free run


@functools.cache
def port(source: str, wrong: bool) -> parity.Participant:
    bug, module = BUGS[source], make_port(BUGS[source], wrong)
    variables = nnx.to_flat_state(nnx.state(module, (nnx.Param, nnx.BatchStat)))
    leaves = {"/".join(map(str, path)): np.asarray(leaf[...]) for path, leaf in variables}
    return parity.flax_participant(
        module,
        make_loss(bug, wrong),
        bug.port_optimizer(wrong),
        forward=bug.forward,
        layout=usual_layout(leaves, bug.layout(wrong)),
    )


def check(source: str, wrong: bool) -> parity.Report:
    """Return the report of a bug's port; what the bug leaves alone is compiled once for both."""
    candidate, right, bug = port(source, wrong), port(source, False), BUGS[source]
    if bug.stage == "parameters":
        candidate = replace(right, init=candidate.init, update=candidate.update)
    elif bug.layout(True) == bug.layout(False):
        candidate = replace(candidate, init=right.init, update=right.update)
    return parity.check(candidate, against=reference(source), tiers=("mathematics",))


def layer(report: parity.Report) -> str | None:
    """Return the reference's layer that a report names, None for the loss and the optimizer."""
    return report.located.path if report.located else None


def row(source: str, report: parity.Report) -> str:
    """Return what is said of a wrong port, as a line of docs/corpus.md."""
    owner, number = BUGS[source].source.split("#")
    place = layer(report)
    where = "-" if place is None else f"`{place}`" if place else "the model's code"
    link = f"[{owner}#{number}](https://github.com/{owner}/issues/{number})"
    first = report.first.stage if report.first else "-"
    return f"| {link} | {BUGS[source].story} | {first} | {where} | {report.cause} |"
