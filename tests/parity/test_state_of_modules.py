"""A module with BatchNorm and Dropout trains as torch's: each step, losses, and statistics."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from flax import nnx

from jaxnet import flax_net, optimizers, parity, train

torch.set_num_threads(1)  # the models are tiny

ROWS, KEEP, STEPS = 6, 0.75, 20
OPTIMIZER = optimizers.adam(0.01)
LAYOUT = {
    "hidden/kernel": ("hidden.weight", (1, 0)),
    "hidden/bias": "hidden.bias",
    "norm/scale": "norm.weight",
    "norm/bias": "norm.bias",
    "norm/mean": "norm.running_mean",
    "norm/var": "norm.running_var",
    "out/kernel": ("out.weight", (1, 0)),
    "out/bias": "out.bias",
}


class TorchNet(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.hidden = torch.nn.Linear(7, 5)
        self.norm = torch.nn.BatchNorm1d(5)
        self.out = torch.nn.Linear(5, 3)

    def forward(self, x, mask):
        h = torch.relu(self.norm(self.hidden(x)))
        return self.out(h * mask / KEEP)


class BatchNorm(nnx.BatchNorm):
    """nnx's with torch's running variance, which is n / (n - 1) of the batch's."""

    def __call__(self, x):
        old = self.var[...]
        y = super().__call__(x)
        self.var[...] += (self.var[...] - self.momentum * old) / (len(x) - 1)
        return y


class FlaxNet(nnx.Module):
    """The port; its masks come from the batch, or from its own Dropout."""

    def __init__(self, norm=BatchNorm, *, draws=False):
        rngs = nnx.Rngs(0)
        self.hidden = nnx.Linear(7, 5, rngs=rngs)
        self.norm = norm(5, momentum=0.9, rngs=rngs)
        self.drop = nnx.Dropout(1 - KEEP, deterministic=not draws, rngs=rngs)
        self.out = nnx.Linear(5, 3, rngs=rngs)
        self.draws = draws

    def __call__(self, x, mask):
        h = nnx.relu(self.norm(self.hidden(x)))
        return self.out(self.drop(h) if self.draws else h * mask / KEEP)


def flax_loss(module, batch):
    return jnp.square(module(batch["x"], batch["mask"]) - batch["y"]).mean()


def torch_loss(module, batch):
    return ((module(batch["x"], batch["mask"]) - batch["y"]) ** 2).mean()


def torch_adam(parameters):
    return torch.optim.Adam(parameters, lr=0.01)


def drawn_masks():
    """The masks of each step that the port's Dropout will draw, by JAX's own functions."""
    (key,) = jax.tree.leaves(nnx.state(FlaxNet(), nnx.RngKey))
    keys = [jax.random.fold_in(key, step) for step in range(STEPS)]
    return [np.asarray(jax.random.bernoulli(k, KEEP, (ROWS, 5)), float) for k in keys]


def batches():
    rng, masks = np.random.default_rng(0), drawn_masks()
    shapes = {"x": (STEPS, ROWS, 7), "y": (STEPS, ROWS, 3)}
    drawn = {name: rng.standard_normal(shape) + 0.5 for name, shape in shapes.items()}
    return [{name: a[i] for name, a in drawn.items()} | {"mask": masks[i]} for i in range(STEPS)]


def trained(leaves, batch_at, num_steps, norm=BatchNorm):
    """State and losses of the port in `train.fit_scan`, its masks drawn by itself."""
    module = FlaxNet(norm, draws=True)
    for path, variable in nnx.to_flat_state(nnx.state(module, nnx.Not(nnx.RngState))):
        variable.set_value(jnp.asarray(leaves["/".join(map(str, path))]))
    loss, params, model_state = flax_net.split(module, flax_loss)
    state = train.init(params, OPTIMIZER, model_state)
    return train.fit_scan(train.make_step(loss, OPTIMIZER), state, batch_at, num_steps)


def port(norm):
    def run(params, batch_at, num_steps, keep):
        return trained(parity.convert(params, LAYOUT), batch_at, num_steps, norm)[1], {}

    made = parity.flax_participant(
        FlaxNet(norm),
        flax_loss,
        OPTIMIZER,
        forward=lambda module, batch: module(batch["x"], batch["mask"]),
        layout=LAYOUT,
    )
    return replace(made, run=run)


def check(norm):
    torch.manual_seed(0)
    reference = parity.torch_participant(
        TorchNet(),
        torch_loss,
        torch_adam,
        forward=lambda module, batch: module(batch["x"], batch["mask"]),
    )
    case = parity.Case(
        "model state", TorchNet().state_dict(), batches().__getitem__, (1, 2, 3), STEPS
    )
    return parity.check(port(norm), against=reference, case=case)


@pytest.mark.usefixtures("x64")
def test_each_step_and_the_losses_of_the_compiled_loop_are_torchs():
    report = check(BatchNorm)
    assert report.verdict == "equal", report
    stages = {leaf.stage for leaf in report.leaves}
    assert {"buffers", "free run"} <= stages
    assert {leaf.leaf for leaf in report.leaves if leaf.stage == "buffers"} == {
        "norm.running_mean",
        "norm.running_var",
    }


@pytest.mark.usefixtures("x64")
def test_another_running_variance_is_seen_and_named():
    report = check(nnx.BatchNorm)
    assert report.verdict == "mismatch"
    assert {leaf.stage for leaf in report.leaves if not leaf.equal} == {"buffers"}
    assert report.cause == "BatchNorm biased running variance"


@pytest.mark.usefixtures("x64")
def test_the_statistics_after_the_compiled_loop_are_torchs():
    torch.manual_seed(0)
    module = TorchNet().double()
    before = {name: value.numpy().copy() for name, value in module.state_dict().items()}
    optimizer = torch_adam(module.parameters())
    for batch in batches():
        optimizer.zero_grad()
        torch_loss(module, {name: torch.tensor(a) for name, a in batch.items()}).backward()
        optimizer.step()
    state, _ = trained(parity.convert(before, LAYOUT), batches().__getitem__, STEPS)
    after = {name: value.numpy() for name, value in module.state_dict().items()}
    want = parity.convert(after, LAYOUT)
    found = [*nnx.to_flat_state(state.params), *nnx.to_flat_state(state.model_state)]
    assert len(found) == len(want) + 1  # and the count of the masks
    for path, variable in found:
        if path[-1] != "count":
            name = "/".join(map(str, path))
            # float64; a bias before BatchNorm has a gradient of rounding, by which Adam moves it
            np.testing.assert_allclose(variable[...], want[name], rtol=1e-8, atol=1e-8)
