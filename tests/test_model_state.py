"""Modules with running statistics and dropout train as in Flax's own loop, or are refused."""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

from jaxnet import data, flax_net, net, train
from jaxnet.engine import accumulate, checkpoint, deterministic, mesh
from jaxnet.spec import Batch, Spec

SPEC = Spec((7, 5, 3), bias=True)
PROBLEM = data.random_problem(SPEC, num_rows=11, seed=3)
ROWS_AT = data.row_batches(11, 4, seed=5)
OPTIMIZER = optax.adam(0.05)


class Net(nnx.Module):
    def __init__(self, rate=0.5, seed=0):
        rngs = nnx.Rngs(seed)
        self.norm = nnx.BatchNorm(7, momentum=0.9, rngs=rngs)  # of the inputs, which are known
        self.hidden = nnx.Linear(7, 5, rngs=rngs)
        self.drop = nnx.Dropout(rate, rngs=rngs)
        self.out = nnx.Linear(5, 3, rngs=rngs)

    def __call__(self, x):
        return self.out(self.drop(nnx.relu(self.hidden(self.norm(x)))))


def squares(module, batch):
    return jnp.square(module(batch.x) - batch.y).mean()


def made(module):
    """A step on rows and the first state."""
    loss, params, model_state = flax_net.split(module, squares)
    step = train.on_rows(train.make_step(loss, OPTIMIZER), PROBLEM)
    return step, train.init(params, OPTIMIZER, model_state)


def assert_same_bits(got, want):
    jax.tree.map(np.testing.assert_array_equal, got, want)


@pytest.mark.parametrize("fit", [train.fit, train.fit_scan])
def test_a_module_trains_as_in_flaxs_own_loop(fit):
    state, losses = fit(*made(Net()), ROWS_AT, 9)
    own = Net()
    optimizer = nnx.Optimizer(own, OPTIMIZER, wrt=nnx.Param)

    @nnx.jit
    def step(module, optimizer, batch):
        loss, grads = nnx.value_and_grad(squares)(module, batch)
        optimizer.update(module, grads)
        return loss

    rows = [jax.tree.map(lambda a: a[ROWS_AT(i)], PROBLEM) for i in range(9)]  # noqa: B023
    want = [step(own, optimizer, batch) for batch in rows]
    # float32, 9 steps of two programs that XLA may fuse differently
    np.testing.assert_allclose(losses, want, rtol=1e-5)
    _, params, _, model_state = nnx.split(own, nnx.Param, nnx.RngKey, ...)
    close = partial(np.testing.assert_allclose, rtol=1e-4, atol=1e-5)
    jax.tree.map(close, (state.params, state.model_state), (params, model_state))
    assert np.ptp(losses) > 0.1


@pytest.mark.usefixtures("usual_code")
def test_loop_scan_and_a_resume_from_disk_give_the_same_bits(tmp_path):
    (step, state), first = made(Net()), lambda: made(Net())[1]
    loop = train.fit(step, state, ROWS_AT, 13)
    assert_same_bits(train.fit_scan(step, first(), ROWS_AT, 13, chunk=5), loop)
    part, losses = train.fit_scan(step, first(), ROWS_AT, 5)
    with checkpoint.Writer(tmp_path) as writer:
        writer.save(5, part)
    again = checkpoint.restore(tmp_path, first()).tree
    end, more = train.fit(step, again, ROWS_AT, 8)
    assert_same_bits((end, np.concatenate([losses, more])), loop)


@pytest.mark.usefixtures("usual_code")
def test_loop_and_scan_give_the_same_bits_with_statistics_that_are_only_read():
    class Frozen(nnx.Module):
        def __init__(self):
            rngs = nnx.Rngs(0)
            self.norm = nnx.BatchNorm(8, use_running_average=True, rngs=rngs)
            self.out = nnx.Linear(8, 3, rngs=rngs)

        def __call__(self, x):
            return self.out(self.norm(x).mean(1))

    rng = np.random.default_rng(0)
    x = rng.standard_normal((12, 4, 8), dtype="float32")
    y = np.random.default_rng(1).standard_normal((12, 3), dtype="float32")
    batches = [Batch(x[i : i + 4], y[i : i + 4]) for i in (0, 4, 8)]
    loss, params, model_state = flax_net.split(Frozen(), squares)
    optimizer = optax.adam(0.01)
    step = train.make_step(loss, optimizer)

    def fitted(fit):
        state = train.init(params, optimizer, model_state)
        return fit(step, state, lambda i: batches[i % 3], 7)

    assert_same_bits(fitted(train.fit_scan), fitted(train.fit))


def test_the_statistics_are_those_of_the_batches_by_numpy():
    state, _ = train.fit_scan(*made(Net()), ROWS_AT, 9)
    mean, var = np.zeros(7), np.ones(7)
    for i in range(9):
        x = PROBLEM.x[ROWS_AT(i)].astype("float64")
        mean, var = 0.9 * mean + 0.1 * x.mean(0), 0.9 * var + 0.1 * x.var(0)
    norm = state.model_state["norm"]
    # float32: some roundings of numbers near 1
    np.testing.assert_allclose(norm["mean"][...], mean, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(norm["var"][...], var, rtol=1e-5)


def test_a_step_draws_a_mask_of_its_own_and_two_seeds_draw_others():
    def masks(seed):
        module = Net(seed=seed)
        loss, params, state = flax_net.split(module, lambda m, b: m.drop(jnp.ones(400)).sum())
        sums = []
        for _ in range(3):
            value, state = loss(params, None, state)
            sums.append(float(value))
        return sums, int(jax.tree.leaves(state["drop"])[0])

    (sums, count), (others, _) = masks(0), masks(1)
    assert count == 3
    assert masks(0)[0] == sums
    assert len({*sums, *others}) == 6


def test_the_trained_module_predicts_with_its_statistics():
    module = Net()
    state, _ = train.fit_scan(*made(module), ROWS_AT, 9)
    assert not module.norm.mean[...].any()  # training alone changes nothing
    nnx.update(module, state.params, state.model_state)
    module.eval()
    x, norm = PROBLEM.x, nnx.to_pure_dict(nnx.state(module))["norm"]
    h = (x - norm["mean"]) / np.sqrt(norm["var"] + 1e-5)
    h = module.hidden(h * norm["scale"] + norm["bias"])
    want = module.out(nnx.relu(h))
    np.testing.assert_allclose(module(x), want, rtol=1e-5, atol=1e-5)  # float32


def test_a_module_without_state_trains_as_by_its_parameters_alone():
    module = flax_net.TwoLayerNet(7, 5, 3, rngs=nnx.Rngs(0))
    loss, params, model_state = flax_net.split(module, squares)
    graphdef, alone = nnx.split(module)
    plain = flax_net.loss(graphdef, loss="mean_squares")
    ends = []
    for given in ((loss, params, model_state), (plain, alone, None)):
        step = train.on_rows(train.make_step(given[0], OPTIMIZER), PROBLEM)
        state, losses = train.fit_scan(step, train.init(given[1], OPTIMIZER, given[2]), ROWS_AT, 9)
        ends.append((state.params, losses))
    # float32, 9 steps of two programs that XLA may fuse differently
    close = partial(np.testing.assert_allclose, rtol=1e-4, atol=1e-5)
    jax.tree.map(close, *ends)


def test_a_loss_without_state_is_compiled_as_before():
    state = train.init(SPEC.init(1), OPTIMIZER)
    assert state.model_state is None
    assert len(jax.tree.leaves(state)) == 4 + 9 + 1  # parameters, moments and count, step


def test_transposed_weights_take_a_model_state_too():
    def loss(params, batch, count):
        return net.loss(params, batch), count + 1

    state = train.init(train.transpose(SPEC.init(1)), OPTIMIZER, np.int32(0))
    step = train.make_step(train.transposed(loss), OPTIMIZER)
    state, losses = train.fit(step, state, lambda i: PROBLEM, 3)
    want = train.init(SPEC.init(1), OPTIMIZER)
    _, plain = train.fit(train.make_step(net.loss, OPTIMIZER), want, lambda i: PROBLEM, 3)
    assert int(state.model_state) == 3
    np.testing.assert_allclose(losses, plain, rtol=1e-5)  # float32, other orders of the same sums


@pytest.mark.parametrize(
    ("layer", "name"),
    [
        (lambda rngs: nnx.BatchNorm(7, rngs=rngs), r"BatchStat layers/0/mean"),
        (lambda rngs: nnx.Dropout(0.5, rngs=rngs), r"RngCount layers/0/rngs/count"),
    ],
)
def test_a_module_with_state_given_as_parameters_is_refused_by_name(layer, name):
    rngs = nnx.Rngs(0)
    _, params = nnx.split(nnx.Sequential(layer(rngs), nnx.Linear(7, 3, rngs=rngs)))
    with pytest.raises(ValueError, match=rf"`params` must hold nnx.Param only, got {name}: take"):
        train.init(params, OPTIMIZER)


def test_what_cannot_carry_the_model_state_refuses_it():
    loss, params, model_state = flax_net.split(Net(), squares)
    loss: Any = loss
    without, state = train.init(params, OPTIMIZER), train.init(params, OPTIMIZER, model_state)
    sums = deterministic.make_step(loss, OPTIMIZER, mesh.make_mesh(1), reduction="mean")
    rows = jax.tree.map(lambda a: a[:8], PROBLEM)
    for step, given in ((train.make_step(loss, OPTIMIZER), without), (sums, state)):
        with pytest.raises(ValueError, match="`model_state` must be given to a loss made by flax"):
            step(given, rows)
    parts = partial(accumulate.accumulated, microbatches=4, reduction="mean")
    step = train.make_step(loss, OPTIMIZER, value_and_grad=parts)
    with pytest.raises(ValueError, match=r"`value_and_grad` must be jax\.value_and_grad for a lo"):
        step(state, rows)


class Writes(Net):
    def __call__(self, x):
        self.seen = nnx.BatchStat(x)
        return super().__call__(x)


class Lazy(Net):
    def __call__(self, x):
        self.late = nnx.Param(jnp.ones(3))
        return super().__call__(x) * self.late[...]


class Reseeds(Net):
    def __call__(self, x):
        nnx.reseed(self, dropout=1, default=1)
        return super().__call__(x)


@pytest.mark.parametrize(
    ("module", "message"),
    [
        (Writes, r"must not make or remove variables, got \['seen'\]"),
        (Lazy, r"must not make or remove variables, got \['late'\]"),
        (Reseeds, "must not replace its random keys"),
    ],
)
def test_a_call_that_changes_what_cannot_be_carried_is_refused(module, message):
    step, state = made(module())
    with pytest.raises(ValueError, match=message):
        train.fit(step, state, ROWS_AT, 1)


@pytest.mark.parametrize("transform", [nnx.remat, nnx.jit])
def test_layers_inside_a_transformation_of_flax_train_alike(transform):
    class Inside(Net):
        def __call__(self, x):
            return transform(Net.__call__)(self, x)

    got, want = (train.fit_scan(*made(module), ROWS_AT, 5) for module in (Inside(), Net()))
    # float32, 5 steps of two programs that XLA may fuse differently
    close = partial(np.testing.assert_allclose, rtol=1e-4, atol=1e-5)
    jax.tree.map(close, (got[0].params, got[0].model_state), (want[0].params, want[0].model_state))
