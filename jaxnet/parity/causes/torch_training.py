"""The catalogue's optimizers: each mistake changes what a torch optimizer does during its step."""

from __future__ import annotations

import types
import warnings
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from functools import partial
from typing import Any
from unittest import mock

import torch
from torch.nn.utils import clip_grad
from torch.overrides import TorchFunctionMode

Context = Callable[[torch.optim.Optimizer], AbstractContextManager]

VALUES: dict[str, tuple[float, ...]] = {
    "eps": (1e-6, 1e-7, 1e-8, 1e-10),
    "weight_decay": (0.0, 1e-4, 1e-2),
    "momentum": (0.0, 0.5, 0.9, 0.99),
    "alpha": (0.9, 0.99),
    "dampening": (0.0,),
}
BETAS = ((0.0, 0.5, 0.95, 0.99), (0.9, 0.95, 0.99, 0.9999))
DECAY = "set it: torch's AdamW has 1e-2 by default, optax's adamw 1e-4, the others 0"


def training_changes(
    made: torch.optim.Optimizer,
    optimizer: Callable[..., torch.optim.Optimizer],
    clip: Callable[[Any], Any] | None = None,
    scheduler: Callable[[Any], Any] | None = None,
) -> Iterator[tuple[str, str, dict[str, Callable]]]:
    """Yield (name, remedy, what to use instead of optimizer, clip or scheduler, by that name).

    made: an optimizer that `optimizer` returned: its hyperparameters decide what is yielded. clip
    and scheduler: as those of `torch_participant`.
    """
    for name, remedy, context in [*_hyperparameters(made), *_rules(made), *_decays(made)]:
        yield name, remedy, {"optimizer": _during_step(optimizer, context)}
    if clip is not None:
        for name, remedy, scale in CLIPS:
            yield name, remedy, {"clip": partial(_clip, clip, scale)}
        limits: list[float] = []
        after = _during_step(optimizer, partial(_clipped_update, limits))
        changed = {"optimizer": after, "clip": partial(_clip, clip, None, limits)}
        yield "clipping of the update, not the gradient", "put the clipping first", changed
    for name, calls in SCHEDULES.items() if scheduler is not None else ():
        remedy = "the first update takes the schedule's value at 0"
        yield name, remedy, {"scheduler": partial(_shifted_schedule, scheduler, *calls)}


def _during_step(make: Callable[..., torch.optim.Optimizer], context: Context) -> Callable:
    """Return a function to the optimizers of `make` whose steps are made in a context."""

    def changed(*args, **kwargs):
        optimizer = make(*args, **kwargs)
        step = optimizer.step

        def inside(self, *args, **kwargs):
            with context(self):
                return step(*args, **kwargs)

        optimizer.step = types.MethodType(inside, optimizer)  # a scheduler asks for a method
        return optimizer

    return changed


@contextmanager
def _set(values: dict[str, Any], optimizer) -> Iterator[None]:
    """Set hyperparameters of all groups; a decay only where there is one, if any group has it."""
    groups = optimizer.param_groups
    if values.get("weight_decay"):
        groups = [group for group in groups if group["weight_decay"]] or groups
    with ExitStack() as stack:
        for group in groups:
            stack.enter_context(mock.patch.dict(group, values))
        yield


def _hyperparameters(made) -> Iterator[tuple[str, str, Context]]:
    group = max(made.param_groups, key=lambda group: group.get("weight_decay", 0))
    for key, options in VALUES.items():
        own = group.get(key)
        if own is not None and (own or key in ("weight_decay", "eps")):
            for value in (value for value in options if value != own):
                remedy = DECAY if key == "weight_decay" else f"set {key} to {own:g}"
                yield f"{key} {value:g} for {own:g}", remedy, partial(_set, {key: value})
    for i, own in enumerate(group.get("betas", ())):
        for value in (value for value in BETAS[i] if value != own):
            betas = tuple(value if i == j else other for j, other in enumerate(group["betas"]))
            name = f"b{i + 1} {value:g} for {own:g}"
            yield name, f"set b{i + 1} to {own:g}", partial(_set, {"betas": betas})
    for key in ("nesterov", "amsgrad", "centered"):
        own = group.get(key)
        if own or (key == "nesterov" and group.get("momentum")):
            yield f"{key} {not own} for {own}", f"set {key} to {own}", partial(_set, {key: not own})


def _rules(made) -> Iterator[tuple[str, str, Context]]:
    group = made.param_groups[0]
    if "eps" in group:
        yield "eps inside the root", "add eps after the square root: eps_root=0", _eps_in_root
    if isinstance(made, torch.optim.Adam):
        yield "Adam's step off by one", "count steps from 1 in 1 - b**t", partial(_counted, 1)
        yield "eps added before the bias correction", "add eps to sqrt(v / (1 - b2**t))", _early_eps
        far = partial(_counted, 10**9)
        yield "Adam without bias correction", "divide by 1 - b**t", far
    if group.get("dampening") and group["momentum"]:
        remedy = "torch's first momentum buffer is the undamped gradient"
        yield "dampened first step", remedy, _damped


def _parameters(optimizer) -> list[torch.Tensor]:
    """Return the parameters that a step updates."""
    return [p for group in optimizer.param_groups for p in group["params"] if p.grad is not None]


@contextmanager
def _eps_in_root(optimizer):
    eps = {group["eps"] for group in optimizer.param_groups}

    class Mode(TorchFunctionMode):
        def __torch_function__(self, func, types, args: Any = (), kwargs=None):
            if getattr(func, "__name__", "") == "add_" and args[1] in eps:
                return args[0].square_().add_(args[1]).sqrt_()
            return func(*args, **kwargs or {})

    with Mode():
        yield


@contextmanager
def _counted(by, optimizer):
    fields = ["exp_avg", "exp_avg_sq"] + ["max_exp_avg_sq"] * optimizer.param_groups[0]["amsgrad"]
    states = [optimizer.state[p] for p in _parameters(optimizer)]
    for p, state in zip(_parameters(optimizer), states, strict=True):
        if not state:
            state |= {field: torch.zeros_like(p) for field in fields}
            state["step"] = torch.tensor(0.0, dtype=torch.float64)
        state["step"] += by
    yield
    for state in states:
        state["step"] -= by


@contextmanager
def _early_eps(optimizer):
    with ExitStack() as stack:
        for group in optimizer.param_groups:
            counts = {float(optimizer.state[p].get("step", 0)) for p in group["params"]}
            correction = 1 - group["betas"][1] ** (max(counts, default=0) + 1)
            stack.enter_context(mock.patch.dict(group, eps=group["eps"] / correction**0.5))
        yield


@contextmanager
def _damped(optimizer):
    for p in _parameters(optimizer):
        if optimizer.state[p].get("momentum_buffer") is None:
            optimizer.state[p]["momentum_buffer"] = torch.zeros_like(p)
    yield


def _decays(made) -> Iterator[tuple[str, str, Context]]:
    groups = [group for group in made.param_groups if group.get("weight_decay")]
    if not groups:
        return
    flag = "decoupled_weight_decay"
    decoupled, value = groups[0].get(flag, False), groups[0]["weight_decay"]
    changed = partial(_set, {flag: not decoupled}) if flag in groups[0] else _decoupled
    name = "L2 weight decay for decoupled" if decoupled else "decoupled weight decay for L2"
    yield name, "adam adds the decay to the gradient, adamw to the update", changed
    if len(groups) < len(made.param_groups):
        remedy = "exempt the leaves that torch exempts: mask= of optax's decay"
        yield "weight decay on all leaves", remedy, partial(_decay_where, lambda p: True, value)
    if any(p.ndim < 2 for group in groups for p in group["params"]):
        remedy = "torch decays biases and scales too: no mask"
        where = partial(_decay_where, lambda p: p.ndim > 1, value)
        yield "no weight decay on biases and other 1-D leaves", remedy, where


@contextmanager
def _decay_where(is_decayed, value, optimizer):
    """Split each group in two for a step: a scheduler knows the groups as they are."""
    groups = optimizer.param_groups
    optimizer.param_groups = [
        group
        | {"params": [p for p in group["params"] if is_decayed(p) is decayed]}
        | {"weight_decay": value * decayed}
        for group in groups
        for decayed in (True, False)
    ]
    yield
    optimizer.param_groups = groups


@contextmanager
def _decoupled(optimizer):
    for group in optimizer.param_groups:
        for p in group["params"]:
            if p.grad is not None:
                p.data.mul_(1 - group["lr"] * group["weight_decay"])
    with _set({"weight_decay": 0.0}, optimizer):
        yield


CLIPS: list[tuple[str, str, Callable[[Any, float, Any], Any]]] = [  # of gradient, limit, norm
    ("clipping left out", "clip the norm of all gradients", lambda g, most, norm: g),
    (
        "clipping without 1e-6 in the denominator",
        "multiply by max_norm / (norm + 1e-6): optax.clip_by_global_norm adds nothing",
        lambda g, most, norm: g * (most / norm).clamp(max=1),
    ),
    (
        "clipping by value",
        "use optax.clip_by_global_norm, not optax.clip",
        lambda g, most, norm: g.clamp(-most, most),
    ),
    (
        "clipping by each leaf's norm",
        "use the norm of all gradients together",
        lambda g, most, norm: g * (most / (g.norm() + 1e-6)).clamp(max=1),
    ),
    (
        "clipping that scales small gradients up",
        "leave gradients alone whose norm is below max_norm",
        lambda g, most, norm: g * most / (norm + 1e-6),
    ),
]


def _clip(clip, scale, *arguments: Any) -> None:
    """Let clip_grad_norm_ apply `scale`; without one it notes its limit and clips nothing."""
    *limits, parameters = arguments

    def apply(parameters, max_norm, total_norm, foreach=None):
        for p in parameters if scale is not None else ():
            if p.grad is not None:
                p.grad.copy_(scale(p.grad, max_norm, total_norm))
        for limit in limits:
            limit[:] = [max_norm]

    with mock.patch.object(clip_grad, "_clip_grads_with_norm_", apply):
        clip(parameters)


@contextmanager
def _clipped_update(limits, optimizer):
    old = {p: p.detach().clone() for p in _parameters(optimizer)}
    yield
    changes = {p: p.detach() - before for p, before in old.items()}
    norm = torch.stack([change.norm() for change in changes.values()]).norm()
    for p, change in changes.items():
        p.data.copy_(old[p] + change * (limits[0] / norm).clamp(max=1) if limits else p)


SCHEDULES = {  # how many steps of the schedule are made at once, and how many are left out
    "schedule off by one (+1)": (1, 0),
    "schedule off by one (-1)": (0, 1),
    "schedule stays at its first value": (0, 10**9),
}


def _shifted_schedule(make, ahead, behind, optimizer):
    scheduler = make(optimizer)
    step, calls = scheduler.step, iter(range(behind))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that no step of the optimizer was made before
        for _ in range(ahead):
            step()
    scheduler.step = lambda: step() if next(calls, None) is None else None
    return scheduler
