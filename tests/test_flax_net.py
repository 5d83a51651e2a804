"""The modules: each is the oracle's network, travels as a dictionary, and trains like any other."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from helpers import (
    CASES,
    RULE_POINTS,
    RULES,
    assert_close,
    assert_drawn_from,
    named,
    problem,
    tied_problem,
    undrawn,
)

from jaxnet import flax_net, net, numpy_net, optimizers, spec, train
from jaxnet.spec import Batch, Spec

pytestmark = pytest.mark.usefixtures("x64", "quick_compilation")

ROUNDING = 1e-12  # of float64 sums of at most some hundred terms, in another order
EXACT = 0.0  # for sums of small integers, which do not round

TWO = Spec((7, 5, 3), bias=True, activation="my_relu")
DYNAMIC = Spec((7, 5, 5, 3), bias=True, activation="my_relu")


def two_layer_net():
    return flax_net.TwoLayerNet(7, 5, 3, rngs=nnx.Rngs(0))


def dynamic_net():
    return flax_net.DynamicNet(7, 5, 3, rngs=nnx.Rngs(0))


def sequential(network=TWO):
    return flax_net.sequential(network, rngs=nnx.Rngs(0))


MODULES = {"TwoLayerNet": two_layer_net, "DynamicNet": dynamic_net, "sequential": sequential}


def check(module, params, batch, names, tolerance=ROUNDING):
    """The loss and the gradient of each leaf are those of the oracle."""
    graphdef, state = nnx.split(flax_net.from_params(module, params))
    loss_fn = flax_net.loss(graphdef, loss=names["loss"])
    with jax.disable_jit():
        loss, grads = jax.value_and_grad(loss_fn)(state, batch)
    want_loss, want = numpy_net.value_and_grad(params, batch, **names)
    assert_close(loss, want_loss, tolerance)
    assert_close(flax_net.to_params(nnx.merge(graphdef, grads)), want, tolerance)


def test_the_tables_hold_the_names_of_the_description():
    assert tuple(flax_net.ACTIVATIONS) == spec.ACTIVATIONS
    assert tuple(flax_net.LOSSES) == spec.LOSSES


SEQUENTIAL = {name: network for name, (network, repeats) in CASES.items() if repeats is None}


@pytest.mark.parametrize("network", SEQUENTIAL.values(), ids=SEQUENTIAL)
def test_a_sequential_is_the_oracles_network(network):
    check(undrawn(lambda: sequential(network)), *problem(network), named(network))


@pytest.mark.parametrize("loss", spec.LOSSES)
def test_two_layer_net_is_the_oracles_network_with_my_relu(loss):
    network = Spec((7, 5, 3), True, "my_relu", loss)
    check(two_layer_net(), *problem(network), named(network))
    check(two_layer_net(), *tied_problem(TWO), named(TWO), EXACT)


@pytest.mark.parametrize("repeats", range(4))
@pytest.mark.parametrize("loss", spec.LOSSES)
def test_dynamic_net_is_the_oracles_network_with_my_relu_at_every_depth(loss, repeats):
    network = Spec((7, 5, 5, 3), True, "my_relu", loss)
    check(dynamic_net(), *problem(network, repeats), named(network))
    check(dynamic_net(), *tied_problem(DYNAMIC, repeats), named(DYNAMIC), EXACT)


@pytest.mark.parametrize("activation", RULES)
def test_a_sequential_is_the_oracles_network_at_planted_ties(activation):
    network = Spec((7, 5, 3), True, activation)
    check(undrawn(lambda: sequential(network)), *tied_problem(network), named(network), EXACT)


@pytest.mark.parametrize("name", RULES)
def test_a_relus_rule_is_exact_at_zero_minus_zero_and_nan(name):
    function, points = flax_net.ACTIVATIONS[name], jnp.asarray(RULE_POINTS)
    np.testing.assert_array_equal(function(points), [0, 0, 0, 1, np.nan])
    np.testing.assert_array_equal(jax.vmap(jax.grad(function))(points), RULES[name])
    _, backward = jax.vjp(function, points)
    want = np.where(np.array(RULES[name]) == 1, np.nan, 0)
    np.testing.assert_array_equal(backward(jnp.full(5, jnp.nan))[0], want)


def test_clamp_has_a_forward_mode():
    np.testing.assert_array_equal(
        jax.vmap(jax.jacfwd(flax_net.clamp))(RULE_POINTS), RULES["my_relu"]
    )


@pytest.mark.parametrize("make", MODULES.values(), ids=MODULES)
def test_a_dictionary_comes_back_from_the_module_bit_for_bit(make):
    network = DYNAMIC if make is dynamic_net else TWO
    for dtype in ("float32", "float64"):
        params = network.init(3, dtype)
        module = make()
        assert flax_net.from_params(module, params) is module
        back = flax_net.to_params(module)
        assert list(back) == list(params)
        for name, value in params.items():
            assert back[name].dtype == value.dtype
            np.testing.assert_array_equal(back[name], value)


def test_a_module_without_biases_has_none_in_its_dictionary():
    module = sequential(Spec((7, 5, 3)))
    assert {k: v.shape for k, v in flax_net.to_params(module).items()} == Spec((7, 5, 3)).shapes()


def test_square_layers_keep_their_order_and_are_not_transposed():
    params = Spec((5, 5, 5, 5), bias=True).init(0, "float64")
    module = flax_net.from_params(flax_net.DynamicNet(5, 5, 5, rngs=nnx.Rngs(0)), params)
    assert isinstance(module, flax_net.DynamicNet)
    np.testing.assert_array_equal(module.input_linear.kernel[...], params["w1"])
    np.testing.assert_array_equal(module.middle_linear.kernel[...], params["w2"])
    np.testing.assert_array_equal(module.output_linear.kernel[...], params["w3"])


@pytest.mark.parametrize("make", [two_layer_net, dynamic_net, sequential])
@pytest.mark.parametrize(
    "network",
    [Spec((7, 6, 3), bias=True), Spec((7, 5, 3)), Spec((7, 5, 5, 5, 3), bias=True)],
    ids=["another width", "no biases", "a layer more"],
)
def test_a_dictionary_of_other_shapes_or_names_is_refused_and_nothing_is_written(make, network):
    module = make()
    before = flax_net.to_params(module)
    with pytest.raises(ValueError, match=r"^`params` must have the module's shapes \{'w1': \(7, 5"):
        flax_net.from_params(module, network.init(0))
    for name, value in flax_net.to_params(module).items():
        np.testing.assert_array_equal(value, before[name])


@pytest.mark.parametrize("bias", [False, True])
def test_linear_is_drawn_as_the_description_draws(bias):
    layer = flax_net.linear(60, 500, bias=bias, rngs=nnx.Rngs(0))
    assert layer.kernel[...].shape == (60, 500)
    assert_drawn_from(layer.kernel[...], bound=60**-0.5 if bias else None)
    if bias:
        assert layer.bias is not None
        assert_drawn_from(layer.bias[...], bound=60**-0.5)
    assert (layer.bias is not None) == bias


@pytest.mark.parametrize("name", ["momentum", "adam"])
def test_a_module_split_once_trains_as_the_dictionary_does(name):
    optimizer = optimizers.make(name, 0.01)
    params, batch = problem(DYNAMIC, 2)
    graphdef, split = nnx.split(flax_net.from_params(dynamic_net(), params))
    module_state = train.init(split, optimizer)
    dict_state = train.init(params, optimizer)
    module_step = train.make_step(flax_net.loss(graphdef), optimizer)
    dict_step = train.make_step(partial(net.loss, activation="my_relu"), optimizer)
    for repeats in (0, 3, 1):
        here = batch._replace(repeats=np.int32(repeats))
        module_state, module_loss = module_step(module_state, here)
        dict_state, dict_loss = dict_step(dict_state, here)
        assert_close(module_loss, dict_loss, ROUNDING)
    module = nnx.merge(graphdef, module_state.params)
    assert_close(flax_net.to_params(module), dict_state.params, ROUNDING)


def test_the_split_state_is_written_back_into_the_module():
    params, batch = problem(TWO)
    module = flax_net.from_params(two_layer_net(), params)
    graphdef, split = nnx.split(module)
    optimizer = optimizers.make("sgd", 0.01)
    step = train.make_step(flax_net.loss(graphdef), optimizer)
    state, _ = step(train.init(split, optimizer), batch)
    assert_close(flax_net.to_params(module), params, EXACT)  # a step alone changes nothing
    nnx.update(module, state.params)
    _, grads = numpy_net.value_and_grad(params, batch, activation="my_relu")
    want = {name: p - 0.01 * grads[name] for name, p in params.items()}
    assert_close(flax_net.to_params(module), want, ROUNDING)


def test_one_trace_serves_every_step_and_depth():
    traces = []
    params, batch = problem(DYNAMIC, 0)
    graphdef, split = nnx.split(flax_net.from_params(dynamic_net(), params))

    def counted(params, batch):
        traces.append(batch)
        return flax_net.loss(graphdef)(params, batch)

    optimizer = optimizers.make("sgd", 0.01)
    step = train.make_step(counted, optimizer)
    state = train.init(split, optimizer)
    for repeats in (0, 3, 1, 2):
        state, _ = step(state, batch._replace(repeats=np.int32(repeats)))
    assert len(traces) == 1


def test_values_out_of_range_give_nan_when_traced():
    params, batch = problem(DYNAMIC)
    module = flax_net.from_params(dynamic_net(), params)
    assert isinstance(module, flax_net.DynamicNet)
    for repeats in (-1, 4):
        assert np.isnan(module(jnp.asarray(batch.x), jnp.asarray(repeats))).all()
    y_pred = jnp.zeros((4, 300))
    for y, is_nan in (([0, 1, 2, 299], False), ([0, 1, 2, 300], True), ([0, -1, 2, 3], True)):
        assert np.isnan(flax_net.LOSSES["cross_entropy"](y_pred, jnp.array(y))) == is_nan
    fine = flax_net.LOSSES["cross_entropy"](y_pred, jnp.array([0, 1, 2, 255], "uint8"))
    assert_close(fine, np.log(300), ROUNDING)


def test_a_bad_batch_is_refused_under_jit_too():
    graphdef, split = nnx.split(two_layer_net())
    batch = Batch(np.zeros((4, 7), "float32"), np.zeros((4, 1), "float32"))
    with pytest.raises(ValueError, match=r"^`y` must have shape \(4, 3\) for sum_squares"):
        jax.jit(flax_net.loss(graphdef))(split, batch)


def test_repeats_belong_to_the_dynamic_network_and_only_there():
    x, y = np.ones((4, 7), "float32"), np.ones((4, 3), "float32")
    modules = {
        np.int64(2): flax_net.sequential(Spec((7, 5, 5, 3)), rngs=nnx.Rngs(0)),
        None: flax_net.DynamicNet(7, 5, 3, rngs=nnx.Rngs(0)),
    }
    for repeats, module in modules.items():
        graphdef, params = nnx.split(module)
        with pytest.raises(ValueError, match="`repeats` must be given to a DynamicNet and only"):
            flax_net.loss(graphdef)(params, Batch(x, y, repeats))
