"""The gradient check: right gradients pass, wrong ones are named, kinks are neither."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxnet import net, numpy_net
from jaxnet.parity.gradient import check_gradient
from jaxnet.parity.report import ParityError
from jaxnet.parity.taylor import EPS, LADDER
from jaxnet.spec import Batch, Spec

pytestmark = pytest.mark.usefixtures("quick_compilation")

TUTORIAL = Spec()
SMOOTH = Spec((10, 8, 8, 4), bias=True, activation="tanh", loss="cross_entropy")


@functools.cache
def loss_of(activation, loss):
    """One function for all tests, which JAX then compiles once for each shape."""
    return functools.partial(net.loss, activation=activation, loss=loss)


def case(spec, seed=0, rows=64):
    """A loss of a network, its parameters, and a random batch in float64."""
    rng = np.random.default_rng([seed, 1])
    x = rng.standard_normal((rows, spec.sizes[0]))
    y = rng.standard_normal((rows, spec.sizes[-1]))
    if spec.loss == "cross_entropy":
        y = rng.integers(0, spec.sizes[-1], rows)
    return loss_of(spec.activation, spec.loss), spec.init(seed, "float64"), Batch(x, y)


def numpy_functions(spec):
    """The loss in NumPy and its hand-derived gradient."""

    def both(params, batch):
        return numpy_net.value_and_grad(params, batch, activation=spec.activation, loss=spec.loss)

    return lambda p, b: both(p, b)[0], lambda p, b: both(p, b)[1]


@functools.cache
def jitted_gradient(f):
    return jax.jit(jax.grad(f))


def changed(f, change):
    """JAX's gradient of f, changed."""
    gradient = jitted_gradient(f)
    return lambda p, b: change(gradient(p, b))


def times(factor, *names):
    return lambda grads: {
        name: g * factor if not names or name in names else g for name, g in grads.items()
    }


@pytest.mark.parametrize(
    ("activation", "seed"), [("my_relu", 0), ("my_relu", 1), ("my_relu", 2), ("relu", 0)]
)
def test_tutorials_gradient_is_correct_at_kinks_that_are_counted(activation, seed):
    f, params, batch = case(Spec(activation=activation), seed)
    report = check_gradient(f, params, batch, seed=seed, directions=1)
    assert report.verdict == "correct", report
    assert [leaf.leaf for leaf in report.leaves] == ["w1", "w2", "all leaves together"]
    w1, w2, _ = report.leaves
    assert w1.kinks > 0  # some of 6,400 units flip
    assert w2.kinks == 0  # the output layer has no ReLU
    assert max(leaf.error for leaf in report.leaves) < 1e-8  # rounding over h, which is 1e-6


@pytest.mark.parametrize("activation", ["tanh", "gelu", "silu"])
def test_gradients_of_smooth_networks_are_correct_and_fall_as_h_cubed(activation):
    spec = Spec(SMOOTH.sizes, bias=True, activation=activation, loss="cross_entropy")
    report = check_gradient(*case(spec), directions=1)
    assert report.verdict == "correct", report
    report.raise_for_mismatch()
    assert report.first is None
    slopes = np.array([leaf.slope for leaf in report.leaves])
    # The next power, h^5, moves the slope by less than h^2 / h^0, and four steps are all below 0.1.
    np.testing.assert_allclose(slopes, 3, atol=0.1)
    assert not any(leaf.kinks for leaf in report.leaves)


def test_hand_derived_gradients_pass_for_many_seeds_without_a_false_alarm():
    for spec in (
        Spec((6, 8, 4)),
        Spec((6, 8, 8, 3), bias=True, loss="cross_entropy"),
        Spec((3, 4, 2), bias=True, activation="gelu", loss="mean_squares"),
    ):
        f, gradient = numpy_functions(spec)
        for seed in range(6):
            _, params, batch = case(spec, seed, rows=8)
            report = check_gradient(f, params, batch, gradient=gradient, seed=seed, directions=1)
            assert report.verdict == "correct", report


MISTAKES = {
    "half too much": (times(1.5), None),
    "factor 2": (times(2.0), None),
    "dropped leaf": (times(0.0, "w2"), "w2"),
    "sign": (times(-1.0, "w2"), "w2"),
    "one part in a million": (times(1 + 1e-6, "w2"), "w2"),
    "first leaf, one part in a million": (times(1 - 1e-6, "w1"), "w1"),
}


@pytest.mark.parametrize("spec", [TUTORIAL, SMOOTH], ids=["tutorial", "smooth"])
@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_wrong_gradient_is_caught_and_its_leaf_is_named(spec, mistake):
    change, wrong = MISTAKES[mistake]
    f, params, batch = case(spec)
    report = check_gradient(f, params, batch, gradient=changed(f, change), directions=1)
    assert report.verdict == "wrong"
    named = {leaf.leaf for leaf in report.leaves if leaf.verdict == "wrong"}
    assert named == ({wrong} if wrong else set(params)) | {"all leaves together"}
    assert report.first is not None
    assert report.first.leaf == min(named & set(params))
    # The error is larger than what curvature adds at the finest steps: a straight line.
    assert report.first.slope == pytest.approx(1, abs=0.05)
    with pytest.raises(ParityError, match=f"first wrong leaf: {report.first.leaf}"):
        report.raise_for_mismatch()


def test_one_wrong_element_of_a_hundred_thousand_is_caught():
    f, params, batch = case(TUTORIAL)
    gradient = changed(f, lambda grads: {**grads, "w1": grads["w1"].at[3, 4].multiply(2)})
    report = check_gradient(f, params, batch, gradient=gradient, directions=1)
    assert report.first is not None
    assert report.first.leaf == "w1"


@pytest.mark.parametrize("seed", range(2))
@pytest.mark.parametrize("at", [2.0**-4.5, 1e-3, 1e-5])
def test_the_steps_that_cross_a_kink_are_counted_exactly(at, seed):
    def f(x, batch):
        return x**2 + 3 * jax.nn.relu(x - 1 - batch)

    report = check_gradient(f, np.float64(1), at, seed=seed)
    assert report.verdict == "correct", report
    for line in report.leaves:
        v = line.claimed / 2  # the derivative at 1 is 2
        assert line.kinks == (LADDER * abs(v) > at).sum()


def relu_with(at_zero):
    """x -> relu(x) + x^2 summed, and a gradient with that value for relu'(0)."""

    def f(p, _):
        return float((np.maximum(p["x"], 0) + p["x"] ** 2).sum())

    def gradient(p, _):
        x = np.asarray(p["x"])
        return {"x": np.where(x > 0, 1.0, np.where(x == 0, at_zero, 0.0)) + 2 * x}

    return f, gradient


@pytest.mark.parametrize("at_zero", [0.0, 0.3, 0.5, 1.0])
@pytest.mark.parametrize("seed", range(2))
def test_any_value_between_the_one_sided_derivatives_is_a_tie(at_zero, seed):
    f, gradient = relu_with(at_zero)
    params = {"x": np.array([0.0])}
    report = check_gradient(f, params, None, gradient=gradient, seed=seed)
    assert report.verdict == "tie", report
    report.raise_for_mismatch()
    for line in report.leaves:
        assert line.kinks == len(LADDER)
        # Half of |v| on each side of v / 2: one-sided differences are good to sqrt(EPS), 1e-8.
        assert abs(line.derivative) == pytest.approx(line.bar, rel=1e-6)
        assert abs(line.claimed - line.derivative) <= line.bar


@pytest.mark.parametrize("activation", ["relu", "my_relu"])
def test_a_dead_unit_ties_and_a_wrong_gradient_there_is_wrong(activation):
    f, params, batch = case(Spec((20, 10, 5), activation=activation))
    params["w1"][:, 3] = 0
    report = check_gradient(f, params, batch)
    assert [leaf.verdict for leaf in report.leaves] == ["tie", "correct", "tie"], report
    report = check_gradient(f, params, batch, gradient=changed(f, times(1.5, "w1")))
    assert [leaf.verdict for leaf in report.leaves] == ["wrong", "correct", "wrong"], report


def test_a_gradient_of_a_smooth_function_written_with_relus_is_wrong_at_their_tie():
    # relu(x) - relu(-x) is x, but JAX's gradient at 0 is 0: f is smooth, so this is no convention.
    report = check_gradient(lambda x, _: jax.nn.relu(x) - jax.nn.relu(-x), np.float64(0), None)
    assert report.verdict == "wrong"


def test_a_linear_function_passes_with_no_remainder_at_all():
    x, w = np.random.default_rng(0).standard_normal((2, 1000))
    report = check_gradient(lambda p, b: (p["a"]["w"] @ b).sum(), {"a": {"w": w}}, x)
    assert report.verdict == "correct", report
    assert report.leaves[0].leaf == "a/w"
    assert all(np.isnan(leaf.slope) and leaf.kinks == 0 for leaf in report.leaves)
    # <g, v> is a sum of 1000 products, of which the rounding adds up as a random walk.
    assert max(leaf.error for leaf in report.leaves) < 1000 * EPS


def test_a_constant_function_has_the_gradient_zero_and_no_other():
    params = np.arange(5.0)
    for value in (0.0, 3.0):
        assert check_gradient(lambda p, b: b + 0 * p.sum(), params, value).verdict == "correct"
        report = check_gradient(
            lambda p, b: b, params, value, gradient=lambda p, b: 1e-9 * np.eye(5)[2]
        )
        assert report.verdict == "wrong"


def test_a_minimum_has_the_gradient_zero():
    # Rounding is 1e-16 of the constant, and the step 1: the bar is far below what 1e-3 would be.
    def f(p, _):
        return 10 + ((p - 1) ** 2).sum()

    assert check_gradient(f, np.ones(5), None).verdict == "correct"
    report = check_gradient(f, np.ones(5), None, gradient=lambda p, b: np.full(5, 1e-3))
    assert report.verdict == "wrong"


@pytest.mark.parametrize("scale", [1e-8, 1e8])
def test_scales_of_leaves_do_not_matter(scale):
    f, params, batch = case(SMOOTH)

    def scaled(p, b):
        return f({**p, "w1": p["w1"] / scale, "b1": p["b1"] * scale}, b) * scale

    params = {**params, "w1": params["w1"] * scale, "b1": params["b1"] / scale}
    gradient = changed(scaled, times(1, "w1"))
    report = check_gradient(scaled, params, batch, gradient=gradient, directions=1)
    assert report.verdict == "correct", report
    gradient = changed(scaled, times(1 + 1e-6, "w1"))
    report = check_gradient(scaled, params, batch, gradient=gradient, directions=1)
    assert report.first is not None
    assert report.first.leaf == "w1"


def test_a_noisy_function_is_not_compared():
    noise = np.random.default_rng(0)

    def f(p, _):
        return float(np.tanh(p).sum() + 0.01 * noise.standard_normal())

    report = check_gradient(f, np.full(50, 0.3), None, gradient=lambda p, b: 1 / np.cosh(p) ** 2)
    assert report.verdict == "not compared"
    with pytest.raises(ParityError, match="gradient: not compared"):
        report.raise_for_mismatch()


def test_values_beyond_the_domain_of_f_are_left_out():
    params = np.array([0.01, 1.0, 2.0])  # large steps take the logarithm of a negative number
    assert check_gradient(lambda p, _: jnp.log(p).sum(), params, None).verdict == "correct"


def test_the_same_seed_gives_the_same_report_and_x64_stays_off():
    f, params, batch = case(SMOOTH)
    params = jax.tree.map(jnp.float32, params)
    batch = Batch(jnp.float32(batch.x), batch.y)
    assert str(check_gradient(f, params, batch, directions=1)) == str(
        check_gradient(f, params, batch, directions=1)
    )
    assert jnp.zeros(1).dtype == jnp.float32


def total(p, _):
    return sum(leaf.sum() for leaf in jax.tree.leaves(p))


@pytest.mark.parametrize(
    ("f", "params", "gradient", "message"),
    [
        (total, {}, None, "`params` must hold at least one number"),
        (total, {"a": np.ones((0, 3))}, None, "`params` must hold at least one number"),
        (total, {"a": np.arange(3)}, None, "`params` must be floating, got int64 in a"),
        (total, {"a": 1}, None, "`params` must be floating, got int in a"),
        (total, [np.array([1, np.nan])], None, "`params` must be finite, got nan in 0"),
        (lambda p, _: p, np.ones(3), None, r"`f` must return a scalar, got shape \(3,\)"),
        (lambda p, _: jnp.float32(p), 1.0, None, "`f` must return float64 .* got float32"),
        (lambda p, _: jnp.log(p), -1.0, None, "`f` must be finite at `params`, got nan"),
        (lambda p, _: float(p), 1.0, None, "`f` must be traceable by JAX unless `gradient`"),
        (total, {"a": np.ones(2)}, lambda p, _: {"b": p["a"]}, "`gradient` must return a float64"),
        (total, {"a": np.ones(2)}, lambda p, _: {"a": np.ones((2, 1))}, r"got a float64\(2, 1\)"),
        (total, {"a": np.ones(2)}, lambda p, _: {"a": np.ones(2, "f")}, "got a float32"),
        (total, {"a": np.ones(2)}, lambda p, _: {"a": p["a"] * np.inf}, "finite, got inf in a"),
    ],
)
def test_what_cannot_be_compared_is_refused(f, params, gradient, message):
    with pytest.raises(ValueError, match=message):
        check_gradient(f, params, None, gradient=gradient)


def test_no_directions_are_refused():
    with pytest.raises(ValueError, match="`directions` must be 1 or more, got 0"):
        check_gradient(total, np.ones(2), None, directions=0)
