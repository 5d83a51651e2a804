"""The network in PyTorch (extra `torch`): tensors with autograd, a custom Function, modules.

Parity compares with it. A torch Linear holds its weight (out, in), the dictionary (in, out).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from itertools import pairwise
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from jaxnet.spec import (
    QUANTILES,
    Batch,
    Spec,
    check_choice,
    check_forward,
    check_loss,
    check_module,
    check_params,
    check_values,
    layer_order,
)

Params = dict[str, Tensor]


class MyReLU(torch.autograd.Function):
    """The tutorial's custom ReLU: the gradient is zeroed where x < 0, so it passes at 0 and NaN."""

    @staticmethod
    def forward(ctx, x):
        ctx.save_for_backward(x)
        return x.clamp(min=0)

    @staticmethod
    def backward(ctx, *grads):
        (grad,) = grads
        (x,) = ctx.saved_tensors
        return grad.masked_fill(x < 0, 0)


ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "relu": torch.relu,
    "my_relu": MyReLU.apply,
    "tanh": torch.tanh,
    "gelu": nn.functional.gelu,
    "silu": nn.functional.silu,
}


def _cross_entropy(y_pred, y, weights=None, label_smoothing=0.0):
    how = {"label_smoothing": label_smoothing, "reduction": "mean" if weights is None else "none"}
    loss = nn.functional.cross_entropy(y_pred, y.long(), **how)
    return loss if weights is None else _weighted_mean(loss, weights)


def _squares(reduction, y_pred, y, weights=None, label_smoothing=0.0):
    if weights is None:
        return nn.functional.mse_loss(y_pred, y, reduction=reduction)
    squares = nn.functional.mse_loss(y_pred, y, reduction="none")
    if reduction == "sum":
        return (weights[:, None] * squares).sum()
    return _weighted_mean(squares.mean(dim=1), weights)


def _quantile(y_pred, y, weights=None, label_smoothing=0.0):
    losses = []
    for i, residual in enumerate((y - y_pred).unbind(dim=1)):
        level = QUANTILES[i % len(QUANTILES)]
        losses.append(torch.where(residual < 0, (level - 1) * residual, level * residual))
    of_row = torch.stack(losses).mean(dim=0)
    return of_row.mean() if weights is None else _weighted_mean(of_row, weights)


def _weighted_mean(of_row, weights):
    return (weights * of_row).sum() / (weights.sum() or 1)


# name -> function of (y_pred, y, weights, label_smoothing)
LOSSES: dict[str, Callable[..., Tensor]] = {
    "sum_squares": partial(_squares, "sum"),
    "mean_squares": partial(_squares, "mean"),
    "cross_entropy": _cross_entropy,
    "quantile": _quantile,
}

# name -> torch.optim's class, with the hyperparameters of that name in optimizers and numpy_net
OPTIMIZERS: dict[str, Callable[..., torch.optim.Optimizer]] = {
    "sgd": torch.optim.SGD,
    "momentum": partial(torch.optim.SGD, momentum=0.9),
    "nesterov": partial(torch.optim.SGD, momentum=0.9, nesterov=True),
    "adam": torch.optim.Adam,
    "adamw": torch.optim.AdamW,
    "rmsprop": torch.optim.RMSprop,
    "adagrad": torch.optim.Adagrad,
}


def from_numpy(params: Mapping[str, np.ndarray]) -> Params:
    """Return the dictionary as tensors that require a gradient; each is a copy."""
    return {name: torch.tensor(value, requires_grad=True) for name, value in params.items()}


def forward(
    params: Params, x: Tensor, *, activation: str = "relu", repeats=None, masks=None
) -> Tensor:
    """Return y_pred (N, D_out) for rows x (N, D_in). Raises: as `spec.check_forward`."""
    num_layers = check_forward(params, x, activation, repeats, masks)
    h = x
    for i, k in enumerate(layer_order(num_layers, repeats)):
        if i > 0:
            h = ACTIVATIONS[activation](h)
            h = h if masks is None else h * masks[i - 1]
        h = h.mm(params[f"w{k}"])
        if f"b{k}" in params:
            h = h + params[f"b{k}"]
    return h


def loss(
    params: Params, batch: Batch, *, activation="relu", loss="sum_squares", label_smoothing=0.0
) -> Tensor:
    """Return the scalar loss of a batch of tensors; the options are those of `net.loss`."""
    options = {"activation": activation, "repeats": batch.repeats, "masks": batch.masks}
    return _loss(loss, forward(params, batch.x, **options), batch, label_smoothing)


def value_and_grad(params: Params, batch: Batch, **names: Any) -> tuple[Tensor, Params]:
    """Return what `loss` does and its gradient, 0 for a parameter that was not used."""
    value = loss(params, batch, **names)
    grads = torch.autograd.grad(value, list(params.values()), materialize_grads=True)
    return value.detach(), dict(zip(params, grads, strict=True))


def module_loss(module: nn.Module, batch: Batch, *, loss: str = "sum_squares") -> Tensor:
    """Return the scalar loss of a module of this file on a batch of tensors."""
    check_forward(to_params(module), batch.x, "relu", batch.repeats)
    check_module(isinstance(module, DynamicNet), batch)
    y_pred = module(batch.x) if batch.repeats is None else module(batch.x, batch.repeats)
    return _loss(loss, y_pred, batch, 0.0)


def _loss(loss: str, y_pred: Tensor, batch: Batch, label_smoothing: float) -> Tensor:
    check_loss(loss, y_pred, batch.y, batch.weights, label_smoothing)
    check_values(loss, y_pred.shape[1], batch)
    return LOSSES[loss](y_pred, batch.y, batch.weights, label_smoothing)


class Activation(nn.Module):
    """An activation of the table as a layer without parameters."""

    def __init__(self, name: str):
        super().__init__()
        check_choice("activation", name, tuple(ACTIVATIONS))
        self.name = name

    def forward(self, x: Tensor) -> Tensor:
        return ACTIVATIONS[self.name](x)


def sequential(spec: Spec) -> nn.Sequential:
    """Return the network of `spec` as an nn.Sequential, at torch's own initial values."""
    layers: list[nn.Module] = []
    for d_in, d_out in pairwise(spec.sizes):
        layers += [nn.Linear(d_in, d_out, bias=spec.bias), Activation(spec.activation)]
    return nn.Sequential(*layers[:-1])


class TwoLayerNet(nn.Module):
    """The tutorial's module: linear1, clamp, linear2. Calls map (N, d_in) to (N, d_out)."""

    def __init__(self, d_in: int, hidden: int, d_out: int):
        super().__init__()
        self.linear1 = nn.Linear(d_in, hidden)
        self.linear2 = nn.Linear(hidden, d_out)

    def forward(self, x: Tensor) -> Tensor:
        return self.linear2(self.linear1(x).clamp(min=0))


class DynamicNet(nn.Module):
    """The tutorial's dynamic network: the middle layer is applied `repeats` times."""

    def __init__(self, d_in: int, hidden: int, d_out: int):
        super().__init__()
        self.input_linear = nn.Linear(d_in, hidden)
        self.middle_linear = nn.Linear(hidden, hidden)
        self.output_linear = nn.Linear(hidden, d_out)

    def forward(self, x: Tensor, repeats: int) -> Tensor:
        h = self.input_linear(x).clamp(min=0)
        for _ in range(int(repeats)):
            h = self.middle_linear(h).clamp(min=0)
        return self.output_linear(h)


def params_from_state_dict(state_dict: Mapping[str, Tensor]) -> dict[str, np.ndarray]:
    """Return NumPy copies `w1, b1, w2, ...` of a state_dict of Linear layers, in its order.

    Raises: ValueError for an entry that is not the weight or the bias of a Linear layer.
    """
    params: dict[str, np.ndarray] = {}
    k = 0
    for name, value in state_dict.items():
        kind = name.rpartition(".")[2]
        if (kind, value.ndim) not in {("weight", 2), ("bias", 1)}:
            raise ValueError(
                f"`state_dict` must hold Linear layers only, got {name} {tuple(value.shape)}"
            )
        k += kind == "weight"
        params[f"w{k}" if kind == "weight" else f"b{k}"] = value.detach().cpu().numpy().T.copy()
    check_params(params)
    return params


def state_dict_from_params(
    params: Mapping[str, np.ndarray], like: Mapping[str, Tensor]
) -> dict[str, Tensor]:
    """Return the dictionary with the names and layout of `like`, a state_dict of Linear layers.

    Raises: ValueError if the layers or their shapes differ from those of `like`.
    """
    check_params(params)
    wanted = {k: v.shape for k, v in params_from_state_dict(like).items()}
    got = {k: tuple(v.shape) for k, v in params.items()}
    if wanted != got:
        raise ValueError(f"`params` must have the shapes {wanted} of `like`, got {got}")
    values = (torch.tensor(np.ascontiguousarray(np.asarray(params[k]).T)) for k in wanted)
    return dict(zip(like, values, strict=True))


def to_params(module: nn.Module) -> Params:
    """Return a module's own tensors as `w1, b1, w2, ...`, the weights as transposed views."""
    params = {}
    for k, layer in enumerate((m for m in module.modules() if isinstance(m, nn.Linear)), start=1):
        params[f"w{k}"] = layer.weight.T
        if layer.bias is not None:
            params[f"b{k}"] = layer.bias
    return params
