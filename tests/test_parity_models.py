"""`parity.check` on models of one's own: torch modules ported to Flax, with planted bugs."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from flax import nnx
from torch import nn

from jaxnet import optimizers, parity

ROWS = 6
OPTIMIZERS = {
    "adam": (
        functools.partial(optimizers.adam, 1e-2),
        functools.partial(torch.optim.Adam, lr=1e-2),
    ),
    "momentum": (
        functools.partial(optimizers.sgd, 1e-2, momentum=0.9),
        functools.partial(torch.optim.SGD, lr=1e-2, momentum=0.9),
    ),
}


class TorchMLP(nn.Module):
    def __init__(self):
        super().__init__()
        self.first, self.norm = nn.Linear(5, 4), nn.LayerNorm(4)
        self.square, self.last = nn.Linear(4, 4), nn.Linear(4, 3)

    def forward(self, x):
        h = nn.functional.gelu(self.norm(self.first(x)))
        return self.last(torch.relu(self.square(h)))


class FlaxMLP(nnx.Module):
    def __init__(self, rngs, epsilon=1e-5, gelu=functools.partial(nnx.gelu, approximate=False)):
        self.first, self.norm = nnx.Linear(5, 4, rngs=rngs), nnx.LayerNorm(4, epsilon, rngs=rngs)
        self.square, self.last = nnx.Linear(4, 4, rngs=rngs), nnx.Linear(4, 3, rngs=rngs)
        self.gelu, self.frozen = gelu, False

    def __call__(self, x):
        h = self.norm(self.first(x))
        bias = self.square.bias[...]
        bias = jax.lax.stop_gradient(bias) if self.frozen else bias
        h = nnx.relu(self.gelu(h) @ self.square.kernel[...] + bias)
        return self.last(h)


MLP_LAYOUT = {
    "first/kernel": ("first.weight", (1, 0)),
    "first/bias": "first.bias",
    "norm/scale": "norm.weight",
    "norm/bias": "norm.bias",
    "square/kernel": ("square.weight", (1, 0)),
    "square/bias": "square.bias",
    "last/kernel": ("last.weight", (1, 0)),
    "last/bias": "last.bias",
}


class TorchConv(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(2, 3, 3, padding=1, stride=2)
        self.mix = nn.Conv2d(3, 3, 1, bias=False)
        self.last = nn.Linear(3, 2)

    def forward(self, images):
        return self.last(self.mix(torch.tanh(self.conv(images))).mean((2, 3)))


class FlaxConv(nnx.Module):
    """On NHWC images, where torch's are NCHW."""

    def __init__(self, rngs, padding=((1, 1), (1, 1)), strides=2):
        self.conv = nnx.Conv(2, 3, (3, 3), strides=strides, padding=padding, rngs=rngs)
        self.mix = nnx.Conv(3, 3, (1, 1), use_bias=False, rngs=rngs)
        self.last = nnx.Linear(3, 2, rngs=rngs)

    def __call__(self, images):
        h = self.mix(jnp.tanh(self.conv(images.transpose(0, 2, 3, 1))))
        return self.last(h.mean((1, 2)))


HWIO = (2, 3, 1, 0)  # Flax's kernel, as axes of torch's (out, in, height, width)
CONV_LAYOUT = {
    "conv/kernel": ("conv.weight", HWIO),
    "conv/bias": "conv.bias",
    "mix/kernel": ("mix.weight", HWIO),
    "last/kernel": ("last.weight", (1, 0)),
    "last/bias": "last.bias",
}

# kind -> the two models, the layout, and the shapes of a batch
MODELS = {
    "MLP": (TorchMLP, FlaxMLP, MLP_LAYOUT, (ROWS, 5), (ROWS, 3)),
    "convolution": (TorchConv, FlaxConv, CONV_LAYOUT, (ROWS, 2, 6, 6), (ROWS, 2)),
}


def flax_loss(module, batch):
    return jnp.square(module(batch["x"]) - batch["y"]).sum()


@functools.cache
def reference(kind, optimizer="adam"):
    """The torch participant's trajectory: a batch of its own for each step."""
    torch.manual_seed(0)
    make, _, _, *shapes = MODELS[kind]
    module = make()
    params = {k: p.detach().double().numpy() for k, p in module.named_parameters()}

    def batch_at(i):
        rng = np.random.default_rng(i)
        return {k: rng.standard_normal(s) for k, s in zip("xy", shapes, strict=True)}

    participant = parity.torch_participant(
        module,
        lambda module, batch: (module(batch["x"]) - batch["y"]).square().sum(),
        OPTIMIZERS[optimizer][1],
        forward=lambda module, batch: module(batch["x"]),
    )
    case = parity.Case(f"{kind} {optimizer}", params, batch_at, (1, 2), 3)
    return parity.trajectory(participant, case)


def check(kind, module=None, loss=flax_loss, optimizer=None, layout=None, against="adam"):
    """The report of a port to Flax: the right one unless something is given."""
    _, make, right, *_ = MODELS[kind]
    candidate = parity.flax_participant(
        make(nnx.Rngs(0)) if module is None else module,
        loss,
        OPTIMIZERS[against][0]() if optimizer is None else optimizer,
        forward=lambda module, batch: module(batch["x"]),
        layout=right | (layout or {}),
    )
    return parity.check(candidate, against=reference(kind, against))


def frozen():
    module = FlaxMLP(nnx.Rngs(0))
    module.frozen = True
    return module


def mean_loss(module, batch):
    return jnp.square(module(batch["x"]) - batch["y"]).mean()


# bug -> what is changed in the right port, where it must show first, and the cause's name
BUGS = {
    "a square kernel's transpose undeclared": (
        ("MLP", lambda: {"layout": {"square/kernel": "square.weight"}}),
        ("forward", "y_pred"),
        "transposed weight square.weight",
    ),
    "LayerNorm's epsilon": (
        ("MLP", lambda: {"module": FlaxMLP(nnx.Rngs(0), epsilon=1e-6)}),
        ("forward", "y_pred"),
        "unknown",
    ),
    "a bias without its gradient": (
        ("MLP", lambda: {"module": frozen()}),
        ("gradient", "square.bias"),
        "dropped leaf square.bias",
    ),
    "ReLU for GELU": (
        ("MLP", lambda: {"module": FlaxMLP(nnx.Rngs(0), gelu=nnx.relu)}),
        ("forward", "y_pred"),
        "unknown",
    ),
    "GELU by tanh": (
        ("MLP", lambda: {"module": FlaxMLP(nnx.Rngs(0), gelu=nnx.gelu)}),
        ("forward", "y_pred"),
        "unknown",
    ),
    "mean for sum": (
        ("MLP", lambda: {"loss": mean_loss}),
        ("loss", "loss"),
        "mean over all elements for the sum (loss and gradient)",
    ),
    "padding by SAME, which is (0, 1) at stride 2": (
        ("convolution", lambda: {"module": FlaxConv(nnx.Rngs(0), padding="SAME")}),
        ("forward", "y_pred"),
        "unknown",
    ),
    "stride 1, hidden by the mean": (
        ("convolution", lambda: {"module": FlaxConv(nnx.Rngs(0), strides=1)}),
        ("forward", "y_pred"),
        "unknown",
    ),
    "a kernel upside down": (
        ("convolution", lambda: {"layout": {"mix/kernel": ("mix.weight", (2, 3, 0, 1))}}),
        ("forward", "y_pred"),
        "unknown",
    ),
    "Adam's epsilon": (
        ("MLP", lambda: {"optimizer": optimizers.adam(1e-2, eps=1e-7)}),
        ("parameters", None),
        "unknown",
    ),
    "the learning rate": (
        ("convolution", lambda: {"optimizer": optimizers.adam(1.1e-2)}),
        ("parameters", None),
        "learning rate times 1.1",
    ),
}


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
@pytest.mark.parametrize("kind", MODELS)
def test_a_right_port_is_equal_in_every_stage(kind, optimizer):
    report = check(kind, against=optimizer)
    report.raise_for_mismatch()
    assert report.verdict == "equal"
    assert (report.first, report.cause, list(report.causes)) == (None, "", [])
    sizes = sum(p.size for p in reference(kind, optimizer).case.params.values())
    assert report.n_compared > 4 * sizes  # two steps in two tiers
    stages = {leaf.stage for leaf in report.leaves if leaf.tier == "mathematics"}
    assert stages == {"forward", "loss", "gradient", "parameters", "optimizer", "free run"}
    assert report.left_out == []


@pytest.mark.parametrize(("change", "where", "cause"), BUGS.values(), ids=BUGS)
def test_a_planted_bug_is_found_where_it_is(change, where, cause):
    kind, make = change
    report = check(kind, **make())
    first = report.first
    assert report.verdict == "mismatch"
    assert first is not None
    stage, leaf = where
    assert (first.tier, first.step, first.stage) == ("mathematics", 1, stage)
    assert leaf in (None, first.leaf)
    assert report.cause == cause
    with pytest.raises(parity.ParityError, match=stage):
        report.raise_for_mismatch()


def test_the_update_of_a_wrong_gradient_is_still_compared_by_itself():
    report = check("MLP", module=frozen())
    wrong = {leaf.stage for leaf in report.leaves if not leaf.equal}
    assert wrong == {"gradient", "free run"}


def test_a_torch_module_is_left_as_it_was():
    module = TorchMLP()
    before = {k: p.detach().clone() for k, p in module.named_parameters()}
    participant = parity.torch_participant(
        module, lambda module, batch: module(batch).sum(), functools.partial(torch.optim.SGD, lr=1)
    )
    params = {k: p.detach().double().numpy() for k, p in module.named_parameters()}
    parity.trajectory(participant, parity.Case("", params, lambda i: np.ones((2, 5)), (1,), 2))
    for name, p in module.named_parameters():
        assert p.dtype == torch.float32
        assert torch.equal(p, before[name])
        assert p.grad is None


@pytest.mark.parametrize("name", ["Dropout", "Dropout2d", "AlphaDropout"])
def test_a_torch_module_in_training_mode_with_dropout_is_refused_by_name(name):
    module = nn.Sequential(nn.Linear(5, 4), getattr(nn, name)(0.5))
    with pytest.raises(ValueError, match=f"1 is an active {name}; call module.eval\\(\\) first"):
        parity.torch_participant(module, lambda module, batch: module(batch).sum())
    parity.torch_participant(module.eval(), lambda module, batch: module(batch).sum())


def test_a_torch_candidate_of_another_shape_or_name_is_refused():
    module = nn.Linear(3, 2, bias=False)
    reference = parity.numpy_participant(lambda p, b: (p["w"].sum(), {"w": np.ones_like(p["w"])}))
    case = parity.Case("", {"w": np.ones((3, 2))}, lambda i: np.ones((4, 3)), (1,), 1)

    def run(layout):
        candidate = parity.torch_participant(module, lambda m, b: m(b).sum(), layout=layout)
        return parity.check(candidate, against=reference, case=case)

    with pytest.raises(ValueError, match="declare a `layout`"):
        run(None)
    with pytest.raises(ValueError, match=r"'weight' must have shape \(2, 3\), got \(3, 2\)"):
        run({"weight": "w"})


@pytest.mark.parametrize("make", [optimizers.sgd, functools.partial(optimizers.sgd, momentum=0.9)])
def test_torch_follows_a_jax_reference_that_counts_no_steps(make):
    momentum = 0.0 if make is optimizers.sgd else 0.9
    reference = parity.jax_participant(lambda p, b: jnp.square(b @ p["weight"].T).sum(), make(0.01))
    candidate = parity.torch_participant(
        nn.Linear(3, 2, bias=False),
        lambda module, batch: module(batch).square().sum(),
        functools.partial(torch.optim.SGD, lr=0.01, momentum=momentum),
    )
    params = {"weight": np.random.default_rng(0).standard_normal((2, 3))}
    case = parity.Case("", params, lambda i: np.ones((4, 3)), (1, 2, 3), 3)
    parity.check(candidate, against=reference, case=case).raise_for_mismatch()
