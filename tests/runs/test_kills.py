"""Real training processes that are killed, interrupted, or left without disk space."""

import contextlib
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import quick_code
from run_helpers import write_table

import jaxnet
from jaxnet.cli import main
from jaxnet.engine import checkpoint
from jaxnet.runs.folder import CHECKPOINTS, METRICS, PARAMS

SOURCE = Path(jaxnet.__file__).parent.parent
NEW = ["--data", "table.csv", "--target", "y", "--hidden", "16", "--epochs", "1500"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A folder with a table, and an undisturbed run on it."""
    path = tmp_path_factory.mktemp("processes")
    write_table(path / "table.csv")
    with contextlib.chdir(path):
        assert main(["train", *NEW, "--out", "whole"]) == 0
    return path


def start(folder, *options, program=("-m", "jaxnet")):
    """`jaxnet train` in a process that compiles as this one, so that both give the same bits."""
    path = os.pathsep.join([str(SOURCE), os.environ.get("PYTHONPATH", "")])
    own = quick_code.ENVIRONMENT | {"JAX_PLATFORMS": "cpu", "PYTHONPATH": path}
    return subprocess.Popen(
        [sys.executable, *program, "train", *options],
        cwd=folder,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=os.environ | own,
    )


def train(monkeypatch, capsys, folder, *options):
    """`jaxnet train` in this process: its exit code and what it says of errors."""
    monkeypatch.chdir(folder)
    code = main(["train", *options])
    return code, capsys.readouterr().err


def finish(process):
    out, err = process.communicate(timeout=120)
    return process.returncode, out, err


def contents(run):
    arrays = checkpoint.restore(run / CHECKPOINTS).tree
    return (
        (run / METRICS).read_bytes(),
        (run / PARAMS).read_bytes(),
        {name: leaf.tobytes() for name, leaf in arrays.items()},
    )


def wait_for_epochs(process, run):
    """Return when some epochs have ended."""
    metrics = run / METRICS
    while not (metrics.exists() and metrics.stat().st_size > 2000):
        assert process.poll() is None, finish(process)
        time.sleep(0.005)


def test_kills_at_random_moments_leave_the_bits_of_the_undisturbed_run():
    # a seed of moments of every kind: one at the start, two in training, two while it saves
    trial = [SOURCE / "scripts" / "tools" / "kill_trial.py", "--kills", "5", "--seed", "16396"]
    path = os.pathsep.join([str(SOURCE), os.environ.get("PYTHONPATH", "")])
    done = subprocess.run(
        [sys.executable, *trial],
        capture_output=True,
        text=True,
        env=os.environ | {"PYTHONPATH": path},
        timeout=280,
    )
    assert (done.returncode, done.stderr) == (0, ""), done.stdout + done.stderr
    assert sum(map(int, re.findall(r"(?m)^ *(\d+) killed", done.stdout))) == 5
    assert "killed while a checkpoint was written" in done.stdout
    assert "metrics.jsonl: the same" in done.stdout
    assert "different: []" in done.stdout


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_saves_says_so_and_the_run_is_resumed_to_the_same_bits(
    folder, number, monkeypatch, capsys
):
    """Until the signal, a second writer is refused; the first is stopped, lest it end meanwhile."""
    name = number.name.lower()
    process = start(folder, *NEW, "--out", name)
    wait_for_epochs(process, folder / name)
    process.send_signal(signal.SIGSTOP)
    refused = train(monkeypatch, capsys, folder, "--resume", name)
    process.send_signal(number)
    process.send_signal(signal.SIGCONT)
    code, _, err = finish(process)
    assert refused == (
        2,
        f"jaxnet: {name}: another process is writing this run; wait for it, or end it\n",
    )
    assert code == 128 + number
    message = rf"jaxnet: stopped by {number.name} at step (\d+) of \d+, and saved: resume with "
    match = re.fullmatch(rf"{message}--resume {name}\n", err)
    assert match, err
    assert checkpoint.steps(folder / name / "checkpoints")[-1] == int(match[1])
    assert train(monkeypatch, capsys, folder, "--resume", name) == (0, "")
    assert contents(folder / name) == contents(folder / "whole")


FULL = {
    "metrics": (60_000, NEW, r"full/metrics\.jsonl: could not be written"),
    "checkpoint": (
        100_000,
        [*NEW, "--hidden", "3000", "--epochs", "40"],
        r"\S*full/checkpoints: a checkpoint could not be written",
    ),
}


@pytest.mark.parametrize("case", FULL)
def test_a_full_disk_is_one_line_and_nothing_saved_is_lost(folder, case, monkeypatch, capsys):
    """A limit on the size of a file, which every writer meets as it meets a full disk."""
    limit, options, message = FULL[case]
    code = f"""
import resource, sys
resource.setrlimit(resource.RLIMIT_FSIZE, ({limit}, {limit}))
from jaxnet.cli import main
sys.exit(main())
"""
    (folder / case).mkdir()
    options = [*options, "--data", "../table.csv", "--checkpoint-every", "0.05", "--out"]
    assert train(monkeypatch, capsys, folder / case, *options, "whole") == (0, "")
    process = start(folder / case, *options, "full", program=["-c", code])
    code, _, err = finish(process)
    assert code == 2, err
    assert re.fullmatch(rf"jaxnet: {message} \(File too large\)\n", err), err
    saved = checkpoint.steps(folder / case / "full/checkpoints")
    assert bool(saved) == (case == "metrics")
    assert train(monkeypatch, capsys, folder / case, "--resume", "full") == (0, "")
    assert contents(folder / case / "full") == contents(folder / case / "whole")
