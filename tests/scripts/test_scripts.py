"""Every tutorial script runs as it stands, and prints the losses of the library's own functions."""

import functools
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


@functools.cache
def printed(name):
    """The (step, loss) pairs that a script prints, and nothing else."""
    done = subprocess.run(
        [sys.executable, "-W", "error", str(SCRIPTS / name)],
        capture_output=True,
        text=True,
        check=True,
        env=os.environ | {"JAX_PLATFORMS": "cpu"},
    )
    assert done.stderr == ""
    return [
        (int(step), float(loss)) for step, loss in re.findall(r"(\d+) (\S+)\b.*\n", done.stdout)
    ]


def test_every_script_is_listed():
    assert {path.name for path in SCRIPTS.glob("0*.py")} == set(LAST)


@pytest.mark.parametrize("name", LAST)
def test_a_script_prints_falling_losses(name):
    steps, losses = zip(*printed(name), strict=True)
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
