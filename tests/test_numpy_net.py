"""The oracle: its gradients against central differences, the ReLU rules, its optimizers by hand."""

import itertools

import numpy as np
import pytest
from helpers import (
    NETWORKS,
    RULE_POINTS,
    RULES,
    assert_close,
    every_case,
    named,
    problem,
    tied_problem,
)

from jaxnet import numpy_net, spec
from jaxnet.spec import Batch, Spec

STEP = 1e-5  # about the cube root of float64's rounding, where central differences are best
# Their error, relative, is STEP^2 times a third derivative, and the loss's rounding / STEP, in
# which a small leaf may drown: at worst 1.1e-8 here. A wrong gradient is wrong by 1e-3 or more.
DIFFERENCES = 1e-7


def smooth_problem(network, repeats):
    """Return a problem whose units are all far from the kink, so that differences see no jump."""
    for seed in itertools.count():
        params, batch = problem(network, repeats, seed)
        function, _ = numpy_net.ACTIVATIONS[network.activation]
        _, _, outputs = numpy_net.run_layers(params, batch.x, function, repeats, np.matmul)
        if all(np.abs(h).min() > 100 * STEP for h in outputs[:-1]):
            return params, batch
    raise AssertionError


def central_differences(params, batch, **names):
    grads = {name: np.zeros_like(p) for name, p in params.items()}
    for name, p in params.items():
        for index in np.ndindex(p.shape):
            ends = []
            for sign in (1, -1):
                moved = p.copy()
                moved[index] += sign * STEP
                ends.append(numpy_net.loss(params | {name: moved}, batch, **names))
            grads[name][index] = (ends[0] - ends[1]) / (2 * STEP)
    return grads


@every_case
def test_the_gradient_is_the_central_difference_of_the_loss(spec, repeats):
    params, batch = smooth_problem(spec, repeats)
    loss, grads = numpy_net.value_and_grad(params, batch, **named(spec))
    assert loss == numpy_net.loss(params, batch, **named(spec))
    assert_close(grads, central_differences(params, batch, **named(spec)), DIFFERENCES)


def test_the_tables_hold_the_names_of_the_description():
    assert tuple(numpy_net.ACTIVATIONS) == spec.ACTIVATIONS
    assert tuple(numpy_net.LOSSES) == spec.LOSSES


def test_the_losses_are_a_sum_a_mean_over_elements_and_a_mean_over_rows():
    y_pred = np.array([[1.0, 2.0], [3.0, 5.0], [0.0, 0.0]])
    y = np.array([[1.0, 4.0], [0.0, 1.0], [1.0, 0.0]])
    assert numpy_net.LOSSES["sum_squares"](y_pred, y)[0] == 4 + 9 + 16 + 1
    assert numpy_net.LOSSES["mean_squares"](y_pred, y)[0] == (4 + 9 + 16 + 1) / 6
    want = (np.log(1 + np.exp(-1)) + np.log(1 + np.exp(2)) + np.log(2)) / 3
    got = numpy_net.LOSSES["cross_entropy"](y_pred, np.array([1, 0, 0]))[0]
    assert got == pytest.approx(want, rel=1e-15)


def test_the_quantile_loss_weighs_each_side_by_the_level_of_its_column():
    y_pred, y = np.array([[1.0, 1.0, 1.0, 1.0]]), np.array([[3.0, 3.0, 3.0, 0.0]])
    loss, grad = numpy_net.LOSSES["quantile"](y_pred, y)
    # 2 too low at the levels 0.1, 0.5, 0.9; then 1 too high at 0.1 again
    assert loss == pytest.approx((0.2 + 1.0 + 1.8 + 0.9) / 4, rel=1e-15)
    np.testing.assert_allclose(grad, [[-0.025, -0.125, -0.225, 0.225]], rtol=1e-15)
    # The lowest loss of a constant is at the quantile itself, here of 0..98.
    y = np.tile(np.arange(99.0)[:, None], 3)
    losses = [
        numpy_net.LOSSES["quantile"](np.full_like(y, c), y)[1].sum(axis=0) for c in range(100)
    ]
    assert (np.diff(np.sign(losses), axis=0) != 0).argmax(axis=0).tolist() == [9, 49, 89]


def test_cross_entropy_of_huge_scores_is_finite():
    loss, grad = numpy_net.LOSSES["cross_entropy"](
        np.array([[1e4, 0.0], [0.0, -1e4]]), np.ones(2, int)
    )
    assert loss == 1e4
    np.testing.assert_array_equal(grad, [[0.5, -0.5], [0.5, -0.5]])


@pytest.mark.parametrize("name", RULES)
def test_a_relus_rule_is_exact_at_zero_minus_zero_and_nan(name):
    function, backward = numpy_net.ACTIVATIONS[name]
    np.testing.assert_array_equal(function(RULE_POINTS), [0, 0, 0, 1, np.nan])
    np.testing.assert_array_equal(backward(RULE_POINTS, np.ones(5)), RULES[name])


@pytest.mark.parametrize("name", RULES)
@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_a_masked_unit_leaks_nothing(name, bad):
    _, backward = numpy_net.ACTIVATIONS[name]
    want = np.where(np.array(RULES[name]) == 1, bad, 0)
    np.testing.assert_array_equal(backward(RULE_POINTS, np.full(5, bad)), want)


@pytest.mark.parametrize(("sizes", "repeats"), list(NETWORKS.values())[1:], ids=list(NETWORKS)[1:])
def test_at_planted_ties_the_two_rules_differ(sizes, repeats):
    network = Spec(sizes, bias=True)
    params, batch = tied_problem(network, repeats)
    relu, my_relu = (
        numpy_net.value_and_grad(params, batch, activation=name)[1] for name in ("relu", "my_relu")
    )
    # The dead unit's input row 0 is zero: only its bias and the other rows see the rule.
    assert (relu["b1"][0], my_relu["b1"][0] != 0) == (0, True)
    assert not relu["w1"][:, 0].any()
    assert my_relu["w1"][:, 0].any()


def test_a_weight_applied_three_times_gathers_the_three_gradients():
    shared, batch = problem(Spec((7, 5, 5, 3), bias=True, activation="tanh"), repeats=3)
    copies = {name: shared[name] for name in ("w1", "b1")}
    for k in (2, 3, 4):
        copies |= {f"w{k}": shared["w2"], f"b{k}": shared["b2"]}
    copies |= {"w5": shared["w3"], "b5": shared["b3"]}
    loss, grads = numpy_net.value_and_grad(shared, batch, activation="tanh")
    deep_loss, deep = numpy_net.value_and_grad(
        copies, batch._replace(repeats=None), activation="tanh"
    )
    assert loss == deep_loss
    want = {"w1": deep["w1"], "b1": deep["b1"]}
    for kind in "wb":
        want[f"{kind}2"] = deep[f"{kind}2"] + deep[f"{kind}3"] + deep[f"{kind}4"]
        want[f"{kind}3"] = deep[f"{kind}5"]
    assert_close(grads, want, 1e-15)  # a sum in another order


def test_a_layer_applied_no_times_has_a_gradient_of_exactly_zero():
    params, batch = problem(Spec((7, 5, 5, 3), bias=True), repeats=0)
    _, grads = numpy_net.value_and_grad(params, batch)
    assert not grads["w2"].any()
    assert not grads["b2"].any()
    assert grads["w1"].any()


def test_the_precision_is_that_of_the_input():
    for activation in spec.ACTIVATIONS:
        network = Spec((7, 5, 3), bias=True, activation=activation)
        params = network.init(0)
        batch = Batch(np.ones((4, 7), "float32"), np.ones((4, 3), "float32"))
        loss, grads = numpy_net.value_and_grad(params, batch, activation=activation)
        assert np.asarray(loss).dtype == np.float32
        assert {g.dtype for g in grads.values()} == {np.dtype("float32")}


def test_nothing_given_is_written_to():
    params, batch = problem(Spec((7, 5, 3), bias=True))
    optimizer = numpy_net.make_optimizer("adam", 0.1)
    state = optimizer.init(params)
    before = {name: p.copy() for name, p in params.items()}
    _, grads = numpy_net.value_and_grad(params, batch)
    new, new_state = optimizer.update(params, grads, state)
    assert (state["step"], new_state["step"]) == (0, 1)
    for name, p in params.items():
        np.testing.assert_array_equal(p, before[name])
        assert not state["m"][name].any()
        assert (new[name] != p).any()
    assert all(p.shape == new[name].shape for name, p in params.items())


# The optimizers from the textbooks in closed form: the direction of a step from the list `g` of all
# gradients so far and the parameter p. Moments are written as sums, not as recursions.
def decayed(rate, g):
    return sum(rate ** (len(g) - 1 - i) * value for i, value in enumerate(g))


def squares(g):
    return [value**2 for value in g]


def adam_direction(g):
    t = len(g)
    m_hat = 0.1 * decayed(0.9, g) / (1 - 0.9**t)
    v_hat = 0.001 * decayed(0.999, squares(g)) / (1 - 0.999**t)
    return m_hat / (v_hat**0.5 + 1e-8)


TEXTBOOK = {
    "sgd": lambda g, p: g[-1],
    "momentum": lambda g, p: decayed(0.9, g),
    "nesterov": lambda g, p: g[-1] + 0.9 * decayed(0.9, g),
    "adam": lambda g, p: adam_direction(g),
    "adamw": lambda g, p: adam_direction(g) + 0.01 * p,
    "rmsprop": lambda g, p: g[-1] / ((0.01 * decayed(0.99, squares(g))) ** 0.5 + 1e-8),
    "adagrad": lambda g, p: g[-1] / (sum(squares(g)) ** 0.5 + 1e-10),
}
# By hand to rounding: 1 - 0.999**t and 0.001 differ in their last digits, near 1e-13.
BY_HAND = 1e-12
SCALES = (1.0, 1e-4, 1e-8, 1e-10)  # of gradients, the last where each eps decides


@pytest.mark.parametrize("scale", SCALES)
@pytest.mark.parametrize("rate", [0.1, lambda step: 0.1 / (1 + step)], ids=["0.1", "schedule"])
@pytest.mark.parametrize("name", numpy_net.OPTIMIZERS)
def test_an_optimizer_is_its_textbook_formula_for_three_steps(name, rate, scale):
    optimizer = numpy_net.make_optimizer(name, rate)
    p = 0.75
    params = {"w1": np.array([[p]])}
    state = optimizer.init(params)
    g = []
    for t, gradient in enumerate((0.5, -1.25, 2.0)):
        g.append(gradient * scale)
        params, state = optimizer.update(params, {"w1": np.array([[g[-1]]])}, state)
        moved = (rate(t) if callable(rate) else rate) * TEXTBOOK[name](g, p)
        assert params["w1"].item() - p == pytest.approx(-moved, rel=BY_HAND, abs=2e-16)
        p = params["w1"].item()
        assert state["step"] == t + 1


@pytest.mark.parametrize("name", ["sgd", "momentum", "nesterov", "adam"])
def test_weight_decay_is_added_to_the_gradient(name):
    optimizer = numpy_net.make_optimizer(name, 0.1, weight_decay=0.3)
    params = {"w1": np.array([[0.75]])}
    state = optimizer.init(params)
    g = []
    for gradient in (0.5, -1.25, 2.0):
        p = params["w1"].item()
        g.append(gradient + 0.3 * p)
        params, state = optimizer.update(params, {"w1": np.array([[gradient]])}, state)
        assert params["w1"].item() == pytest.approx(p - 0.1 * TEXTBOOK[name](g, p), rel=BY_HAND)


def test_an_unknown_optimizer_is_refused():
    with pytest.raises(ValueError, match=r"^`optimizer` must be one of sgd, .*; got 'lbfgs'$"):
        numpy_net.make_optimizer("lbfgs", 0.1)
