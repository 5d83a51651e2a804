"""Shared fixtures; what needs PyTorch is collected only where it is installed, and said aloud."""

import importlib.util
import os
from pathlib import Path

import filelock
import jax
import matplotlib
import mesh_processes
import numpy as np
import pytest
import quick_code
from jax._src import compiler

from jaxnet.engine import compile_cache

# of the workers and of all processes that tests start: NumPy's threads spin while they wait
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
NO_TORCH = importlib.util.find_spec("torch") is None

if NO_TORCH and os.environ.get("JAXNET_REQUIRE_TORCH"):
    raise RuntimeError("JAXNET_REQUIRE_TORCH is set, but torch is not installed")

TORCH_TESTS = [
    "test_torch_net.py",
    "test_torch_live.py",
    "parity/test_corpus.py",
    "parity/test_locate.py",
    "parity/test_state_of_modules.py",
    "parity/test_torch_causes.py",
    "parity/test_torch_causes_training.py",
    "parity/test_corpus_material.py",
    "parity/test_ported_models.py",
    "parity/test_propose.py",
    "parity/test_selftest_modules.py",
    "parity/test_any_model.py",
    "parity/test_ports.py",
    "parity/test_shipped_recordings.py",
    "export/test_export_torch.py",
    "scripts/test_readme_torch.py",
    "scripts/test_site_torch.py",
    "scripts/test_phrasebook_torch.py",
]
RECORDED_TESTS = ["parity/test_tutorial.py", "cli/test_parity_cli.py"]  # live where torch is
collect_ignore = TORCH_TESTS if NO_TORCH else []


@pytest.hookimpl(tryfirst=True)  # before -m selects
def pytest_collection_modifyitems(items):
    """Mark what says more where PyTorch is installed: `make test ARGS="-m torch"`."""
    for item in items:
        name = item.path.relative_to(Path(__file__).parent).as_posix()
        if name in TORCH_TESTS + RECORDED_TESTS:
            item.add_marker("torch")


def pytest_report_header():
    return "torch: not installed, so recorded trajectories only" if NO_TORCH else "torch: live"


@pytest.fixture(scope="session", autouse=True)
def user_cache(tmp_path_factory):
    """Keep compiled programs of the tests, and of the commands that they run, in one folder.

    So a program is compiled once for all tests and workers.
    """
    os.environ.setdefault("MPLCONFIGDIR", matplotlib.get_cachedir())  # it would list fonts anew
    base = tmp_path_factory.getbasetemp()
    base = base.parent if "PYTEST_XDIST_WORKER" in os.environ else base
    os.environ["XDG_CACHE_HOME"] = str(base / "cache")
    compile_cache.enable()
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.05)


USUAL = compiler.get_compile_options


def quick_options(*args, **kwargs):
    options = USUAL(*args, **kwargs)
    options.env_option_overrides = [*options.env_option_overrides, *quick_code.OPTIONS.items()]
    return options


@pytest.fixture(scope="session", autouse=True)
def compile_quickly():
    """Compile as `quick_code` says, which changes no verdict. What tests start in processes of its
    own is compiled as a user's, unless it is given `quick_code.ENVIRONMENT`.
    """
    jax.config.update("jax_disable_most_optimizations", True)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(compiler, "get_compile_options", quick_options)
        yield


@pytest.fixture
def usual_code(monkeypatch):
    """Compile as for a user: where the bits of different programs are compared."""
    jax.clear_caches()
    jax.config.update("jax_disable_most_optimizations", False)
    monkeypatch.setattr(compiler, "get_compile_options", USUAL)
    yield
    jax.config.update("jax_disable_most_optimizations", True)
    jax.clear_caches()


@pytest.fixture
def quick_compilation(compile_quickly):
    """Say that a file needs no more than `compile_quickly`."""


@pytest.fixture
def x64():
    """Run a test in double precision: that is where mathematics is compared."""
    with jax.enable_x64(True):
        yield


@pytest.fixture(scope="session")
def run_case(tmp_path_factory):
    """run_case(name, processes, devices): the arrays of a case of `mesh_cases`.

    Each is made once, also where several workers of pytest-xdist run the tests.
    """
    folder = tmp_path_factory.getbasetemp()
    folder = folder.parent if "PYTEST_XDIST_WORKER" in os.environ else folder

    def run(name, processes, devices):
        path = folder / f"{name} {processes} {devices}.npz"
        with filelock.FileLock(f"{path}.lock"):
            if not path.exists():
                part = path.with_suffix(".part.npz")
                mesh_processes.make_case(part, name, processes, devices)
                part.rename(path)
        with np.load(path) as found:
            return dict(found)

    return run
