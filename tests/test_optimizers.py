"""The optimizers: torch's rules, written out here once more in NumPy, and the schedules."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from helpers import HYPERPARAMETERS, RATES, assert_close, assert_losses_close, jax_run, numpy_run
from helpers import problem as random_problem

from jaxnet import net, numpy_net, optimizers
from jaxnet.runs import config
from jaxnet.spec import Spec

pytestmark = pytest.mark.usefixtures("x64", "quick_compilation")

NETWORK = Spec((7, 5, 3), bias=True)
FIFTY_STEPS = 1e-10  # float64: rounding of 1e-16 a step, amplified; 1e-13 is what is seen
FORMULA = 1e-12  # float64: the rounding of a few operations, and of 1 - b2**t near 1
CORRECTION = 4e-7  # float32: two roundings of the exponent, 6e-8 each, and XLA's expm1: 3.3e-7 seen
SINGLE = 1e-5  # float32: five steps, each with the rounding of sums of about ten terms


def test_the_tables_hold_the_names_of_the_configuration():
    assert tuple(optimizers.OPTIMIZERS) == config.OPTIMIZERS
    assert tuple(numpy_net.OPTIMIZERS) == config.OPTIMIZERS
    assert tuple(optimizers.SCHEDULES) == config.SCHEDULES


@pytest.mark.parametrize("name", optimizers.OPTIMIZERS)
def test_fifty_steps_on_a_schedule_are_the_oracles(name):
    params, batch = random_problem(NETWORK)
    depths = [None] * 50

    def rate(step):  # read at the number of steps made: a step too late is 0.5 % off
        return RATES.get(name, 0.005) * 0.995**step

    got, losses = jax_run(net.loss, params, batch, depths, optimizers.make(name, rate))
    oracle = numpy_net.make_optimizer(name, rate)
    want, want_losses = numpy_run(params, batch, depths, oracle)
    assert want_losses[-1] < 0.5 * want_losses[0]  # the run has gone somewhere
    assert_losses_close(losses, want_losses, FIFTY_STEPS)
    assert_close(got, want, FIFTY_STEPS)


@pytest.mark.parametrize("name", optimizers.OPTIMIZERS)
def test_float32_steps_are_the_oracles_to_rounding_and_stay_float32(name):
    params, batch = random_problem(NETWORK)
    rate, depths = RATES.get(name, 0.005), [None] * 5
    want, want_losses = numpy_run(params, batch, depths, numpy_net.make_optimizer(name, rate))
    with jax.enable_x64(False):
        single = {key: value.astype("float32") for key, value in params.items()}
        batch = batch._replace(x=batch.x.astype("float32"), y=batch.y.astype("float32"))
        got, losses = jax_run(net.loss, single, batch, depths, optimizers.make(name, rate))
    assert {value.dtype for value in got.values()} == {np.dtype("float32")}
    assert_losses_close(losses, want_losses, SINGLE)
    for key, value in want.items():
        np.testing.assert_allclose(got[key], value, rtol=0, atol=SINGLE * np.abs(value).max())


# torch.optim's algorithms, transcribed from its documentation, for one leaf p and given gradients.
def torch_sgd(p, gradients, lr, momentum=0.0, dampening=0.0, nesterov=False, weight_decay=0.0):
    buf = None
    for g in gradients:
        g = g + weight_decay * p
        if momentum:
            buf = g if buf is None else momentum * buf + (1 - dampening) * g
            g = g + momentum * buf if nesterov else buf
        p = p - lr * g
    return p


def torch_adam(
    p, gradients, lr, b1=0.9, b2=0.999, eps=1e-8, weight_decay=0.0, amsgrad=False, decoupled=False
):
    m, v, v_max = 0.0, 0.0, 0.0
    for t, g in enumerate(gradients, start=1):
        if decoupled:
            p = p - lr * weight_decay * p
        else:
            g = g + weight_decay * p
        m, v = b1 * m + (1 - b1) * g, b2 * v + (1 - b2) * g**2
        v_max = np.maximum(v_max, v)
        v_hat = (v_max if amsgrad else v) / (1 - b2**t)
        p = p - lr * (m / (1 - b1**t)) / (np.sqrt(v_hat) + eps)
    return p


def torch_rmsprop(
    p, gradients, lr, decay=0.99, eps=1e-8, momentum=0.0, centered=False, weight_decay=0.0
):
    v, mean, buf = 0.0, 0.0, 0.0
    for g in gradients:
        g = g + weight_decay * p
        v, mean = decay * v + (1 - decay) * g**2, decay * mean + (1 - decay) * g
        buf = momentum * buf + g / (np.sqrt(v - mean**2 if centered else v) + eps)
        p = p - lr * buf
    return p


def torch_adagrad(p, gradients, lr, eps=1e-10, weight_decay=0.0):
    total = 0.0
    for g in gradients:
        g = g + weight_decay * p
        total = total + g**2
        p = p - lr * g / (np.sqrt(total) + eps)
    return p


FORMULAS = {
    "sgd": (torch_sgd, {}),
    "momentum": (torch_sgd, {"momentum": 0.9}),
    "nesterov": (torch_sgd, {"momentum": 0.9, "nesterov": True}),
    "adam": (torch_adam, {}),
    "adamw": (torch_adam, {"weight_decay": 0.01, "decoupled": True}),
    "rmsprop": (torch_rmsprop, {}),
    "adagrad": (torch_adagrad, {}),
}
VARIANTS = {name: (name, {}) for name in optimizers.OPTIMIZERS} | HYPERPARAMETERS
P = np.array([0.75, -2.0, 0.0, 1e-3])
GRADIENTS = [np.array([2.0, -1e-3, 1e-8, 3.0]) * a for a in (1.0, -0.5, 0.3, 0.1, 0.02)]


def updated(optimizer, p, gradients):
    """Return p after each of the updates."""
    p, state, after = jnp.asarray(p), optimizer.init(p), []
    for g in gradients:
        updates, state = optimizer.update(jnp.asarray(g), state, p)
        p = optax.apply_updates(p, updates)
        after.append(np.asarray(p))
    return after


@pytest.mark.parametrize(("name", "options"), VARIANTS.values(), ids=VARIANTS)
def test_every_hyperparameter_has_the_meaning_of_torchs_documentation(name, options):
    formula, defaults = FORMULAS[name]
    after = updated(optimizers.make(name, 0.1, **options), P, GRADIENTS)
    for t, got in enumerate(after, start=1):
        want = formula(P, GRADIENTS[:t], 0.1, **(defaults | options))
        assert_close(got - P, want - P, FORMULA)
        np.testing.assert_allclose(got, want, rtol=1e-9)  # and each element, the least too


@pytest.mark.parametrize(("name", "options"), HYPERPARAMETERS.values(), ids=HYPERPARAMETERS)
def test_every_hyperparameter_tested_has_an_effect(name, options):
    formula, defaults = FORMULAS[name]
    whole = formula(P, GRADIENTS, 0.1, **(defaults | options))
    for option in options:
        others = {key: value for key, value in options.items() if key != option}
        without = formula(P, GRADIENTS, 0.1, **(defaults | others))
        assert np.abs(whole - without).max() > 1e-4


def test_the_first_momentum_buffer_is_not_damped():
    optimizer = optimizers.make("momentum", 1.0, dampening=0.4)
    after = updated(optimizer, np.zeros(1), [np.ones(1)] * 3)
    want = np.cumsum([1, 0.9 + 0.6, 0.9 * 1.5 + 0.6])
    np.testing.assert_allclose(-np.concatenate(after), want, rtol=FORMULA)


def halving(step):
    return 0.1 * 0.5**step


def test_rmsprop_applies_a_schedule_after_the_momentum():
    got = updated(optimizers.make("rmsprop", halving, momentum=0.8), P, GRADIENTS)[-1]
    v = buf = 0.0
    want = P
    for t, g in enumerate(GRADIENTS):
        v = 0.99 * v + 0.01 * g**2
        buf = 0.8 * buf + g / (np.sqrt(v) + 1e-8)
        want = want - halving(t) * buf
    assert_close(got - P, want - P, FORMULA)


@pytest.mark.parametrize("decay", [0.9, 0.999])
def test_adams_bias_correction_is_right_in_float32(decay):
    steps = np.arange(1, 1001)
    exact = -np.expm1(steps * math.log(decay))
    count = jnp.asarray(steps, "int32")
    got = np.asarray(optimizers._bias_correction(decay, count, jnp.dtype("float32")), "float64")
    assert np.abs(got / exact - 1).max() < CORRECTION
    np.testing.assert_allclose(
        optimizers._bias_correction(decay, count, jnp.dtype("float64")), exact, rtol=1e-14
    )


def test_adams_first_float32_step_is_right_where_optax_is_not():
    def error(transform):
        """Of p = 0 after a step along the gradient 1, to which both moments correct at step 1."""
        with jax.enable_x64(False):
            one = np.ones(1, "float32")
            return abs(updated(transform, 0 * one, [one])[0].item() * (1 + 1e-8) - 1)

    assert error(optimizers.scale_by_adam(0.9, 0.999, 1e-8)) < CORRECTION
    assert error(optax.scale_by_adam(0.9, 0.999, 1e-8)) > 1e-6


def test_the_number_of_steps_is_int32_in_either_precision():
    for enabled in (False, True):
        with jax.enable_x64(enabled):
            state = optimizers.scale_by_adam(0.9, 0.999, 1e-8).init(jnp.zeros(3))
            assert isinstance(state, optimizers.AdamState)
            assert state.count.dtype == jnp.int32


def expected(name, t, num_steps):
    """The schedules' factors in plain Python."""
    cosine = (1 + math.cos(math.pi * t / num_steps)) / 2
    rise = min(1.0, (t + 1) / max(1, round(num_steps / 10)))
    return {"constant": 1.0, "cosine": cosine, "warmup": rise * cosine}[name]


@pytest.mark.parametrize("num_steps", [1, 4, 40, 500])
@pytest.mark.parametrize("name", optimizers.SCHEDULES)
def test_a_schedule_is_its_formula_at_every_step(name, num_steps):
    steps = np.arange(num_steps, dtype="int32")
    want = [0.3 * expected(name, t, num_steps) for t in range(num_steps)]
    schedule = optimizers.schedule(name, 0.3, num_steps)
    assert callable(schedule)
    got = jax.jit(schedule)(steps)
    assert got.dtype == jnp.float64
    np.testing.assert_allclose(got, want, rtol=FORMULA)
    assert_close(schedule(num_steps - 1), np.asarray(want[-1]), FORMULA)
    with jax.enable_x64(False):
        got = schedule(steps)
        assert got.dtype == jnp.float32
        # 1 + cos cancels near the end: what is left of a rounding is absolute
        np.testing.assert_allclose(got, want, rtol=1e-6, atol=1e-7)


def test_the_schedules_begin_and_end_where_they_say():
    constant, cosine, warmup = (
        [float(optimizers.SCHEDULES[name](jnp.asarray(t, float), 40)) for t in (0, 3, 20, 40, 41)]
        for name in ("constant", "cosine", "warmup")
    )
    assert constant == [1, 1, 1, 1, 1]
    assert cosine[0] == 1
    assert cosine[2:] == pytest.approx([0.5, 0, 0], abs=1e-15)
    assert warmup[0] == 0.25
    assert warmup[1:] == cosine[1:]


def test_gradients_are_clipped_by_their_norm_before_all_else():
    optimizer = optimizers.scheduled("sgd", 0.1, 10, clip_norm=1.0)
    for gradient, want in (([3.0, 4.0], [-0.06, -0.08]), ([0.3, 0.4], [-0.03, -0.04])):
        (after,) = updated(optimizer, np.zeros(2), [np.array(gradient)])
        np.testing.assert_allclose(after, want, rtol=FORMULA)


@pytest.mark.parametrize("decay", [None, 0.3])
def test_the_optimizer_of_a_run_has_its_schedule_and_its_weight_decay(decay):
    options = {} if decay is None else {"weight_decay": decay}
    rate = optimizers.schedule("cosine", 0.1, 10)
    made = optimizers.scheduled("adamw", 0.1, 10, schedule_name="cosine", weight_decay=decay)
    want = updated(optimizers.make("adamw", rate, **options), P, GRADIENTS)
    np.testing.assert_array_equal(updated(made, P, GRADIENTS), want)


BAD_RATES = [0.0, -0.1, math.nan, math.inf]


@pytest.mark.parametrize("rate", BAD_RATES)
def test_a_learning_rate_that_is_not_finite_and_above_zero_is_refused(rate):
    text = f"^`learning_rate` must be a finite number above 0, got {rate}$"
    for name in optimizers.OPTIMIZERS:
        with pytest.raises(ValueError, match=text):
            optimizers.make(name, rate)
    with pytest.raises(ValueError, match=text):
        optimizers.schedule("cosine", rate, 10)


def test_unknown_names_are_refused():
    with pytest.raises(ValueError, match=r"^`optimizer` must be one of sgd, .*; got 'lbfgs'$"):
        optimizers.make("lbfgs", 0.1)
    text = "^`schedule` must be one of constant, cosine, warmup; got 'linear'$"
    with pytest.raises(ValueError, match=text):
        optimizers.schedule("linear", 0.1, 10)
    with pytest.raises(ValueError, match=r"^`num_steps` must be at least 1, got 0$"):
        optimizers.schedule("cosine", 0.1, 0)


@pytest.mark.parametrize("options", [{"momentum": 0.0}, {"dampening": 0.1}])
def test_nesterov_without_momentum_or_with_dampening_is_refused(options):
    with pytest.raises(ValueError, match=r"^`nesterov` must have a momentum above 0"):
        optimizers.make("nesterov", 0.1, **options)
