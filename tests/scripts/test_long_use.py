"""What a long use costs levels off; the tool measures it at length, these are a few of each."""

from pathlib import Path

import jax
import numpy as np
import pytest
from tools import long_use

from jaxnet import runs
from jaxnet.engine import compile_cache


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    long_use.write_table(Path("table.csv"), 5)


@pytest.mark.parametrize("case", long_use.CASES)
def test_every_case_runs_to_its_end(case, capsys, monkeypatch):
    """That of the threads compares bits with those of the same trainings alone."""
    few = {"steps": 300, "predictions": 20, "threads": 2}.get(case, 1)
    monkeypatch.setitem(long_use.CASES, case, (long_use.CASES[case][0], few))
    long_use.measure(case, 1.0)
    last = capsys.readouterr().out.splitlines()[-1].split()
    assert last[:2] == [case, str(few)]
    assert len(last) == 6


def test_growth_is_the_exit_code(monkeypatch, capsys):
    held = []

    def grows(total):
        for i in range(total):
            held.append(np.ones(2**23))  # 64 MiB, in a process that may have some 1,500
            yield i + 1

    monkeypatch.setitem(long_use.CASES, "grows", (grows, 12))
    assert long_use.measure("grows", 1.0) == 1
    monkeypatch.setitem(long_use.CASES, "flat", (lambda total: iter(range(1, total + 1)), 12))
    assert long_use.measure("flat", 1.0) == 0
    capsys.readouterr()


def programs():
    return len(jax.devices()[0].client.live_executables())


def test_programs_of_many_different_trainings_are_freed(monkeypatch):
    monkeypatch.setattr(compile_cache, "MAX_KINDS", 1)
    counts = []
    for i in range(3):
        runs.train(long_use.config(f"many-{i}", hidden=(3 + i,), epochs=1))
        counts.append(programs())
    assert counts[2] <= counts[1]
