"""The pytest plugin, in a session of its own: the fixture, its failure, --parity-json."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

import jaxnet

TESTS = """
import numpy as np
from jaxnet import numpy_net
from jaxnet.parity import Case, numpy_participant, oracle
from jaxnet.data import random_problem
from jaxnet.spec import Spec

SPEC = Spec((4, 3, 2), bias=True)
BATCH = random_problem(SPEC, 6, 0, "float64")
CASE = Case("small", SPEC.init(0, "float64"), lambda _: BATCH, (1, 2), 2)


def candidate(factor):
    def value_and_grad(params, batch):
        value, grads = numpy_net.value_and_grad(params, batch)
        return factor * value, {name: factor * grad for name, grad in grads.items()}

    return numpy_participant(value_and_grad, numpy_net.sgd(1e-3), name="candidate")


def test_right(parity):
    report = parity.check(candidate(1.0), against=oracle(SPEC, "sgd", 1e-3), case=CASE)
    assert report.verdict == "equal"


def test_wrong(parity):
    parity.check(candidate(2.0), against=oracle(SPEC, "sgd", 1e-3), case=CASE)


def test_without_the_fixture():
    pass
"""
SOURCE = Path(jaxnet.__file__).parent.parent


def run(folder, *argv):
    """The exit code and the output of pytest with the plugin, on the tests above."""
    (folder / "test_port.py").write_text(TESTS)
    path = os.pathsep.join([str(SOURCE), os.environ.get("PYTHONPATH", "")])
    # named, not found by its entry point, so that it is loaded once, installed or not
    environment = os.environ | {"PYTHONPATH": path, "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"}
    command = [sys.executable, "-m", "pytest", "-p", "jaxnet.parity.plugin", "-q", "-W", "error"]
    done = subprocess.run(
        [*command, *argv],
        cwd=folder,
        env=environment | {"JAX_PLATFORMS": "cpu", "COLUMNS": "100"},
        capture_output=True,
        text=True,
        timeout=120,
    )
    return done.returncode, done.stdout + done.stderr


@pytest.fixture(scope="module")
def session(tmp_path_factory):
    """One session with the JSON report: its exit code, its output, the reports."""
    folder = tmp_path_factory.mktemp("session")
    code, out = run(folder, "--parity-json", "reports.json")
    return code, out, json.loads((folder / "reports.json").read_text())["reports"]


def test_a_mismatch_fails_its_test_and_no_other(session):
    code, out, _ = session
    assert code == 1, out
    assert "1 failed, 2 passed" in out
    assert "FAILED test_port.py::test_wrong" in out


def test_a_failure_is_the_report_with_its_cause_and_no_traceback(session):
    out = session[1]
    assert "small: candidate against numpy: mismatch" in out
    assert "cause: factor 2 (loss and gradient)" in out
    assert "compare the loss's definitions" in out
    assert "plugin.py" not in out
    assert "Traceback" not in out


def test_every_report_is_written_equal_or_not(session):
    reports = session[2]
    assert [report["verdict"] for report in reports] == ["equal", "mismatch"]
    assert [report["cause"] for report in reports] == ["", "factor 2 (loss and gradient)"]
    assert all(report["n_compared"] > 0 for report in reports)


def test_without_the_option_nothing_is_written(tmp_path):
    code, out = run(tmp_path, "-k", "right", "-p", "no:cacheprovider")
    assert code == 0, out
    assert {path.name for path in tmp_path.iterdir()} <= {"test_port.py", "__pycache__"}


def test_the_option_is_in_the_help(tmp_path):
    code, out = run(tmp_path, "--help")
    assert code == 0
    assert "--parity-json=PATH" in out


def test_reports_of_parallel_workers_are_gathered(tmp_path):
    code, out = run(tmp_path, "-p", "xdist.plugin", "-n", "2", "--parity-json", "all.json")
    assert code == 1, out
    reports = json.loads((tmp_path / "all.json").read_text())["reports"]
    assert sorted(report["verdict"] for report in reports) == ["equal", "mismatch"]
