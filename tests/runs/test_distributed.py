"""`jaxnet train` in several real processes: the run of one, whatever happens to any of them."""

import re
import signal
import time

import numpy as np
import pytest
from mesh_processes import free_port, start
from run_helpers import write_table

from jaxnet.cli import main
from jaxnet.engine import checkpoint
from jaxnet.files import LOCK
from jaxnet.runs.folder import CHECKPOINTS, FILES, read_metrics

TABLE = ["--data", "table.csv", "--target", "y", "--hidden", "16", "--batch-size", "16"]
TABLE += ["--schedule", "constant"]
SHORT = [*TABLE, "--epochs", "8"]
LONG = [*TABLE, "--epochs", "1000000", "--checkpoint-every", "0.5"]
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


def several(folder, *options, devices=1):
    """Two processes that train together, started with the same options."""
    common = ["--coordinator", f"127.0.0.1:{free_port()}", "--num-processes", 2, "--process-id"]
    return [train(folder, *options, *common, i, devices=devices) for i in range(2)]


def finish(process, timeout=120):
    """The exit code, standard output and standard error of a process."""
    try:
        out, err = process.communicate(timeout=timeout)
    finally:
        process.kill()
        process.communicate()
    return process.returncode, out, err


def finish_all(processes):
    """What process 0 prints, once both have ended well and process 1 has been silent."""
    (code, out, err), other = [finish(process) for process in processes]
    assert (code, *other) == (0, 0, "", ""), err
    return out, err


def begin(folder, out):
    """Start two processes of a long run, and return them once it has saved."""
    started = several(folder, *LONG, "--out", out)
    while not checkpoint.steps(folder / out / CHECKPOINTS):
        assert started[0].poll() is None, finish(started[0])
        time.sleep(0.05)
    return started


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


def test_two_processes_train_the_run_of_one(folder):
    out, _ = finish_all(several(folder, *SHORT, "--out", "two"))
    assert "on 2 cpu devices in 2 processes (data=2), 8 rows of each batch on each" in out
    assert out.count("done after 8 epochs") == 1
    assert_same(ends(folder, "two"), ends(folder, "whole"))
    names = {path.name for path in (folder / "two").iterdir()} - {LOCK}
    assert names == set(FILES)


def test_a_run_is_resumed_in_another_number_of_processes_and_devices(folder):
    """2 processes, then 1, then 4 virtual devices, then 2 processes of 2 devices each."""
    finish_all(several(folder, *TABLE, "--epochs", "2", "--out", "several"))
    meshes = ["data=2,model=1", "none", "data=4,model=1", "data=4,model=1"]
    turns = [
        lambda *more: [train(folder, *more)],
        lambda *more: [train(folder, *more, "--devices", "4", devices=4)],
        lambda *more: several(folder, *more, "--devices", "all", devices=2),
    ]
    for i, turn in enumerate(turns):
        (code, _, err), *_ = map(finish, turn("--resume", "several", "--epochs", 2 * i + 4))
        assert code == 0, err
        if meshes[i] != meshes[i + 1]:
            assert f"mesh was {meshes[i]} and is {meshes[i + 1]}: losses will agree" in err
    assert_same(ends(folder, "several"), ends(folder, "whole"))


def test_the_deterministic_run_has_the_same_bits_in_any_number_of_processes(folder):
    contents = []
    options = [*SHORT, "--deterministic", "--out"]
    finish_all(several(folder, *options, "same-2", devices=2))
    done = finish(train(folder, *options, "same-4", "--devices", "4", devices=4))
    assert done[0] == 0, done
    for devices in (4, 2):
        lines, arrays = ends(folder, f"same-{devices}")
        contents.append((lines, {name: leaf.tobytes() for name, leaf in arrays.items()}))
    assert contents[0] == contents[1]


COUNTED = """
import sys
from jaxnet import cli
from jaxnet.tables import rows as store
whole, read = store.StoredRows.batch, []
def batch(self, rows):
    read.append(rows.shape)
    return whole(self, rows)
store.StoredRows.batch = batch
code = cli.main(sys.argv[1:])
print("read", *read, sep=";", file=sys.stderr)
sys.exit(code)
"""


def test_each_process_reads_its_own_rows_of_a_table_on_disk(folder):
    options = [*SHORT, "--on-disk", "on", "--epochs", "2"]
    assert finish(train(folder, *options, "--out", "stored-1"))[0] == 0
    address = f"127.0.0.1:{free_port()}"
    by_hand = ["--coordinator", address, "--num-processes", "2", "--process-id"]
    run = ["-c", COUNTED, "train", *options, "--out", "stored-2", *by_hand]
    started = [start(1, *run, i, cwd=folder) for i in range(2)]
    for process in started:
        code, _, err = finish(process)
        assert code == 0, err
        shapes = {tuple(map(int, re.findall(r"\d+", s))) for s in err.split("read;")[1].split(";")}
        assert {shape for shape in shapes if len(shape) == 2} == {(10, 8)}  # of batches of 16
    assert_same(ends(folder, "stored-2"), ends(folder, "stored-1"))


@pytest.mark.parametrize("which", [1, 0], ids=["worker", "coordinator"])
def test_a_killed_process_ends_the_others_and_the_run_can_be_resumed(folder, which):
    """Its last checkpoint is whole, and a resume has the losses of the undisturbed run."""
    out = f"killed-{which}"
    started = begin(folder, out)
    started[which].kill()
    code, _, err = finish(started[1 - which], MINUTE)
    assert code != 0
    if which == 1:  # process 1 may be ended by JAX before it notices
        assert code == 2
        assert "was lost, as process 0 of 2 noticed (UNKNOWN: Gloo" in err
        assert f"--resume {out}" in err
    finish(started[which])
    step = checkpoint.restore(folder / out / CHECKPOINTS).step
    if which == 0:
        return
    epochs = ["--epochs", step // 10 + 3]
    again = (
        ["--resume", out, *epochs],
        [*TABLE, *epochs, "--out", f"{out}u"],
    )
    for options in again:
        code, _, err = finish(train(folder, *options))
        assert code == 0, err
    assert_same(ends(folder, out), ends(folder, f"{out}u"))


@pytest.mark.parametrize(("which", "number"), [(1, signal.SIGTERM), (0, signal.SIGINT)])
def test_a_signal_to_any_process_saves_once_and_ends_all_at_the_same_step(folder, which, number):
    out = f"stopped-{which}"
    started = begin(folder, out)
    before = checkpoint.steps(folder / out / CHECKPOINTS)[-1]
    started[which].send_signal(number)
    (code, _, err), other = [finish(process) for process in started]
    assert (code, *other) == (128 + number, 128 + number, "", "")
    found = re.fullmatch(rf"jaxnet: stopped by {number.name} at step (\d+) of .*\n", err)
    assert found, err
    assert checkpoint.steps(folder / out / CHECKPOINTS)[-1] == int(found[1]) > before


REFUSED = {
    "a batch that does not divide": (
        [*TABLE, "--batch-size", "15"],
        "--batch-size must be a multiple of 2, the devices of the data axis; got 15",
    ),
    "a folder that holds a run": ([*SHORT, "--out", "whole"], "--out must not hold a run already"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_bad_input_is_told_once(folder, case):
    options, message = REFUSED[case]
    before = sorted(folder.rglob("*"))
    (code, _, err), other = [finish(process) for process in several(folder, *options)]
    assert (code, *other) == (2, 2, "", "")
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
    assert (out, why) == ("", "jaxnet: --data names no file: table.csv\n")
    assert not (folder / "apart").exists()


def test_other_options_in_a_process_are_refused(folder):
    (code, _, err), (other, _, why) = apart(folder, folder, "--seed", "1")
    assert (code, other) == (2, 2)
    assert "must be those of process 0 in process 1 too" in err
    assert why == ""
    assert not (folder / "apart").exists()


EXCLUDED = [
    (["--distributed", "--coordinator", "a:1"], "--coordinator must not be given with --distribu"),
    (["--process-id", "0"], "--coordinator, --num-processes must be given with --process-id"),
]


@pytest.mark.parametrize(("options", "message"), EXCLUDED)
def test_options_that_exclude_each_other_are_refused(options, message, capsys):
    assert main(["train", *SHORT, *options]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith(f"jaxnet: {message}")
    assert err.count("\n") == 1


def test_outside_of_a_cluster_it_says_what_to_give(folder):
    code, out, err = finish(train(folder, *SHORT, "--distributed"))
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert err.startswith(
        "jaxnet: --coordinator, --process-id and --num-processes must be given where"
    )
