"""`parity.check` on models of one's own: torch modules ported to Flax, with planted bugs."""

import functools
from dataclasses import replace

import jax.numpy as jnp
import numpy as np
import pytest
import torch
from flax import nnx
from ported_models import (
    MLP_LAYOUT,
    MODELS,
    OPTIMIZERS,
    FlaxMLP,
    TorchMLP,
    flax_loss,
    port,
    reference,
    right_port,
)
from torch import nn

from jaxnet import optimizers, parity


def check_bug(kind, change):
    """The report of a port with a bug; what the bug leaves alone is compiled once for all."""
    candidate, right = port(kind, **change), right_port(kind, "adam")
    if "optimizer" in change:
        right = replace(candidate, value_and_grad=right.value_and_grad, forward=right.forward)
    else:
        own = {name: getattr(candidate, name) for name in ("value_and_grad", "forward", "layers")}
        right = replace(right, **own)
    return parity.check(replace(right, run=None), against=reference(kind))


def mean_loss(module, batch):
    return jnp.square(module(batch["x"]) - batch["y"]).mean()


# bug -> what is changed in the right port, where it must show first, and the cause's name
BUGS = {
    "a square kernel's transpose undeclared": (
        ("MLP", {"layout": {"square/kernel": "square.weight"}}),
        ("forward", "y_pred"),
        "transposed weight square.weight",
    ),
    "LayerNorm's epsilon": (
        ("MLP", {"epsilon": 1e-6}),
        ("forward", "y_pred"),
        "LayerNorm epsilon 1e-06 for 1e-05",
    ),
    "a bias without its gradient": (
        ("MLP", {"frozen": True}),
        ("gradient", "square.bias"),
        "dropped leaf square.bias",
    ),
    "ReLU for GELU": (
        ("MLP", {"gelu": nnx.relu}),
        ("forward", "y_pred"),
        "ReLU for GELU (erf)",
    ),
    "GELU by tanh": (
        ("MLP", {"gelu": nnx.gelu}),
        ("forward", "y_pred"),
        "GELU (tanh) for GELU (erf)",
    ),
    "mean for sum": (
        ("MLP", {"loss": mean_loss}),
        ("loss", "loss"),
        "mean over all elements for the sum (loss and gradient)",
    ),
    "padding by SAME, which is (0, 1) at stride 2": (
        ("convolution", {"padding": "SAME"}),
        ("forward", "y_pred"),
        "padding SAME [(0, 1), (0, 1)] for [(1, 1), (1, 1)]",
    ),
    "stride 1, hidden by the mean": (
        ("convolution", {"strides": 1}),
        ("forward", "y_pred"),
        "unknown",
    ),
    "a kernel upside down": (
        ("convolution", {"layout": {"mix/kernel": ("mix.weight", (2, 3, 0, 1))}}),
        ("forward", "y_pred"),
        "weight of conv2d transposed, inputs for outputs",
    ),
    "Adam's epsilon": (
        ("MLP", {"optimizer": optimizers.adam(1e-2, eps=1e-7)}),
        ("parameters", None),
        "eps 1e-07 for 1e-08",
    ),
    "the learning rate": (
        ("convolution", {"optimizer": optimizers.adam(1.1e-2)}),
        ("parameters", None),
        "learning rate times 1.1",
    ),
}


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
@pytest.mark.parametrize("kind", MODELS)
def test_a_right_port_is_equal_in_every_stage(kind, optimizer):
    report = parity.check(right_port(kind, optimizer), against=reference(kind, optimizer))
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
    report = check_bug(*change)
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
    report = check_bug("MLP", {"frozen": True})
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


def noisy_functions():
    """Modules and losses that draw random numbers, and what the message says of each."""
    linear = nn.Linear(5, 4)
    attention = nn.MultiheadAttention(4, 2, dropout=0.5)

    def attend(module, batch):
        h = module[0](batch)
        return module[1](h, h, h)[0].square().sum()

    def drop(module, batch):
        return nn.functional.dropout(module(batch), 0.5).sum()

    for name in ("Dropout", "FeatureAlphaDropout", "AlphaDropout"):
        module = nn.Sequential(linear, getattr(nn, name)(0.5))
        yield module, lambda m, b: m(b).sum(), f"1 is an active {name}. Call module.eval"
    yield nn.Sequential(linear, attention), attend, "1 is an active MultiheadAttention"
    yield linear, drop, "look for dropout"


@pytest.mark.parametrize(("module", "loss", "text"), list(noisy_functions()))
def test_a_torch_module_that_draws_random_numbers_is_no_reference(module, loss, text):
    def trajectory(loss):
        made = parity.torch_participant(module, loss)
        return parity.trajectory(
            made, parity.Case("", made_params, lambda i: np.ones((6, 5)), (1,))
        )

    made_params = {k: p.detach().numpy() for k, p in module.named_parameters()}
    with pytest.raises(ValueError, match=f"not compared: two calls of torch .*{text}"):
        trajectory(loss)

    def seeded(module, batch):
        torch.manual_seed(0)
        return loss(module, batch)

    trajectory(seeded)


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


def test_a_nested_model_of_pure_jax_is_named_by_its_paths():
    """A pytree of lists and dictionaries, with names that optimizer states and nnx use too."""
    rng = np.random.default_rng(0)
    shapes = {"value": (3, 4), "mu": (4, 4), "query": (4, 2)}
    value, mu, query = (rng.standard_normal(shape) for shape in shapes.values())
    like = {"attention": [{"value": value}, {"mu": mu}], "query": query, "step": np.zeros(2)}
    names = ["attention/0/value", "attention/1/mu", "query", "step"]

    def loss(params, batch):
        first, second = params["attention"]
        h = jnp.tanh(batch["x"] @ first["value"]) @ second["mu"]
        return jnp.square(h @ params["query"] + params["step"] - batch["y"]).mean()

    def flat_loss(params, batch):
        h = torch.tanh(batch["x"] @ params["0"]) @ params["1"]
        return (h @ params["2"] + params["3"] - batch["y"]).square().mean()

    leaves = [value, mu, query, np.zeros(2)]
    module = nn.ParameterDict({str(i): torch.tensor(leaf) for i, leaf in enumerate(leaves)})
    for made, twin in OPTIMIZERS.values():
        report = parity.check(
            parity.jax_participant(loss, made(), like=like),
            against=parity.torch_participant(
                module, flat_loss, twin, layout={str(i): name for i, name in enumerate(names)}
            ),
            case=parity.Case(
                "attention",
                dict(zip(names, leaves, strict=True)),
                lambda i: {"x": np.full((5, 3), 0.1 * i + 0.5), "y": np.ones((5, 2))},
                (1, 2),
                3,
            ),
        )
        report.raise_for_mismatch()
        assert {leaf.leaf for leaf in report.leaves if leaf.stage == "gradient"} == set(names)


def test_a_model_without_an_optimizer_compares_loss_and_gradient_only():
    candidate = port("MLP")
    case = replace(reference("MLP").case, steps=(1,))
    against = parity.torch_participant(
        TorchMLP(), lambda module, batch: (module(batch["x"]) - batch["y"]).square().sum()
    )
    report = parity.check(candidate, against=against, case=case)
    report.raise_for_mismatch()
    assert {leaf.stage for leaf in report.leaves} == {"loss", "gradient"}
    assert report.left_out == ["parameters and optimizer state: torch has no optimizer"]


def test_an_optimizer_of_the_candidates_alone_is_left_out():
    case = replace(reference("MLP").case, steps=(1,))
    against = parity.torch_participant(
        TorchMLP(), lambda module, batch: (module(batch["x"]) - batch["y"]).square().sum()
    )
    report = parity.check(right_port("MLP", "adam"), against=against, case=case)
    report.raise_for_mismatch()
    assert {leaf.stage for leaf in report.leaves} == {"loss", "gradient"}


def test_a_jax_candidate_that_becomes_nan_in_its_free_run_is_a_mismatch():
    third = float(reference("MLP").case.batch_at(2)["x"][0, 0])

    def broken(module, batch):
        here = jnp.abs(batch["x"][0, 0] - third) < 1e-3
        return flax_loss(module, batch) * jnp.where(here, jnp.nan, 1.0)

    candidate = port("MLP", OPTIMIZERS["adam"][0](), broken)
    report = parity.check(candidate, against=reference("MLP"))
    first = report.first
    assert first is not None
    assert (first.stage, first.step, first.ratio) == ("free run", 3, np.inf)
    assert "NaN" not in report.to_json()


def test_an_active_dropout_of_flax_is_a_mismatch_and_in_evaluation_it_is_none():
    class Dropping(FlaxMLP):
        def __init__(self, rngs):
            super().__init__(rngs)
            self.drop = nnx.Dropout(0.5, rngs=rngs)

        def __call__(self, x):
            return self.drop(super().__call__(x))

    def check(module):
        candidate = parity.flax_participant(module, flax_loss, layout=MLP_LAYOUT)
        return parity.check(candidate, against=reference("MLP"), tiers=("mathematics",))

    module = Dropping(nnx.Rngs(0))
    assert check(module).cause == "active dropout"
    module.eval()
    check(module).raise_for_mismatch()


def test_a_flax_layout_without_its_axes_is_refused():
    with pytest.raises(ValueError, match=r"'first/kernel' must have shape \(5, 4\), got \(4, 5\)"):
        parity.check(port("MLP", layout={"first/kernel": "first.weight"}), against=reference("MLP"))
