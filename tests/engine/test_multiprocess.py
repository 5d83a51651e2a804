"""Several processes with gloo between them compute what one does; starts, refusals, a lost one."""

import re
import signal

import mesh_cases as cases
import numpy as np
import pytest
from mesh_processes import finish, free_port, part, start

from jaxnet.engine import processes


@pytest.fixture(scope="module")
def one(run_case):
    return run_case("one process", 1, 8)


@pytest.fixture(scope="module")
def several(run_case):
    """Two processes of two devices each."""
    return run_case("many processes", 2, 2)


def assert_close(got, want, **tolerance):
    assert got.keys() == want.keys()
    assert want
    for name, value in want.items():
        np.testing.assert_allclose(got[name], value, err_msg=name, **tolerance)


@pytest.mark.parametrize("run", ["rows sgd", "rows adam", "all adam"])
def test_a_run_in_several_processes_is_the_run_in_one(one, several, run):
    """float64: 20 steps of other orders of summation, of rounding 1e-16."""
    want = part(one, f"trajectories/{run} one ")
    assert_close(part(several, f"trajectories/{run} all "), want, rtol=1e-12, atol=1e-14)


def test_each_process_gives_its_own_rows(several):
    """float32 and Adam: see `test_mesh`."""
    streamed, gathered = part(several, "own_data/streamed "), part(several, "own_data/gathered ")
    assert_close(streamed, gathered, rtol=1e-5, atol=1e-5)
    table = cases.problem(dtype="float32")
    rows = [cases.ROWS_AT(i) for i in range(5)]
    np.testing.assert_array_equal(several["own_data/chunk"], table.x[np.array(rows)])
    assert several["own_data/own"].tolist() == [0, cases.BATCH // 2]


def test_epochs_in_several_processes_are_those_in_one(one, several):
    want = part(one, "evaluated/one ")
    assert_close(part(several, "evaluated/mesh "), want, rtol=1e-5, atol=1e-5)


def test_processes_hear_each_other_and_the_bits_of_process_0(several):
    assert several["talk/said"].tolist() == [[0, -1], [1, 9]]
    assert several["talk/x"].tobytes() == np.array([-0.0, np.nan, 0], "float32").tobytes()
    assert (several["talk/n"].tolist(), several["talk/empty"].shape) == ([0, 1, 2], (0, 2))


def test_the_deterministic_step_gives_the_same_bits_in_several_processes(run_case):
    want = part(run_case("same bits", 1, 8), "same_bits/1: ")
    got = part(run_case("same bits", 2, 2), "same_bits/4: ")
    assert got
    for name, value in got.items():
        np.testing.assert_array_equal(want[name], value, err_msg=name)


NOT_STARTED = [
    (("localhost:1", None, None), "`process_id`, `num_processes` must be given with `coordinator`"),
    ((None, 0, None), "`coordinator`, `num_processes` must be given with `process_id`"),
    (("localhost", 0, 2), "`coordinator` must be HOST:PORT, got 'localhost'"),
    (("localhost:65536", 0, 2), "`coordinator` must be HOST:PORT, got 'localhost:65536'"),
    (("localhost:1", 2, 2), r"`process_id` must be 0\.\.1, below `num_processes`; got 2"),
]


@pytest.mark.parametrize(("arguments", "message"), NOT_STARTED)
def test_half_a_start_is_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        processes.start(*arguments)


START = """
import sys
from jaxnet.engine import processes
for arguments in eval(sys.argv[1]), ():
    try:
        processes.start(*arguments, timeout=2)
    except (ValueError, TimeoutError) as error:
        print(type(error).__name__, error, file=sys.stderr)
"""


def test_a_start_that_meets_nobody_says_what_is_missing():
    coordinator = f"127.0.0.1:{free_port()}"
    (said,) = finish([start(1, "-c", START, (coordinator, 1, 2))])
    first, second = said.splitlines()
    assert first.startswith(f"TimeoutError process 0 did not answer at {coordinator} within 2 s (")
    assert second.startswith(
        "ValueError `coordinator`, `process_id` and `num_processes` must be given where JAX finds"
    )


LOST = """
import os, signal, sys
from jaxnet.engine import processes
signal.signal(signal.SIGTERM, lambda *_: print("handled", file=sys.stderr))
processes.start(sys.argv[1], int(sys.argv[2]), 3)
os.kill(os.getpid(), signal.SIGTERM)
processes.gather_ints([0])
print("ready", flush=True)
try:
    while True:
        processes.gather_ints([0])
except Exception as error:
    print(type(error).__name__, error, file=sys.stderr, flush=True)
    os._exit(3)
"""


def test_a_killed_worker_is_named_by_the_others_at_once_and_handlers_of_sigterm_are_kept():
    coordinator = f"127.0.0.1:{free_port()}"
    started = [start(1, "-c", LOST, coordinator, i) for i in range(3)]
    try:
        for process in started:
            assert process.stdout
            while process.stdout.readline() not in ("ready\n", ""):
                pass
        started[1].send_signal(signal.SIGKILL)
        for i in (0, 2):
            said = started[i].communicate(timeout=20)[1]
            assert started[i].returncode == 3
            assert re.fullmatch(
                rf"handled\nProcessLost process 1 of 3 \(pid {started[1].pid} on \S+\) has ended, "
                "and its own output may say why; start all processes again\n",
                said,
            )
    finally:
        for process in started:
            process.kill()
            process.communicate()
