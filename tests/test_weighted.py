"""Weights of rows, dropout masks and label smoothing: in the oracle by differences, then in each
implementation by the oracle.
"""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from helpers import assert_close
from test_numpy_net import DIFFERENCES, central_differences
from weighted_problem import SPECS, weighted_problem

from jaxnet import flax_net, net, numpy_net, optimizers, parity, spec
from jaxnet.parity.bars import LIMIT, network_bars
from jaxnet.spec import Batch

pytestmark = pytest.mark.usefixtures("x64", "quick_compilation")

ROUNDING = 1e-12  # of float64 sums of at most some dozen terms, in another order
every_spec = pytest.mark.parametrize("network", SPECS.values(), ids=SPECS)
every_part = pytest.mark.parametrize("parts", ["weights", "masks", "weights masks", ""])


@every_spec
@every_part
def test_the_oracles_gradient_is_the_central_difference(network, parts):
    params, batch, names = weighted_problem(network, parts)
    loss, grads = numpy_net.value_and_grad(params, batch, **names)
    assert loss == numpy_net.loss(params, batch, **names)
    assert_close(grads, central_differences(params, batch, **names), DIFFERENCES)


@every_spec
@every_part
def test_net_is_the_oracle(network, parts):
    params, batch, names = weighted_problem(network, parts)
    want_loss, want = numpy_net.value_and_grad(params, batch, **names)
    loss, grads = jax.jit(jax.value_and_grad(partial(net.loss, **names)))(params, batch)
    assert_close(loss, want_loss, ROUNDING)
    assert_close(grads, want, ROUNDING)


@every_spec
def test_flax_is_the_oracle_with_weights_and_label_smoothing(network):
    params, batch, names = weighted_problem(network, "weights")
    module = flax_net.from_params(flax_net.sequential(network, rngs=nnx.Rngs(0)), params)
    del names["activation"]
    loss = flax_net.loss(nnx.graphdef(module), **names)
    want = numpy_net.loss(params, batch, activation=network.activation, **names)
    assert_close(loss(nnx.state(module), batch), want, ROUNDING)


@every_spec
def test_float32_stays_below_the_bars_of_the_oracle(network):
    params, batch, names = weighted_problem(network)
    # float64, of values that float32 holds
    params, batch = jax.tree.map(lambda a: a.astype("float32").astype(a.dtype), (params, batch))
    bars = network_bars(network, params, batch)
    want_loss, want = numpy_net.value_and_grad(params, batch, **names)
    single = jax.tree.map(lambda a: a.astype("float32") if a.dtype == float else a, (params, batch))
    loss, grads = jax.value_and_grad(partial(net.loss, **names))(*single)
    assert abs(float(loss) - want_loss) < LIMIT * bars["loss", "loss"]
    for name, grad in grads.items():
        distance = np.abs(np.asarray(grad, float) - want[name])
        assert (distance <= LIMIT * bars["gradient", name]).all(), name
        assert bars["gradient", name].max() < 1e-5 * np.abs(want[name]).max(), name


def test_parity_tells_weights_that_are_left_out():
    network = SPECS["smoothed gelu"]
    params, batch, names = weighted_problem(network)
    reference = parity.oracle(network, "adam", 0.02)
    case = parity.Case("weighted", params, lambda step: batch)

    def port(loss):
        forward = partial(net.forward, activation=network.activation)
        return parity.jax_participant(
            loss,
            optimizers.adam(0.02),
            forward=lambda params, batch: forward(params, batch.x, masks=batch.masks),
        )

    right = port(partial(net.loss, **names))
    assert parity.check(right, against=reference, case=case).verdict == "equal"
    wrong = port(lambda p, batch: net.loss(p, batch._replace(weights=None), **names))
    assert parity.check(wrong, against=reference, case=case).verdict == "mismatch"


@pytest.mark.parametrize("loss", ["mean_squares", "cross_entropy"])
def test_a_weight_of_two_is_the_row_twice(loss):
    network = spec.Spec((7, 5, 3), True, loss=loss)
    params, batch, names = weighted_problem(network, "")
    twice = Batch(np.vstack([batch.x, batch.x[:1]]), np.concatenate([batch.y, batch.y[:1]]))
    weighted = batch._replace(weights=np.array([2.0, 1, 1, 1]))
    got = numpy_net.value_and_grad(params, weighted, **names)
    want = numpy_net.value_and_grad(params, twice, **names)
    assert_close(got[0], want[0], ROUNDING)
    assert_close(got[1], want[1], ROUNDING)


@pytest.mark.parametrize("loss", spec.LOSSES)
def test_weights_that_are_all_zero_make_no_loss_and_no_gradient(loss):
    params, batch, names = weighted_problem(spec.Spec((7, 5, 3), True, loss=loss), "")
    batch = batch._replace(weights=np.zeros(4))
    for value_and_grad in (
        numpy_net.value_and_grad,
        lambda p, b, **n: jax.value_and_grad(partial(net.loss, **n))(p, b),
    ):
        value, grads = value_and_grad(params, batch, **names)
        assert value == 0
        assert not any(np.any(grad) for grad in grads.values())


def test_masks_are_a_pure_function_of_seed_and_step():
    def draw(seed, step, rate=0.25):
        return net.dropout_masks(seed, step, rate, [(200, 30), (200, 40)], "float32")

    first, second = draw(3, 7)
    assert (first.shape, second.shape, first.dtype) == ((200, 30), (200, 40), np.float32)
    assert set(np.unique(first)) == {0, np.float32(1 / 0.75)}
    kept = float((first > 0).mean())  # of 6,000 draws: a standard deviation is 0.0056
    assert abs(kept - 0.75) < 5 * 0.0056
    np.testing.assert_array_equal(first, jax.jit(draw, static_argnums=0)(3, jnp.int32(7))[0])
    for other in (draw(3, 8), draw(4, 7)):
        assert (np.asarray(first) != other[0]).any()
    assert (np.asarray(first)[:, :30] != np.asarray(second)[:, :30]).any()


BAD = {
    "weights of another length": (
        {"weights": np.ones(3)},
        r"`weights` must have shape \(4,\), got \(3,\)",
    ),
    "weights of another dtype": (
        {"weights": np.ones(4, "float32")},
        "`weights` must have dtype float64, that of params",
    ),
    "a mask too few": (
        {"masks": (np.ones((4, 6)),)},
        r"`masks` must have the shapes \[\(4, 6\), \(4, 5\)\], got \[\(4, 6\)\]",
    ),
    "a mask of another dtype": (
        {"masks": (np.ones((4, 6)), np.ones((4, 5), "float32"))},
        r"`masks\[1\]` must have dtype float64",
    ),
    "label smoothing of squares": ({"label_smoothing": 0.1}, "must be 0 for sum_squares, got 0.1"),
    "label smoothing of 1": ({"label_smoothing": 1.0}, "at least 0 and below 1, got 1.0"),
}


@pytest.mark.parametrize(("change", "text"), BAD.values(), ids=BAD)
@pytest.mark.parametrize("loss", [numpy_net.loss, net.loss])
def test_bad_weights_masks_and_smoothing_are_refused(loss, change, text):
    params, batch, names = weighted_problem(SPECS["sum_squares relu"], "")
    fields = {name: value for name, value in change.items() if name in Batch._fields}
    names |= {name: value for name, value in change.items() if name not in fields}
    with pytest.raises(ValueError, match=text):
        loss(params, batch._replace(**fields), **names)


def test_values_and_places_that_no_shape_tells_are_refused_too():
    params, batch, names = weighted_problem(SPECS["sum_squares relu"], "")
    with pytest.raises(ValueError, match=r"`weights` must be at least 0, got -1\.0"):
        numpy_net.loss(params, batch._replace(weights=np.array([1.0, -1, 1, 1])), **names)
    masked = weighted_problem(spec.Spec((7, 5, 5, 3)), "masks")[1]._replace(repeats=2)
    with pytest.raises(ValueError, match="`masks` must be None where `repeats` is given"):
        numpy_net.forward(
            spec.Spec((7, 5, 5, 3)).init(0, "float64"), masked.x, repeats=2, masks=masked.masks
        )
    module = flax_net.sequential(SPECS["sum_squares relu"], rngs=nnx.Rngs(0))
    params, batch, _ = weighted_problem(SPECS["sum_squares relu"], "masks")
    nnx.update(module, jax.tree.map(lambda leaf: leaf.astype(float), nnx.state(module)))
    with pytest.raises(ValueError, match="`masks` must be None for a module"):
        flax_net.loss(*nnx.split(module)[:1])(nnx.state(module), batch)
