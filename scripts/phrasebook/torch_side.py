"""A row's PyTorch code as the reference of `jaxnet.parity`, or run as it stands."""

import os
import sys
from typing import Any

import numpy as np
import torch
from torch import nn, optim
from torch.nn import functional as F

from jaxnet import parity
from phrasebook.row import Row, paragraphs
from phrasebook.shared import NUM_STEPS, STEPS, prediction, total, training_problem

torch.set_num_threads(1)  # so small that threads only wait, and rounding has one order
if sys.platform == "linux":
    os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo")  # else DDP looks the machine's name up


def names() -> dict[str, Any]:
    """Return what the page imports."""
    return {"torch": torch, "nn": nn, "F": F, "optim": optim, "np": np}


def run(row: Row) -> list[np.ndarray]:
    """Execute the code once, as it stands, and return the arrays of `y`."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        scope = names() | {name: torch.tensor(value) for name, value in row.inputs().items()}
        exec(compile(row.torch, row.slug, "exec"), scope)
    return [np.asarray(leaf) for leaf in _leaves(scope["y"])]


def reference(row: Row) -> tuple[parity.Participant, parity.Case]:
    """Return the row's code as a participant, and the case to run it in."""
    if row.check == "training":
        params = training_problem()[0]
        case = parity.Case(row.slug, params, lambda i: training_problem(i)[1], STEPS, NUM_STEPS)
        return _trained(row), case
    module = _module(row)
    batch = {name: value for name, value in row.inputs().items() if value.dtype.kind != "f"}
    batch = batch or {"_": np.zeros(1)}  # a recording needs one
    case = parity.Case(row.slug, _values(row, module), lambda i: batch, (1,), 1)
    found = parity.torch_participant(
        module,
        lambda module, batch: total(module(**batch)),
        forward=lambda module, batch: prediction(module(**batch)),
    )
    return found, case


def _leaves(y: Any) -> list[Any]:
    if isinstance(y, dict):
        y = list(y.values())
    if isinstance(y, (tuple, list)):
        return [leaf for item in y for leaf in _leaves(item)]
    return [y.detach() if isinstance(y, torch.Tensor) else y]


def _module(row: Row) -> nn.Module:
    """Return a module that holds the row's modules and floating inputs, and calls its code."""
    before, after = paragraphs(row.torch)
    scope, call = names(), compile(after, row.slug, "exec")
    exec(compile(before, row.slug, "exec"), scope)
    floating = {name: value for name, value in row.inputs().items() if value.dtype.kind == "f"}

    class Holder(nn.Module):
        def __init__(self):
            super().__init__()
            for name, value in scope.items():
                if isinstance(value, nn.Module):
                    self.add_module(name, value)
            for name, value in floating.items():
                self.register_parameter(name, nn.Parameter(torch.tensor(value).float()))

        def forward(self, **batch):
            own = dict(self.named_children()) | {name: getattr(self, name) for name in floating}
            local = {**scope, **own, **batch}
            exec(call, local)
            return local["y"]

    return Holder()


def _values(row: Row, module: nn.Module) -> dict[str, np.ndarray]:
    """Return the inputs, and a random value for each leaf of the modules that is not frozen: no
    layer keeps its ones and zeros.
    """
    rng = np.random.default_rng(2)
    frozen = {name for name, leaf in module.named_parameters() if not leaf.requires_grad}
    values = {}
    for name, leaf in module.state_dict().items():
        if leaf.is_floating_point() and name not in frozen:
            low = 0.5 if name.endswith("running_var") else -0.8
            values[name] = rng.uniform(low, 1, tuple(leaf.shape))
        else:
            values[name] = leaf.numpy()
    return values | {k: v for k, v in row.inputs().items() if v.dtype.kind == "f"}


class _Model(nn.Module):
    def __init__(self):
        super().__init__()
        for name, value in training_problem()[0].items():
            self.register_parameter(name, nn.Parameter(torch.tensor(value).float()))

    def forward(self, x, t):
        return ((torch.tanh(x @ self.w + self.b) - t) ** 2).sum()


def _trained(row: Row) -> parity.Participant:
    first, second = paragraphs(row.torch)
    first, second = (first, second) if first else (second, "")

    def scope(code: str, parameters: Any = (), **more: Any) -> dict[str, Any]:
        found = names() | {"params": list(parameters)} | more
        found |= dict(zip(("w", "b"), found["params"], strict=False))
        exec(compile(code, row.slug, "exec"), found)
        return found

    model = _Model()
    scope(first, model.parameters())  # what it freezes is frozen
    scheduled = second.startswith("scheduler =")
    return parity.torch_participant(
        model,
        lambda module, batch: module(**batch),
        lambda parameters: scope(first, parameters)["optimizer"],
        clip=(lambda parameters: scope(second, parameters)) if second and not scheduled else None,
        scheduler=(lambda o: scope(second, optimizer=o)["scheduler"]) if scheduled else None,
    )
