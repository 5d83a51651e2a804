"""The ports' programs as participants, and what a report must say of a bug."""

import functools

from jaxnet import parity
from ports import KINDS
from ports.table import Bug

FIRST, TRAINED = 1, 6  # steps: of a bug before the update; of the free run of all others
LOCKED = (1, 2, 3, 4)


@functools.cache
def reference(name, training=True):
    kind = KINDS[name]
    return parity.torch_participant(
        kind.make(),
        kind.loss,
        kind.optimizer if training else None,
        forward=kind.forward,
        clip=kind.clip,
        scheduler=kind.scheduler,
    )


@functools.cache
def reference_run(name, training=True, seed=0):
    """The reference's trajectory, once for all ports."""
    kind = KINDS[name]
    steps, num_steps = (LOCKED, TRAINED) if training else ((FIRST,), FIRST)
    params = kind.make(seed).state_dict()
    case = parity.Case(name, params, lambda i: kind.batch(i + 100 * seed), steps, num_steps)
    return parity.trajectory(reference(name, training), case)


def candidate(name, training=True, **change):
    port = KINDS[name].port(**change)
    given = port.loss, port.optimizer if training else None
    if port.module is None:
        return parity.jax_participant(
            *given, like=port.like, forward=port.forward, layout=port.layout
        )
    return parity.flax_participant(port.module, *given, forward=port.forward, layout=port.layout)


def check(name, change, training=True, tiers=("mathematics", "precision"), seed=0):
    return parity.check(
        candidate(name, training, **change),
        against=reference_run(name, training, seed),
        tiers=tiers,
    )


def trains(bug: Bug) -> bool:
    return bug.where == "optimizer" or bug.stage == "parameters"
