"""The description of a network: shapes, initial values, and one text for each bad input."""

import itertools
from typing import Any

import numpy as np
import pytest
from flax import nnx
from helpers import (
    CASES,
    NETWORKS,
    assert_drawn_from,
    changed,
    every_bad_input,
    problem,
    undrawn,
)

from jaxnet import flax_net, net, numpy_net, spec
from jaxnet.spec import Batch, Spec

pytestmark = pytest.mark.usefixtures("x64")


def error(function, *args, **options) -> str:
    with pytest.raises(ValueError, match="`") as caught:
        function(*args, **options)
    return str(caught.value)


def test_every_pair_of_options_is_in_one_case_at_least():
    rows = [(s.activation, s.loss, s.bias, (s.sizes, r)) for s, r in CASES.values()]
    for a, b in itertools.combinations(zip(*rows, strict=True), 2):
        assert set(zip(a, b, strict=True)) == set(itertools.product(a, b))
    assert len(NETWORKS) == len({row[3] for row in rows})


def test_the_default_is_the_tutorials_network():
    assert Spec() == Spec((1000, 100, 10), bias=False, activation="relu", loss="sum_squares")
    assert Spec().shapes() == {"w1": (1000, 100), "w2": (100, 10)}


def test_shapes_are_in_out_and_in_the_order_of_the_layers():
    shapes = Spec((7, 5, 4, 3), bias=True).shapes()
    assert list(shapes) == ["w1", "b1", "w2", "b2", "w3", "b3"]
    assert list(shapes.values()) == [(7, 5), (5,), (5, 4), (4,), (4, 3), (3,)]
    assert Spec((7, 3)).shapes() == {"w1": (7, 3)}


def test_sizes_become_a_tuple_of_plain_integers():
    sizes: Any = [np.int64(7), 5, 3]
    made = Spec(sizes)
    assert made == Spec((7, 5, 3))
    assert [type(n) for n in made.sizes] == [int, int, int]


def test_without_biases_weights_are_standard_normal():
    for value in Spec((60, 50, 40)).init(0).values():
        assert_drawn_from(value)


def test_with_biases_weights_and_biases_are_uniform_in_the_bound_of_the_fan_in():
    params = Spec((60, 500, 400), bias=True).init(0)
    for name, fan_in in {"w1": 60, "b1": 60, "w2": 500, "b2": 500}.items():
        assert_drawn_from(params[name], bound=fan_in**-0.5)


@pytest.mark.parametrize("bias", [False, True])
def test_a_seed_gives_the_same_values_in_every_dtype(bias):
    network = Spec((7, 5, 3), bias=bias)
    double, single = network.init(3, "float64"), network.init(3)
    assert {name: value.shape for name, value in double.items()} == network.shapes()
    for name, value in double.items():
        assert (value.dtype, single[name].dtype) == (np.float64, np.float32)
        np.testing.assert_array_equal(single[name], value.astype("float32"))
        np.testing.assert_array_equal(network.init(3, "float64")[name], value)
        assert (network.init(4, "float64")[name] != value).all()


def test_layers_are_applied_in_order_and_the_hidden_block_repeats_times():
    assert spec.layer_order(1, None) == [1]
    assert spec.layer_order(2, None) == [1, 2]
    assert spec.layer_order(4, None) == [1, 2, 3, 4]
    assert [spec.layer_order(3, r) for r in range(4)] == [
        [1, 3],
        [1, 2, 3],
        [1, 2, 2, 3],
        [1, 2, 2, 2, 3],
    ]
    assert spec.layer_order(4, 2) == [1, 2, 3, 2, 3, 4]


@pytest.mark.parametrize("sizes", [(), (7,), (7, 0), (7, -1, 3), (7, 2.5), (7, True), 7, "73"])
def test_sizes_too_few_below_one_or_not_integers_are_refused(sizes):
    want = f"`sizes` must be two or more integers of at least 1, got {sizes!r}"
    assert error(Spec, sizes) == want


def test_unknown_names_are_refused_when_the_network_is_described():
    text = "`activation` must be one of relu, my_relu, tanh, gelu, silu; got 'elu'"
    assert error(Spec, activation="elu") == text
    text = "`loss` must be one of sum_squares, mean_squares, cross_entropy, quantile; got 'l2'"
    assert error(Spec, loss="l2") == text


def by_spec(params, batch, activation, loss):
    spec.check_forward(params, batch.x, activation, batch.repeats)
    spec.check_loss(loss, np.zeros((4, params[max(params)].shape[1])), batch.y)


def by_flax(params, batch, activation, loss):
    """A module cannot hold wrong parameters: it refuses to be given them, with the same text."""
    sizes = (7, *(v.shape[-1] for k, v in params.items() if k.startswith("w") and v.ndim == 2))
    sizes = sizes if len(sizes) > 1 else (7, 3)
    network = Spec(sizes, bias=True, activation=activation)
    module = undrawn(lambda: flax_net.sequential(network, rngs=nnx.Rngs(0)))
    graphdef, state = nnx.split(flax_net.from_params(module, params))
    return flax_net.loss(graphdef, loss=loss)(state, batch)


IMPLEMENTATIONS = {
    "spec": by_spec,
    "numpy_net.loss": numpy_net.loss,
    "numpy_net.value_and_grad": numpy_net.value_and_grad,
    "net": net.loss,
    "flax_net": by_flax,
}


@pytest.mark.parametrize("call", IMPLEMENTATIONS.values(), ids=IMPLEMENTATIONS)
@every_bad_input
def test_every_implementation_refuses_a_bad_input_with_the_same_text(call, change, text):
    params, batch, names = changed(change)
    assert error(call, params, batch, **names) == text


@pytest.mark.parametrize("call", IMPLEMENTATIONS.values(), ids=IMPLEMENTATIONS)
def test_every_implementation_takes_the_call_that_the_bad_ones_are_made_from(call):
    params, batch, names = changed({})
    call(params, batch, **names)


def test_what_is_not_an_array_or_a_dictionary_is_refused():
    params, batch = problem(Spec((7, 5, 3)))
    check = spec.check_forward
    assert error(check, params, [[1.0]], "relu") == "`x` must be an array, got list"
    assert error(check, params | {"w2": 1.0}, batch.x, "relu") == (
        "`params['w2']` must be an array, got float"
    )
    assert error(check, [1], batch.x, "relu") == (
        "`params` must be a dictionary w1, b1, w2, ..., got list"
    )


@pytest.mark.parametrize("call", [numpy_net.loss, numpy_net.value_and_grad])
def test_values_out_of_range_are_refused_where_they_can_be_read(call):
    network = Spec((7, 5, 5, 3), loss="cross_entropy")
    params, batch = problem(network)
    for y, got in (([0, 1, 2, 3], 3), ([0, -1, 2, 4], -1)):
        bad = batch._replace(y=np.array(y))
        assert error(call, params, bad, loss="cross_entropy") == (
            f"`y` must hold classes 0..2, got {got}"
        )
    for repeats in (4, -1):
        bad = batch._replace(repeats=np.array(repeats))
        text = f"`repeats` must be 0..3, got {repeats}"
        assert error(call, params, bad, loss="cross_entropy") == text


def test_check_values_takes_every_value_in_range():
    x = np.zeros((3, 7))
    for repeats in (None, 0, 1, 2, 3):
        spec.check_values("cross_entropy", 3, Batch(x, np.array([0, 1, 2]), repeats))
    spec.check_values("sum_squares", 3, Batch(x, np.full((3, 3), -9.0)))
