"""Damaged files of every kind are read or refused in one line, in bounded time and memory."""

import importlib.util
import subprocess
import sys
from pathlib import Path

import pytest

TOOLS = Path(__file__).parents[2] / "scripts" / "tools"
SEEDS = dict.fromkeys(["csv", "npz", "parquet", "config", "weights", "torch"], 12)
SEEDS |= {"stored": 8, "checkpoints": 8, "recordings": 3, "exports": 1}  # for longer, the script


@pytest.fixture(scope="module")
def fuzz_loaders():
    """The script, as a module."""
    sys.path.insert(0, str(TOOLS))
    spec = importlib.util.spec_from_file_location("fuzz_loaders", TOOLS / "fuzz_loaders.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    yield module
    sys.path.remove(str(TOOLS))


def test_every_kind_of_file_is_tried(fuzz_loaders):
    assert set(SEEDS) == set(fuzz_loaders.MAKES)


@pytest.mark.parametrize("kind", SEEDS)
def test_damaged_files_are_read_or_refused(fuzz_loaders, tmp_path, kind, caplog):
    caplog.set_level("CRITICAL", "jaxnet")
    said = [fuzz_loaders.check(kind, seed, tmp_path / "case") for seed in range(SEEDS[kind])]
    assert any(said) or kind == "stored"  # whose arrays are made anew


BROKEN = """
import os, sys, time
sys.path.insert(0, sys.argv[1])
import fuzz_loaders
from pathlib import Path
fuzz_loaders.SECONDS = 1
loads = {
    "fails": lambda folder: {}["x"],
    "hangs": lambda folder: time.sleep(60),
    "ends": lambda folder: os._exit(3),
}
for name, load in loads.items():
    fuzz_loaders.MAKES[name] = lambda folder, rng, load=load: load
    print(fuzz_loaders.fuzz([name], range(1), 5, Path(sys.argv[2]) / "case"))
"""


def test_a_loader_that_fails_hangs_or_ends_is_found(tmp_path):
    command = [sys.executable, "-W", "ignore", "-c", BROKEN, str(TOOLS), str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    first, second, third = done.stdout.splitlines()
    assert "fails 0: " in first
    assert "KeyError" in first
    assert second == "(1, ['hangs 0: hangs for 1 s'])"
    assert third == "(1, ['ends 0: the process ended'])"
