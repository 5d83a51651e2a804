"""`jaxnet train` in several real processes: the run of one, whatever happens to any of them."""

import os
import re
import signal
import time
from pathlib import Path

import numpy as np
import pytest
from mesh_processes import free_port, start
from run_helpers import write_table

from jaxnet.engine import checkpoint
from jaxnet.files import LOCK
from jaxnet.runs.folder import CHECKPOINTS, FILES, read_metrics

TABLE = ["--data", "table.csv", "--target", "y", "--hidden", "16", "--batch-size", "16"]
SHORT = [*TABLE, "--epochs", "8"]
LONG = [*TABLE, "--epochs", "1000000", "--checkpoint-every", "0.5", "--schedule", "constant"]
MINUTE = 60


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A folder with a table, and a run on it by one process."""
    path = tmp_path_factory.mktemp("distributed")
    write_table(path / "table.csv")
    assert finish(train(path, *SHORT, "--out", "whole"))[0] == 0
    return path


def train(folder, *options, devices=1):
    return start(devices, "-m", "jaxnet", "train", *options, cwd=folder)


def finish(process, timeout=120):
    try:
        out, err = process.communicate(timeout=timeout)
    finally:
        process.kill()
        process.communicate()
    return process.returncode, out, err


def begin(folder, *options):
    """Start a run, and return it with its processes once it has saved."""
    process = train(folder, *LONG, *options)
    checkpoints = folder / options[-1] / CHECKPOINTS
    while not checkpoint.steps(checkpoints):
        assert process.poll() is None, finish(process)
        time.sleep(0.05)
    return process, children(process)


def children(process):
    """The processes that it has started, in their order."""
    found = []
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = path.read_text().rpartition(")")[2].split()
        except OSError:  # it has ended
            continue
        if int(fields[1]) == process.pid:
            found.append(int(path.parent.name))
    return sorted(found)


def alive(pids):
    return [pid for pid in pids if Path(f"/proc/{pid}").exists()]


def ends(folder, name):
    """The metrics and the arrays of a run's last checkpoint."""
    arrays = checkpoint.restore(folder / name / CHECKPOINTS).tree
    return read_metrics(folder / name), arrays


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


def test_the_digits_in_two_processes_are_those_in_one(tmp_path):
    for number in (1, 2):
        options = ["--epochs", "3", "--processes", number, "--out", number]
        code, out, err = finish(train(tmp_path, *options))
        assert (code, err) == (0, "")
    assert "on 2 cpu devices in 2 processes (data=2), 16 rows of each batch to one" in out
    assert out.count("done after 3 epochs") == 1
    assert_same(ends(tmp_path, "2"), ends(tmp_path, "1"))
    names = {path.name for path in (tmp_path / "2").iterdir()} - {LOCK}
    assert names == set(FILES)


def test_a_run_goes_on_in_another_number_of_processes_and_devices(folder):
    """2 processes, then 1, then 4 virtual devices, then 2 processes of 2 devices each."""
    schedule = ["--schedule", "constant"]
    assert finish(train(folder, *SHORT, *schedule, "--out", "one"))[0] == 0
    first = [*TABLE, *schedule, "--epochs", "2", "--processes", "2", "--out", "several"]
    code, _, err = finish(train(folder, *first))
    assert (code, err) == (0, "")
    turns = [(1, []), (4, ["--devices", "4"]), (2, ["--processes", "2", "--devices", "all"])]
    meshes = ["data=2,model=1", "none", "data=4,model=1", "data=4,model=1"]
    for i, (devices, options) in enumerate(turns):
        more = ["--resume", "several", "--epochs", 2 * i + 4, *options]
        code, _, err = finish(train(folder, *more, devices=devices))
        assert code == 0, err
        if meshes[i] != meshes[i + 1]:
            assert f"mesh was {meshes[i]} and is {meshes[i + 1]}: losses will agree" in err
    assert_same(ends(folder, "several"), ends(folder, "one"))


def test_the_deterministic_run_has_the_same_bits_in_any_number_of_processes(folder):
    contents = []
    for devices, options in ((1, []), (4, ["--devices", "4"]), (2, ["--processes", "2"])):
        out = ["--out", f"same-{devices}"]
        code, _, err = finish(
            train(folder, *SHORT, "--deterministic", *options, *out, devices=devices)
        )
        assert (code, err) == (0, "")
        lines, arrays = ends(folder, out[1])
        contents.append((lines, {name: leaf.tobytes() for name, leaf in arrays.items()}))
    assert contents[0] == contents[1] == contents[2]


COUNTED = """
import sys
from jaxnet import cli
from jaxnet.tables import store as mapped
whole, read = mapped.MappedRows.batch, []
def batch(self, rows):
    read.append(rows.shape)
    return whole(self, rows)
mapped.MappedRows.batch = batch
code = cli.main(sys.argv[1:])
print("read", *read, sep=";", file=sys.stderr)
sys.exit(code)
"""


def test_each_process_reads_its_own_rows_of_a_mapped_table(folder):
    options = [*SHORT, "--on-disk", "on", "--epochs", "2"]
    assert finish(train(folder, *options, "--out", "mapped-1"))[0] == 0
    address = f"127.0.0.1:{free_port()}"
    by_hand = ["--coordinator", address, "--num-processes", "2", "--process-id"]
    run = ["-c", COUNTED, "train", *options, "--out", "mapped-2", *by_hand]
    started = [start(1, *run, i, cwd=folder) for i in range(2)]
    for process in started:
        code, _, err = finish(process)
        assert code == 0, err
        shapes = {tuple(map(int, re.findall(r"\d+", s))) for s in err.split("read;")[1].split(";")}
        assert {shape for shape in shapes if len(shape) == 2} == {(10, 8)}  # of batches of 16
    assert_same(ends(folder, "mapped-2"), ends(folder, "mapped-1"))


@pytest.mark.parametrize("which", [1, 0], ids=["worker", "coordinator"])
def test_a_killed_process_ends_the_others_with_an_error_and_the_run_goes_on(folder, which):
    """A resume in one process has the losses of the undisturbed run, to rounding."""
    out = f"killed-{which}"
    process, started = begin(folder, "--processes", "2", "--out", out)
    assert len(started) == 2
    os.kill(started[which], signal.SIGKILL)
    killed = time.monotonic()
    code, _, err = finish(process)
    assert time.monotonic() - killed < MINUTE
    assert code == 128 + signal.SIGKILL
    assert err.endswith(f"jaxnet: process {which} was ended by SIGKILL\n")
    if which == 1:  # process 0 is ended by JAX, or notices itself, as it comes
        assert "was lost, as process 0 of 2 noticed (UNKNOWN: Gloo" in err
        assert f"--resume {out} goes on from step" in err
    assert not alive(started)
    step = checkpoint.steps(folder / out / CHECKPOINTS)[-1]
    epochs = ["--epochs", step // 10 + 3]
    again = (
        ["--resume", out, *epochs],
        [*TABLE, "--schedule", "constant", *epochs, "--out", f"{out}u"],
    )
    for options in again:
        code, _, err = finish(train(folder, *options))
        assert code == 0, err
    assert_same(ends(folder, out), ends(folder, f"{out}u"))


@pytest.mark.parametrize("which", [1, 0])
def test_a_signal_to_any_process_saves_once_and_ends_all_at_the_same_step(folder, which):
    out = f"stopped-{which}"
    process, started = begin(folder, "--processes", "2", "--out", out)
    before = checkpoint.steps(folder / out / CHECKPOINTS)[-1]
    os.kill(started[which], signal.SIGTERM)
    code, _, err = finish(process)
    assert code == 128 + signal.SIGTERM
    assert err.count("jaxnet: ") == 1
    step = int(re.findall(r"jaxnet: stopped by SIGTERM at step (\d+) of", err)[0])
    assert checkpoint.steps(folder / out / CHECKPOINTS)[-1] == step > before
    assert not alive(started)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_to_the_one_that_started_them_is_passed_on(folder, number):
    out = f"passed-{number}"
    process, started = begin(folder, "--processes", "2", "--out", out)
    process.send_signal(number)
    code, _, err = finish(process)
    assert code == 128 + number
    assert f"jaxnet: stopped by {number.name} at step" in err
    assert not alive(started)


def test_processes_end_with_the_one_that_started_them(folder):
    process, started = begin(folder, "--processes", "2", "--out", "orphans")
    process.kill()
    process.communicate()
    deadline = time.monotonic() + MINUTE
    while alive(started) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert not alive(started)
    assert checkpoint.steps(folder / "orphans" / CHECKPOINTS)


REFUSED = {
    "a missing file": (["--data", "none.csv", "--target", "y"], "`data` names no file: none.csv"),
    "a batch that does not divide": (
        [*TABLE, "--batch-size", "15"],
        "`batch_size` must be a multiple of 2, the devices of the data axis; got 15",
    ),
    "a folder that holds a run": ([*SHORT, "--out", "whole"], "`out` must not hold a run already"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_bad_input_is_told_once(folder, case):
    options, message = REFUSED[case]
    before = sorted(folder.rglob("*"))
    code, _, err = finish(train(folder, *options, "--processes", "2"))
    assert code == 2
    assert err.startswith(f"jaxnet: {message}")
    assert err.count("\n") == 1
    assert sorted(folder.rglob("*")) == before


def apart(folder, other, *options):
    """Two processes started by hand, the second in a folder and with options of its own."""
    common = ["--coordinator", f"127.0.0.1:{free_port()}", "--num-processes", "2", "--process-id"]
    first = train(folder, *SHORT, "--out", "apart", *common, "0")
    second = train(other, *SHORT, *options, *common, "1")
    return [finish(process) for process in (first, second)]


def test_a_process_that_fails_alone_says_why_and_the_others_that_it_did(folder, tmp_path):
    (code, _, err), (other, out, why) = apart(folder, tmp_path)
    assert (code, other) == (2, 2)
    assert err == "jaxnet: process 1 failed, and has said why\n"
    assert (out, why) == ("", "jaxnet: `data` names no file: table.csv\n")
    assert not (folder / "apart").exists()


def test_other_options_in_a_process_are_refused(folder):
    (code, _, err), (other, _, why) = apart(folder, folder, "--seed", "1")
    assert (code, other) == (2, 2)
    assert "must be those of process 0 in process 1 too" in err
    assert why == ""
    assert not (folder / "apart").exists()


EXCLUDED = [
    (["--processes", "0"], "`processes` must be at least 1, got 0"),
    (["--processes", "2", "--distributed"], "`processes` must not be given with `distributed`"),
    (
        ["--processes", "2", "--process-id", "0"],
        "`processes` must not be given with `process_id`",
    ),
    (["--processes", "2", "--device", "gpu"], "`processes` must be 1 for `device` gpu"),
    (
        ["--distributed", "--coordinator", "a:1"],
        "`distributed` must not be given with `coordinator`",
    ),
    (["--process-id", "0"], "`coordinator`, `num_processes` must be given with `process_id`"),
    (["--distributed"], "`coordinator`, `process_id` and `num_processes` must be given where"),
]


@pytest.mark.parametrize(("options", "message"), EXCLUDED)
def test_options_that_exclude_each_other_are_refused(folder, options, message):
    code, out, err = finish(train(folder, *SHORT, *options))
    assert (code, out) == (2, "")
    assert err.startswith(f"jaxnet: {message}")
    assert err.count("\n") == 1
