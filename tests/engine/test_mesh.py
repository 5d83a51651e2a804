"""Eight virtual devices of one process compute what one device does; refusals."""

import re
import subprocess
import sys

import jax
import mesh_cases as cases
import numpy as np
import pytest
from mesh_processes import SOURCE, environment, part

from jaxnet import net, numpy_net, optimizers, train
from jaxnet.engine import deterministic
from jaxnet.engine.mesh import make_mesh, replicate
from jaxnet.parity import bars


@pytest.fixture(scope="module")
def found(run_case):
    return run_case("one process", 1, 8)


@pytest.fixture(scope="module")
def bits(run_case):
    return run_case("same bits", 1, 8)


def assert_close(got, want, **tolerance):
    assert got.keys() == want.keys()
    assert want
    for name, value in want.items():
        np.testing.assert_allclose(got[name], value, err_msg=name, **tolerance)


@pytest.mark.parametrize("axes", cases.MESHES)
@pytest.mark.parametrize("run", ["rows sgd", "rows adam", "all adam"])
def test_a_run_on_any_mesh_is_the_run_on_one_device(found, run, axes):
    """float64: 20 steps of other orders of summation, of rounding 1e-16."""
    got, want = (part(found, f"trajectories/{run} {way} ") for way in (axes, "one"))
    assert_close(got, want, rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("axes", ["data=2", "data=4,model=2"])
def test_accumulation_on_a_mesh_is_the_whole_batch(found, axes):
    got = part(found, f"trajectories/all adam accumulated {axes} ")
    assert_close(got, part(found, "trajectories/all adam one "), rtol=1e-12, atol=1e-14)


def test_accumulation_of_micro_batches_is_the_run_of_whole_batches(found):
    got = part(found, "trajectories/accumulated ")
    assert_close(got, part(found, "trajectories/rows adam one "), rtol=1e-12, atol=1e-14)


def test_statistics_and_masks_of_a_divided_batch_are_those_of_the_whole(found):
    got, want = (part(found, f"model_state/{way} ") for way in ("data=8", "one"))
    assert_close(got, want, rtol=1e-5, atol=1e-6)  # float32: 5 steps of other orders of summation


@pytest.mark.parametrize("axes", cases.MESHES)
def test_float32_gradients_on_any_mesh_are_within_the_error_bars_of_the_oracle(found, axes):
    params = {name: p.astype(float) for name, p in cases.SPEC.init(1).items()}
    batch = jax.tree.map(lambda a: a.astype(float), cases.problem(dtype="float32"))
    loss, grads = numpy_net.value_and_grad(params, batch)
    bar = bars.network_bars(cases.SPEC, params, batch)
    got = part(found, f"float32_gradients/{axes} ")
    assert abs(got["loss"] - loss) <= bars.LIMIT * bar["loss", "loss"]
    for name, grad in grads.items():
        assert np.all(np.abs(got[name] - grad) <= bars.LIMIT * bar["gradient", name]), name


def test_parameters_and_moments_stay_where_they_are_put(found):
    before, after = found["placement/before"].tolist(), found["placement/after"].tolist()
    assert after == before
    assert before.count("P(None, 'model')") == before.count("P('model',)") == 3  # w1, mu, nu


def test_weights_held_out_in_are_divided_by_their_units(found):
    """As `test_a_run_on_any_mesh_is_the_run_on_one_device`."""
    got = part(found, "out_in/mesh ")
    assert_close(got, part(found, "out_in/one "), rtol=1e-12, atol=1e-14)
    assert found["out_in/w1"].tolist() == [8, 7]  # half of the 16 units


def test_the_documented_example_prints_what_the_page_says():
    page = (SOURCE / "docs" / "parallel.md").read_text()
    example, printed = re.findall(r"```python\n(.*?)```\n```\n(.*?)```", page, re.S)[0]
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", example],
        capture_output=True,
        text=True,
        env=environment(8),
    )
    assert (done.stderr, done.stdout) == ("", printed)


def test_each_device_gathers_its_own_rows(found):
    assert found["placement/rows each"]


def test_a_batch_that_does_not_divide_is_refused(found):
    message = "`batch_size` must be a multiple of 4, the devices of the data axis; got 6"
    assert str(found["placement/uneven"]) == message


def test_epochs_on_a_mesh_are_those_on_one_device(found):
    """float32, 9 steps of Adam: its update by g / sqrt(g**2) multiplies the rounding of a gradient
    near 0, so absolute errors are a share of the learning rate 0.01."""
    one, mesh = part(found, "evaluated/one "), part(found, "evaluated/mesh ")
    assert_close(mesh, one, rtol=1e-5, atol=1e-5)
    assert one["evaluations"].shape == (3,)


def test_rows_from_the_host_are_those_gathered_on_the_devices(found):
    streamed, gathered = part(found, "own_data/streamed "), part(found, "own_data/gathered ")
    assert_close(streamed, gathered, rtol=1e-5, atol=1e-5)  # as above
    assert found["own_data/own"].tolist() == [0, cases.BATCH]


def test_a_mesh_takes_its_forms():
    for axes in ("all", 1, "1", "data=1", "data=1, model=1", "model=1"):
        mesh = make_mesh(axes, jax.devices()[:1])
        assert dict(mesh.shape) == {"data": 1, "model": 1}


NOT_MESHES = {
    "data=2,model=3": "at most 1 devices, those of the platform cpu, got data=2 x model=3; "
    "XLA_FLAGS=--xla_force_host_platform_device_count=6 makes as many",
    "rows=2": "the axes data and model, as data=4,model=2; got 'rows=2'",
    "data": "axes of at least 1 device, got 'data'",
    "data=0": "axes of at least 1 device, got 'data=0'",
    "": "the axes data and model, as data=4,model=2; got ''",
}


@pytest.mark.parametrize("axes", NOT_MESHES)
def test_what_is_no_mesh_is_refused(axes):
    with pytest.raises(ValueError, match="`mesh` must have ") as caught:
        make_mesh(axes, jax.devices("cpu")[:1])
    assert str(caught.value) == f"`mesh` must have {NOT_MESHES[axes]}"


def test_the_same_axis_twice_is_refused():
    with pytest.raises(ValueError, match="`mesh` must name each axis once"):
        make_mesh("data=1,data=1")


def test_a_placed_state_is_a_copy():
    mesh, params = make_mesh(1), cases.SPEC.init(1)
    optimizer = optimizers.make("sgd", 0.01)
    step = train.make_step(net.loss, optimizer)
    state = train.init(replicate(mesh, params), optimizer)
    step(state, cases.problem(dtype="float32"))
    assert all(np.array_equal(params[name], value) for name, value in cases.SPEC.init(1).items())


def test_what_has_no_fixed_sum_is_refused():
    with pytest.raises(ValueError, match="`reduction` must be one of sum, mean; got 'max'"):
        deterministic.make_step(
            net.loss, optimizers.make("sgd", 1.0), make_mesh(1), reduction="max"
        )


def test_a_batch_that_does_not_divide_into_shards_is_refused():
    optimizer = optimizers.make("sgd", 0.01)
    step = deterministic.make_step(net.loss, optimizer, make_mesh(1), reduction="sum")
    table = jax.tree.map(lambda a: a[:6], cases.problem(dtype="float32"))
    with pytest.raises(ValueError, match="must be a multiple of 8, the shards; got 6"):
        step(train.init(cases.SPEC.init(1), optimizer), table)


@pytest.mark.parametrize("name", cases.DETERMINISTIC)
def test_the_deterministic_step_is_the_usual_one_to_rounding(bits, name):
    """The first losses: later ones may differ by as much as Adam multiplies rounding."""
    spec, batch_size, _, numbers = cases.DETERMINISTIC[name]
    table = cases.problem(spec, "float32", 3 * batch_size)
    got = bits[f"same_bits/{numbers[-1]}: {name} loss"]
    rows = cases.data.row_batches(3 * batch_size, batch_size, seed=5)(0)
    batch = jax.tree.map(lambda a: a[rows], table)
    params = jax.tree.map(jax.numpy.asarray, spec.init(1))
    want = net.loss(params, batch, activation=spec.activation, loss=spec.loss)
    np.testing.assert_allclose(got[0], want, rtol=1e-5)
    assert got[-1] < got[0]


@pytest.mark.parametrize("name", cases.DETERMINISTIC)
def test_the_deterministic_step_gives_the_same_bits_on_any_number_of_devices(bits, name):
    want = part(bits, f"same_bits/1: {name} ")
    for number in cases.DETERMINISTIC[name][-1]:
        got = part(bits, f"same_bits/{number}: {name} ")
        assert got.keys() == want.keys()
        for leaf, value in want.items():
            np.testing.assert_array_equal(got[leaf], value, err_msg=f"{number} {leaf}")
