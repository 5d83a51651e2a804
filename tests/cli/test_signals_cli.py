"""Commands that a signal ends, and output that nobody takes, in real processes."""

import os
import pty
import select
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from run_helpers import write_run, write_table

import jaxnet
from jaxnet.runs.folder import CHECKPOINTS, METRICS

SOURCE = Path(jaxnet.__file__).parent.parent
TRAIN = ["train", "--data", "table.csv", "--target", "y", "--hidden", "3"]


@pytest.fixture
def folder(tmp_path):
    """A folder with a table, and a run that was not trained."""
    write_table(tmp_path / "table.csv")
    write_run(tmp_path / "run", tmp_path / "table.csv", "y")
    return tmp_path


def start(folder, program, arguments, **options):
    given: dict[str, Any] = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE} | options
    return subprocess.Popen(
        [sys.executable, *program, *arguments],
        cwd=folder,
        text=True,
        env=os.environ | {"JAX_PLATFORMS": "cpu", "PYTHONPATH": str(SOURCE)},
        **given,
    )


def finish(process):
    _, err = process.communicate(timeout=120)
    return process.returncode, err


def names(folder):
    return {path.relative_to(folder) for path in folder.rglob("*")}


# as the command calls a function, the first time or a later one, a signal comes
SIGNALLED = """
import importlib, os, sys
module, _, name = sys.argv.pop(1).rpartition(".")
number, wanted = int(sys.argv.pop(1)), int(sys.argv.pop(1))
from jaxnet.tables.reading import reader
reader.ROWS = 50
home = importlib.import_module(module)
usual, calls = getattr(home, name), []
def call(*args, **options):
    calls.append(0)
    if len(calls) == wanted:
        os.kill(os.getpid(), number)
    return usual(*args, **options)
setattr(home, name, call)
from jaxnet.cli.commands import run
sys.exit(run())
"""
PREDICT = ["predict", "run", "--data", "table.csv", "--out", "out.csv"]
ENDED = {
    "predict": (signal.SIGHUP, "jaxnet.runs.predict.encode_features", "3", PREDICT),
    "export": (signal.SIGXCPU, "jaxnet.export.formats.replacing", "2", ["export", "run"]),
    "convert": (
        signal.SIGUSR1,
        "jaxnet.tables.arrays.digest",
        "2",
        [*TRAIN, "--on-disk", "on", "--out", "new"],
    ),
    "sweep": (
        signal.SIGTERM,
        "jaxnet.sweep.sweep.write_json",
        "1",
        ["sweep", "--data", "table.csv", "--target", "y", "--out", "new"],
    ),
}


@pytest.mark.parametrize("case", ENDED)
def test_a_command_that_a_signal_ends_leaves_nothing_behind(folder, case):
    number, function, times, arguments = ENDED[case]
    before = names(folder)
    process = start(folder, ["-c", SIGNALLED], [function, str(int(number)), times, *arguments])
    assert finish(process) == (128 + number, f"jaxnet: ended by {number.name}\n")
    assert names(folder) == before


INTERRUPTED = """
import os, runpy, signal, sys
wanted = sys.argv.pop(1)
class Finder:
    def find_spec(self, name, path=None, target=None):
        if name == wanted:
            os.kill(os.getpid(), signal.SIGINT)
signal.signal(signal.SIGINT, signal.default_int_handler)
sys.meta_path.insert(0, Finder())
runpy.run_module("jaxnet", run_name="__main__", alter_sys=True)
"""


@pytest.mark.parametrize("module", ["tyro", "ml_dtypes._finfo"])
def test_ctrl_c_while_imports_run_is_one_line(folder, module):
    process = start(folder, ["-c", INTERRUPTED], [module, *PREDICT])
    assert finish(process) == (130, "jaxnet: interrupted\n")


def test_a_terminal_that_closes_saves_the_run(folder):
    main, terminal = pty.openpty()
    both = {"stdin": terminal, "stdout": terminal, "stderr": terminal}
    options = [*TRAIN, "--epochs", "100000", "--out", "new"]
    process = start(folder, ["-m", "jaxnet"], options, start_new_session=True, **both)
    os.close(terminal)
    while not (folder / "new" / METRICS).exists():
        assert process.poll() is None
        if select.select([main], [], [], 0.1)[0]:
            os.read(main, 9999)
    os.close(main)  # what is printed from here on is an error
    time.sleep(0.2)
    process.send_signal(signal.SIGHUP)
    process.send_signal(signal.SIGHUP)
    assert process.wait(60) == 128 + signal.SIGHUP
    assert any((folder / "new" / CHECKPOINTS).iterdir())


def test_a_full_disk_under_the_output_loses_nothing(folder):
    with Path("/dev/full").open("w") as full:
        options = [*TRAIN, "--epochs", "3", "--out", "new"]
        process = start(folder, ["-m", "jaxnet"], options, stdout=full)
        line = "jaxnet: standard output cannot be written (No space left on device)\n"
        assert finish(process) == (2, line)
    assert len((folder / "new" / METRICS).read_text().splitlines()) == 3
    assert (folder / "new" / "loss.png").exists()
