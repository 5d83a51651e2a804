"""The columns of the tutorial's pages print the same numbers, and the tour's notebook runs."""

import json
import re
import runpy
import sys
from pathlib import Path

import jax
import matplotlib.pyplot as plt
import pytest

DOCS = Path(__file__).parents[2] / "docs"
STAGES = sorted(path.name[0] for path in (DOCS / "tutorial").glob("*_torch.txt"))
EXACT = 2e-6  # seven digits are printed, of float64 programs that differ by rounding


@pytest.fixture
def as_a_program(monkeypatch):
    """Give the configuration back that a column sets."""
    monkeypatch.syspath_prepend(DOCS / "tutorial")
    x64 = jax.config.read("jax_enable_x64")
    yield
    sys.modules.pop("problem")  # whose generator has drawn
    jax.config.update("jax_enable_x64", x64)


def numbers(text):
    return [float(number) for number in re.findall(r"-?\d[\d.]*(?:e[-+]\d+)?", text)]


def recorded(stage):
    return (DOCS / "tutorial" / f"{stage}_torch.txt").read_text()


def test_there_are_six_stages():
    assert "".join(STAGES) == "123456"


@pytest.mark.parametrize("column", ["numpy", "jax"])
@pytest.mark.parametrize("stage", STAGES)
def test_a_column_prints_what_pytorch_printed(stage, column, as_a_program, capsys):
    runpy.run_path(str(DOCS / "tutorial" / f"{stage}_{column}.py"))
    assert numbers(capsys.readouterr().out) == pytest.approx(numbers(recorded(stage)), rel=EXACT)


def test_the_tour_runs_from_top_to_bottom_and_is_kept_without_outputs(monkeypatch):
    monkeypatch.setattr(plt, "show", lambda: plt.close("all"))
    names = {}
    for cell in json.loads((DOCS / "tour.ipynb").read_text())["cells"]:
        if cell["cell_type"] == "code":
            assert (cell["outputs"], cell["execution_count"]) == ([], None)
            exec(compile("".join(cell["source"]), "tour.ipynb", "exec"), names)
    assert names["report"].verdict == "equal"
    assert names["run"].metrics["validation"]["accuracy"] > 0.9
