"""One rebuilt bug: a torch reference, its port to JAX with a switch, and what a check must find."""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import numpy as np
import optax
import torch
from flax import nnx
from helpers import undrawn

torch.set_num_threads(1)  # the models are tiny
Batch = dict[str, Any]


def call(module, batch):
    return module(batch["x"])


def square_error(prediction, batch):
    return ((prediction - batch["y"]) ** 2).sum()


def normal(**shapes: tuple[int, ...]) -> Callable[[np.random.Generator], Batch]:
    """Return a function that draws a batch with these names and shapes from N(0, 1)."""
    return lambda rng: {name: rng.standard_normal(shape) for name, shape in shapes.items()}


class Bug(NamedTuple):
    """A bug that people met, in our own words and code.

    source: where it was reported, "owner/repository#number" on GitHub. story: what was wrong there.
    reference(): the torch module. port(wrong, rngs): the Flax module; wrong: with the bug.
    batch(rng) -> the arrays of a step. forward(module, batch) and loss(prediction, batch) serve
    both sides unless the port has its own: port_loss(prediction, batch, wrong).
    optimizer(parameters), scheduler(optimizer) and clip (the largest norm) are torch's;
    port_optimizer(wrong) is optax's.
    layout(wrong): the port's leaves that `usual_layout` would name wrongly.
    stage: where the first difference is; layer: the reference's module in which it is made (""
    for the whole model's own code, None for the loss and the optimizer); cause: a phrase that a
    named cause must hold, None where no catalogue can be expected to know it.
    """

    source: str
    story: str
    reference: Callable[[], torch.nn.Module]
    port: Callable[..., nnx.Module]
    batch: Callable[[np.random.Generator], Batch]
    stage: str
    layer: str | None
    cause: str | None
    forward: Callable[[Any, Batch], Any] = call
    loss: Callable[[Any, Batch], Any] = square_error
    port_loss: Callable[[Any, Batch, bool], Any] | None = None
    optimizer: Callable[[Any], torch.optim.Optimizer] = lambda parameters: torch.optim.SGD(
        parameters, lr=0.002
    )
    scheduler: Callable[[torch.optim.Optimizer], Any] | None = None
    clip: float | None = None
    port_optimizer: Callable[[bool], optax.GradientTransformation] = lambda wrong: optax.sgd(0.002)
    layout: Callable[[bool], Mapping[str, Any]] = lambda wrong: {}


def make_reference(bug: Bug) -> torch.nn.Module:
    return bug.reference().double()


def make_port(bug: Bug, wrong: bool) -> nnx.Module:
    return undrawn(lambda: bug.port(wrong, nnx.Rngs(0)))


def make_loss(bug: Bug, wrong: bool) -> Callable[[nnx.Module, Batch], Any]:
    """Return the port's loss(module, batch)."""

    def loss(module, batch):
        prediction = bug.forward(module, batch)
        if bug.port_loss is None:
            return bug.loss(prediction, batch)
        return bug.port_loss(prediction, batch, wrong)

    return loss


def make_params(bug: Bug) -> dict[str, np.ndarray]:
    """Return values for the reference's parameters and buffers, none of them a special one."""
    rng = np.random.default_rng(0)
    leaves = make_reference(bug).state_dict()
    draws = {
        name: 0.5 * rng.standard_normal(tuple(leaf.shape))
        for name, leaf in leaves.items()
        if leaf.is_floating_point()
    }
    return {k: np.abs(v) + 0.5 if k.endswith("running_var") else v for k, v in draws.items()}


def batch_at(bug: Bug, step: int) -> Batch:
    return bug.batch(np.random.default_rng(100 + step))


KERNEL_AXES = {2: (1, 0), 3: (2, 1, 0), 4: (2, 3, 1, 0)}
NAMES = {
    "kernel": "weight",
    "scale": "weight",
    "embedding": "weight",
    "mean": "running_mean",
    "var": "running_var",
}


def usual_layout(leaves: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    """Return each leaf of a port (path -> array) with its name, and axes, in the reference."""
    layout: dict[str, Any] = {}
    for path, leaf in leaves.items():
        *parents, last = path.split("/")
        name = ".".join([*parents, NAMES.get(last, last)])
        layout[path] = (name, KERNEL_AXES[leaf.ndim]) if last == "kernel" else name
    return layout | dict(changes)
