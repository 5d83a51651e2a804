"""What each kind of port consists of, and what a planted bug is."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any, NamedTuple

import torch
from torch import nn

torch.set_num_threads(1)  # the models are tiny


class Bug(NamedTuple):
    """A change of a right port.

    change: keyword arguments of `Kind.port`. where: the torch layer that is ported wrongly, ""
    for the root's own code, "loss" or "optimizer". stage: the first that differs. cause: words
    which the named cause must contain; None where no name can be expected. ties: the bug shows
    only where an activation's input is exactly at its kink.
    """

    change: dict[str, Any]
    where: str
    stage: str
    cause: str | None


class Port(NamedTuple):
    """What a participant of the port is made from.

    module: an nnx module, as `flax_participant` takes it; None for pure functions of `like`.
    """

    module: Any
    loss: Callable[[Any, Any], Any]
    forward: Callable[[Any, Any], Any]
    optimizer: Any
    layout: dict[str, Any]
    like: Any = None


class Kind(NamedTuple):
    """A torch program, its right port, and what can be planted in it.

    batch(seed) -> the batch of a step. rights: further changes of `port` that are right as well.
    """

    module: Callable[[], nn.Module]
    loss: Callable[[Any, Any], Any]
    forward: Callable[[Any, Any], Any]
    optimizer: Callable[[Any], torch.optim.Optimizer]
    batch: Callable[[int], dict[str, Any]]
    port: Callable[..., Port]
    bugs: dict[str, Bug]
    rights: Mapping[str, dict[str, Any]] = MappingProxyType({})
    scheduler: Callable[[torch.optim.Optimizer], Any] | None = None
    clip: Callable[[Any], Any] | None = None

    def make(self, seed: int = 0) -> nn.Module:
        """Return the torch module, in float32 and in training mode, with values of its own."""
        torch.manual_seed(seed)
        module = self.module()
        with torch.no_grad():
            for parameter in module.parameters():
                if parameter.ndim == 1:  # no layer keeps its ones and zeros
                    parameter.add_(0.3 * torch.randn_like(parameter))
            for name, buffer in module.named_buffers():
                if name.endswith(("running_mean", "running_var")):
                    buffer.add_(0.2 * torch.rand_like(buffer))
        return module
