"""What `parity.check` refuses, and what it must not let pass."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from parity_problem import (
    PARAMS,
    X,
    batch_at,
    case,
    check,
    forward,
    make,
    strict_json,
    value_and_grad,
)

from jaxnet import parity


def test_a_right_candidate_is_equal():
    report = check(make())
    report.raise_for_mismatch()
    assert (report.verdict, report.first, report.cause) == ("equal", None, "")
    # in each tier, two steps and ties: prediction, loss, gradient, parameters and momentum
    assert report.n_compared == 2 * 3 * (24 + 1 + 3 * 20) + 3


@pytest.mark.parametrize(("tier", "dtype"), [("mathematics", "float64"), ("precision", "float32")])
def test_a_tier_has_its_dtype(tier, dtype):
    seen = set()

    def spied(params, batch):
        seen.update(leaf.dtype.name for leaf in (*params.values(), *batch.values()))
        return value_and_grad(params, batch)

    sides = make(spied, optimizer=None), make(optimizer=None)
    parity.check(sides[0], against=sides[1], case=case(steps=(1,)), tiers=(tier,))
    assert seen == {dtype}


def test_the_same_object_is_not_compared_with_itself():
    participant = make()
    for other in (participant, replace(participant, name="another")):
        with pytest.raises(ValueError, match=r"not compared: .* are the same object"):
            check(other, participant)


def test_a_participant_needs_a_case():
    with pytest.raises(ValueError, match="`case` must be given"):
        parity.check(make(), against=make())


@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_parameters_of_a_case_become_float64(dtype):
    made = case(PARAMS | {"w": np.ones((4, 4), dtype), "count": np.array([3])})
    assert made.params["w"].dtype == np.float64
    assert made.params["count"].dtype == np.int64


@pytest.mark.parametrize("value", [np.array(["a"]), "a", None, [1.0, 2.0]])
def test_parameters_of_a_case_must_be_numbers(value):
    with pytest.raises(ValueError, match=r"`case.params\['w'\]` must hold numbers, got"):
        case(PARAMS | {"w": value})


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_parameters_of_a_case_must_be_finite(value):
    with pytest.raises(ValueError, match=r"`case.params\['b'\]` must be finite"):
        case(PARAMS | {"b": np.array([0, 1, 2, value])})


def test_a_case_must_have_parameters():
    with pytest.raises(ValueError, match="must hold at least one leaf, got none"):
        case({})


@pytest.mark.parametrize(("steps", "num_steps"), [((0, 1), 3), ((-1,), 3), ((), 3), ((1,), 0)])
def test_steps_count_from_1(steps, num_steps):
    with pytest.raises(ValueError, match="`steps` must be 1 or more, got"):
        case(steps=steps, num_steps=num_steps)


def test_without_an_optimizer_a_later_step_is_no_comparison():
    with pytest.raises(ValueError, match="not compared: without an optimizer only step 1 exists"):
        check(make(optimizer=None), make(optimizer=None), steps=(2,))


@pytest.mark.parametrize("tiers", [(), ("float32",), ("mathematics", "Precision")])
def test_unknown_tiers_are_refused_and_none_is_no_pass(tiers):
    with pytest.raises(ValueError, match="`tiers` must be of mathematics, precision, got"):
        parity.check(make(), against=make(), case=case(), tiers=tiers)


def test_a_trajectory_without_points_of_a_tier_is_no_pass():
    made = parity.trajectory(make(optimizer=None), case())
    made = made._replace(points=[p for p in made.points if p.tier == "mathematics"])
    with pytest.raises(ValueError, match="not compared: no points for the tiers"):
        parity.check(make(optimizer=None), against=made, tiers=("precision",))


def with_gradient(**change):
    """The right candidate, with this change to its gradient; None leaves a leaf out."""

    def other(params, batch):
        value, grads = value_and_grad(params, batch)
        return value, {k: v for k, v in (grads | change).items() if v is not None}

    return other


def test_a_gradient_of_another_leaf_is_refused():
    with pytest.raises(ValueError, match="not compared: the gradient of numpy has c, which"):
        check(make(with_gradient(c=np.ones(4)), optimizer=None))


def test_a_leaf_that_gets_no_gradient_is_a_dropped_leaf():
    report = check(make(with_gradient(b=None), optimizer=None), steps=(1,))
    first = report.first
    assert first is not None
    assert (first.stage, first.leaf, report.cause) == ("gradient", "b", "dropped leaf b")


COLUMN = {"w": np.ones((4, 1))}
SHAPES = {
    "prediction (N,)": ("forward", lambda y: y[:, 0], "forward y_pred .* shape \\(6,\\), .*6, 1"),
    "prediction (1, N)": ("forward", lambda y: y.T, "forward y_pred .* shape \\(1, 6\\), .*6, 1"),
    "gradient (1, 4)": ("gradient", lambda g: g.T, "gradient w .* shape \\(1, 4\\), .*4, 1"),
    "gradient ()": ("gradient", lambda g: g.sum(), "gradient w .* shape \\(\\), .*4, 1"),
    "loss (1,)": ("loss", lambda value: value[None], "loss loss .* shape \\(1,\\), .*\\(\\)"),
    "loss (N,)": ("loss", lambda value: np.full(6, value), "loss loss .* shape \\(6,\\)"),
}


@pytest.mark.parametrize(("stage", "change", "text"), SHAPES.values(), ids=SHAPES)
def test_other_shapes_are_refused_and_never_broadcast(stage, change, text):
    def keep(value):
        return value

    changes = {"forward": keep, "loss": keep, "gradient": keep}

    def column(forward, loss, gradient):
        def both(params, batch):
            residual = batch["x"] @ params["w"]
            grads = {"w": gradient(2 * batch["x"].T @ residual)}
            return loss(np.square(residual).sum()), grads

        return parity.numpy_participant(
            both, forward=lambda params, batch: forward(batch["x"] @ params["w"])
        )

    with pytest.raises(ValueError, match="not compared: " + text):
        check(column(**changes | {stage: change}), column(**changes), params=COLUMN)


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_a_reference_that_is_not_finite_is_refused(value):
    def broken(params, batch):
        loss, grads = value_and_grad(params, batch)
        return loss, grads | {"b": grads["b"] * value}

    with pytest.raises(ValueError, match="the reference's gradient b is not finite at step 1"):
        check(make(), make(broken))


def test_a_reference_that_diverges_between_the_locked_steps_is_refused():
    def diverging(params, batch):
        loss, grads = value_and_grad(params, batch)
        return (loss if batch["x"][0, 0] < X[0, 0] + 0.15 else np.inf), grads

    with pytest.raises(ValueError, match="the reference's loss is not finite at step 3"):
        check(make(), make(diverging))


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_a_candidate_that_is_not_finite_is_a_mismatch_with_an_infinite_ratio(value):
    def broken(params, batch):
        loss, grads = value_and_grad(params, batch)
        return loss + value, {name: np.full_like(grad, value) for name, grad in grads.items()}

    report = check(make(broken))
    first = report.first
    assert report.verdict == "mismatch"
    assert first is not None
    assert (first.stage, first.leaf, first.ratio) == ("loss", "loss", np.inf)
    assert report.cause == "unknown"
    plain = strict_json(report.to_json())
    assert plain["first"]["ratio"] == "inf"
    assert str(value) in str(report)


def test_one_element_that_is_not_finite_is_seen():
    def broken(params, batch):
        loss, grads = value_and_grad(params, batch)
        grads["w"][2, 3] = np.nan
        return loss, grads

    first = check(make(broken)).first
    assert first is not None
    assert (first.stage, first.leaf, first.index) == ("gradient", "w", (2, 3))


def test_a_constant_candidate_is_caught_and_named():
    constant = value_and_grad(PARAMS, batch_at(0))

    def stuck(params, batch):
        dtype = params["w"].dtype
        return constant[0].astype(dtype), {k: g.astype(dtype) for k, g in constant[1].items()}

    report = check(make(stuck))
    first = report.first
    assert first is not None
    assert (first.step, first.stage) == (2, "loss")
    assert report.cause == "constant output"


def test_fresh_noise_is_named_not_deterministic():
    rng = np.random.default_rng(0)

    def noisy(params, batch):
        x = batch["x"] * (rng.random(batch["x"].shape) < 0.5)
        return value_and_grad(params, batch | {"x": x.astype(batch["x"].dtype)})

    report = check(make(noisy))
    assert report.verdict == "mismatch"
    assert report.cause == "not deterministic"


def test_float32_in_the_mathematics_tier_is_named():
    def single(params, batch):
        down = [{k: v.astype("float32") for k, v in tree.items()} for tree in (params, batch)]
        value, grads = value_and_grad(*down)
        dtype = params["w"].dtype
        return value.astype(dtype), {k: g.astype(dtype) for k, g in grads.items()}

    report = check(make(single, forward=None))
    assert report.cause == "computed in float32"
    assert {leaf.tier for leaf in report.leaves if not leaf.equal} == {"mathematics"}


def test_without_an_oracle_an_error_of_1e_5_in_float32_is_a_mismatch():
    def rough(params, batch):
        value, grads = value_and_grad(params, batch)
        error = 1e-5 if params["w"].dtype == np.float32 else 0.0
        return value * params["w"].dtype.type(1 + error), grads

    report = check(make(rough))
    wrong = {(leaf.tier, leaf.stage) for leaf in report.leaves if not leaf.equal}
    assert wrong == {("precision", "loss")}


def test_an_undeclared_transpose_of_a_square_leaf_is_named():
    right = parity.with_layout(make(), {"w": ("w", (1, 0)), "b": "b"})
    assert check(right).cause == "transposed weight w"


def renamed():
    """The right candidate under names of its own."""

    def function(params, batch):
        value, grads = value_and_grad({"w": params["kernel"].T, "b": params["bias"]}, batch)
        return value, {"kernel": grads["w"].T, "bias": grads["b"]}

    return make(function, forward=None)


RIGHT_LAYOUT = {"kernel": ("w", (1, 0)), "bias": "b"}
LAYOUTS = {
    "misses": ({"kernel": ("w", (1, 0))}, "`layout` must cover the reference's leaves"),
    "repeats": ({"kernel": "w", "bias": "w"}, "reference.s leaves: .b. missing"),
    "invents": (RIGHT_LAYOUT | {"c": "c"}, "`layout` must cover the reference's leaves"),
}


@pytest.mark.parametrize(("layout", "text"), LAYOUTS.values(), ids=LAYOUTS)
def test_a_layout_must_be_complete(layout, text):
    with pytest.raises(ValueError, match=text):
        check(parity.with_layout(renamed(), layout))


def test_a_right_layout_maps_names_and_axes_of_the_optimizers_state_too():
    report = check(parity.with_layout(renamed(), RIGHT_LAYOUT))
    report.raise_for_mismatch()
    assert {leaf.leaf for leaf in report.leaves if leaf.stage == "optimizer"} == {
        "momentum/w",
        "momentum/b",
    }


@settings(max_examples=25, deadline=None)
@given(st.integers(1, 4).flatmap(lambda n: st.permutations(range(n))), st.integers(0, 99))
def test_permuted_axes_round_trip(axes, seed):
    shape = (2, 3, 4, 5)[: len(axes)]
    params = {"w": np.random.default_rng(seed).standard_normal(shape)}
    seen = []

    def function(leaves, batch):
        seen.append(leaves["own"])
        return np.square(leaves["own"]).sum(), {"own": 2 * leaves["own"]}

    made = make(function, "adam", forward=None)
    renamed = parity.with_layout(made, {"own": ("w", tuple(axes))})
    _, grads = renamed.value_and_grad(params, None)
    np.testing.assert_array_equal(seen[0], np.transpose(params["w"], axes))
    np.testing.assert_array_equal(grads["w"], 2 * params["w"])
    assert renamed.init is not None
    assert renamed.update is not None
    new_params, state = renamed.update(params, grads, renamed.init(params))
    assert state["m/w"].shape == new_params["w"].shape == shape
    np.testing.assert_allclose(state["m/w"], 0.1 * grads["w"], rtol=1e-14)


def test_an_optimizer_with_other_slots_is_refused():
    with pytest.raises(ValueError, match=r"not compared: the optimizer state .*'m/b', 'm/w'"):
        check(make(optimizer="adam"))


def test_an_optimizer_with_fewer_slots_is_a_mismatch_of_its_update():
    first = check(make(optimizer="sgd")).first
    assert first is not None
    assert (first.step, first.stage) == (2, "parameters")


@pytest.mark.parametrize("ours", [True, False])
def test_an_optimizer_on_one_side_only_is_left_out_and_said(ours):
    sides = {True: make(), False: make(optimizer=None)}
    report = check(sides[ours], sides[not ours], steps=(1,))
    report.raise_for_mismatch()
    assert {leaf.stage for leaf in report.leaves} == {"forward", "loss", "gradient"}
    assert report.left_out == ["parameters and optimizer state: numpy has no optimizer"]


def test_programs_that_work_in_place_are_compared_as_they_are():
    buffers = {name: np.zeros_like(leaf) for name, leaf in PARAMS.items()}

    def function(params, batch):
        value, grads = value_and_grad(params, batch)
        if grads["w"].dtype == float:
            for name, grad in grads.items():
                buffers[name][...] = grad
            grads = dict(buffers)
        return value, grads

    def update(params, grads, state):
        for name in params:
            params[name] -= 0.01 * grads[name]
        return params, state

    before = {name: leaf.copy() for name, leaf in PARAMS.items()}
    in_place = parity.Participant("in place", function, forward, lambda p: {}, update)
    check(in_place, make(optimizer="sgd")).raise_for_mismatch()
    check(make(optimizer="sgd"), in_place).raise_for_mismatch()
    for name, leaf in PARAMS.items():
        np.testing.assert_array_equal(leaf, before[name])


def test_a_mistake_that_the_reference_cannot_replay_explains_nothing():
    def fixed(params, batch):
        assert batch["x"].shape == X.shape
        return value_and_grad(params, batch)

    def tripled(params, batch):
        value, grads = fixed(params, batch)
        return 3 * value, grads

    assert check(make(tripled), make(fixed)).cause == "unknown"
