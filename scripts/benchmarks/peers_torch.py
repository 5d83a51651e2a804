"""PyTorch: eager, with fused optimizers, compiled, and as a CUDA graph."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise
from typing import Any

import numpy as np
import torch
from torch import nn

from jaxnet.spec import Batch

from .participant import Inapplicable
from .workloads import Workload

DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")
OPTIMIZERS = {"sgd": torch.optim.SGD, "adam": torch.optim.Adam}


class Clamp(nn.Module):
    """The tutorial's activation, whose derivative at 0 is 1."""

    def forward(self, x):
        return x.clamp(min=0)


def network(workload: Workload, member: int = 0) -> nn.Sequential:
    """Linear layers at the workload's initial weights."""
    layers: list[Any] = []
    for d_in, d_out in pairwise(workload.sizes):
        layers.append(nn.Linear(d_in, d_out, bias=workload.bias))
        layers.append(Clamp() if workload.activation == "my_relu" else nn.ReLU())
    params = workload.params(member)
    with torch.no_grad():
        for k, layer in enumerate(layers[::2], start=1):
            layer.weight.copy_(torch.from_numpy(params[f"w{k}"].T.copy()))
            if workload.bias:
                layer.bias.copy_(torch.from_numpy(params[f"b{k}"]))
    return nn.Sequential(*layers[:-1]).to(DEVICE)


def loss_function(workload: Workload) -> nn.Module:
    """The workload's loss."""
    return nn.MSELoss(reduction="sum") if workload.loss == "sum_squares" else nn.CrossEntropyLoss()


def tensors(table: Batch) -> tuple[torch.Tensor, torch.Tensor]:
    """The data on the device; classes are of the type that the loss takes."""
    y = torch.from_numpy(table.y)
    y = y if y.is_floating_point() else y.long()
    return torch.from_numpy(table.x).to(DEVICE), y.to(DEVICE)


def batches_of(workload: Workload, x, y) -> Callable:
    """The function from a step to its batch, gathered on the device."""
    rows_at = workload.rows_at()
    if workload.batch is None:
        return lambda step: (x, y)

    def batch(step):
        rows = torch.from_numpy(rows_at(step)).to(DEVICE, non_blocking=True)
        return x.index_select(0, rows), y.index_select(0, rows)

    return batch


class Loop:
    """The tutorial's loop: batch, step, loss kept on the device."""

    def __init__(self, workload, table, model, step):
        self._batch = batches_of(workload, *tensors(table))
        self._model, self._step, self._made = model, step, 0

    def run(self, num_steps):
        losses = []
        for _ in range(num_steps):
            losses.append(self._step(*self._batch(self._made)))
            self._made += 1
        return torch.stack(losses).cpu().numpy()

    def params(self):
        return params_of(self._model)


def params_of(model: Any) -> dict[str, np.ndarray]:
    """The weights as the dictionary w1, b1, w2, ..."""
    params = {}
    for k, layer in enumerate(model[::2], start=1):
        params[f"w{k}"] = layer.weight.detach().cpu().numpy().T.copy()
        if layer.bias is not None:
            params[f"b{k}"] = layer.bias.detach().cpu().numpy().copy()
    return params


def plain_step(model, loss_fn, optimizer, half: bool = False) -> Callable:
    """zero_grad, forward, backward, step; half: with autocast to bfloat16."""

    def step(x, y):
        optimizer.zero_grad()
        with torch.autocast(DEVICE.type, torch.bfloat16, enabled=half):
            loss = loss_fn(model(x), y)
        loss.backward()
        optimizer.step()
        return loss.detach()

    return step


def _loop(workload: Workload, table: Batch, **options) -> Loop:
    model = network(workload)
    optimizer = OPTIMIZERS[workload.optimizer](
        model.parameters(), workload.learning_rate, **options
    )
    half = workload.dtype == "bfloat16"
    step = plain_step(model, loss_function(workload), optimizer, half)
    return Loop(workload, table, model, step)


def eager(workload: Workload, table: Batch) -> Loop:
    """torch's defaults."""
    return _loop(workload, table)


def fused(workload: Workload, table: Batch) -> Loop:
    """The optimizer as one kernel for all parameters."""
    return _loop(workload, table, fused=True)


def compiled(workload: Workload, table: Batch) -> Loop:
    """Forward and loss compiled, with their backward, and the fused optimizer after them."""
    model, loss_fn = network(workload), loss_function(workload)
    optimizer = OPTIMIZERS[workload.optimizer](
        model.parameters(), workload.learning_rate, fused=True
    )
    mode = "reduce-overhead" if DEVICE.type == "cuda" else None
    half = workload.dtype == "bfloat16"

    @torch.compile(mode=mode, fullgraph=True)
    def forward(x, y):
        with torch.autocast(DEVICE.type, torch.bfloat16, enabled=half):
            return loss_fn(model(x), y)

    def step(x, y):
        optimizer.zero_grad()
        if DEVICE.type == "cuda":
            torch.compiler.cudagraph_mark_step_begin()
        loss = forward(x, y)
        loss.backward()
        optimizer.step()
        return loss.detach().clone() if DEVICE.type == "cuda" else loss.detach()

    return Loop(workload, table, model, step)


def graph(workload: Workload, table: Batch) -> Loop:
    """The whole step captured in a CUDA graph, and replayed on new batches."""
    if DEVICE.type != "cuda":
        raise Inapplicable("needs a GPU")
    model, loss_fn = network(workload), loss_function(workload)
    options: dict[str, Any] = {"capturable": True} if workload.optimizer == "adam" else {}
    optimizer = OPTIMIZERS[workload.optimizer](
        model.parameters(), torch.tensor(workload.learning_rate, device=DEVICE) if options
        else workload.learning_rate, fused=True, **options,
    )  # fmt: skip
    x, y = batches_of(workload, *tensors(table))(0)
    x, y = x.clone(), y.clone()
    _warm_up(model, loss_fn, x, y)
    captured = torch.cuda.CUDAGraph()
    optimizer.zero_grad(set_to_none=True)
    with torch.cuda.graph(captured):
        loss = loss_fn(model(x), y)
        loss.backward()
        optimizer.step()

    def step(new_x, new_y):
        if workload.batch is not None:
            x.copy_(new_x)
            y.copy_(new_y)
        captured.replay()
        return loss.detach().clone()

    return Loop(workload, table, model, step)


def _warm_up(model, loss_fn, x, y) -> None:
    """Forward and backward on a side stream, as capture wants it; no weight is changed."""
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        for _ in range(3):
            model.zero_grad(set_to_none=True)
            loss_fn(model(x), y).backward()
    torch.cuda.current_stream().wait_stream(stream)
