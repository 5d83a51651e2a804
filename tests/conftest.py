"""Shared fixtures; what needs PyTorch is collected only where it is installed, and said aloud."""

import importlib.util
import os

import jax
import pytest

NO_TORCH = importlib.util.find_spec("torch") is None

if NO_TORCH and os.environ.get("JAXNET_REQUIRE_TORCH"):
    raise RuntimeError("JAXNET_REQUIRE_TORCH is set, but torch is not installed")

TORCH_TESTS = [
    "test_torch_net.py",
    "test_torch_live.py",
    "test_parity_models.py",
    "test_parity_torch.py",
    "test_export_torch.py",
]
collect_ignore = TORCH_TESTS if NO_TORCH else []


def pytest_report_header():
    return "torch: not installed, so recorded trajectories only" if NO_TORCH else "torch: live"


@pytest.fixture
def x64():
    """Run a test in double precision: that is where mathematics is compared."""
    with jax.enable_x64(True):
        yield
