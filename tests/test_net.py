"""The network in JAX: its gradients are the oracle's, at ties too and when transformed."""

import itertools
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import (
    NETWORKS,
    RULE_POINTS,
    RULES,
    assert_close,
    assert_drawn_from,
    covering,
    every_case,
    named,
    problem,
    tied_problem,
)

from jaxnet import data, net, numpy_net, spec
from jaxnet.spec import Batch, Spec

pytestmark = pytest.mark.usefixtures("x64", "quick_compilation")

ROUNDING = 1e-12  # of float64 sums of at most some hundred terms, in another order; 4e-15 seen
EXACT = 0.0  # for sums of small integers, which do not round

DYNAMIC = Spec((7, 5, 5, 3), bias=True, activation="my_relu")


def value_and_grad(params, batch, **names):
    return jax.value_and_grad(partial(net.loss, **names))(params, batch)


def check(params, batch, names, tolerance=ROUNDING, transformed=value_and_grad):
    """The loss and the gradient of each leaf are those of the oracle, which is returned."""
    loss, grads = transformed(params, batch, **names)
    want_loss, want = numpy_net.value_and_grad(params, batch, **names)
    assert_close(loss, want_loss, tolerance)
    assert_close(grads, want, tolerance)
    return want_loss, want


def test_the_tables_hold_the_names_of_the_description():
    assert tuple(net.ACTIVATIONS) == spec.ACTIVATIONS
    assert tuple(net.LOSSES) == spec.LOSSES


@every_case
def test_loss_and_gradient_are_the_oracles(spec, repeats):
    compiled = jitted(partial(net.loss, **named(spec)))
    check(*problem(spec, repeats), named(spec), transformed=lambda p, b, **_: compiled(p, b))


def test_the_forward_pass_is_the_oracles():
    activation = "tanh"
    for bias, (sizes, repeats) in itertools.product((False, True), NETWORKS.values()):
        params, batch = problem(Spec(sizes, bias), repeats)
        with jax.disable_jit():
            y_pred = net.forward(
                jax.tree.map(jnp.asarray, params), batch.x, activation=activation, repeats=repeats
            )
        want = numpy_net.forward(params, batch.x, activation=activation, repeats=repeats)
        assert_close(y_pred, want, ROUNDING)


TIED = covering(activations=tuple(RULES))


@pytest.mark.parametrize(("network", "repeats"), TIED.values(), ids=TIED)
def test_loss_and_gradient_are_the_oracles_at_planted_ties(network, repeats):
    params, batch = tied_problem(network, repeats)
    exact = network.loss == "sum_squares"
    with jax.disable_jit():  # the same mathematics without a compilation for each of the cases
        check(params, batch, named(network), EXACT if exact else ROUNDING)


def jitted(loss):
    return jax.jit(jax.value_and_grad(loss))


def checkpointed(loss):
    return jax.jit(jax.value_and_grad(jax.checkpoint(loss)))


def recomputed(loss):
    return jax.jit(jax.value_and_grad(partial(loss, remat=True)))


@pytest.mark.parametrize("repeats", [None, 2])
@pytest.mark.parametrize("transform", [jitted, checkpointed, recomputed])
@pytest.mark.parametrize("activation", RULES)
def test_compiled_and_recomputed_gradients_are_the_oracles(transform, activation, repeats):
    network = Spec((7, 5, 5, 3), bias=True, activation=activation)
    compiled = transform(partial(net.loss, activation=activation))

    def transformed(params, batch, **names):
        return compiled(params, batch)

    check(*problem(network, repeats), named(network), transformed=transformed)
    check(*tied_problem(network, repeats), named(network), EXACT, transformed=transformed)


@pytest.mark.parametrize(("hidden", "kept"), [(1, 1), (4, 4), (9, 5), (16, 6)])
def test_remat_keeps_about_the_square_root_of_the_layers(hidden, kept):
    """The first hidden layer, and each sqrt(n - 1)th of those behind it."""
    network = Spec((7, *[5] * hidden, 3), bias=True)
    params, batch = network.init(0), data.random_problem(network, num_rows=11)
    found = []
    for remat in (False, True):
        _, backward = jax.vjp(partial(net.loss, batch=batch, remat=remat), params)
        leaves = {id(leaf): leaf for leaf in jax.tree.leaves(backward)}.values()
        found.append(sum(leaf.shape == (11, 5) for leaf in leaves))
    assert found[1] == kept <= hidden < found[0]


def test_one_trace_serves_every_depth():
    traces = []

    @jax.jit
    def value_and_grad(params, batch):
        traces.append(batch.repeats)
        return jax.value_and_grad(partial(net.loss, activation="my_relu"))(params, batch)

    for repeats in range(4):
        params, batch = problem(DYNAMIC, repeats)
        loss, grads = value_and_grad(params, batch._replace(repeats=np.int32(repeats)))
        want_loss, want = numpy_net.value_and_grad(params, batch, activation="my_relu")
        assert_close(loss, want_loss, ROUNDING)
        assert_close(grads, want, ROUNDING)
    assert len(traces) == 1


def test_vmap_over_rows_gives_each_rows_gradient():
    params, batch = problem(DYNAMIC, 2)
    loss = partial(net.loss, activation="my_relu")

    def of_row(x, y):
        return jax.value_and_grad(loss)(params, Batch(x[None], y[None], 2))

    losses, grads = jax.jit(jax.vmap(of_row))(batch.x, batch.y)
    for i in range(len(batch.x)):
        row = Batch(batch.x[i : i + 1], batch.y[i : i + 1], 2)
        want_loss, want = numpy_net.value_and_grad(params, row, activation="my_relu")
        assert_close(losses[i], want_loss, ROUNDING)
        assert_close({name: grads[name][i] for name in want}, want, ROUNDING)


def test_vmap_over_depths_and_networks_gives_the_gradients_of_each():
    batch = problem(DYNAMIC)[1]
    ensemble = [DYNAMIC.init(seed, "float64") for seed in range(4)]
    stacked = jax.tree.map(lambda *leaves: np.stack(leaves), *ensemble)
    loss = partial(net.loss, activation="my_relu")

    def of_member(params, repeats):
        return jax.value_and_grad(loss)(params, batch._replace(repeats=repeats))

    losses, grads = jax.jit(jax.vmap(of_member))(stacked, np.arange(4))
    for i, params in enumerate(ensemble):
        here = batch._replace(repeats=i)
        want_loss, want = numpy_net.value_and_grad(params, here, activation="my_relu")
        assert_close(losses[i], want_loss, ROUNDING)
        assert_close({name: grads[name][i] for name in want}, want, ROUNDING)


def test_steps_in_a_scan_are_the_oracles_steps():
    params, batch = problem(DYNAMIC)
    depths = np.array([0, 3, 1, 2, 2])

    def step(params, repeats):
        here = batch._replace(repeats=repeats)
        loss, grads = jax.value_and_grad(partial(net.loss, activation="my_relu"))(params, here)
        return jax.tree.map(lambda p, g: p - 0.01 * g, params, grads), loss

    last, losses = jax.lax.scan(step, jax.tree.map(jnp.asarray, params), depths)
    for i, repeats in enumerate(depths):
        here = batch._replace(repeats=repeats)
        loss, grads = numpy_net.value_and_grad(params, here, activation="my_relu")
        assert_close(losses[i], loss, ROUNDING)
        params = {name: p - 0.01 * grads[name] for name, p in params.items()}
    assert_close(last, params, ROUNDING)


def test_compute_dtype_rounds_the_operands_of_products_and_nothing_else():
    network = Spec((7, 5, 3), bias=True, activation="tanh")
    params, batch = problem(network)
    half = partial(net.loss, activation="tanh", compute_dtype="bfloat16")
    got, grads = jax.value_and_grad(half)(params, batch)
    want, _ = numpy_net.value_and_grad(params, batch, activation="tanh")
    assert 1e-5 < abs(got / want - 1) < 2**-6  # bfloat16 keeps 8 bits: 2**-9, in two layers
    assert {g.dtype for g in (got, *grads.values())} == {jnp.dtype("float64")}
    forward = partial(net.forward, x=batch.x, activation="tanh", compute_dtype="bfloat16")
    arrays = jax.tree.map(jnp.asarray, params)
    bias = forward(arrays) - forward(arrays | {"b2": jnp.zeros(3)})
    np.testing.assert_allclose(bias, np.broadcast_to(params["b2"], (4, 3)), rtol=ROUNDING)


@pytest.mark.parametrize("activation", spec.ACTIVATIONS)
def test_the_gradient_of_a_gradient_is_the_difference_of_the_oracles_gradients(activation):
    network = Spec((7, 5, 5, 3), bias=True, activation=activation)
    params, batch = problem(network, 2, seed=2)
    direction = network.init(9, "float64")

    def slope(params):
        grads = jax.grad(partial(net.loss, activation=activation))(params, batch)
        return sum(jnp.vdot(grads[name], direction[name]) for name in grads)

    got = jax.jit(jax.grad(slope))(params)
    step = 1e-5  # as in the tests of the oracle, whose error is 1e-7 by the same reasons
    ends = [
        numpy_net.value_and_grad(
            {name: p + sign * step * direction[name] for name, p in params.items()},
            batch,
            activation=activation,
        )[1]
        for sign in (1, -1)
    ]
    want = {name: (ends[0][name] - ends[1][name]) / (2 * step) for name in params}
    assert_close(got, want, 1e-7)


@pytest.mark.parametrize("compiled", [False, True])
@pytest.mark.parametrize("name", RULES)
def test_a_relus_rule_is_exact_at_zero_minus_zero_and_nan(name, compiled):
    function = net.ACTIVATIONS[name]
    derivative = jax.vmap(jax.grad(function))
    points = jnp.asarray(RULE_POINTS)
    transform = jax.jit if compiled else lambda f: f
    np.testing.assert_array_equal(transform(function)(points), [0, 0, 0, 1, np.nan])
    np.testing.assert_array_equal(transform(derivative)(points), RULES[name])


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("name", RULES)
def test_a_masked_unit_leaks_nothing(name, bad):
    _, backward = jax.vjp(net.ACTIVATIONS[name], jnp.asarray(RULE_POINTS))
    want = np.where(np.array(RULES[name]) == 1, bad, 0)
    np.testing.assert_array_equal(backward(jnp.full(5, bad))[0], want)


def where_form(x):
    return jnp.where(x < 0, 0, x)


@pytest.mark.parametrize("power", [1, 2, 3])
def test_the_second_derivative_keeps_the_rule_at_zero(power):
    def second(relu):
        return jax.vmap(jax.grad(jax.grad(lambda x: relu(x) ** power)))(jnp.asarray(RULE_POINTS))

    np.testing.assert_array_equal(second(net.my_relu), second(where_form))
    if power == 2:  # the square's second derivative is 2 wherever the rule passes, at 0 too
        np.testing.assert_array_equal(second(net.my_relu), [0, 2, 2, 2, 2])


def test_my_relu_refuses_forward_mode():
    for forward_mode in (jax.jacfwd(net.my_relu), jax.hessian(lambda x: net.my_relu(x) ** 2)):
        with pytest.raises(TypeError, match=r"forward-mode .* custom_vjp"):
            forward_mode(1.0)


@pytest.mark.parametrize("repeats", [-1, 4, 2**31 - 1])
def test_a_traced_depth_out_of_range_gives_nan(repeats):
    params, batch = problem(DYNAMIC)
    forward = jax.jit(net.forward, static_argnames="activation")
    y_pred = forward(params, batch.x, repeats=np.int32(repeats))
    assert np.isnan(y_pred).all()
    assert np.isnan(
        net.forward(jax.tree.map(jnp.asarray, params), batch.x, repeats=jnp.asarray(repeats))
    ).all()


@pytest.mark.parametrize("dtype", ["int8", "uint8", "int32", "uint32", "int64"])
def test_a_class_out_of_range_gives_nan_in_every_integer_dtype(dtype):
    for num_classes in (3, 200, 300):  # of which 200 and 300 are no int8, and 300 no uint8
        network = Spec((7, num_classes), loss="cross_entropy")
        params, batch = problem(network)
        loss = jax.jit(partial(net.loss, loss="cross_entropy"))
        last = min(num_classes - 1, np.iinfo(dtype).max)
        fine = batch._replace(y=np.array([0, 1, 2, last], dtype))
        want = numpy_net.loss(params, fine, loss="cross_entropy")
        assert_close(loss(params, fine), want, ROUNDING)
        for bad in {-1, num_classes, np.iinfo(dtype).max, np.iinfo(dtype).min}:
            if np.iinfo(dtype).min <= bad <= np.iinfo(dtype).max and not 0 <= bad < num_classes:
                y = np.array([0, 1, 2, bad], dtype)
                assert np.isnan(loss(params, batch._replace(y=y)))


@pytest.mark.parametrize("bias", [False, True])
def test_initial_parameters_have_the_distribution_of_the_description(bias):
    network = Spec((60, 500, 400), bias=bias)
    params = net.init(network, jax.random.key(0))
    assert {name: value.shape for name, value in params.items()} == network.shapes()
    assert list(params) == list(network.shapes())
    for name, value in params.items():
        assert value.dtype == jnp.float64
        assert_drawn_from(value, bound=network.scale(name) if bias else None)


def test_initial_parameters_are_float32_by_default_and_of_their_key():
    network = Spec((7, 5, 7, 5))
    with jax.enable_x64(False):
        one, same, other = (net.init(network, jax.random.key(seed)) for seed in (0, 0, 1))
    for name, value in one.items():
        assert value.dtype == jnp.float32
        np.testing.assert_array_equal(value, same[name])
        assert (value != other[name]).all()
    assert (one["w1"] != one["w3"]).all()  # one shape, but each leaf has a key of its own


def test_float32_stays_float32():
    with jax.enable_x64(False):
        params = DYNAMIC.init(0)
        batch = Batch(np.ones((4, 7), "float32"), np.ones((4, 3), "float32"), 2)
        loss, grads = jax.jit(value_and_grad)(params, batch)
        assert {loss.dtype, *(g.dtype for g in grads.values())} == {jnp.dtype("float32")}
