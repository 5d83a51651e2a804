"""Is a participant right? Losses and parameters against the same steps in float64 NumPy."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from jaxnet import numpy_net
from jaxnet.spec import Batch, Spec

from .workloads import Workload

# An error is a share of how far the number moved. Correct programs round in other orders than
# NumPy: 16 times NumPy's own error in float32 lies above all of them. Each step rounds a parameter
# once more (EPS of it), and float32 loses 6e-5 of 1 - b2**t at Adam's first step, in optax's own
# form: hence the floor. A unit whose |h| is below KINK of the largest may be on either side of the
# ReLU's kink: twice how far that moves a number, by two more runs in float64, is added, since a
# program on the other side is once as far. Where no unit is, a learning rate that is 0.1 % wrong is
# beyond the limit. Products in bfloat16 have 8 bits: Adam's first steps divide small gradients by
# their own size, and JAX, PyTorch and Keras are 0.23 away; half of a learning rate is beyond it.
OWN = 16.0
FLOOR = {"float32": 2e-4, "bfloat16": 0.4}
EPS = 2.0**-23
KINK = 16 * EPS


class Case(NamedTuple):
    """What is trained: from `params`, a batch a step.

    params_step: the number of steps after which the parameters are compared. dtype: of products.
    """

    spec: Spec
    params: dict[str, np.ndarray]
    batches: list[Batch]
    optimizer: str
    learning_rate: float
    params_step: int
    dtype: str = "float32"


Result = tuple[Case, np.ndarray, dict[str, np.ndarray]]  # case, losses, parameters


class Verdict(NamedTuple):
    """The largest error as a share of its limit, and what it is of; above 1 is wrong."""

    share: float
    of: str


def cases_of(workload: Workload, table: Batch, num_steps: int, adam: str) -> list[Case]:
    """The workload's own first steps, for each member of a sweep; `adam`: the form of Adam."""
    optimizer = adam if workload.optimizer == "adam" else workload.optimizer
    batches = workload.batches(table, num_steps)
    rates = workload.learning_rates() if workload.members else [workload.learning_rate]
    return [
        Case(
            workload.spec, workload.params(member), batches, optimizer, float(rate),
            num_steps, workload.dtype,
        )
        for member, rate in enumerate(rates)
    ]  # fmt: skip


def adam_hat(learning_rate: float) -> numpy_net.Optimizer:
    """Adam in the form that ends section 2 of its paper: epsilon is not scaled with the moments.

    scikit-learn's and Keras's. It differs from the algorithm 1 of the others where a gradient is
    small, by far more than rounding.
    """

    def rule(p, g, t, m, v):
        m = 0.9 * m + (1 - 0.9) * g
        v = 0.999 * v + (1 - 0.999) * g * g
        return (1 - 0.999**t) ** 0.5 / (1 - 0.9**t) * m / (np.sqrt(v) + 1e-8), m, v

    return numpy_net.make_rule(rule, learning_rate, ("m", "v"))


def make_optimizer(name: str, learning_rate: float) -> numpy_net.Optimizer:
    """The optimizer in NumPy; "adam-hat" is the form of `adam_hat`."""
    if name == "adam-hat":
        return adam_hat(learning_rate)
    return numpy_net.make_optimizer(name, learning_rate)


def reference(
    case: Case, dtype: str, side: float = 0.0
) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    """Losses of all steps and parameters after `params_step`, by NumPy in a precision.

    side: how far above 0, as a share of the largest |h|, a unit must be to pass its gradient.
    """
    function, backward = numpy_net.ACTIVATIONS[case.spec.activation]

    def beside(h, grad):
        return np.where(h > side * np.abs(h).max(), grad, 0)

    activation = function, beside if side else backward
    optimizer = make_optimizer(case.optimizer, case.learning_rate)
    params = {name: p.astype(dtype) for name, p in case.params.items()}
    kept, state, losses = params, optimizer.init(params), []
    for step, batch in enumerate(case.batches, start=1):
        loss, grads = numpy_net.backpropagate(
            params, cast(batch, dtype), activation, numpy_net.LOSSES[case.spec.loss]
        )
        losses.append(loss)
        params, state = optimizer.update(params, grads, state)
        kept = params if step == case.params_step else kept
    return np.array(losses, float), kept


def cast(batch: Batch, dtype: str) -> Batch:
    """The batch in a precision; classes stay."""
    y = batch.y if np.issubdtype(batch.y.dtype, np.integer) else batch.y.astype(dtype)
    return Batch(batch.x.astype(dtype), y)


def judge(case: Case, losses: np.ndarray, params: dict[str, np.ndarray]) -> Verdict:
    """Compare; `losses` may be means over equal groups of steps."""
    exact_losses, exact = reference(case, "float64")
    own_losses, own = reference(case, "float32")
    (above_losses, above), (below_losses, below) = (
        reference(case, "float64", side) for side in (KINK, -KINK)
    )
    if set(params) != set(exact) or any(params[k].shape != p.shape for k, p in exact.items()):
        return Verdict(np.inf, f"shape of { ({k: np.shape(p) for k, p in params.items()}) }")
    losses = np.ravel(losses)

    def grouped(values):
        return np.array([np.mean(part) for part in np.array_split(values, len(losses))])

    kinks = 2 * grouped(np.abs(above_losses - below_losses))
    verdicts = [
        _of_losses(losses, grouped(exact_losses), grouped(own_losses), kinks, FLOOR[case.dtype])
    ]
    for name, p in exact.items():
        spread = 2 * np.linalg.norm(above[name] - below[name])
        verdicts.append(_of_leaf(name, case, params[name], p, own[name], spread))
    return max(verdicts, key=lambda verdict: np.nan_to_num(verdict.share, nan=np.inf))


def _of_losses(
    losses: np.ndarray, exact: np.ndarray, own: np.ndarray, kinks: Any, floor: float
) -> Verdict:
    limit = np.maximum(OWN * np.abs(own - exact), floor * np.abs(exact)) + kinks
    return Verdict(float(np.max(np.abs(losses - exact) / limit)), "loss")


def _of_leaf(
    name: str, case: Case, got: Any, exact: np.ndarray, own: np.ndarray, kinks: Any
) -> Verdict:
    norm = np.linalg.norm
    moved = max(norm(exact - case.params[name]), np.finfo(float).tiny)
    stored = EPS * case.params_step * norm(exact)
    limit = max(OWN * norm(own - exact), FLOOR[case.dtype] * moved + stored) + kinks
    return Verdict(float(norm(np.asarray(got, float) - exact) / limit), name)
