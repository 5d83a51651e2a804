"""A run in several real processes is the run of one, whatever happens to any of them."""

import contextlib
import json
import re
import signal
import socket
import time

import distributed_runs
import numpy as np
import pytest
from distributed_runs import config
from mesh_processes import THREADS, finish, free_port, start
from run_helpers import write_table

from jaxnet import runs
from jaxnet.cli import main
from jaxnet.engine import checkpoint
from jaxnet.files import LOCK
from jaxnet.runs.config import Config
from jaxnet.runs.folder import CHECKPOINTS, FILES, read_metrics

SCRIPT = distributed_runs.__file__
TABLE = ["--data", "table.csv", "--target", "y", "--hidden", "16", "--batch-size", "16"]
LONG = [*TABLE, "--epochs", "1000000", "--checkpoint-every", "0.5", "--schedule", "constant"]
STEPS = 10  # to an epoch: 160 rows to train on


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A folder with a table, and a run "resumed" that one process has begun."""
    path = tmp_path_factory.mktemp("distributed")
    write_table(path / "table.csv")
    with contextlib.chdir(path), pytest.MonkeyPatch.context() as patch:
        patch.setenv("NPROC", str(THREADS))  # as the others have it, so that it is no difference
        runs.train(config(epochs=2, out="resumed"))
    return path


@pytest.fixture(scope="module")
def said(folder):
    """What two processes of two devices each have to say; their runs are in the folder."""
    address = f"127.0.0.1:{free_port()}"
    own = [["several", i, 2, address] for i in range(2)]
    errors = finish([start(2, SCRIPT, *each, quick=True, cwd=folder) for each in own])
    said = [json.loads((folder / f"several-{i}.json").read_text()) for i in range(2)]
    return [one | {"errors": text} for one, text in zip(said, errors, strict=True)]


def ends(folder, name):
    """The metrics and the arrays of a run's last checkpoint."""
    return read_metrics(folder / name), checkpoint.restore(folder / name / CHECKPOINTS).tree


def assert_same(got, want):
    """To float32 rounding of sums in another order, 1e-7, after some hundred steps of Adam, whose
    quotient may turn it into a share of the learning rate, 1e-3, for an entry near zero.
    """
    assert len(got[0]) == len(want[0]) > 0
    for one, other in zip(got[0], want[0], strict=True):
        assert one.keys() == other.keys()
        np.testing.assert_allclose([*one.values()], [*other.values()], rtol=1e-4)
    assert got[1].keys() == want[1].keys()
    for name, value in want[1].items():
        np.testing.assert_allclose(got[1][name], value, rtol=1e-3, atol=1e-4, err_msg=name)


def test_the_digits_in_two_processes_are_those_in_one(folder, said, monkeypatch):
    monkeypatch.chdir(folder)
    alone = runs.train(Config(epochs=2, out="digits-1"))
    assert_same(ends(folder, "digits-2"), ends(folder, "digits-1"))
    for split, metrics in alone.metrics.items():  # which each of the processes has
        assert said[0]["digits"] == said[1]["digits"]
        assert said[1]["digits"][split] == pytest.approx(metrics, rel=1e-3)
    assert {path.name for path in (folder / "digits-2").iterdir()} - {LOCK} == set(FILES)


def test_a_run_is_resumed_in_another_number_of_processes(folder, said, monkeypatch, caplog):
    """One process, then two of two devices each, then one."""
    monkeypatch.chdir(folder)
    monkeypatch.setenv("NPROC", str(THREADS))
    assert [one["epochs"] for one in said] == [4, 4]
    assert "mesh was none and is data=4,model=1: losses will agree" in said[0]["errors"]
    runs.resume("resumed", epochs=6)
    assert "mesh was data=4,model=1 and is none: losses will agree" in caplog.text
    runs.train(config(epochs=6, out="whole"))
    assert_same(ends(folder, "resumed"), ends(folder, "whole"))


def test_the_deterministic_run_has_the_same_bits_in_any_number_of_processes(folder, said):
    finish([start(4, SCRIPT, "one", quick=True, cwd=folder)])
    contents = []
    for name in ("same-1", "same-4", "same-2x2"):
        lines, arrays = ends(folder, name)
        contents.append((lines, {name: leaf.tobytes() for name, leaf in arrays.items()}))
    assert len(contents[0][0]) == 3
    assert contents[0] == contents[1] == contents[2]


def test_each_process_reads_its_own_rows_of_a_table_on_disk(folder, said, monkeypatch):
    monkeypatch.chdir(folder)
    runs.train(config(on_disk="on", out="disk-1"))
    assert_same(ends(folder, "disk-2"), ends(folder, "disk-1"))
    for one in said:
        shapes = {tuple(shape) for shape in one["read"] if len(shape) == 2}
        assert {shape[1] for shape in shapes} == {8}  # of batches of 16


BAD = {
    "a missing file": "FileNotFoundError: `data` names no file: none.csv",
    "a batch that does not divide": (
        "ValueError: `batch_size` must be a multiple of 4, the devices of the data axis; got 15"
    ),
    "a folder that holds a run": "FileExistsError: `out` must not hold a run already: digits-2",
    "other options in one": (
        "ValueError: `config` and `data` must be those of process 0 in process 1 too"
    ),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_input_is_reported_by_one_process(folder, said, case):
    assert said[0][case].startswith(BAD[case])
    assert said[1][case] == "RemoteError: process 0 failed, and has said why"
    assert not (folder / "apart").exists()
    assert not (folder / "runs").exists()


def test_a_process_that_fails_alone_says_why_and_the_others_that_it_did(said):
    one, other = (found["a file missing in one"] for found in said)
    assert one == "RemoteError: process 1 failed, and has said why"
    assert other.startswith("FileNotFoundError: `data` names no file: none.csv")


# -- the command, in processes that are disturbed


# `python -m jaxnet`, with fewer seconds until a silent process is lost
COMMAND = (
    "import sys; from jaxnet.engine import watchdog; watchdog.SILENCE = {}; "
    "from jaxnet.__main__ import main; sys.exit(main())"
)


@contextlib.contextmanager
def two(folder, *options, silence=40):
    """`jaxnet train` in two processes."""
    shared = ["--coordinator", f"127.0.0.1:{free_port()}", "--num-processes", 2, "--process-id"]
    command = ["-c", COMMAND.format(silence), "train", *options, *shared]
    started = [start(1, *command, i, quick=True, cwd=folder) for i in range(2)]
    try:
        yield started
    finally:
        for process in started:
            process.kill()
            process.communicate()


def await_checkpoint(folder, out, started):
    while not checkpoint.steps(folder / out / CHECKPOINTS):
        assert [process.poll() for process in started] == [None, None]
        time.sleep(0.01)


def ends_of(started):
    """Exit codes, outputs and errors."""
    texts = [process.communicate(timeout=100) for process in started]
    codes = [process.returncode for process in started]
    return codes, [out for out, _ in texts], [err for _, err in texts]


LOST = {
    "a worker that is stopped": (1, signal.SIGSTOP, r"has not answered for \d s: end it, if it .*"),
    "a coordinator that is killed": (0, signal.SIGKILL, "has ended, and its own output may .*"),
}


@pytest.fixture(scope="module")
def lost(folder):
    """Of each case the lost process, the exit code and error of the other, and the last step."""
    found = {}
    for case, (which, number, _) in LOST.items():
        out = f"lost-{which}"
        with two(folder, *LONG, "--out", out, silence=6) as started:
            await_checkpoint(folder, out, started)
            started[which].send_signal(number)
            (code,), _, (error,) = ends_of([started[1 - which]])
        step = checkpoint.steps(folder / out / CHECKPOINTS)[-1]
        found[case] = started[which].pid, code, error, step
    return found


@pytest.mark.parametrize("case", LOST)
def test_a_lost_process_is_named_in_one_line(lost, case):
    (which, _, how), (pid, code, error, step) = LOST[case], lost[case]
    assert code == 2
    name = rf"process {which} of 2 \(pid {pid} on \S+\)"
    hint = f"--resume lost-{which} continues from step {step}"
    assert re.fullmatch(f"jaxnet: {name} {how}; {hint}\n", error), error


def test_runs_that_have_lost_a_process_are_resumed_to_the_bits_of_an_undisturbed_one(folder, lost):
    epochs = max(step for *_, step in lost.values()) // STEPS + 3
    address = f"127.0.0.1:{free_port()}"
    own = [["again", i, 2, address, epochs] for i in range(2)]
    finish([start(1, SCRIPT, *each, quick=True, cwd=folder) for each in own])
    lines, arrays = ends(folder, "undisturbed")
    for which in (0, 1):
        assert read_metrics(folder / f"lost-{which}") == lines
        for name, leaf in ends(folder, f"lost-{which}")[1].items():
            assert arrays[name].tobytes() == leaf.tobytes()


@pytest.mark.parametrize(("which", "number"), [(1, signal.SIGTERM), (0, signal.SIGINT)])
def test_a_signal_to_any_process_saves_once_and_ends_all_at_the_same_step(folder, which, number):
    out = f"stopped-{which}"
    with two(folder, *LONG, "--out", out) as started:
        await_checkpoint(folder, out, started)
        before = checkpoint.steps(folder / out / CHECKPOINTS)[-1]
        started[which].send_signal(number)
        codes, (shown, silent), (error, nothing) = ends_of(started)
    assert codes == [128 + number] * 2
    assert "on 2 cpu devices in 2 processes (data=2), 8 rows of each batch" in shown
    assert (silent, nothing) == ("", "")
    found = re.fullmatch(rf"jaxnet: stopped by {number.name} at step (\d+) of .*\n", error)
    assert found, error
    assert checkpoint.steps(folder / out / CHECKPOINTS)[-1] == int(found[1]) > before


def test_bad_input_to_the_command_is_one_line_of_one_process(folder):
    with two(folder, "--data", "none.csv", "--target", "y") as started:
        codes, outputs, errors = ends_of(started)
    assert (codes, outputs) == ([2, 2], ["", ""])
    assert errors[0].startswith("jaxnet: --data names no file: none.csv")
    assert (errors[0].count("\n"), errors[1]) == (1, "")


def test_a_start_that_fails_is_one_line(capsys):
    """The kinds of failures are in `test_rendezvous`."""
    with socket.create_server(("127.0.0.1", 0)) as other:
        address = f"127.0.0.1:{other.getsockname()[1]}"
        options = ["--coordinator", address, "--num-processes", "2", "--process-id", "0"]
        assert main(["train", *TABLE, *options]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err == (
        f"jaxnet: --coordinator must be a free port of process 0's machine, got {address} (Address "
        "already in use): give all processes another one\n"
    )


NATIVE = """
import os, sys
from jaxnet.cli import processes
os.write(2, b"1 ")
end = processes.delay_native_errors()
os.write(2, b"2 ")
print("3", file=sys.stderr)
if sys.argv[1] == "lost":
    os._exit(2)
end()
os.write(2, b"4")
"""


@pytest.mark.parametrize(("how", "shown"), [("whole", "1 3\n2 4"), ("lost", "1 3\n")])
def test_what_is_not_pythons_is_shown_unless_a_process_is_lost(how, shown):
    assert start(1, "-c", NATIVE, how).communicate(timeout=60)[1] == shown


EXCLUDED = [
    (["--distributed", "--coordinator", "a:1"], "--coordinator must not be given with --distribu"),
    (["--process-id", "0"], "--coordinator, --num-processes must be given with --process-id"),
]


@pytest.mark.parametrize(("options", "message"), EXCLUDED)
def test_options_that_exclude_each_other_are_refused(options, message, capsys):
    assert main(["train", *TABLE, *options]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith(f"jaxnet: {message}")
    assert err.count("\n") == 1


def test_outside_of_a_cluster_it_says_what_to_give(folder):
    process = start(1, "-m", "jaxnet", "train", *TABLE, "--distributed", cwd=folder)
    (code,), (out,), (err,) = ends_of([process])
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert err.startswith(
        "jaxnet: --coordinator, --process-id and --num-processes must be given where"
    )
