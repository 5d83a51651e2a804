"""Known mistakes of an optimizer's port, each as a torch optimizer whose steps are changed."""

from __future__ import annotations

import types
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
DECAY = "set it: torch's AdamW has 1e-2 by default, optax's adamw 1e-4, the others 0"


def optimizer_changes(
    make: Callable[..., torch.optim.Optimizer], made: torch.optim.Optimizer
) -> Iterator[tuple[str, str, Callable[..., torch.optim.Optimizer]]]:
    """Yield (name, remedy, make with the mistake) for what `make` returns.

    made: an optimizer that `make` returned, whose hyperparameters decide what is yielded. The
    mistakes in clipping act on `torch.nn.utils`' functions during `step`.
    """
    for name, remedy, context in [*_hyperparameters(made), *_rules(made), *_decays(made), *CLIPS]:
        yield name, remedy, partial(_make_changed, make, context)


def _make_changed(make, context: Context, *args: Any, **kwargs: Any) -> torch.optim.Optimizer:
    optimizer = make(*args, **kwargs)
    step = optimizer.step

    def changed(self, *args, **kwargs):
        with context(self):
            return step(*args, **kwargs)

    optimizer.step = types.MethodType(changed, optimizer)
    return optimizer


@contextmanager
def _set(optimizer: torch.optim.Optimizer, **values: Any) -> Iterator[None]:
    """Set hyperparameters of all groups; a decay only where there is one, if any group has it."""
    groups = optimizer.param_groups
    if values.get("weight_decay") and any(group["weight_decay"] for group in groups):
        groups = [group for group in groups if group["weight_decay"]]
    with ExitStack() as stack:
        for group in groups:
            stack.enter_context(mock.patch.dict(group, values))
        yield


def _hyperparameters(made) -> Iterator[tuple[str, str, Context]]:
    group = max(made.param_groups, key=lambda group: group.get("weight_decay", 0))
    values = dict(VALUES)
    if not group.get("momentum"):
        values["momentum"] = ()
    for key, options in values.items():
        for value in options if key in group else ():
            if value != group[key]:
                remedy = DECAY if key == "weight_decay" else f"set {key} to {group[key]:g}"
                yield f"{key} {value:g} for {group[key]:g}", remedy, partial(_set, **{key: value})
    for i, options in enumerate(((0.5, 0.0, 0.95, 0.99), (0.99, 0.9, 0.95, 0.9999))):
        for value in options if "betas" in group else ():
            own = group["betas"][i]
            if value != own:
                betas = (value, group["betas"][1]) if i == 0 else (group["betas"][0], value)
                name, remedy = f"b{i + 1} {value:g} for {own:g}", f"set b{i + 1} to {own:g}"
                yield name, remedy, partial(_set, betas=betas)
    for key in ("nesterov", "amsgrad", "centered", "maximize"):
        if key in group and (group[key] or key in ("nesterov", "maximize")):
            if key == "nesterov" and not group["momentum"]:
                continue
            name = f"{key} {not group[key]} for {group[key]}"
            yield name, f"set {key} to {group[key]}", partial(_set, **{key: not group[key]})


def _rules(made) -> Iterator[tuple[str, str, Context]]:
    group = made.param_groups[0]
    if "eps" in group:
        yield "eps inside the root", "add eps after the square root: eps_root=0", _eps_in_root
    if isinstance(made, torch.optim.Adam):
        yield "Adam's step off by one", "count steps from 1 in 1 - b**t", partial(_shifted, by=1)
        far = partial(_shifted, by=10**9)
        yield "Adam without bias correction", "divide by 1 - b**t", far
    if group.get("dampening") and group["momentum"]:
        remedy = "torch's first momentum buffer is the undamped gradient"
        yield "dampened first step", remedy, _damped


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
def _shifted(optimizer, by):
    fields = ["exp_avg", "exp_avg_sq"] + ["max_exp_avg_sq"] * optimizer.param_groups[0]["amsgrad"]
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    for p in parameters:
        if p.grad is not None and not optimizer.state[p]:
            optimizer.state[p] |= {f: torch.zeros_like(p) for f in fields}
            optimizer.state[p]["step"] = torch.tensor(0.0, dtype=torch.float64)
    counts = [optimizer.state[p]["step"] for p in parameters if p.grad is not None]
    for count in counts:
        count += by
    yield
    for count in counts:
        count -= by


@contextmanager
def _damped(optimizer):
    for group in optimizer.param_groups:
        for p in group["params"]:
            if p.grad is not None and optimizer.state[p].get("momentum_buffer") is None:
                optimizer.state[p]["momentum_buffer"] = torch.zeros_like(p)
    yield


def _decays(made) -> Iterator[tuple[str, str, Context]]:
    groups = made.param_groups
    if not any(group.get("weight_decay") for group in groups):
        return
    decoupled = groups[0].get("decoupled_weight_decay", False)
    if "decoupled_weight_decay" in groups[0]:
        changed = partial(_set, decoupled_weight_decay=not decoupled)
    else:
        changed = _decoupled
    name = "L2 weight decay for decoupled" if decoupled else "decoupled weight decay for L2"
    yield name, "adam adds the decay to the gradient, adamw to the update", changed
    if not all(group["weight_decay"] for group in groups):
        remedy = "exempt the leaves that torch exempts: mask= of optax's decay"
        value = max(group["weight_decay"] for group in groups)
        yield "weight decay on all leaves", remedy, partial(_decay_where, lambda p: True, value)
    for group in groups:
        if group["weight_decay"] and any(p.ndim < 2 for p in group["params"]):
            remedy = "torch decays biases and scales too: no mask"
            where = partial(_decay_where, lambda p: p.ndim > 1, group["weight_decay"])
            yield "no weight decay on biases and other 1-D leaves", remedy, where
            break


@contextmanager
def _decay_where(is_decayed, value, optimizer):
    """Split each group in two for a step, as the rate is read from it then."""
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
    with _set(optimizer, weight_decay=0.0):
        yield


def _clip(scale: Callable[[Any, float, Any], Any]) -> Context:
    """In the context clip_grad_norm_ makes each gradient scale(g, max_norm, norm)."""

    def clip(parameters, max_norm, total_norm, foreach=None):
        for p in parameters:
            if p.grad is not None:
                p.grad.copy_(scale(p.grad, max_norm, total_norm))

    return lambda _: mock.patch.object(clip_grad, "_clip_grads_with_norm_", clip)


CLIPS: list[tuple[str, str, Context]] = [
    ("clipping left out", "clip the gradients' global norm", _clip(lambda g, m, n: g)),
    (
        "clipping without 1e-6 in the denominator",
        "multiply by max_norm / (norm + 1e-6): optax.clip_by_global_norm has no 1e-6",
        _clip(lambda g, m, n: g * (m / n).clamp(max=1)),
    ),
    (
        "clipping by value",
        "use optax.clip_by_global_norm, not optax.clip",
        _clip(lambda g, m, n: g.clamp(-m, m)),
    ),
    (
        "clipping by each leaf's norm",
        "use the norm of all gradients together",
        _clip(lambda g, m, n: g * (m / (g.norm() + 1e-6)).clamp(max=1)),
    ),
    (
        "clipping scales small gradients up",
        "leave gradients alone whose norm is below max_norm",
        _clip(lambda g, m, n: g * (m / (n + 1e-6))),
    ),
]
