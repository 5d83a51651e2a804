"""Every tutorial script runs as it stands, and prints the losses of the library's own functions."""

import ast
import functools
import importlib.util
import math
import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from jaxnet import numpy_net
from jaxnet.spec import Batch

SCRIPTS = Path(__file__).parents[2] / "scripts"
STEPS = [99, 199, 299, 399, 499]
# script -> what its last printed loss must be below: the tutorial's task, 640 random targets, is
# learned by heart to rounding, except where the depth changes at each step
LAST = {
    "01_numpy.py": 1e-6,
    "02_jax_numpy.py": 1e-6,
    "03_grad.py": 1e-6,
    "04_custom_vjp.py": 1e-6,
    "05_flax_sequential.py": 1e-8,
    "06_optax_adam.py": 1e-4,
    "07_module.py": 1e-8,
    "08_dynamic_net.py": 10.0,
}


SHARP_BITS = {
    "09_random_keys.py",
    "10_state.py",
    "11_recompilation.py",
    "12_loop.py",
    "13_precision.py",
    "14_donation.py",
    "15_vmap.py",
    "16_devices.py",
}


@functools.cache
def output(name):
    """What a script prints; its standard error is empty."""
    done = subprocess.run(
        [sys.executable, "-W", "error", str(SCRIPTS / name)],
        capture_output=True,
        text=True,
        check=True,
        env=os.environ | {"JAX_PLATFORMS": "cpu"},
    )
    assert done.stderr == ""
    return done.stdout


def printed(name):
    """The (step, loss) pairs that a script prints."""
    lines = re.findall(r"^(\d+) (\d\S+)\b.*$", output(name), re.M)
    return [(int(step), float(loss)) for step, loss in lines]


def said(name, pattern):
    """The numbers of the one line of a script's output that the pattern matches."""
    (found,) = re.findall(f"^{pattern}$", output(name), re.M)
    return [float(number) for number in ([found] if isinstance(found, str) else found)]


def test_every_script_is_listed():
    assert {path.name for path in SCRIPTS.glob("[01]*.py")} == set(LAST) | SHARP_BITS


@pytest.mark.parametrize("path", sorted(SCRIPTS.glob("[01]*.py")), ids=lambda path: path.stem)
def test_a_script_stands_alone_and_says_its_idea_in_one_line(path):
    tree = ast.parse(path.read_text())
    assert re.fullmatch(rf"{path.name[:2]}\. [^:\n]+: [^\n]+\.", ast.get_docstring(tree) or "")
    names = {alias.name for node in ast.walk(tree) for alias in getattr(node, "names", [])}
    assert not any(name.startswith("jaxnet") for name in names if isinstance(name, str))
    assert len(path.read_text().splitlines()) <= 75


@pytest.mark.parametrize("name", LAST)
def test_a_script_prints_falling_losses(name):
    steps, losses = zip(*printed(name), strict=True)
    assert output(name).count("\n") == 5
    assert list(steps) == STEPS
    assert list(losses) == sorted(losses, reverse=True)
    assert losses[-1] < LAST[name]


def test_scripts_01_to_04_print_the_losses_of_the_oracle():
    rng = np.random.default_rng(0)
    batch = Batch(rng.standard_normal((64, 1000)), rng.standard_normal((64, 10)))
    params = {"w1": rng.standard_normal((1000, 100)), "w2": rng.standard_normal((100, 10))}
    optimizer = numpy_net.make_optimizer("sgd", 1e-6)
    state, losses = optimizer.init(params), []
    for _ in range(500):
        loss, grads = numpy_net.value_and_grad(params, batch, activation="my_relu")
        losses.append(loss)
        params, state = optimizer.update(params, grads, state)
    want = [(t, float(f"{losses[t]:.6e}")) for t in STEPS]
    for name in list(LAST)[:4]:
        assert printed(name) == want
    assert printed("16_devices.py") == want + want  # on eight devices, and on one


def test_09_a_key_used_twice_draws_the_same_mask():
    name = "09_random_keys.py"
    assert said(name, "one key for 100 steps: (.*)% of the inputs are dropped at every step") == [
        50
    ]
    assert said(name, "a key for each step: (.*)%") == [0]
    assert said(name, "one key for two layers: (.*)% of the masks agree") == [100]
    assert said(name, "a key for each layer: (.*)%") == [50]
    if importlib.util.find_spec("torch"):
        (error,) = said(name, "the same mask: torch's gradient differs by (.*) of its .*")
        assert error < 1e-5  # float32: sums of 64 terms in another order
    else:
        assert "torch is not installed" in output(name)


def test_10_statistics_that_are_dropped_spoil_the_evaluation():
    name = "10_state.py"
    assert "outside: Cannot mutate BatchStat from a different trace level\n" in output(name)
    line = "statistics {}: running mean (.*); loss (.*) in training, (.*) in evaluation"
    mean, in_training, in_evaluation = said(name, line.format("dropped"))
    assert mean == 0
    assert in_evaluation > 5 * in_training
    mean, in_training, in_evaluation = said(name, line.format("carried"))
    assert mean == 3
    assert abs(in_evaluation - in_training) < 0.05 * in_training


def test_11_each_compilation_is_counted():
    name = "11_recompilation.py"
    counts = re.findall(r"^(.+): (\d+) compilations in 5 steps$", output(name), re.M)
    assert dict(counts) == {
        "jit inside the loop": "5",
        "jit before the loop": "1",
        "five sizes of batch": "5",
        "filled up to one size": "1",
        "a static learning rate": "5",
        "as an argument": "0",
    }
    size, without = re.findall("a program of (.*) characters; as an argument: (.*)", output(name))[
        0
    ]
    assert int(size.replace(",", "")) > 64_000 * 8  # of 64,000 numbers in hexadecimal digits
    assert int(without) < 1000
    line = "the array doubled: the result is times (.*); as an argument: times (.*)"
    assert said(name, line) == [1, 2]


def test_12_the_loops_give_one_loss_and_their_times_are_printed():
    name = "12_loop.py"
    lines = re.findall(r"^(.+): (.+) us per step, loss (.+)$", output(name), re.M)
    assert [line[0] for line in lines] == [
        "compiled loop, not waited for",
        "eager steps, 10 of them",
        "compiled steps",
        "compiled loop",
    ]
    assert all(float(time) >= 0 for _, time, _ in lines)
    assert len({loss for kind, _, loss in lines if "compiled" in kind}) == 1
    ratios = re.findall(r"eager (\S+), compiled steps (\S+), not waited for (\S+)", output(name))
    assert all(math.isfinite(float(ratio)) for ratio in ratios[0])


def test_13_fewer_bits_make_a_larger_error_and_differences_need_float64():
    name = "13_precision.py"
    assert "without the flag: float64 becomes float32\nwith the flag: float64 stays" in output(name)
    kinds = ("float32", "TF32 products", "bfloat16 products", "bfloat16 throughout")
    errors = [said(name, f"{kind}: the gradient is off by (.*)")[0] for kind in kinds]
    assert errors == sorted(errors)
    # the bits of each: 2^-24, 2^-11, 2^-8
    assert errors[0] < 1e-6 < 1e-5 < errors[1] < 2e-3 < errors[2] < errors[3] < 0.1
    differences = {}
    for dtype in ("float32", "float64"):
        found, gradient = said(name, f"difference in {dtype}: (.*), gradient: (.*)")
        differences[dtype] = abs(found / gradient - 1)
    assert differences["float64"] < 1e-2
    assert differences["float32"] > 10 * differences["float64"]


def test_14_arrays_do_not_change_and_donated_ones_are_gone():
    name = "14_donation.py"
    assert "x[0] = 5: JAX arrays are immutable" in output(name)
    assert "\nx.at[0].set(5): x is [0. 1. 2.]\nx = x.at[0].set(5): x is [5. 1. 2.]" in output(name)
    assert "x = x.at[7].set(9): x is [5. 1. 2.], and x[7] is 2.0\n" in output(name)
    assert said(name, "weights and gradient: (.*) MB") == [8]
    assert said(name, "after a step: (.*) MB") == [12]
    assert said(name, "after a step that donates: (.*) MB") == [8]
    assert "lie where the old ones were: True\n" in output(name)
    assert "the old weights: Array has been deleted" in output(name)
    assert said(name, "after 100 steps: (.*), (.*) MB") == [-9, 8]


def test_15_the_grid_gives_the_losses_of_each_network_alone():
    name = "15_vmap.py"
    assert "one vmap: vmap got inconsistent sizes for array axes to be mapped\n" in output(name)
    rates = re.findall(r"^learning rate (\S+): loss (\S+), \+- (\S+) ", output(name), re.M)
    assert [float(rate) for rate, _, _ in rates] == [0.001, 0.003, 0.01, 0.03]
    assert all(float(spread) > 0 for _, _, spread in rates)
    (error,) = said(name, "trained one by one: losses differ by at most (.*)")
    assert error < 1e-4  # float32: 300 steps of products in another order
    (ratio,) = said(name, "time of one by one / of all at once: (.*)")
    assert math.isfinite(ratio)


def test_16_the_mesh_refuses_weights_on_one_device_and_sums_once():
    name = "16_devices.py"
    assert output(name).startswith("weights on one device: Received incompatible devices")
    assert "\n8 devices, 8 rows on each, 1 all-reduce\n" in output(name)
