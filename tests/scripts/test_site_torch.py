"""The tutorial's columns in PyTorch print what is kept for builds of the site without it."""

import runpy

import pytest
import torch
from test_site import DOCS, EXACT, STAGES, as_a_program, numbers, recorded  # noqa: F401


@pytest.mark.parametrize("stage", STAGES)
def test_what_is_kept_is_what_it_prints(stage, as_a_program, capsys):  # noqa: F811
    dtype = torch.get_default_dtype()
    runpy.run_path(str(DOCS / "tutorial" / f"{stage}_torch.py"))
    torch.set_default_dtype(dtype)
    assert numbers(capsys.readouterr().out) == pytest.approx(numbers(recorded(stage)), rel=EXACT)
