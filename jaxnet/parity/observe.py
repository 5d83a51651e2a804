"""What one step of a participant gives, by stage and leaf."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any

import numpy as np

from jaxnet.parity.participants import Leaves, Participant

STAGES = ("forward", "loss", "gradient", "buffers", "parameters", "optimizer", "free run")

Outputs = dict[tuple[str, str], np.ndarray]


@np.errstate(all="ignore")  # a result that is not finite is judged, and needs no warning
def observe(
    participant: Participant, params: Leaves, state: Leaves, batch: Any, grads: Leaves
) -> Outputs:
    """Return all outputs of one step, whose update is given `grads`.

    Of a leaf that is not in `grads` the update gets the participant's own gradient, if any.
    """
    found, own = evaluate(participant, params, batch)
    if participant.update is not None:
        given = copy.deepcopy((params, own | grads, state))
        new_params, new_state = participant.update(*given)
        found |= {
            ("parameters", name): np.asarray(leaf)
            for name, leaf in (params | new_params).items()
            if ("buffers", name) not in found
        }
        found |= {
            ("optimizer", name): np.asarray(leaf)
            for name, leaf in new_state.items()
            if "/" in name and not name.startswith("step/")
        }
    return found


def evaluate(participant: Participant, params: Leaves, batch: Any) -> tuple[Outputs, Leaves]:
    """Return what comes before the update, and the gradient as the participant gives it.

    A trained leaf without a gradient has the gradient 0.
    """
    found: Outputs = {}
    if participant.forward is not None:
        found |= {("forward", k): v for k, v in _named(participant.forward(params, batch)).items()}
    value, own = participant.value_and_grad(params, batch)
    found["loss", "loss"] = np.array(value)  # copies: an implementation may use its arrays again
    own = {name: np.array(leaf) for name, leaf in own.items()}
    unused = set(params) - set(own) - participant.frozen
    zeros = {k: np.zeros_like(params[k]) for k in params if k in unused}
    found |= {("gradient", name): leaf for name, leaf in (own | zeros).items()}
    found |= {("buffers", k): v for k, v in new_buffers(participant, params, batch).items()}
    return found, own


def new_buffers(participant: Participant, params: Leaves, batch: Any) -> Leaves:
    """Return the values of the buffers after the step."""
    return {} if participant.buffers is None else participant.buffers(params, batch)


def _named(prediction: Any) -> Leaves:
    """Return a prediction as "y_pred", or the arrays of several as "y_pred/0" and so on."""
    if isinstance(prediction, Mapping):
        items: Any = prediction.items()
    elif isinstance(prediction, (tuple, list)):
        items = enumerate(prediction)
    else:
        return {"y_pred": np.asarray(prediction)}
    return {
        name.replace("y_pred", f"y_pred/{key}", 1): leaf
        for key, value in items
        if value is not None
        for name, leaf in _named(value).items()
    }


def check_pure(participant: Participant, params: Leaves, batch: Any) -> Outputs:
    """Return what comes before the update.

    Raises: ValueError unless two calls with the same inputs give the same numbers.
    """
    first, again = (evaluate(participant, params, batch)[0] for _ in range(2))
    for (stage, name), value in first.items():
        if not np.array_equal(value, again[stage, name], equal_nan=True):
            cause = participant.noise or "look for dropout, random numbers, or state that it keeps"
            raise ValueError(
                f"not compared: two calls of {participant.name} with the same inputs give another "
                f"{stage} {name}: {cause}. Call module.eval() first, or take the random numbers "
                "from the batch: masks, or a seed"
            )
    return first
