"""The process that draws the curves of a run: its picture is that of this one, whatever befalls."""

import contextlib
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from matplotlib.image import imread

from jaxnet.runs import drawing, plots

LINES = [
    {"epoch": i, "train_loss": 2 / i, "val_loss": 3 / i, "val_accuracy": 1 - 1 / i}
    for i in range(1, 9)
]


def draw(path):
    drawing.learning_curves(LINES, "cross_entropy", "a title", str(path))


@pytest.fixture
def not_here(monkeypatch):
    def fail(*_):
        raise AssertionError("drawn in this process")

    monkeypatch.setattr(plots, "learning_curves", fail)


@pytest.mark.usefixtures("not_here")
@pytest.mark.parametrize("asked", [True, False])
def test_the_process_draws_what_this_one_would(tmp_path, monkeypatch, asked):
    with drawing.beside():
        process: Any = drawing._beside
        if asked:
            drawing.ask(LINES, "cross_entropy", "a title", str(tmp_path / "a.png"))
        draw(tmp_path / "a.png")
        assert process
        assert process.returncode == 0
    monkeypatch.undo()
    draw(tmp_path / "b.png")
    assert (imread(tmp_path / "a.png") == imread(tmp_path / "b.png")).all()


@pytest.mark.parametrize("fault", ["killed", "no interpreter"])
def test_without_the_process_it_is_drawn_here(tmp_path, monkeypatch, fault):
    if fault == "no interpreter":
        monkeypatch.setattr(sys, "executable", str(tmp_path / "python"))
    with drawing.beside():
        process: Any = drawing._beside
        if fault == "killed":
            process.kill()
            process.wait()
        else:
            assert process is None
        draw(tmp_path / "a.png")
    assert imread(tmp_path / "a.png").ndim == 3


def test_a_place_that_cannot_be_written_is_an_error_as_it_is_here(tmp_path):
    with drawing.beside(), pytest.raises(OSError, match="no-folder"):
        draw(tmp_path / "no-folder" / "a.png")


def test_a_block_that_draws_nothing_ends_the_process():
    with drawing.beside():
        process: Any = drawing._beside
    assert process.returncode == -signal.SIGKILL


@pytest.mark.usefixtures("not_here")
def test_what_was_asked_for_is_drawn_whole_although_the_block_fails(tmp_path):
    with contextlib.suppress(KeyError), drawing.beside():
        drawing.ask(LINES, "cross_entropy", "a title", str(tmp_path / "a.png"))
        raise KeyError
    assert imread(tmp_path / "a.png").ndim == 3
    assert [path.name for path in tmp_path.iterdir()] == ["a.png"]


BESIDE = """
import os, signal
from jaxnet.runs import drawing
with drawing.beside():
    print(drawing._beside.pid, flush=True)
    os.kill(os.getpid(), signal.SIGKILL)
"""


def goes_on(pid):
    with contextlib.suppress(FileNotFoundError):
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    return False


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="Linux tells the state there")
def test_it_ends_with_a_process_that_is_killed():
    done = subprocess.run([sys.executable, "-c", BESIDE], capture_output=True, check=False)
    for _ in range(600):
        if not goes_on(int(done.stdout)):
            return
        time.sleep(0.1)
    pytest.fail("it goes on")
