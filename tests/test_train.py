"""The training loop: one compilation, the same bits in loop and scan, resume, refusals."""

import functools
from functools import partial
from typing import NamedTuple

import grain
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

from jaxnet import data, flax_net, net, numpy_net, optimizers, train
from jaxnet.spec import Batch, Spec

SPEC = Spec((7, 5, 3), bias=True)
PROBLEM = data.random_problem(SPEC, num_rows=11, seed=3)
ROWS_AT = data.row_batches(11, 4, seed=5)


@functools.cache
def made(name):
    """An optimizer and its step, which all tests share: each shape is compiled once."""
    optimizer = optimizers.make(name, 0.01)
    return optimizer, train.make_step(net.loss, optimizer)


def new_state(optimizer, seed=1):
    return train.init(SPEC.init(seed), optimizer)


def assert_same_bits(got, want):
    jax.tree.map(np.testing.assert_array_equal, got, want)


def counted_loss(calls):
    def loss(params, batch):
        calls.append(1)
        return net.loss(params, batch)

    return loss


class Source:
    """Batches by their number, as the sources of data loaders have them."""

    def __getitem__(self, step):
        rows = ROWS_AT(step)
        return Batch(PROBLEM.x[rows], PROBLEM.y[rows])


def grain_source():
    rows = grain.MapDataset.source(range(11)).shuffle(seed=3).repeat()
    return rows.map(lambda i: Batch(PROBLEM.x[i], PROBLEM.y[i])).batch(4)


@pytest.mark.parametrize("source", [Source, grain_source])
@pytest.mark.usefixtures("usual_code")
def test_a_source_with_getitem_serves_batches_and_resume_sees_the_same(source):
    (optimizer, step), batch_at = made("adam"), source().__getitem__
    whole = train.fit(step, new_state(optimizer), batch_at, 9)
    state, first = train.fit(step, new_state(optimizer), batch_at, 4)
    again = train.fit_scan(step, state, source().__getitem__, 5)
    assert_same_bits((again[0], np.concatenate([first, again[1]])), whole)
    assert np.ptp(whole[1]) > 0


@pytest.mark.parametrize("name", ["nesterov", "adam", "adamw", "adagrad"])
@pytest.mark.usefixtures("usual_code")
def test_loop_and_scan_give_the_same_bits(name):
    optimizer, step = made(name)
    batch_at = data.batches(PROBLEM, 4, seed=5)
    loop = train.fit(step, new_state(optimizer), batch_at, 23)
    assert loop[1].shape == (23,)
    on_rows = train.on_rows(step, PROBLEM)
    assert_same_bits(train.fit_scan(on_rows, new_state(optimizer), ROWS_AT, 23, chunk=7), loop)
    if name == "adam":
        scan = train.fit_scan(step, new_state(optimizer), batch_at, 23)
        assert_same_bits(scan, loop)
        chunked = train.fit_scan(step, new_state(optimizer), batch_at, 23, chunk=7)
        assert_same_bits(chunked, loop)
        assert_same_bits(train.fit(on_rows, new_state(optimizer), ROWS_AT, 23), loop)


@pytest.mark.usefixtures("usual_code")
def test_a_run_in_two_parts_is_the_run_in_one():
    optimizer = optimizers.make("adam", optimizers.schedule("warmup", 0.01, 20))
    step = train.on_rows(train.make_step(net.loss, optimizer), PROBLEM)
    whole, losses = train.fit_scan(step, new_state(optimizer), ROWS_AT, 20, chunk=6)
    part, first = train.fit_scan(step, new_state(optimizer), ROWS_AT, 13, chunk=6)
    assert int(part.step) == 13
    part, second = train.fit(step, part, ROWS_AT, 7)
    assert_same_bits(part, whole)
    assert_same_bits(np.concatenate([first, second]), losses)


def test_the_loss_is_traced_once_for_each_shape_of_batch():
    calls = []
    optimizer = optimizers.make("adam", 0.01)
    step = train.make_step(counted_loss(calls), optimizer)
    batch_at = data.batches(PROBLEM, 4)
    state, _ = train.fit(step, new_state(optimizer), batch_at, 9)
    assert len(calls) == 1
    train.fit(step, state, batch_at, 9)
    assert len(calls) == 1


def test_a_scan_of_one_chunk_length_is_compiled_once(caplog):
    calls = []
    optimizer = optimizers.make("sgd", 0.01)
    step = train.make_step(counted_loss(calls), optimizer)
    on_rows = train.on_rows(step, PROBLEM)
    state = new_state(optimizer)
    with jax.log_compiles(True):
        state, _ = train.fit_scan(on_rows, state, ROWS_AT, 12, chunk=4)
        train.fit_scan(train.on_rows(step, PROBLEM), state, ROWS_AT, 8, chunk=4)
    compiled = [m for m in caplog.messages if m.startswith("Compiling") and "(_scan)" in m]
    assert (len(calls), len(compiled)) == (1, 1)


@pytest.mark.usefixtures("usual_code")
def test_a_shorter_last_chunk_is_the_same_program_and_gives_the_bits_of_the_loop(caplog):
    optimizer, step = made("adam")
    wanted = train.fit(train.on_rows(step, PROBLEM), new_state(optimizer), ROWS_AT, 13)
    with jax.log_compiles(True):
        on_rows = train.on_rows(step, PROBLEM)
        got = train.fit_scan(on_rows, new_state(optimizer), ROWS_AT, 13, chunk=5)
    compiled = [m for m in caplog.messages if m.startswith("Compiling") and "(_scan)" in m]
    assert len(compiled) == 1
    assert_same_bits(got, wanted)


def test_batches_of_several_shapes_are_refused_by_the_scan():
    step = train.make_step(net.loss, optimizers.make("sgd", 0.01))
    batch_at = [Batch(PROBLEM.x[:n], PROBLEM.y[:n]) for n in (4, 4, 3)].__getitem__
    state = new_state(optimizers.make("sgd", 0.01))
    with pytest.raises(ValueError, match=r"`batch_at` must return batches of one shape, got \[\(3"):
        train.fit_scan(step, state, batch_at, 3)


def test_the_state_is_donated_and_the_given_parameters_are_not():
    optimizer = optimizers.make("momentum", 0.01)
    params = jax.tree.map(jnp.asarray, SPEC.init(1))
    state = train.init(params, optimizer)
    train.make_step(net.loss, optimizer)(state, PROBLEM)
    assert all(leaf.is_deleted() for leaf in jax.tree.leaves(state.params))
    assert not any(leaf.is_deleted() for leaf in jax.tree.leaves(params))


def test_a_step_reports_the_loss_before_its_update():
    optimizer = optimizers.make("sgd", 0.01)
    state = new_state(optimizer)
    want = net.loss(state.params, PROBLEM)
    state, got = train.make_step(net.loss, optimizer)(state, PROBLEM)
    np.testing.assert_allclose(got, want, rtol=1e-6)  # float32; the update moves it by 1e-1
    assert abs(net.loss(state.params, PROBLEM) - want) > 1e-2 * want


@pytest.mark.usefixtures("x64")
def test_all_rows_at_once_is_the_oracles_full_batch_training():
    params = SPEC.init(1, "float64")
    batch = data.random_problem(SPEC, num_rows=11, seed=3, dtype="float64")
    optimizer = optimizers.make("adam", 0.01)
    step = train.on_rows(train.make_step(net.loss, optimizer), batch)
    state, losses = train.fit_scan(step, train.init(params, optimizer), lambda _: None, 40, chunk=9)
    oracle = numpy_net.make_optimizer("adam", 0.01)
    opt_state, want = oracle.init(params), []
    for _ in range(40):
        loss, grads = numpy_net.value_and_grad(params, batch)
        want.append(loss)
        params, opt_state = oracle.update(params, grads, opt_state)
    # Two orders of summation, 40 steps: rounding of 1e-16 grows to at most 1e-13 here.
    np.testing.assert_allclose(losses, want, rtol=1e-11)
    for name, value in params.items():
        np.testing.assert_allclose(state.params[name], value, rtol=1e-10, atol=1e-12)


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("name", ["momentum", "adam"])
def test_transposed_weights_are_trained_as_the_others(name):
    spec = Spec((7, 5, 3), bias=True)
    params = spec.init(1, "float64")
    batch = data.random_problem(spec, num_rows=11, seed=3, dtype="float64")
    optimizer, ends = optimizers.make(name, 1e-3), []
    for loss, turn in (
        (net.loss, lambda tree: tree),
        (train.transposed(net.loss), train.transpose),
    ):
        step = train.make_step(loss, optimizer)
        state = train.init(turn(params), optimizer)
        state, losses = train.fit_scan(step, state, lambda _: batch, 30)
        ends.append((losses, turn(state.params)))
    assert state.params["w1"].shape == (5, 7)
    assert state.params["b1"].shape == (5,)
    # other orders of the same sums: rounding of 1e-16, grown over 30 steps
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-11, atol=1e-13), *ends)


class Scale(NamedTuple):
    nested: dict
    offset: jax.Array


def test_any_pytree_of_parameters_and_batches_trains():
    def loss(params, batch):
        return jnp.mean((params.nested["a"] * batch["in"] + params.offset - batch["out"]) ** 2)

    x = np.linspace(-1, 1, 12, dtype="float32")
    batches = {"in": x, "out": 3 * x + 1}
    optimizer = optax.adam(0.1)
    state = train.init(Scale({"a": jnp.zeros(())}, jnp.zeros(())), optimizer)
    step = train.on_rows(train.make_step(loss, optimizer), batches)
    state, _ = train.fit_scan(step, state, data.row_batches(12, 5), 400)
    # The data are exactly linear, so the minimum is at (3, 1); Adam at 0.1 ends within 1e-2 of it.
    np.testing.assert_allclose([state.params.nested["a"], state.params.offset], [3, 1], atol=1e-2)


def test_a_flax_module_trains_as_its_dictionary_does():
    module = flax_net.TwoLayerNet(7, 5, 3, rngs=nnx.Rngs(0))
    params = flax_net.to_params(module)
    optimizer = optimizers.make("adam", 0.01)
    graphdef, module_params = nnx.split(module)
    step = train.on_rows(train.make_step(flax_net.loss(graphdef), optimizer), PROBLEM)
    state, losses = train.fit_scan(step, train.init(module_params, optimizer), ROWS_AT, 20)
    plain = train.on_rows(
        train.make_step(partial(net.loss, activation="my_relu"), optimizer), PROBLEM
    )
    want, want_losses = train.fit_scan(plain, train.init(params, optimizer), ROWS_AT, 20)
    nnx.update(module, state.params)
    # float32, 20 steps of two programs that XLA may fuse differently.
    np.testing.assert_allclose(losses, want_losses, rtol=1e-5)
    for name, value in flax_net.to_params(module).items():
        np.testing.assert_allclose(value, want.params[name], rtol=1e-4, atol=1e-6)


@pytest.mark.usefixtures("usual_code")
def test_the_dynamic_network_trains_with_a_new_depth_at_each_step():
    spec = Spec((7, 5, 5, 3), bias=True, activation="my_relu")
    x, y, *_ = data.random_problem(spec, num_rows=4)
    calls = []

    def loss(params, batch):
        calls.append(1)
        return net.loss(params, batch, activation="my_relu")

    def batch_at(i):
        return Batch(x, y, np.int32(i % 4))

    optimizer = optimizers.make("momentum", 0.001)
    step = train.make_step(loss, optimizer)
    loop = train.fit(step, train.init(spec.init(0), optimizer), batch_at, 8)
    scan = train.fit_scan(step, train.init(spec.init(0), optimizer), batch_at, 8)
    assert_same_bits(scan, loop)
    assert len(calls) == 1


@pytest.mark.parametrize("fit", [train.fit, train.fit_scan])
@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_the_first_loss_that_is_not_finite_is_named(fit, bad):
    optimizer, step = made("sgd")

    def batch_at(i):
        return Batch(np.full((4, 7), bad if i >= 5 else 1, "float32"), PROBLEM.y[:4])

    with pytest.raises(FloatingPointError, match="at step 5: try a smaller learning rate"):
        fit(step, new_state(optimizer), batch_at, 9)


def test_callbacks_see_every_step_and_every_chunk():
    optimizer, step = made("sgd")
    step = train.on_rows(step, PROBLEM)
    steps, chunks = [], []
    _, losses = train.fit(
        step,
        new_state(optimizer),
        ROWS_AT,
        5,
        on_step=lambda state, loss: steps.append((int(state.step), float(loss))),
    )
    train.fit_scan(
        step,
        new_state(optimizer),
        ROWS_AT,
        5,
        chunk=2,
        on_chunk=lambda state, losses: chunks.append((int(state.step), losses.tolist())),
    )
    assert steps == list(zip(range(1, 6), losses.tolist(), strict=True))
    assert chunks == [(n, losses[i:n].tolist()) for i, n in [(0, 2), (2, 4), (4, 5)]]


@pytest.mark.parametrize("fit", [train.fit, train.fit_scan])
def test_no_steps_give_no_losses_and_fewer_are_refused(fit):
    optimizer, step = made("sgd")
    state, losses = fit(step, new_state(optimizer), data.batches(PROBLEM, 4), 0)
    assert (int(state.step), losses.shape) == (0, (0,))
    with pytest.raises(ValueError, match="`num_steps` must be at least 0, got -1"):
        fit(step, state, data.batches(PROBLEM, 4), -1)


def test_a_chunk_below_one_is_refused():
    optimizer, step = made("sgd")
    with pytest.raises(ValueError, match="`chunk` must be at least 1, got 0"):
        train.fit_scan(step, new_state(optimizer), data.batches(PROBLEM, 4), 3, chunk=0)
