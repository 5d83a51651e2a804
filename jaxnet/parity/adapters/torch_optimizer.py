"""A torch optimizer as a participant's functions, with its state as slots by name."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import numpy as np
import torch

from jaxnet.parity.adapters.torch_module import arrays, gradients, tensors, to_tensor
from jaxnet.parity.participants import SLOTS, Leaves


class Training(NamedTuple):
    """How the module is trained; see `torch_participant`."""

    optimizer: Callable[..., torch.optim.Optimizer]
    clip: Callable[[Any], Any] | None
    scheduler: Callable[[Any], Any] | None
    set_to_none: bool

    def make(self, twin: torch.nn.Module) -> torch.optim.Optimizer:
        """Return the optimizer of a module's parameters.

        Raises: ValueError for one that evaluates the loss, or that has a scheduler already.
        """
        optimizer = self.optimizer(twin.parameters())
        if isinstance(optimizer, torch.optim.LBFGS):
            raise ValueError("not compared: L-BFGS evaluates the loss inside its update")
        if hasattr(optimizer.step, "_wrapped_by_lr_sched"):
            raise ValueError(
                "`optimizer` must not make its scheduler, which would never be stepped: give "
                "`scheduler=lambda optimizer: ...`"
            )
        return optimizer


def make(
    loss: Callable[[Any, Any], torch.Tensor], training: Training, loaded: Callable[[Leaves], Any]
) -> dict[str, Any]:
    """Return init, update and run; loaded: of `adapter_torch.loader(module)`."""

    def init(params):
        with loaded(params) as twin:
            optimizer = training.make(twin)
            made = {key: value.numpy().copy() for key, value in _slots(twin, optimizer)}
            _make_state(twin, optimizer, [k for k, p in twin.named_parameters() if p.requires_grad])
            state = {key: np.zeros_like(value.numpy()) for key, value in _slots(twin, optimizer)}
            return state | made | {"step": np.asarray(0)}

    def run(params, batch_at, num_steps, keep):
        with loaded(params) as twin:
            optimizer, losses, kept = training.make(twin), [], {}
            settings = _schedule(training, twin, num_steps)
            for i in range(num_steps):
                if i and i + 1 in keep:
                    leaves = arrays([*twin.named_parameters(), *twin.named_buffers()])
                    kept[i + 1] = params | leaves, _state(twin, optimizer, i)
                _set(optimizer, settings[i])
                value = loss(twin, tensors(batch_at(i)))
                grads = gradients(twin, value, training.set_to_none)
                _step(twin, optimizer, grads, training.clip)
                losses.append(value.item())
            return losses, kept

    return {"init": init, "update": make_update(training, loaded), "run": run}


def make_update(
    training: Training, loaded: Callable[[Leaves], Any]
) -> Callable[[Leaves, Leaves, Leaves], tuple[Leaves, Leaves]]:
    """Return update(params, grads, state) -> (new params, new state)."""
    settings: list[list[dict[str, Any]]] = []  # of the optimizer's groups, by the steps made

    def update(params, grads, state):
        count = int(state["step"])
        with loaded(params) as twin:
            optimizer = training.make(twin)
            if len(settings) <= count:
                settings[:] = _schedule(training, twin, 2 * count + 1)
            _set(optimizer, settings[count])
            if count > 0:  # at the first step torch makes its own state: dampening depends on it
                _load_state(twin, optimizer, state)
                with torch.no_grad():
                    for name, p in twin.named_parameters():
                        p.copy_(to_tensor(params[name]))
            _step(twin, optimizer, {k: to_tensor(g) for k, g in grads.items()}, training.clip)
            return arrays(twin.named_parameters()), _state(twin, optimizer, count + 1)

    return update


def _schedule(training: Training, twin: torch.nn.Module, count: int) -> list[list[dict[str, Any]]]:
    """Return the hyperparameters that a scheduler sets, of each group for each of the steps."""
    optimizer = training.make(twin)
    if training.scheduler is None:
        return [[{} for _ in optimizer.param_groups]] * count
    found: list[list[dict[str, Any]]] = []
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that no step is made before the scheduler's
        scheduler = training.scheduler(optimizer)
        for _ in range(count):
            groups = optimizer.param_groups
            found.append([{k: v for k, v in group.items() if k != "params"} for group in groups])
            try:
                scheduler.step()
            except TypeError as error:  # ReduceLROnPlateau's needs the loss
                text = f"`scheduler` must depend on the step alone, got {type(scheduler).__name__}"
                raise ValueError(f"{text} ({error})") from None
    return found


def _set(optimizer: torch.optim.Optimizer, settings: list[dict[str, Any]]) -> None:
    for group, values in zip(optimizer.param_groups, settings, strict=True):
        group.update(values)


def _state(twin: torch.nn.Module, optimizer: torch.optim.Optimizer, count: int) -> Leaves:
    """Return the optimizer's state after some steps."""
    state = {key: value.numpy().copy() for key, value in _slots(twin, optimizer)}
    state = {k: v for k, v in state.items() if k[:5] != "step/" or v != count}
    return state | {"step": np.asarray(count)}  # torch's SGD keeps none


def _step(
    twin: torch.nn.Module,
    optimizer: torch.optim.Optimizer,
    grads: dict[str, torch.Tensor],
    clip: Callable[[Any], Any] | None = None,
) -> None:
    """Make one update with these gradients; a parameter without one is left alone."""
    for name, parameter in twin.named_parameters():
        parameter.grad = grads.get(name)
    if clip is not None:
        clip(twin.parameters())
    optimizer.step()


def _make_state(twin: torch.nn.Module, optimizer: torch.optim.Optimizer, names: list[str]) -> None:
    """Let torch make its state, which it does at the first step: one with zero gradients."""
    own = dict(twin.named_parameters())
    _step(twin, optimizer, {name: torch.zeros_like(own[name]) for name in names})


def _load_state(twin: torch.nn.Module, optimizer: torch.optim.Optimizer, state: Leaves) -> None:
    """Set the optimizer's state; a leaf that has none was never updated, and gets none."""
    held = {key.partition("/")[2] for key in state}
    names = [name for name, _ in twin.named_parameters()]
    stateless = not any(held)
    _make_state(twin, optimizer, names if stateless else [n for n in names if n in held])
    with torch.no_grad():
        for key, value in _slots(twin, optimizer):
            key = "step" if key[:5] == "step/" and key not in state else key
            if key in state:
                value.copy_(to_tensor(state[key]))


def _slots(
    twin: torch.nn.Module, optimizer: torch.optim.Optimizer
) -> Iterator[tuple[str, torch.Tensor]]:
    """Yield each tensor of the optimizer's state under its name "slot/leaf".

    What has not the leaf's shape, as NAdam's product of momenta, has a name with dots.
    """
    for name, parameter in twin.named_parameters():
        for field, value in optimizer.state[parameter].items():
            if isinstance(value, torch.Tensor):
                whole = field == "step" or value.shape == parameter.shape
                yield f"{SLOTS.get(field, field)}/{name}" if whole else f"{field}.{name}", value
