"""Layouts: own leaves built from the reference's, and gradients, slots and values carried back."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jaxnet import numpy_net, parity
from jaxnet.parity.layouts.layout import Layout

leaf = parity.leaf


def draw(seed=0, **shapes):
    rng = np.random.default_rng(seed)
    return {name.replace("__", "."): rng.standard_normal(s) for name, s in shapes.items()}


# what a layout's entries are -> the reference's leaves, the entries, and the own leaves by hand
ENTRIES = {
    "split, transposed and reshaped": (
        draw(qkv=(12, 5)),
        {n: leaf("qkv")[4 * i : 4 * i + 4].T.reshape(5, 2, 2) for i, n in enumerate("qkv")},
        lambda p: {n: p["qkv"][4 * i : 4 * i + 4].T.reshape(5, 2, 2) for i, n in enumerate("qkv")},
    ),
    "stacked": (
        draw(a=(4, 3), b=(4, 3)),
        {"both": parity.stack([leaf("a"), leaf("b")], axis=1)},
        lambda p: {"both": np.stack([p["a"], p["b"]], axis=1)},
    ),
    "concatenated at the last axis": (
        draw(a=(4, 3), b=(4, 2)),
        {"both": parity.concatenate([leaf("a"), leaf("b")], axis=-1)},
        lambda p: {"both": np.concatenate([p["a"], p["b"]], axis=-1)},
    ),
    "turned, flipped and in another order": (
        draw(conv=(3, 2, 5, 4), rows=(4, 3)),
        {
            "k": leaf("conv").transpose(2, 3, 0, 1)[::-1, ::-1],
            "r": leaf("rows")[[2, 0, 3, 1], None],
        },
        lambda p: {
            "k": p["conv"].transpose(2, 3, 0, 1)[::-1, ::-1],
            "r": p["rows"][[2, 0, 3, 1]][:, None],
        },
    ),
    "a scalar and a leaf cut in two": (
        draw(scale=(), w=(7, 3)),
        {"s": "scale", "top": leaf("w")[:2], "rest": leaf("w")[2:, ...]},
        lambda p: {"s": p["scale"], "top": p["w"][:2], "rest": p["w"][2:]},
    ),
}


@pytest.mark.parametrize(("params", "entries", "by_hand"), ENTRIES.values(), ids=ENTRIES)
def test_own_leaves_are_what_numpy_makes_and_go_back(params, entries, by_hand):
    bound = Layout(entries).bind(params)
    own = bound.to_own(params)
    for name, want in by_hand(params).items():
        np.testing.assert_array_equal(own[name], want)
    for back in (bound.from_own(own), bound.gradient(own)):
        assert list(back) == list(params)
        for name, want in params.items():
            np.testing.assert_array_equal(back[name], want)


@pytest.mark.parametrize(("params", "entries", "by_hand"), ENTRIES.values(), ids=ENTRIES)
def test_the_repr_of_an_entry_is_the_code_that_makes_it(params, entries, by_hand):
    pasted = eval(repr(entries), {"parity": parity})  # what is pasted is Python
    for name, want in Layout(pasted).bind(params).to_own(params).items():
        np.testing.assert_array_equal(want, by_hand(params)[name])


@settings(max_examples=30, deadline=None)
@given(st.permutations(range(3)), st.integers(0, 4), st.integers(0, 99))
def test_the_gradient_carried_back_is_the_transpose_of_the_layout(axes, cut, seed):
    """<to_own(x), y> = <x, gradient(y)>, for splits, shared leaves and sums."""
    x = draw(seed, a=(4, 3, 2), b=(5, 3), c=(5, 3))
    entries = {
        "turned": ("a", tuple(axes)),
        "again": leaf("a").reshape(24),
        "sum": (leaf("b") + leaf("c"))[cut:],
        "rest": parity.concatenate([(leaf("b") + leaf("c"))[:cut], leaf("c")]),
    }
    bound = Layout(entries).bind(x)
    own = bound.to_own(x)
    y = {name: np.random.default_rng(seed).standard_normal(v.shape) for name, v in own.items()}
    grads = bound.gradient(y)
    left = sum((own[name] * y[name]).sum() for name in own)
    right = sum((x[name] * grads[name]).sum() for name in x)
    np.testing.assert_allclose(left, right, atol=1e-12)  # rounding of 60 terms of size 1


def test_two_own_leaves_of_one_sum_their_gradients_and_are_equal_copies():
    params = draw(embed=(5, 3))
    layout = Layout({"embed": "embed", "head": ("embed", (1, 0))})
    bound = layout.bind(params)
    own = bound.to_own(params)
    np.testing.assert_array_equal(own["head"], params["embed"].T)
    grads = {"embed": np.ones((5, 3)), "head": np.arange(15.0).reshape(3, 5)}
    want = 1 + np.arange(15.0).reshape(3, 5).T
    np.testing.assert_array_equal(bound.gradient(grads)["embed"], want)
    np.testing.assert_array_equal(bound.from_own(own)["embed"], params["embed"])
    own["head"][2, 4] *= 1 + 1e-15  # 4.5 ulps of float64: two ways to round one product
    np.testing.assert_allclose(bound.from_own(own)["embed"], params["embed"], rtol=1e-14)
    assert layout.torn == set()


def test_copies_of_a_tied_leaf_that_part_are_no_number():
    params = draw(embed=(5, 3))
    layout = Layout({"embed": "embed", "head": ("embed", (1, 0))})
    bound = layout.bind(params)
    own = bound.to_own(params)
    own["head"][2, 4] *= 1 + 1e-9
    back = bound.from_own(own)["embed"]
    assert np.argwhere(np.isnan(back)).tolist() == [[4, 2]]
    assert layout.torn == {"embed"}


def test_a_sum_has_each_summands_gradient_but_no_values_to_give_back():
    params = draw(bias_ih=(4,), bias_hh=(4,), weight=(4, 3))
    layout = Layout({"bias": leaf("bias_ih") + leaf("bias_hh"), "kernel": ("weight", (1, 0))})
    bound = layout.bind(params)
    own = bound.to_own(params)
    np.testing.assert_array_equal(own["bias"], params["bias_ih"] + params["bias_hh"])
    grads = bound.gradient({"bias": np.arange(4.0), "kernel": own["kernel"]})
    np.testing.assert_array_equal(grads["bias_ih"], np.arange(4.0))
    np.testing.assert_array_equal(grads["bias_hh"], np.arange(4.0))
    assert list(bound.from_own(own)) == ["weight"]
    assert layout.summed == {"bias_ih", "bias_hh"}
    # the own gradient is that of one summand, not the sum of both
    np.testing.assert_array_equal(bound.to_own(grads, summed=False)["bias"], np.arange(4.0))


def test_a_part_of_a_leaf_may_be_a_sum():
    """As a GRU's: the biases of two gates are summed, those of the third are apart."""
    params = draw(a=(6,), b=(6,), c=(2,))
    first, last = slice(0, 4), slice(4, 6)
    layout = Layout(
        {
            "i": parity.concatenate([leaf("a")[first] + leaf("b")[first], leaf("a")[last]]),
            "h": parity.concatenate([leaf("c"), leaf("b")[last]]),
        }
    )
    own = layout.bind(params).to_own(params)
    want = np.concatenate([params["a"][:4] + params["b"][:4], params["a"][4:]])
    np.testing.assert_array_equal(own["i"], want)
    assert layout.summed == {"a", "b"}
    back = layout.bind(params).from_own(own)
    np.testing.assert_array_equal(back["c"], params["c"])
    assert list(back) == ["c"]


def test_missing_gradients_stay_missing_and_count_as_zero_beside_others():
    params = draw(q=(2, 3), k=(2, 3), frozen=(4,))
    bound = Layout({"qk": parity.stack([leaf("q"), leaf("k")]), "f": "frozen"}).bind(params)
    own = bound.to_own({"q": params["q"]}, summed=False)
    assert list(own) == ["qk"]
    np.testing.assert_array_equal(own["qk"], [params["q"], np.zeros((2, 3))])
    assert sorted(bound.gradient(own)) == ["k", "q"]
    assert sorted(bound.from_own(own)) == ["k", "q"]


def test_float32_stays_float32():
    params = {name: value.astype("float32") for name, value in draw(a=(2,), b=(2,)).items()}
    bound = Layout({"sum": leaf("a") + leaf("b"), "a": "a"}).bind(params)
    own = bound.to_own(params)
    assert {value.dtype.name for value in own.values()} == {"float32"}
    assert {value.dtype.name for value in bound.gradient(own).values()} == {"float32"}


BLOCKS = {
    f"blocks.{i}.{name}": value
    for i in (0, 1, 10)
    for name, value in draw(i, w=(4, 3), b=(4,)).items()
}
BLOCK_NAMES = [f"blocks/{i}/{name}" for i in (0, 1, 10) for name in ("kernel", "bias")]
PATTERNS = {"blocks/*/kernel": ("blocks.*.w", (1, 0)), "blocks/*/bias": "blocks.*.b"}


@pytest.mark.parametrize("own", [None, BLOCK_NAMES])
def test_patterns_are_matched_with_the_own_leaves_or_the_references(own):
    got = Layout(PATTERNS, own=own).bind(BLOCKS).to_own(BLOCKS)
    assert len(got) == 6
    for i in (0, 1, 10):
        np.testing.assert_array_equal(got[f"blocks/{i}/kernel"], BLOCKS[f"blocks.{i}.w"].T)
        np.testing.assert_array_equal(got[f"blocks/{i}/bias"], BLOCKS[f"blocks.{i}.b"])


def test_patterns_hold_inside_expressions_with_several_stars():
    params = draw(enc__0__w=(2, 3), enc__0__v=(2, 3), dec__1__w=(2, 3), dec__1__v=(2, 3))
    both = parity.concatenate([leaf("*.*.w"), leaf("*.*.v")])
    got = Layout({"*/layer/*/wv": both}).bind(params).to_own(params)
    want = np.concatenate([params["dec.1.w"], params["dec.1.v"]])
    assert sorted(got) == ["dec/layer/1/wv", "enc/layer/0/wv"]
    np.testing.assert_array_equal(got["dec/layer/1/wv"], want)


@pytest.mark.parametrize("first", [True, False])
def test_an_entry_for_a_name_goes_before_a_pattern(first):
    exact = {"blocks/1/bias": leaf("blocks.1.b")[::-1]}
    entries = exact | PATTERNS if first else PATTERNS | exact
    got = Layout(entries).bind(BLOCKS).to_own(BLOCKS)
    np.testing.assert_array_equal(got["blocks/1/bias"], BLOCKS["blocks.1.b"][::-1])
    np.testing.assert_array_equal(got["blocks/0/bias"], BLOCKS["blocks.0.b"])


OWN = ["blocks/0/kernel", "blocks/0/bias"]
SMALL = draw(blocks__0__w=(4, 3), blocks__0__b=(4,))
BAD = {
    "a pattern that matches nothing": (
        {"block/*/kernel": ("blocks.*.w", (1, 0)), "blocks/*/bias": "blocks.*.b"},
        r"got 'block/\*/kernel', which matches no leaf of flax; near it are 'blocks/0/kernel'",
    ),
    "a pattern without a reference": (
        {"blocks/*/kernel": "blocks.*.x", "blocks/*/bias": "blocks.*.b"},
        r"leaves: 'blocks.0.w' missing; no leaf 'blocks.0.x', did you mean 'blocks.0.w'\?$",
    ),
    "two patterns for one leaf": (
        PATTERNS | {"blocks/*/*": "*.*.w"} | {"*/*/bias": "*.*.b"},
        r"must give 'blocks/0/kernel' once, got two patterns",
    ),
    "another number of stars": (
        {"blocks/*/kernel": "blocks.0.w"},
        r"`layout\['blocks/\*/kernel'\]` must name leaves with as many \* .*, got 'blocks.0.w'",
    ),
    "no entry for an own leaf": (
        {"blocks/*/kernel": ("blocks.*.w", (1, 0))},
        r"must have an entry for each leaf of flax: 'blocks/0/bias' missing$",
    ),
    "an own leaf that is none": (
        PATTERNS | {"blocks/0/scale": "blocks.0.b"},
        r"must have an entry for each leaf of flax: no leaf 'blocks/0/scale'",
    ),
    "undecided": (
        PATTERNS | {"blocks/0/bias": None},
        r"`layout\['blocks/0/bias'\]` must be a name, .* got None: decide what it is",
    ),
    "no expression": (PATTERNS | {"blocks/0/bias": 3}, r"expression over `parity.leaf`, got 3$"),
    "axes of another rank": (
        {"blocks/*/kernel": ("blocks.*.w", (2, 0, 1)), "blocks/*/bias": "blocks.*.b"},
        r"`layout\['blocks/0/kernel'\]` must fit .* blocks.0.w \(4, 3\), got parity.leaf\(",
    ),
    "a shape of another size": (
        PATTERNS | {"blocks/0/kernel": leaf("blocks.0.w").reshape(5, 2)},
        r"must fit .*blocks.0.w \(4, 3\), got .*reshape\(5, 2\): cannot reshape",
    ),
    "a sum of two shapes": (
        PATTERNS | {"blocks/0/kernel": leaf("blocks.0.w") + leaf("blocks.0.b")},
        r"no sum of shapes \(4, 3\) and \(4,\)",
    ),
    "a part that is used by nobody": (
        PATTERNS | {"blocks/0/kernel": leaf("blocks.0.w")[:2].T},
        r"of 'blocks.0.w' 6 of 12 elements are in no entry, the first at \[2, 0\]",
    ),
}


@pytest.mark.parametrize(("entries", "text"), BAD.values(), ids=BAD)
def test_a_wrong_layout_is_refused_with_what_is_wrong(entries, text):
    with pytest.raises(ValueError, match=text) as error:
        Layout(entries, "flax", OWN).bind(SMALL)
    assert len(str(error.value)) < 300


def test_of_many_leaves_only_the_difference_is_printed():
    params = {f"layer.{i}.weight": np.ones(1) for i in range(200)}
    entries = {f"layer/{i}": f"layer.{i}.weight" for i in range(200)}
    entries["layer/7"] = "layer.7.wieght"
    with pytest.raises(ValueError, match="did you mean") as error:
        Layout(entries).bind(params)
    assert str(error.value) == (
        "`layout` must cover the reference's leaves: 'layer.7.weight' missing; no leaf "
        "'layer.7.wieght', did you mean 'layer.7.weight'?"
    )
    with pytest.raises(ValueError, match=r"'layer\.7\.weight' and 192 more missing$"):
        Layout({}).bind(params)


def test_optional_leaves_of_both_sides_may_be_left_out():
    params = draw(w=(2, 3), running=(3,)) | {"batches": np.asarray(4)}
    layout = Layout({"kernel": "w"}, own=["kernel", "mean"], optional_own={"mean"})
    with pytest.raises(ValueError, match=r"leaves: 'running' missing$"):
        layout.bind(params)
    layout.optional.add("running")
    assert list(layout.bind(params).to_own(params)) == ["kernel"]
    both = {"kernel": "w", "mean": "running"}
    named = Layout(both, own=list(both), optional_own={"mean"})
    assert list(named.bind(params).to_own(params)) == ["kernel", "mean"]
    without = {"w": params["w"]}  # the participant keeps its own mean
    assert list(named.bind(without).to_own(without)) == ["kernel"]


def test_a_gradient_of_another_shape_or_name_is_refused():
    bound = Layout({"kernel": ("w", (1, 0))}, "flax").bind(draw(w=(2, 3)))
    with pytest.raises(
        ValueError, match=r"`layout\['kernel'\]` must have the shape .*\(2, 3\), got \(3, 2\)"
    ):
        bound.gradient({"kernel": np.ones((2, 3))})
    with pytest.raises(ValueError, match=r"for each leaf of flax: no leaf 'kernal', did you mean"):
        bound.gradient({"kernal": np.ones((3, 2))})


def fused(params, batch):
    """The loss sum(y^2) of y = x (q' k + e' e); q and k are the rows of qk (4, 3), e is (2, 3)."""
    q, k, e = params["qk"][:2], params["qk"][2:], params["e"]
    y = batch @ (q.T @ k + e.T @ e)
    d = 2 * batch.T @ y
    return np.square(y).sum(), {"qk": np.concatenate([k @ d.T, q @ d]), "e": e @ d.T + e @ d}


def split(params, batch):
    """The same, with q and k transposed and apart, and the matrix e twice."""
    q, k, e_in, e_out = (params[name] for name in ("q", "k", "e_in", "e_out"))
    y = batch @ (q @ k.T + e_in.T @ e_out)
    d = 2 * batch.T @ y
    grads = {"q": d @ k, "k": d.T @ q, "e_in": e_out @ d.T, "e_out": e_in @ d}
    return np.square(y).sum(), grads


SPLIT = {"q": leaf("qk")[:2].T, "k": leaf("qk")[2:].T, "e_in": "e", "e_out": "e"}
CASE = parity.Case(
    "split",
    draw(qk=(4, 3), e=(2, 3)),
    lambda i: np.random.default_rng(i).standard_normal((5, 3)),
    (1, 2, 3),
    4,
)
ADAM = numpy_net.make_optimizer("adam", 1e-2)
PORT = parity.numpy_participant(split, ADAM)


def check(port):
    reference = parity.numpy_participant(fused, ADAM, name="fused")
    return parity.check(port, against=reference, case=CASE)


def test_a_split_and_tied_port_is_equal_in_each_locked_stage():
    report = check(parity.with_layout(PORT, SPLIT))
    equal = {leaf.stage for leaf in report.leaves if leaf.equal}
    assert equal == {"loss", "gradient", "parameters", "optimizer"}
    # trained freely, the two copies of the tied matrix part: that is a difference
    assert {leaf.stage for leaf in report.leaves if not leaf.equal} == {"free run"}


def test_parts_in_the_wrong_order_are_a_mismatch():
    wrong = {"q": leaf("qk")[2:].T, "k": leaf("qk")[:2].T}
    report = check(parity.with_layout(PORT, SPLIT | wrong))
    assert report.first is not None
    assert report.first.stage == "loss"


def test_a_tied_copy_that_is_not_trained_is_seen():
    def update(params, grads, state):
        assert PORT.update is not None
        new, state = PORT.update(params, grads, state)
        return new | {"e_out": params["e_out"]}, state

    port = parity.with_layout(replace(PORT, update=update), SPLIT)
    report = check(port)
    wrong = {(leaf.stage, leaf.leaf) for leaf in report.leaves if not leaf.equal}
    assert wrong == {("parameters", "e"), ("free run", "loss")}
    assert port.layout is not None
    assert port.layout.torn == {"e"}


def test_a_checkpoint_is_converted_by_the_same_layout():
    state = {k: v.astype("float32") for k, v in draw(fc__weight=(4, 3), a=(4,), b=(4,)).items()}
    layout = {"fc/kernel": ("fc.weight", (1, 0)), "bias": leaf("a") + leaf("b")}
    got = parity.convert(state | {"bn.num_batches_tracked": np.asarray(3)}, layout)
    np.testing.assert_array_equal(got["fc/kernel"], state["fc.weight"].T)
    np.testing.assert_array_equal(got["bias"], state["a"] + state["b"])
    assert got["fc/kernel"].dtype == "float32"


def test_entries_of_a_checkpoint_that_nobody_uses_are_refused_unless_optional_or_tied():
    state = draw(embed=(5, 3), aux__0__w=(2,), aux__1__w=(2,))
    layout = {"embedding": "embed"}
    with pytest.raises(ValueError, match=r"leaves: 'aux.0.w', 'aux.1.w' missing$"):
        parity.convert(state, layout)
    tied = state | {"head": state["embed"]}
    assert list(parity.convert(tied, layout, optional={"aux.*.w"})) == ["embedding"]
    copied = state | {"head": state["embed"].copy()}
    with pytest.raises(ValueError, match=r"leaves: 'head' missing$"):
        parity.convert(copied, layout, optional={"aux.*.w"})


def two_biases(params, batch):
    y = np.tanh(batch @ params["w"] + params["a"] + params["b"])
    grad = 2 * y * (1 - y**2)
    return np.square(y).sum(), {"w": batch.T @ grad} | dict.fromkeys("ab", grad.sum(0))


def one_bias(params, batch):
    value, grads = two_biases({"w": params["w"], "a": params["bias"], "b": 0.0}, batch)
    return value, {"w": grads["w"], "bias": grads["a"]}


def momentum_at(rates):
    """Momentum with a rate for each leaf."""
    plain = numpy_net.make_optimizer("momentum", 0.01)

    def update(params, grads, state):
        new, state = plain.update(params, grads, state)
        return {k: p + rates.get(k, 1) * (new[k] - p) for k, p in params.items()}, state

    return plain._replace(update=update)


@pytest.mark.parametrize(("rate", "verdict"), [(2, "equal"), (1, "mismatch"), (2.1, "mismatch")])
def test_the_update_of_a_sum_is_that_of_both_summands(rate, verdict):
    """One bias for two must move twice as far, with the momentum of each."""
    reference = parity.numpy_participant(two_biases, numpy_net.make_optimizer("momentum", 0.01))
    candidate = parity.numpy_participant(one_bias, momentum_at({"bias": rate}), name="port")
    candidate = parity.with_layout(candidate, {"w": "w", "bias": leaf("a") + leaf("b")})
    batches = np.random.default_rng(1).standard_normal((5, 6, 3))
    case = parity.Case("sum", draw(w=(3, 4), a=(4,), b=(4,)), lambda i: batches[i], (1, 2, 3), 5)
    report = parity.check(candidate, against=reference, case=case)
    assert report.verdict == verdict, str(report)
    parameters = {leaf.leaf for leaf in report.leaves if leaf.stage == "parameters"}
    assert parameters == {"w", "bias"}
    assert report.left_out == [
        "optimizer momentum/a: port has none",
        "optimizer momentum/b: port has none",
    ]
    if verdict == "mismatch":
        first = report.first
        assert first is not None
        assert (first.step, first.stage, first.leaf) == (1, "parameters", "bias")
