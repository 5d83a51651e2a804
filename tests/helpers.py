"""What several test files share: networks, problems, bad inputs, and how results are compared."""

import math
from typing import Any, NamedTuple

import jax
import numpy as np
import pytest
from flax import nnx
from jax.tree_util import Partial

from jaxnet import data, numpy_net, train
from jaxnet.spec import ACTIVATIONS, LOSSES, Batch, Spec

# name -> sizes, all unequal but for the square layer that `repeats` needs, and the repeats
NETWORKS: dict[str, tuple[tuple[int, ...], int | None]] = {
    "7-3": ((7, 3), None),
    "7-5-3": ((7, 5, 3), None),
    "7-6-5-4-3": ((7, 6, 5, 4, 3), None),
    "7-5-5-3": ((7, 5, 5, 3), None),
    "7-5-5-3 x0": ((7, 5, 5, 3), 0),
    "7-5-5-3 x1": ((7, 5, 5, 3), 1),
    "7-5-5-3 x2": ((7, 5, 5, 3), 2),
    "7-5-5-3 x3": ((7, 5, 5, 3), 3),
}


def covering(activations=ACTIVATIONS, losses=LOSSES, networks=NETWORKS) -> dict[str, Any]:
    """Return networks and repeats by name: each activation on each network, losses and biases in
    turn. Of all activations every pair of options is in one case at least.
    """
    cases = {}
    for i, activation in enumerate(activations):
        for j, (name, (sizes, repeats)) in enumerate(networks.items()):
            loss, bias = losses[(i + j) % len(losses)], (i + j // 3) % 2 == 0
            label = f"{activation} {loss} {'bias' if bias else 'no bias'} {name}"
            cases[label] = Spec(sizes, bias, activation, loss), repeats
    return cases


CASES = covering()
every_case = pytest.mark.parametrize(("spec", "repeats"), CASES.values(), ids=CASES)

# The optimizers with learning rates at which 50 steps on the 7-5-3 network make progress, and the
# hyperparameters that they are tested with, where each has an effect.
RATES = {"adam": 0.02, "adamw": 0.02, "rmsprop": 0.01, "adagrad": 0.1}  # and 0.005 for the rest
HYPERPARAMETERS: dict[str, tuple[str, dict[str, Any]]] = {
    "sgd weight_decay": ("sgd", {"weight_decay": 0.3}),
    "momentum weight_decay": ("momentum", {"weight_decay": 0.3}),
    "momentum dampening": ("momentum", {"dampening": 0.4}),
    "momentum dampening weight_decay": ("momentum", {"dampening": 0.4, "weight_decay": 0.3}),
    "nesterov weight_decay": ("nesterov", {"weight_decay": 0.3, "momentum": 0.7}),
    "adam weight_decay": ("adam", {"weight_decay": 0.3}),
    "adam amsgrad": ("adam", {"amsgrad": True, "b2": 0.6}),
    "adam all": ("adam", {"b1": 0.7, "b2": 0.8, "eps": 0.1, "weight_decay": 0.3, "amsgrad": True}),
    "adam without b1": ("adam", {"b1": 0.0}),
    "adamw weight_decay": ("adamw", {"weight_decay": 0.3}),
    "adamw amsgrad": ("adamw", {"amsgrad": True, "b2": 0.6}),
    "rmsprop momentum": ("rmsprop", {"momentum": 0.8}),
    "rmsprop centered": ("rmsprop", {"centered": True}),
    "rmsprop all": (
        "rmsprop",
        {"decay": 0.9, "eps": 0.1, "momentum": 0.8, "centered": True, "weight_decay": 0.3},
    ),
    "adagrad all": ("adagrad", {"eps": 0.1, "weight_decay": 0.3}),
}


class Stage(NamedTuple):
    """One of the tutorial's programs; `rates` are for the sizes below."""

    hidden: int
    bias: bool
    activation: str
    optimizer: str
    rates: dict[str, float]


STAGES = {
    "tensors": Stage(1, False, "my_relu", "sgd", {"small": 2e-4, "tutorial": 1e-6}),
    "sequential": Stage(1, True, "relu", "adam", {"small": 0.02, "tutorial": 1e-4}),
    "module": Stage(1, True, "my_relu", "sgd", {"small": 0.02, "tutorial": 1e-4}),
    "dynamic": Stage(2, True, "my_relu", "momentum", {"small": 0.005, "tutorial": 1e-4}),
}
SIZES = {"small": ((7, 5, 3), 4, 50), "tutorial": ((1000, 100, 10), 64, 500)}  # rows, steps


def stage_problem(stage: Stage, size: str):
    """Return the description, float64 parameters, the batch, and the repeats of each step."""
    (d_in, hidden, d_out), num_rows, num_steps = SIZES[size]
    spec = Spec((d_in, *(hidden,) * stage.hidden, d_out), stage.bias, stage.activation)
    params, batch = problem(spec, num_rows=num_rows)
    depths = np.random.default_rng(7).integers(0, 4, num_steps, dtype="int32")
    depths[0] = 0  # the middle layer is unused at the first step
    return spec, params, batch, list(depths) if stage.hidden == 2 else [None] * num_steps


def numpy_run(params, batch, depths, optimizer: numpy_net.Optimizer, **names):
    """Return the parameters after a step of the oracle for each of `depths`, and the losses."""
    state, losses = optimizer.init(params), []
    for repeats in depths:
        here = batch._replace(repeats=repeats)
        loss, grads = numpy_net.value_and_grad(params, here, **names)
        params, state = optimizer.update(params, grads, state)
        losses.append(loss)
    return params, np.array(losses)


def jax_run(loss, params, batch, depths, optimizer):
    """Return the parameters after a compiled step for each of `depths`, and the losses."""
    step = train.make_step(loss, optimizer)

    def with_data(data, state, repeats):
        return step(state, data._replace(repeats=repeats))

    state = train.init(params, optimizer)
    scanned = Partial(with_data, jax.tree.map(jax.numpy.asarray, batch))
    state, losses = train.fit_scan(scanned, state, depths.__getitem__, len(depths))
    return state.params, losses


# Where a ReLU's rule shows, and the derivative there by either rule.
RULE_POINTS = np.array([-1.0, -0.0, 0.0, 1.0, np.nan])
RULES = {"relu": [0.0, 0.0, 0.0, 1.0, 0.0], "my_relu": [0.0, 1.0, 1.0, 1.0, 1.0]}


def named(spec: Spec) -> dict[str, str]:
    """Return the options that every implementation takes."""
    return {"activation": spec.activation, "loss": spec.loss}


def problem(spec: Spec, repeats: int | None = None, seed: int = 0, num_rows: int = 4):
    """Return float64 parameters and a random batch."""
    batch = data.random_problem(spec, num_rows, seed + 1, "float64")
    return spec.init(seed, "float64"), batch._replace(repeats=repeats)


def tied_problem(spec: Spec, repeats: int | None = None, seed: int = 0):
    """Return float64 parameters and a batch of small integers, where many units are exactly 0: a
    row of zeros, a dead unit, and sums that cancel.
    """
    rng = np.random.default_rng(seed)
    params = {
        name: rng.integers(-1, 2, shape).astype("float64") for name, shape in spec.shapes().items()
    }
    params["w1"][:, 0] = 0
    if spec.bias:
        params["b1"][:2] = 0
    batch = data.random_problem(spec, 4, seed, "float64")
    x = rng.integers(-2, 3, batch.x.shape).astype("float64")
    x[0] = 0
    y = batch.y if spec.loss == "cross_entropy" else np.round(batch.y)
    return params, Batch(x, y, repeats)


def assert_close(got: Any, want: Any, tolerance: float) -> None:
    """Every leaf of two dictionaries has one shape and dtype, and max|difference| is at most
    `tolerance` * max|want|; for two arrays or numbers likewise.
    """
    if not isinstance(want, dict):
        got, want = {"value": got}, {"value": want}
    assert set(got) == set(want)
    for name in want:
        a, b = np.asarray(got[name]), np.asarray(want[name])
        assert (a.shape, a.dtype) == (b.shape, b.dtype), name
        assert np.isfinite(b).all(), name
        worst, scale = np.abs(a - b).max(), np.abs(b).max()
        assert worst <= tolerance * scale, f"{name}: {worst / scale if scale else worst:.1e}"


def assert_losses_close(got, want, tolerance: float) -> None:
    """Each loss of a run is within `tolerance` of the other's, relative to itself."""
    got, want = np.asarray(got), np.asarray(want)
    assert got.shape == want.shape
    assert len(want) > 0
    worst = np.max(np.abs(got / want - 1))
    assert worst <= tolerance, f"{worst:.1e} at step {np.argmax(np.abs(got / want - 1))}"


def assert_drawn_from(values, bound: float | None = None) -> None:
    """Kolmogorov and Smirnov's test: U(-bound, bound), or N(0, 1) without a bound."""
    x = np.sort(np.asarray(values, "float64").ravel())
    if bound is None:
        cdf = 0.5 * (1 + np.vectorize(math.erf)(x / math.sqrt(2)))
    else:
        assert np.abs(x).max() <= bound * (1 + 1e-6)  # float32 may round the bound up
        cdf = 0.5 * (1 + x / bound)
    steps = np.arange(len(x) + 1) / len(x)
    distance = max(np.abs(cdf - steps[:-1]).max(), np.abs(cdf - steps[1:]).max())
    assert distance * math.sqrt(len(x)) < 1.95  # a right draw is above with a chance of 0.1 %


def undrawn(make):
    """Return the Flax module of make() with zeros for values: to draw compiles for every shape."""

    def zeros(leaf):
        if jax.dtypes.issubdtype(leaf.dtype, jax.dtypes.prng_key):
            return jax.random.key(0)
        return np.zeros(leaf.shape, leaf.dtype)

    graphdef, state = nnx.split(nnx.eval_shape(make))
    return nnx.merge(graphdef, jax.tree.map(zeros, state))


# What is changed in a good call -> the text of the ValueError. Names of leaves replace a leaf, None
# removes it; the rest are arguments of the call.
LEAVES = (
    "`params` must hold the weights w1, w2, ... without a gap, and for each at most its bias "
    "b1, b2, ...; got "
)
BAD_INPUTS: dict[str, tuple[dict[str, Any], str]] = {
    "x of rank 1": ({"x": np.zeros(7)}, "`x` must have shape (N, 7), got (7,)"),
    "x of rank 3": ({"x": np.zeros((4, 1, 7))}, "`x` must have shape (N, 7), got (4, 1, 7)"),
    "x too narrow": ({"x": np.zeros((4, 6))}, "`x` must have shape (N, 7), got (4, 6)"),
    "x float32": (
        {"x": np.zeros((4, 7), "float32")},
        "`x` must have dtype float64, that of params['w1']; got float32",
    ),
    "x integers": (
        {"x": np.zeros((4, 7), "int64")},
        "`x` must have dtype float64, that of params['w1']; got int64",
    ),
    "y too narrow": (
        {"y": np.zeros((4, 2))},
        "`y` must have shape (4, 3) for sum_squares, got (4, 2)",
    ),
    "y too short": (
        {"y": np.zeros((1, 3)), "loss": "mean_squares"},
        "`y` must have shape (4, 3) for mean_squares, got (1, 3)",
    ),
    "y (N,) against (N, 1)": (
        {"sizes": (7, 5, 1), "y": np.zeros(4)},
        "`y` must have shape (4, 1) for sum_squares, got (4,)",
    ),
    "y (N, 1) against (N,)": (
        {"y": np.zeros((4, 1), "int64"), "loss": "cross_entropy"},
        "`y` must have shape (4,) for cross_entropy, got (4, 1)",
    ),
    "y float32": (
        {"y": np.zeros((4, 3), "float32")},
        "`y` must have dtype float64, that of params['w1']; got float32",
    ),
    "y float classes": (
        {"y": np.zeros(4), "loss": "cross_entropy"},
        "`y` must be integer classes for cross_entropy, got dtype float64",
    ),
    "a gap in the weights": (
        {"w2": None, "w3": np.zeros((5, 3))},
        LEAVES + "['b1', 'b2', 'w1', 'w3']",
    ),
    "a bias too many": (
        {"b3": np.zeros(3)},
        LEAVES + "['b1', 'b2', 'b3', 'w1', 'w2']",
    ),
    "no weights": (
        {"w1": None, "w2": None, "b1": None, "b2": None},
        LEAVES + "[]",
    ),
    "w1 of rank 1": ({"w1": np.zeros(5)}, "`params['w1']` must have shape (D_in, out), got (5,)"),
    "w2 transposed": (
        {"w2": np.zeros((3, 5))},
        "`params['w2']` must have shape (5, out), got (3, 5)",
    ),
    "b1 too short": ({"b1": np.zeros(4)}, "`params['b1']` must have shape (5,), got (4,)"),
    "b2 of rank 2": ({"b2": np.zeros((3, 1))}, "`params['b2']` must have shape (3,), got (3, 1)"),
    "w1 integers": (
        {"w1": np.zeros((7, 5), "int64")},
        "`params['w1']` must have a floating dtype; got int64",
    ),
    "b2 float32": (
        {"b2": np.zeros(3, "float32")},
        "`params['b2']` must have dtype float64, that of params['w1']; got float32",
    ),
    "unknown activation": (
        {"activation": "clamp"},
        "`activation` must be one of relu, my_relu, tanh, gelu, silu; got 'clamp'",
    ),
    "unknown loss": (
        {"loss": "mse"},
        "`loss` must be one of sum_squares, mean_squares, cross_entropy, quantile; got 'mse'",
    ),
    "repeats without a hidden layer": (
        {"repeats": 1},
        "`repeats` must be None for a network without hidden-to-hidden layers",
    ),
    "repeats of a layer not square": (
        {"sizes": (7, 6, 5, 3), "repeats": 1},
        "`repeats` needs a square `params['w2']`, got (6, 5)",
    ),
    "repeats 4": ({"sizes": (7, 5, 5, 3), "repeats": 4}, "`repeats` must be 0..3, got 4"),
    "repeats -1": ({"sizes": (7, 5, 5, 3), "repeats": -1}, "`repeats` must be 0..3, got -1"),
    "repeats 1.0": (
        {"sizes": (7, 5, 5, 3), "repeats": 1.0},
        "`repeats` must be one integer 0..3, got 1.0",
    ),
    "repeats True": (
        {"sizes": (7, 5, 5, 3), "repeats": True},
        "`repeats` must be one integer 0..3, got True",
    ),
    "repeats of rank 1": (
        {"sizes": (7, 5, 5, 3), "repeats": np.array([1, 2])},
        "`repeats` must be one integer 0..3, got array([1, 2])",
    ),
}
every_bad_input = pytest.mark.parametrize(("change", "text"), BAD_INPUTS.values(), ids=BAD_INPUTS)


def changed(change: dict[str, Any]) -> tuple[dict[str, np.ndarray], Batch, dict[str, str]]:
    """Return the parameters, the batch and the names of a good call with the change made to it."""
    params, batch = problem(Spec(change.get("sizes", (7, 5, 3)), bias=True))
    fields = {name: change[name] for name in Batch._fields if name in change}
    names = {"activation": "relu", "loss": "sum_squares"}
    names |= {name: change[name] for name in names if name in change}
    leaves = {k: v for k, v in change.items() if k not in {*fields, *names, "sizes"}}
    params = {k: v for k, v in (params | leaves).items() if v is not None}
    return params, batch._replace(**fields), names
