"""The ports' programs as participants, and what a report must say of a bug."""

import functools

import numpy as np

from jaxnet import parity
from ports import KINDS
from ports.table import Bug, params_of

FIRST, TRAINED = 1, 6  # steps: of a bug before the update; of the free run of all others
LOCKED = (1, 2, 3, 6)


def rounded(kind):
    """Return (parameters, batch) of integers: many activations are exactly at their kinks."""

    def whole(values):
        return {
            k: np.round(4 * v) if getattr(v, "dtype", np.dtype(int)).kind == "f" else v
            for k, v in values.items()
        }

    return whole(params_of(kind.make())), whole(kind.batch(0))


@functools.cache
def reference(name, training=True, seed=0):
    kind = KINDS[name]
    options = {"optimizer": kind.optimizer, "clip": kind.clip, "scheduler": kind.scheduler}
    return parity.torch_participant(
        kind.make(seed), kind.loss, forward=kind.forward, **(options if training else {})
    )


@functools.cache
def reference_run(name, training=True, seed=0):
    """The reference's trajectory, once for all ports."""
    kind = KINDS[name]
    steps, num_steps = (LOCKED, TRAINED) if training else ((FIRST,), FIRST)
    case = parity.Case(name, kind.make(seed).state_dict(), kind.batch, steps, num_steps)
    return parity.trajectory(reference(name, training, seed), case)


def candidate(name, training=True, **change):
    port = KINDS[name].port(**change)
    options = {"forward": port.forward, "layout": port.layout}
    optimizer = port.optimizer if training else None
    if port.module is None:
        return parity.jax_participant(port.loss, optimizer, like=port.like, **options)
    return parity.flax_participant(port.module, port.loss, optimizer, **options)


def check(name, change, training=True, tiers=("mathematics", "precision"), seed=0):
    return parity.check(
        candidate(name, training, **change),
        against=reference_run(name, training, seed),
        tiers=tiers,
    )


def trains(bug: Bug) -> bool:
    return bug.where == "optimizer" or bug.stage == "parameters"
