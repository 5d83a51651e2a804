"""One program over several devices and processes is the program on one device, to rounding."""

import json
import os
import re
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import jax
import numpy as np
import parallel_cases as cases
import pytest

import jaxnet
from jaxnet import data, parallel

ROOT = Path(jaxnet.__file__).parent.parent
# sums over the rows of a batch in another order: a few roundings a step, 25 steps
BOUNDS = {"float32": 2e-5, "float64": 1e-13}


def start(*arguments, devices=1):
    flags = f"--xla_force_host_platform_device_count={devices}"
    env = os.environ | {"PYTHONPATH": str(ROOT), "XLA_FLAGS": flags, "JAX_PLATFORMS": "cpu"}
    return subprocess.Popen(
        [sys.executable, "-W", "error", cases.__file__, *map(str, arguments)],
        env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip


def answer(process):
    out, errors = process.communicate(timeout=240)
    assert process.returncode == 0, errors
    return json.loads(out.splitlines()[-1])


@pytest.fixture(scope="module")
def eight():
    return answer(start("devices", devices=8))


@pytest.mark.parametrize("dtype", BOUNDS)
@pytest.mark.parametrize("name", ["momentum", "adam"])
@pytest.mark.parametrize("axes", cases.MESHES)
def test_a_mesh_trains_as_one_device(eight, axes, name, dtype):
    found = eight["found"][f"{axes} {name} {dtype}"]
    assert found["losses"] < BOUNDS[dtype]
    assert found["state"] < 10 * BOUNDS[dtype]  # Adam divides by roots of small moments


@pytest.mark.parametrize(
    ("axes", "devices", "columns"),
    [("1", 1, 12), ("all", 8, 12), ("data=4,model=2", 8, 6), ("data=2,model=4", 8, 3)],
)
def test_wide_layers_and_their_moments_are_divided_over_model(eight, axes, devices, columns):
    found = eight["found"][f"{axes} adam float32"]
    assert (found["devices"], found["columns"], found["moment"]) == (devices, columns, columns)


def test_each_device_computes_its_own_rows_only(eight):
    assert eight["rows_of_a_device"] == [cases.BATCH // 8]


def free_port():
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        return server.getsockname()[1]


@pytest.mark.parametrize("number", [2, 4])
def test_processes_train_as_one_and_read_only_their_rows(number):
    port = free_port()
    started = [start("process", port, i, number) for i in range(number)]
    answers = [answer(process) for process in started]
    rows_at = data.row_batches(cases.ROWS, cases.BATCH, 5)
    one, losses = cases.on_one_device("adam", "float32", rows_at)
    share = cases.BATCH // number
    for i, found in enumerate(answers):
        assert found["own"] == [i * share, (i + 1) * share]
        assert found["main"] == (i == 0)
        assert found["agreed"] == [[10 + j, 7] for j in range(number)]
        assert str(found["broadcast"]) == "[-0.0, 0.0]"
        np.testing.assert_allclose(found["losses"], losses, rtol=BOUNDS["float32"])
        np.testing.assert_allclose(found["w1"], one.params["w1"], rtol=1e-3, atol=2e-5)
        assert found["w1"] == answers[0]["w1"]  # to the bit: they are one array


def test_the_documented_example_prints_what_the_page_says():
    blocks = re.findall(r"```(?:python)?\n(.*?)```", (ROOT / "docs/parallel.md").read_text(), re.S)
    flags = "--xla_force_host_platform_device_count=8"
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", blocks[0]], capture_output=True, text=True,
        env=os.environ | {"PYTHONPATH": str(ROOT), "XLA_FLAGS": flags}, check=True,
    )  # fmt: skip
    assert done.stdout == blocks[1]


@pytest.mark.parametrize(
    ("axes", "reason"),
    [
        ("data=2", "at most 1 devices.*device_count=2"),
        ("rows=2", "must have the axes data and model"),
        ("data=0", "at least 1 device"),
        ("data=1,data=1", "name each axis once"),
        ({"model": 3}, "at most 1 devices"),
    ],
)
def test_a_mesh_that_cannot_be_is_refused(axes, reason):
    with pytest.raises(ValueError, match=reason):
        parallel.make_mesh(axes, jax.devices()[:1])


def test_a_batch_that_does_not_divide_is_refused():
    mesh: Any = jax.sharding.AbstractMesh((4, 1), parallel.AXES)
    with pytest.raises(ValueError, match=r"must be a multiple of 4, the devices.*got 10"):
        parallel.check_batch(mesh, 10)


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        ({"coordinator": "host:1"}, "`process_id`, `num_processes` must be given"),
        ({"coordinator": "host", "process_id": 0, "num_processes": 1}, "must be HOST:PORT"),
        ({"coordinator": "a:1", "process_id": 2, "num_processes": 2}, r"must be 0..1"),
    ],
)
def test_processes_that_cannot_start_are_refused(arguments, reason):
    with pytest.raises(ValueError, match=reason):
        parallel.start(**arguments)


def test_a_coordinator_that_does_not_answer_is_named():
    code = "from jaxnet import parallel; parallel.start('127.0.0.1:9', 1, 2, timeout=1)"
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=120,
        env=os.environ | {"PYTHONPATH": str(ROOT)}, check=False,
    )  # fmt: skip
    assert done.returncode
    assert "127.0.0.1:9 did not answer within 1 s" in done.stderr
