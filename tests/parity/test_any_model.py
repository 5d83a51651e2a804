"""Models, batches, checkpoints and optimizers as people have them: no alarm, no crash, no pass."""

import jax.numpy as jnp
import numpy as np
import optax
import pytest
import torch
from flax import nnx
from ports import checking
from ports.attention import LIBRARY
from torch import nn

from jaxnet import parity

torch.set_num_threads(1)  # the models are tiny

ROWS, IN, HIDDEN, OUT = 4, 7, 5, 3
RNG = np.random.default_rng(0)
X, Y = RNG.standard_normal((ROWS, IN)), RNG.standard_normal((ROWS, OUT))
MATHEMATICS = ("mathematics",)


class TorchMLP(nn.Module):
    def __init__(self):
        super().__init__()
        self.first, self.second = nn.Linear(IN, HIDDEN), nn.Linear(HIDDEN, OUT)

    def forward(self, x):
        return self.second(torch.relu(self.first(x)))


class FlaxMLP(nnx.Module):
    def __init__(self, relu=nnx.relu):
        self.first = nnx.Linear(IN, HIDDEN, rngs=nnx.Rngs(0))
        self.second = nnx.Linear(HIDDEN, OUT, rngs=nnx.Rngs(0))
        self.relu = relu

    def __call__(self, x):
        return self.second(self.relu(self.first(x)))


LAYOUT = {"*/kernel": ("*.weight", (1, 0)), "*/bias": "*.bias"}


def torch_mlp():
    torch.manual_seed(0)
    return TorchMLP()


def torch_loss(module, batch):
    return nn.functional.mse_loss(module(batch["x"]), batch["y"])


def flax_loss(module, batch):
    return jnp.square(module(batch["x"]) - batch["y"]).mean()


def compare(
    optimizers=(None, None),
    *,
    losses=(torch_loss, flax_loss),
    forwards=(None, None),
    batch=None,
    params=None,
    steps=(1,),
    tiers=MATHEMATICS,
    flax=FlaxMLP,
    **options,
):
    """Compare the MLPs; what comes in pairs is torch's and then the port's."""
    module, batch = torch_mlp(), batch or {"x": X, "y": Y}
    reference = parity.torch_participant(
        module, losses[0], optimizers[0], forward=forwards[0], **options
    )
    candidate = parity.flax_participant(
        flax(), losses[1], optimizers[1], forward=forwards[1], layout=LAYOUT
    )
    params = module.state_dict() if params is None else params
    case = parity.Case("any", params, lambda i: batch, steps, max(steps))
    return parity.check(candidate, against=reference, case=case, tiers=tiers)


def test_a_batch_may_hold_numbers_tensors_and_none_in_any_structure():
    def loss(module, batch):
        (x, y), options = batch["pair"], batch["options"]
        assert batch["mask"] is None
        error = ((module(x) - y) ** 2)[: options["rows"]]
        return error.mean() * options["scale"] * batch["weight"] + batch["shift"]

    batch = {
        "pair": (torch.tensor(X), Y),
        "options": {"rows": ROWS - 1, "scale": 0.5},
        "mask": None,
        "weight": np.float64(1.7),
        "shift": np.array(0.3),
    }
    assert compare(losses=(loss, loss), batch=batch).verdict == "equal"


def test_several_outputs_are_compared_by_name():
    def torch_outputs(module, batch):
        hidden = module.first(batch["x"])
        return {"hidden": hidden, "both": (module(batch["x"]), None)}

    report = compare(forwards=(torch_outputs, torch_outputs))
    assert report.verdict == "equal"
    outputs = {leaf.leaf for leaf in report.leaves if leaf.stage == "forward"}
    assert outputs == {"y_pred/hidden", "y_pred/both/0"}


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_checkpoint_may_be_of_any_dtype(dtype):
    params = {name: value.to(dtype) for name, value in torch_mlp().state_dict().items()}
    assert compare(params=params).verdict == "equal"


def test_zeros_that_a_forward_makes_have_the_models_dtype():
    def loss(module, batch):
        return (torch.zeros(ROWS, OUT) + module(batch["x"]) - batch["y"]).square().mean()

    report = compare(losses=(loss, flax_loss), tiers=("mathematics", "precision"))
    assert report.verdict == "equal"


def stepped(parameters):
    optimizer = torch.optim.SGD(parameters, lr=0.1)
    torch.optim.lr_scheduler.ExponentialLR(optimizer, 0.9)
    return optimizer


@pytest.mark.parametrize(
    ("optimizers", "message"),
    [
        ((stepped, optax.sgd(0.1)), "must not make its scheduler"),
        ((torch.optim.LBFGS, optax.sgd(0.1)), "L-BFGS evaluates the loss"),
        (
            (lambda p: torch.optim.SGD(p, lr=0.1), optax.MultiSteps(optax.sgd(0.1), 2)),
            "optax.MultiSteps",
        ),
        ((lambda p: torch.optim.SGD(p, lr=0.1), optax.lbfgs()), "L-BFGS evaluates the loss"),
    ],
    ids=["scheduler inside", "torch L-BFGS", "MultiSteps", "optax L-BFGS"],
)
def test_an_optimizer_that_cannot_be_compared_is_refused_by_name(optimizers, message):
    with pytest.raises(ValueError, match=message):
        compare(optimizers)


def of(name, **options):
    return lambda parameters: getattr(torch.optim, name)(parameters, **options)


OPTIMIZERS = {
    "inject_hyperparams": (of("Adam", lr=0.01), optax.inject_hyperparams(optax.adam)(0.01)),
    "apply_if_finite": (of("Adam", lr=0.01), optax.apply_if_finite(optax.adam(0.01), 3)),
    "Adamax": (of("Adamax", lr=0.01), optax.adamax(0.01)),
    "Adadelta": (of("Adadelta", lr=0.5), optax.adadelta(0.5, rho=0.9, eps=1e-6)),
    "RMSprop": (of("RMSprop", lr=0.01), optax.rmsprop(0.01, 0.99, eps_in_sqrt=False)),
    "Adagrad": (
        of("Adagrad", lr=0.1, initial_accumulator_value=0.1, eps=0.0),
        optax.adagrad(0.1, initial_accumulator_value=0.1, eps=0.0),
    ),
}


@pytest.mark.parametrize("optimizers", OPTIMIZERS.values(), ids=OPTIMIZERS)
def test_an_optimizer_of_optax_is_compared_with_torchs(optimizers):
    report = compare(optimizers, steps=(1, 2, 4))
    stages = {leaf.stage for leaf in report.leaves}
    assert stages == {"loss", "gradient", "parameters", "optimizer", "free run"}, report
    assert report.verdict == "equal", report


def test_nadam_has_a_momentum_schedule_in_torch_alone():
    report = compare((of("NAdam", lr=0.01), optax.nadam(0.01)), steps=(1, 2, 4))
    assert report.first is not None
    assert report.first.stage == "parameters"
    module, options = torch_mlp(), (torch_loss, of("NAdam", lr=0.01))
    one, other = (parity.torch_participant(module, *options) for _ in range(2))
    case = parity.Case("NAdam", module.state_dict(), lambda i: {"x": X, "y": Y}, (1, 2, 4), 4)
    assert parity.check(one, against=other, case=case).verdict == "equal"


def test_a_maximum_for_relu_is_found_by_the_ties_that_are_planted():
    report = compare(flax=lambda: FlaxMLP(relu=lambda x: jnp.maximum(x, 0)))
    assert report.verdict == "mismatch"
    assert report.first is not None
    assert (report.first.probe, report.first.stage) == ("ties", "gradient")


def functional_dropout(module, batch):
    return nn.functional.dropout(module(batch["x"])).square().mean()


def own_numbers(module, batch):
    return (module(batch["x"]) + torch.randn(ROWS, OUT)).square().mean()


CALLS = []


def drifting(module, batch):
    CALLS.append(0)
    return module(batch["x"]).mean() + len(CALLS)


@pytest.mark.parametrize("loss", [functional_dropout, own_numbers, drifting])
def test_an_impure_torch_reference_is_refused(loss):
    with pytest.raises(ValueError, match="two calls of torch with the same inputs"):
        compare(losses=(loss, flax_loss))


def test_an_attention_that_drops_units_is_refused_by_its_name():
    module = nn.MultiheadAttention(6, 2, dropout=0.3, batch_first=True)
    reference = parity.torch_participant(module, lambda m, b: m(b, b, b)[0].sum())
    case = parity.Case("dropout", module.state_dict(), lambda i: X[:, :6][None], (1,), 1)
    with pytest.raises(ValueError, match="MultiheadAttention"):
        parity.trajectory(reference, case)


def test_check_loss_compares_modules_and_functions_in_one_call():
    module = torch_mlp()
    assert parity.check_loss(module, FlaxMLP(), None, X, layout=LAYOUT).verdict == "equal"

    def loss(params, batch):
        return ((batch["x"] @ params["w"] - batch["y"]) ** 2).mean()

    def wrong(params, batch):
        return ((batch["x"] @ params["w"] - batch["y"]) ** 2).sum()

    params, batch = {"w": RNG.standard_normal((IN, OUT))}, {"x": X, "y": Y}
    assert parity.check_loss(loss, loss, params, batch).verdict == "equal"
    report = parity.check_loss(loss, wrong, params, batch)
    assert report.verdict == "mismatch"
    assert "mean" in report.cause


def test_what_a_library_computes_in_float32_is_said_by_its_name():
    report = checking.check("attention", LIBRARY, training=False, tiers=MATHEMATICS)
    assert report.verdict == "mismatch"
    assert report.cause == "jax.nn.dot_product_attention computes in float32"
