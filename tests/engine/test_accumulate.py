"""Accumulation, activations computed again, and products in bfloat16."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxnet import data, net, numpy_net, optimizers, train
from jaxnet.engine import accumulate, epochs
from jaxnet.spec import Batch, Spec

SPEC = Spec((7, 16, 5, 3), bias=True)
HALF = 2.0**-8  # the spacing of bfloat16 just below 1, twice its unit of rounding


def assert_close(got, want, **tolerance):
    jax.tree.map(partial(np.testing.assert_allclose, **tolerance), got, want)


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("number", [1, 3, 12])
@pytest.mark.parametrize(
    ("loss", "reduction"),
    [("sum_squares", "sum"), ("mean_squares", "mean"), ("cross_entropy", "mean")],
)
def test_accumulated_gradients_are_those_of_the_whole_batch(loss, reduction, number):
    spec = Spec((7, 5, 3), bias=True, loss=loss)
    params = spec.init(1, "float64")
    batch = data.random_problem(spec, num_rows=12, seed=3, dtype="float64")
    function = partial(net.loss, loss=loss)
    got = accumulate.accumulated(function, microbatches=number, reduction=reduction)(params, batch)
    want = jax.value_and_grad(function)(params, batch)
    assert_close(got, want, rtol=1e-12, atol=1e-14)  # another order of summation


@pytest.mark.usefixtures("x64")
def test_the_depth_of_a_dynamic_network_belongs_to_every_microbatch():
    spec = Spec((7, 5, 5, 3), bias=True)
    x, y, *_ = data.random_problem(spec, num_rows=12, seed=3, dtype="float64")
    batch, params = Batch(x, y, np.int32(2)), spec.init(1, "float64")
    got = accumulate.accumulated(net.loss, microbatches=4, reduction="sum")(params, batch)
    assert_close(got, jax.value_and_grad(net.loss)(params, batch), rtol=1e-12, atol=1e-14)


def test_accumulation_takes_the_memory_of_one_microbatch():
    spec = Spec((64, 256, 256, 8))
    batch = data.random_problem(spec, num_rows=4096)

    def temporary(value_and_grad):
        program = jax.jit(value_and_grad(net.loss)).lower(spec.init(1), batch).compile()
        analysis = program.memory_analysis()
        assert analysis
        return analysis.temp_size_in_bytes

    parts = partial(accumulate.accumulated, microbatches=16, reduction="sum")
    assert temporary(parts) < temporary(jax.value_and_grad) / 3


def test_rows_that_do_not_divide_are_refused():
    batch = data.random_problem(SPEC, num_rows=10)
    value_and_grad = accumulate.accumulated(net.loss, microbatches=4, reduction="sum")
    with pytest.raises(ValueError, match="must be a multiple of 4, the microbatches; got 10"):
        value_and_grad(SPEC.init(1), batch)
    with pytest.raises(ValueError, match="`microbatches` must be at least 1, got 0"):
        accumulate.accumulated(net.loss, microbatches=0, reduction="sum")


@pytest.mark.usefixtures("x64")
def test_activations_computed_again_give_the_same_run():
    optimizer = optimizers.make("adam", 0.01)
    batch = data.random_problem(SPEC, num_rows=12, seed=3, dtype="float64")
    runs = [
        train.fit_scan(
            train.on_rows(train.make_step(loss, optimizer), batch),
            train.init(SPEC.init(1, "float64"), optimizer),
            lambda i: None,
            20,
        )
        for loss in (net.loss, partial(net.loss, remat=True))
    ]
    assert_close(*runs, rtol=1e-12, atol=1e-14)


ONEDNN = epochs.compiler_options("bfloat16", jax.default_backend())  # () in JAX 0.10
BY_XLA_AND_ONEDNN = pytest.mark.parametrize("options", sorted({(), ONEDNN}), ids=len)
# a program that multiplies by oneDNN cannot be kept in JAX's cache
KEPT_OR_NOT = pytest.mark.filterwarnings("ignore:Error writing persistent compilation cache entry")


@KEPT_OR_NOT
@BY_XLA_AND_ONEDNN
@pytest.mark.parametrize("loss", ["sum_squares", "mean_squares", "cross_entropy"])
def test_products_in_bfloat16_are_off_by_its_rounding(loss, options):
    """Two layers round x, w and each product, forwards and backwards: about 6 roundings of 2**-9,
    relative to the greatest element, as small ones are differences of larger numbers."""
    spec = Spec((300, 200, 5), bias=True, activation="tanh", loss=loss)
    batch = data.random_problem(spec, num_rows=640, seed=3)
    params = spec.init(1)
    function = partial(net.loss, activation="tanh", loss=loss, compute_dtype="bfloat16")
    value, grads = jax.jit(jax.value_and_grad(function), compiler_options=dict(options))(
        params, batch
    )
    exact, exact_grads = numpy_net.value_and_grad(
        {name: p.astype(float) for name, p in params.items()},
        jax.tree.map(lambda a: a if a.dtype == np.int32 else a.astype(float), batch),
        activation="tanh",
        loss=loss,
    )
    assert value.dtype == "float32"
    assert abs(value - exact) < HALF * abs(exact)
    for name, grad in grads.items():
        assert grad.dtype == "float32"
        error = np.abs(grad - exact_grads[name]).max() / np.abs(exact_grads[name]).max()
        assert error < 4 * HALF, name
    assert max(np.abs(grads[k] - exact_grads[k]).max() for k in grads) > 0


@KEPT_OR_NOT
@BY_XLA_AND_ONEDNN
@pytest.mark.parametrize("width", [1, 256])
def test_sums_over_many_rows_are_not_made_in_bfloat16(options, width):
    """Summed in bfloat16, 4096 ones stop at 256."""
    params = {"w1": jnp.full((width, 1), 1 / width), "b1": jnp.zeros(1)}
    batch = Batch(np.ones((4096, width), "float32"), np.full((4096, 1), 0.5, "float32"))
    gradient = jax.grad(partial(net.loss, compute_dtype="bfloat16"))
    grads = jax.jit(gradient, compiler_options=dict(options))(params, batch)
    np.testing.assert_allclose([grads["w1"][0, 0], grads["b1"][0]], 4096, rtol=1e-6)


def test_state_stays_float32_and_training_works_in_bfloat16():
    optimizer = optimizers.make("adam", 0.01)
    batch = data.random_problem(SPEC, num_rows=16, seed=3)
    losses = {}
    for dtype in (None, "bfloat16"):
        step = train.make_step(partial(net.loss, compute_dtype=dtype), optimizer)
        step = train.on_rows(step, batch)
        state, losses[dtype] = train.fit_scan(
            step, train.init(SPEC.init(1), optimizer), lambda i: None, 200
        )
        dtypes = {str(leaf.dtype) for leaf in jax.tree.leaves(state)}
        assert dtypes == {"float32", "int32"}
    # the first steps differ by rounding; then both learn the 16 rows by heart
    np.testing.assert_allclose(losses["bfloat16"][:3], losses[None][:3], rtol=2 * HALF)
    for found in losses.values():
        assert found[-1] < 0.01 * found[0]
