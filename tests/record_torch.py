"""Record float64 trajectories of PyTorch, which the tests then hold the other implementations to.

Run by hand where torch and the package are installed: `python tests/record_torch.py`.
"""

import platform
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from helpers import HYPERPARAMETERS, RATES, SIZES, STAGES, problem, stage_problem
from torch import nn

from jaxnet import torch_net
from jaxnet.spec import Batch, Spec

torch.set_num_threads(1)  # so small that threads only wait, and rounding has one order

FOLDER = Path(__file__).parent / "recordings"
OPTIMIZED = Spec((7, 5, 3), bias=True)  # the network on which each optimizer makes fifty steps
Trajectory = dict[str, np.ndarray]  # `losses` before each update, and the last parameters


def fit(loss: Callable[[Any], torch.Tensor], optimizer: torch.optim.Optimizer, depths) -> list:
    """Make a step for each of `depths` as the tutorial does, and return the losses."""
    # torch skips a parameter whose gradient is None: no momentum, no decay. A layer that a step
    # does not use has None as long as it was never used, and after zero_grad() by default: its
    # weights then depend on how the loop was written. Zeros are the mathematics, so the gradients
    # begin as zeros and stay tensors.
    for group in optimizer.param_groups:
        for p in group["params"]:
            p.grad = torch.zeros_like(p)
    losses = []
    for repeats in depths:
        value = loss(repeats)
        optimizer.zero_grad(set_to_none=False)
        value.backward()
        optimizer.step()
        losses.append(value.item())
    return losses


def tensors(batch: Batch) -> Batch:
    weights = None if batch.weights is None else torch.tensor(batch.weights)
    masks = None if batch.masks is None else tuple(map(torch.tensor, batch.masks))
    return Batch(torch.tensor(batch.x), torch.tensor(batch.y), weights=weights, masks=masks)


def trajectory(losses: list, params: dict[str, torch.Tensor]) -> Trajectory:
    last = {name: p.detach().numpy().copy() for name, p in params.items()}
    return {"losses": np.array(losses)} | last


def module_of(name: str, d_in: int, hidden: int, d_out: int) -> nn.Module:
    if name == "sequential":
        return nn.Sequential(nn.Linear(d_in, hidden), nn.ReLU(), nn.Linear(hidden, d_out))
    return {"module": torch_net.TwoLayerNet, "dynamic": torch_net.DynamicNet}[name](
        d_in, hidden, d_out
    )


def run_stage(name: str, size: str) -> Trajectory:
    """One of the tutorial's programs in torch, from the parameters and data that all share."""
    stage = STAGES[name]
    _, params, batch, depths = stage_problem(stage, size)
    x, y, *_ = tensors(batch)
    rate = stage.rates[size]
    loss_fn = nn.MSELoss(reduction="sum")
    if name == "tensors":
        leaves = torch_net.from_numpy(params)

        def loss(repeats):
            h_relu = torch_net.MyReLU.apply(x.mm(leaves["w1"]))
            return (h_relu.mm(leaves["w2"]) - y).pow(2).sum()

        optimizer = torch.optim.SGD(leaves.values(), lr=rate)
        return trajectory(fit(loss, optimizer, depths), leaves)

    model = module_of(name, *SIZES[size][0]).double()
    model.load_state_dict(torch_net.state_dict_from_params(params, model.state_dict()))
    optimizer = {
        "adam": torch.optim.Adam,
        "sgd": torch.optim.SGD,
        "momentum": lambda p, lr: torch.optim.SGD(p, lr=lr, momentum=0.9),
    }[stage.optimizer](model.parameters(), lr=rate)

    def module_loss(repeats):
        return loss_fn(model(x) if repeats is None else model(x, int(repeats)), y)

    losses = fit(module_loss, optimizer, depths)
    return trajectory(losses, torch_net.to_params(model))


def torch_options(options: dict[str, Any]) -> dict[str, Any]:
    """Return hyperparameters of this package under the names that torch.optim gives them."""
    options = dict(options)
    if options.keys() & {"b1", "b2"}:
        options["betas"] = (options.pop("b1", 0.9), options.pop("b2", 0.999))
    if "decay" in options:
        options["alpha"] = options.pop("decay")
    return options


def run_optimizer(name: str, options: dict[str, Any]) -> Trajectory:
    """Fifty steps of one of torch's optimizers on the 7-5-3 network."""
    params, batch = problem(OPTIMIZED)
    leaves, data = torch_net.from_numpy(params), tensors(batch)
    optimizer = torch_net.OPTIMIZERS[name](
        leaves.values(), lr=RATES.get(name, 0.005), **torch_options(options)
    )
    losses = fit(lambda _: torch_net.loss(leaves, data), optimizer, [None] * 50)
    return trajectory(losses, leaves)


def save(file: str, runs: dict[str, Trajectory]) -> None:
    versions = (torch.__version__, np.__version__, platform.python_version())
    arrays: dict[str, Any] = dict(zip(("torch", "numpy", "python"), versions, strict=True))
    arrays |= {f"{run}/{name}": array for run, t in runs.items() for name, array in t.items()}
    FOLDER.mkdir(exist_ok=True)
    np.savez_compressed(FOLDER / file, **arrays)


def main() -> None:
    save("stages_small.npz", {name: run_stage(name, "small") for name in STAGES})
    losses = {name: {"losses": run_stage(name, "tutorial")["losses"]} for name in STAGES}
    save("stages_tutorial.npz", losses)
    variants = {name: (name, {}) for name in torch_net.OPTIMIZERS} | HYPERPARAMETERS
    save("optimizers.npz", {run: run_optimizer(*variant) for run, variant in variants.items()})


if __name__ == "__main__":
    main()
