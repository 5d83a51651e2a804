"""The PyTorch twin: gradients of the oracle, weights that travel, and optimizers of one meaning."""

from typing import Any

import numpy as np
import pytest
import torch
from helpers import (
    BAD_INPUTS,
    HYPERPARAMETERS,
    RATES,
    RULE_POINTS,
    RULES,
    assert_close,
    assert_losses_close,
    changed,
    every_bad_input,
    every_case,
    jax_run,
    named,
    numpy_run,
    problem,
    tied_problem,
)
from record_torch import fit, module_of, run_optimizer, tensors
from weighted_problem import SPECS, weighted_problem

from jaxnet import net, numpy_net, optimizers, spec, torch_net
from jaxnet.spec import Batch, Spec

pytestmark = pytest.mark.usefixtures("x64")

ROUNDING = 1e-12  # of float64 sums of at most some hundred terms, in another order
FIFTY_STEPS = 1e-10  # float64: rounding of 1e-16 a step, amplified
EXACT = 0.0  # for sums of small integers, which do not round

TWO = Spec((7, 5, 3), bias=True, activation="my_relu")
DYNAMIC = Spec((7, 5, 5, 3), bias=True, activation="my_relu")
TORCH_RULES = {
    "relu": [0.0, 0.0, 0.0, 1.0, 1.0],
    "my_relu": RULES["my_relu"],
}  # at NaN too


def arrays(named_tensors):
    return {name: value.detach().numpy() for name, value in named_tensors.items()}


def batch_of(batch):
    return tensors(batch)._replace(repeats=batch.repeats)


def check(params, batch, names, tolerance=ROUNDING):
    leaves = torch_net.from_numpy(params)
    loss, grads = torch_net.value_and_grad(leaves, batch_of(batch), **names)
    want_loss, want = numpy_net.value_and_grad(params, batch, **names)
    assert_close(loss.numpy(), want_loss, tolerance)
    assert_close(arrays(grads), want, tolerance)
    again = torch_net.loss(leaves, batch_of(batch), **names)
    assert_close(again.detach().numpy(), want_loss, tolerance)


def check_module(module, params, batch, names, tolerance=ROUNDING):
    module = loaded(module, params)
    loss = torch_net.module_loss(module, batch_of(batch), loss=names["loss"])
    loss.backward()
    want_loss, want = numpy_net.value_and_grad(params, batch, **names)
    assert_close(loss.detach().numpy(), want_loss, tolerance)
    grads = {
        name: torch.zeros_like(p) if p.grad is None else p.grad
        for name, p in module.named_parameters()
    }
    assert_close(torch_net.params_from_state_dict(grads), want, tolerance)


def loaded(module, params):
    module = module.double()
    module.load_state_dict(torch_net.state_dict_from_params(params, module.state_dict()))
    return module


def test_the_tables_hold_the_names_of_the_description():
    assert tuple(torch_net.ACTIVATIONS) == spec.ACTIVATIONS
    assert tuple(torch_net.LOSSES) == spec.LOSSES
    assert tuple(torch_net.OPTIMIZERS) == tuple(optimizers.OPTIMIZERS)


@every_case
def test_loss_and_gradient_are_the_oracles(spec, repeats):
    check(*problem(spec, repeats), named(spec))
    if spec.activation in RULES:
        exact = spec.loss == "sum_squares"
        check(*tied_problem(spec, repeats), named(spec), EXACT if exact else ROUNDING)


SEQUENTIAL = [
    Spec(sizes, bias, activation, loss)
    for sizes in ((7, 3), (7, 5, 3), (7, 6, 5, 4, 3))
    for bias in (False, True)
    for activation in spec.ACTIVATIONS
    for loss in spec.LOSSES
]


@pytest.mark.parametrize("network", SEQUENTIAL, ids=str)
def test_a_sequential_is_the_oracles_network(network):
    check_module(torch_net.sequential(network), *problem(network), named(network))


@pytest.mark.parametrize("activation", RULES)
def test_a_sequential_is_the_oracles_network_at_planted_ties(activation):
    network = Spec((7, 5, 3), True, activation)
    check_module(torch_net.sequential(network), *tied_problem(network), named(network), EXACT)


@pytest.mark.parametrize("loss", spec.LOSSES)
def test_two_layer_net_is_the_oracles_network_with_my_relu(loss):
    network = Spec((7, 5, 3), True, "my_relu", loss)
    check_module(torch_net.TwoLayerNet(7, 5, 3), *problem(network), named(network))
    check_module(torch_net.TwoLayerNet(7, 5, 3), *tied_problem(TWO), named(TWO), EXACT)


@pytest.mark.parametrize("repeats", range(4))
@pytest.mark.parametrize("loss", spec.LOSSES)
def test_dynamic_net_is_the_oracles_network_with_my_relu_at_every_depth(loss, repeats):
    network = Spec((7, 5, 5, 3), True, "my_relu", loss)
    check_module(torch_net.DynamicNet(7, 5, 3), *problem(network, repeats), named(network))
    check_module(
        torch_net.DynamicNet(7, 5, 3), *tied_problem(DYNAMIC, repeats), named(DYNAMIC), EXACT
    )


@pytest.mark.parametrize("name", TORCH_RULES)
def test_a_relus_rule_is_exact_at_zero_minus_zero_and_nan(name):
    x = torch.tensor(RULE_POINTS, requires_grad=True)
    y = torch_net.ACTIVATIONS[name](x)
    np.testing.assert_array_equal(y.detach(), [0, 0, 0, 1, np.nan])
    (grad,) = torch.autograd.grad(y, x, torch.ones(5), retain_graph=True)
    np.testing.assert_array_equal(grad, TORCH_RULES[name])
    (grad,) = torch.autograd.grad(y, x, torch.full((5,), np.nan))
    np.testing.assert_array_equal(grad, np.where(np.array(TORCH_RULES[name]) == 1, np.nan, 0))


def test_the_second_derivative_of_my_relu_keeps_the_rule_at_zero():
    x = torch.tensor(RULE_POINTS[:4], requires_grad=True)
    (grad,) = torch.autograd.grad(torch_net.MyReLU.apply(x).pow(2).sum(), x, create_graph=True)
    (second,) = torch.autograd.grad(grad.sum(), x)
    np.testing.assert_array_equal(second, [0, 2, 2, 2])


def test_my_relu_of_the_module_and_of_the_function_are_one_rule():
    for repeats in range(4):
        params, batch = tied_problem(DYNAMIC, repeats)
        _, grads = torch_net.value_and_grad(
            torch_net.from_numpy(params), batch_of(batch), activation="my_relu"
        )
        module = loaded(torch_net.DynamicNet(7, 5, 3), params)
        value = torch_net.module_loss(module, batch_of(batch))
        leaves = dict(module.named_parameters())
        found = torch.autograd.grad(value, list(leaves.values()), materialize_grads=True)
        got = torch_net.params_from_state_dict(dict(zip(leaves, found, strict=True)))
        assert_close(got, arrays(grads), EXACT)


MODULES = {
    "sequential": (lambda: torch_net.sequential(TWO), TWO),
    "no biases": (lambda: torch_net.sequential(Spec((7, 5, 3))), Spec((7, 5, 3))),
    "TwoLayerNet": (lambda: torch_net.TwoLayerNet(7, 5, 3), TWO),
    "DynamicNet": (lambda: torch_net.DynamicNet(7, 5, 3), DYNAMIC),
    "all square": (lambda: torch_net.DynamicNet(5, 5, 5), Spec((5, 5, 5, 5), bias=True)),
}


@pytest.mark.parametrize(("make", "network"), MODULES.values(), ids=MODULES)
def test_a_state_dict_goes_both_ways_bit_for_bit(make, network):
    like = make().state_dict()
    params = network.init(3)
    state_dict = torch_net.state_dict_from_params(params, like)
    assert {k: v.shape for k, v in state_dict.items()} == {k: v.shape for k, v in like.items()}
    back = torch_net.params_from_state_dict(state_dict)
    assert list(back) == list(params)
    assert_close(back, params, EXACT)
    drawn = torch_net.params_from_state_dict(like)
    for name, value in torch_net.state_dict_from_params(drawn, like).items():
        np.testing.assert_array_equal(value, like[name])


@pytest.mark.parametrize("sizes", [(5, 5), (5, 5, 5, 5)])
def test_square_weights_are_transposed_between_the_layouts(sizes):
    network = Spec(sizes, bias=True)
    params = network.init(0, "float64")
    module = loaded(torch_net.sequential(network), params)
    first = next(iter(module.children()))
    assert isinstance(first, torch.nn.Linear)
    np.testing.assert_array_equal(first.weight.detach(), params["w1"].T)
    x = np.arange(10.0).reshape(2, 5)
    got = module(torch.tensor(x)).detach().numpy()
    assert_close(got, numpy_net.forward(params, x), ROUNDING)


def test_parameters_are_copied_on_the_way_in_and_out():
    params = TWO.init(0)
    leaves = torch_net.from_numpy(params)
    state_dict = torch_net.TwoLayerNet(7, 5, 3).state_dict()
    out = torch_net.params_from_state_dict(state_dict)
    params["w1"][:] = 0
    out["w1"][:] = 0
    assert leaves["w1"].all()
    assert leaves["w1"].requires_grad
    assert state_dict["linear1.weight"].all()


def test_a_state_dict_of_another_network_is_refused():
    like = torch_net.TwoLayerNet(7, 5, 3).state_dict()
    for other in (Spec((7, 6, 3), True), Spec((7, 5, 3)), Spec((7, 5, 5, 3), True)):
        with pytest.raises(ValueError, match=r"^`params` must have the shapes .* of `like`, got"):
            torch_net.state_dict_from_params(other.init(0), like)
    convolution: dict[str, Any] = {"0.weight": torch.zeros(3, 2, 1)}
    text = r"^`state_dict` must hold Linear layers only, got 0.weight \(3, 2, 1\)$"
    with pytest.raises(ValueError, match=text):
        torch_net.params_from_state_dict(convolution)


VARIANTS = {name: (name, {}) for name in torch_net.OPTIMIZERS} | HYPERPARAMETERS


@pytest.mark.parametrize(("name", "options"), VARIANTS.values(), ids=VARIANTS)
def test_fifty_steps_are_torchs_for_every_hyperparameter(name, options):
    want = run_optimizer(name, options)
    want_losses = want.pop("losses")
    params, batch = problem(Spec((7, 5, 3), bias=True))
    rate, depths = RATES.get(name, 0.005), [None] * 50
    optimizer = optimizers.make(name, rate, **options)
    got, losses = jax_run(net.loss, params, batch, depths, optimizer)
    assert_losses_close(losses, want_losses, FIFTY_STEPS)
    assert_close(got, want, FIFTY_STEPS)
    if not options:
        oracle = numpy_net.make_optimizer(name, rate)
        got, losses = numpy_run(params, batch, depths, oracle)
        assert_losses_close(losses, want_losses, FIFTY_STEPS)
        assert_close(got, want, FIFTY_STEPS)


def test_the_cosine_is_torchs():
    parameter = torch.nn.Parameter(torch.zeros(()))
    optimizer = torch.optim.SGD([parameter], lr=0.3)
    scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=40)
    rates = []
    for _ in range(41):
        rates.append(float(scheduler.get_last_lr()[0]))
        optimizer.step()
        scheduler.step()
    schedule = optimizers.schedule("cosine", 0.3, 40)
    assert callable(schedule)
    # torch multiplies rates step by step, so it gathers rounding
    np.testing.assert_allclose(schedule(np.arange(41)), rates, rtol=1e-12, atol=1e-15)


def test_with_zeroed_gradients_an_unused_layer_keeps_its_momentum():
    depths = [0, 2, 0, 0, 3, 1, 0]
    params, batch = problem(DYNAMIC)
    model = loaded(module_of("dynamic", 7, 5, 3), params)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.005, momentum=0.9, weight_decay=0.3)

    def loss(repeats):
        return torch_net.module_loss(model, tensors(batch)._replace(repeats=repeats))

    want_losses = fit(loss, optimizer, depths)
    ours = numpy_net.make_optimizer("momentum", 0.005, weight_decay=0.3)
    got, losses = numpy_run(params, batch, depths, ours, activation="my_relu")
    assert_losses_close(losses, want_losses, FIFTY_STEPS)
    assert_close(got, arrays(torch_net.to_params(model)), FIFTY_STEPS)


@every_bad_input
def test_a_bad_input_is_refused_with_the_text_of_the_others(change, text):
    params, batch, names = changed(change)
    leaves = {name: torch.tensor(value) for name, value in params.items()}
    for call in (torch_net.loss, torch_net.value_and_grad):
        with pytest.raises(ValueError, match="`") as caught:
            call(leaves, batch_of(batch), **names)
        assert str(caught.value) == text


def test_the_call_that_the_bad_ones_are_made_from_is_taken():
    assert len(BAD_INPUTS) > 20
    params, batch, names = changed({})
    torch_net.value_and_grad(torch_net.from_numpy(params), batch_of(batch), **names)


@pytest.mark.parametrize("dtype", ["uint8", "int8", "int32", "int64"])
def test_classes_of_every_integer_dtype_are_taken_and_values_out_of_range_refused(dtype):
    network = Spec((7, 5, 5, 3), loss="cross_entropy")
    params, batch = problem(network)
    check(params, batch._replace(y=np.array([0, 2, 1, 1], dtype)), named(network))
    leaves = torch_net.from_numpy(params)
    bad = Batch(torch.tensor(batch.x), torch.tensor(np.array([0, 2, 3, 1], dtype)))
    with pytest.raises(ValueError, match=r"^`y` must hold classes 0\.\.2, got 3$"):
        torch_net.loss(leaves, bad, loss="cross_entropy")
    with pytest.raises(ValueError, match=r"^`activation` must be one of relu, "):
        torch_net.Activation("elu")


@pytest.mark.parametrize("network", SPECS.values(), ids=SPECS)
@pytest.mark.parametrize("parts", ["weights", "masks", "weights masks", ""])
def test_weights_masks_and_label_smoothing_are_the_oracles(network, parts):
    check(*weighted_problem(network, parts))


@pytest.mark.parametrize("label_smoothing", [0.0, 0.3])
def test_class_weights_of_torchs_own_loss_are_weights_of_the_rows(label_smoothing):
    rng = np.random.default_rng(0)
    y_pred, y = torch.tensor(rng.standard_normal((6, 3))), torch.tensor([0, 2, 1, 1, 0, 2])
    of_class = torch.tensor([0.5, 2.0, 1.25], dtype=torch.float64)
    if not label_smoothing:  # torch weighs the smoothed part by the other classes' weights
        want = torch.nn.CrossEntropyLoss(weight=of_class)(y_pred, y)
    else:
        each = torch.nn.CrossEntropyLoss(label_smoothing=label_smoothing, reduction="none")
        want = (of_class[y] * each(y_pred, y)).sum() / of_class[y].sum()
    plain = torch.nn.CrossEntropyLoss(label_smoothing=label_smoothing)(y_pred, y)
    arrays = y_pred.numpy(), y.numpy()
    for loss in (numpy_net.LOSSES["cross_entropy"], net.LOSSES["cross_entropy"]):
        for weights, wanted in ((of_class[y].numpy(), want), (None, plain)):
            got = loss(*arrays, weights, label_smoothing)
            got = got[0] if isinstance(got, tuple) else got
            assert_close(np.asarray(got), wanted.numpy(), ROUNDING)


def test_a_mask_is_what_torchs_dropout_does():
    torch.manual_seed(0)
    h = torch.ones(50, 40, dtype=torch.float64)
    dropped = torch.nn.Dropout(0.25)(h)
    mask = net.dropout_masks(0, 0, 0.25, [(50, 40)], "float64")[0]
    assert set(np.unique(dropped.numpy())) == set(np.unique(np.asarray(mask)))
