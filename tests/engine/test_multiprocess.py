"""Several processes with gloo between them compute what one does; starting, refusals, a loss."""

import re
import signal

import mesh_cases as cases
import numpy as np
import pytest
from mesh_processes import finish, free_port, part, start

from jaxnet.engine import processes


@pytest.fixture(scope="module", params=[(2, 2), (4, 1)], ids=["2x2", "4x1"])
def several(request, run_case):
    """Processes, devices of each, and what they found."""
    return *request.param, run_case("many processes", *request.param)


def assert_close(got, want, **tolerance):
    assert got.keys() == want.keys()
    assert want
    for name, value in want.items():
        np.testing.assert_allclose(got[name], value, err_msg=name, **tolerance)


@pytest.mark.parametrize("run", ["rows sgd", "rows adam", "all adam"])
def test_a_run_in_several_processes_is_the_run_in_one(run_case, several, run):
    """float64: 20 steps of other orders of summation, of rounding 1e-16."""
    one = part(run_case("one process", 1, 8), f"trajectories/{run} one ")
    assert_close(part(several[2], f"trajectories/{run} all "), one, rtol=1e-12, atol=1e-14)


def test_each_process_gives_its_own_rows(several):
    """float32 and Adam: see `test_parallel`."""
    processes, _, found = several
    streamed, gathered = part(found, "own_data/streamed "), part(found, "own_data/gathered ")
    assert_close(streamed, gathered, rtol=1e-5, atol=1e-5)
    table = cases.problem(dtype="float32")
    rows = [cases.ROWS_AT(i) for i in range(5)]
    np.testing.assert_array_equal(found["own_data/chunk"], table.x[np.array(rows)])
    assert found["own_data/own"].tolist() == [0, cases.BATCH // processes]


def test_epochs_in_several_processes_are_those_in_one(run_case, several):
    one = part(run_case("one process", 1, 8), "evaluated/one ")
    assert_close(part(several[2], "evaluated/mesh "), one, rtol=1e-5, atol=1e-5)


def test_processes_agree_and_hear_the_bits_of_process_0(several):
    processes, _, found = several
    said = [[i, 10 * i - 1] for i in range(processes)]
    assert found["talk/said"].tolist() == said
    assert found["talk/x"].tobytes() == np.array([-0.0, np.nan, 0], "float32").tobytes()
    assert (found["talk/n"].tolist(), found["talk/empty"].shape) == ([0, 1, 2], (0, 2))


SAME = [(1, 1), (2, 1), (2, 4), (4, 2)]


@pytest.mark.parametrize(("processes", "devices"), SAME)
def test_the_deterministic_step_gives_the_same_bits_in_any_number_of_processes(
    run_case, processes, devices
):
    want = part(run_case("same bits", 1, 8), "same_bits/1: ")
    got = part(run_case("same bits", processes, devices), f"same_bits/{processes * devices}: ")
    assert got.keys() == want.keys()
    assert want
    for name, value in want.items():
        np.testing.assert_array_equal(got[name], value, err_msg=name)


@pytest.mark.parametrize("devices", [2, 4, 8])
def test_the_deterministic_step_gives_the_same_bits_on_any_number_of_devices(run_case, devices):
    found = run_case("same bits", 1, 8)
    want, got = (part(found, f"same_bits/{number}: ") for number in (1, devices))
    assert got.keys() == want.keys()
    for name, value in want.items():
        np.testing.assert_array_equal(got[name], value, err_msg=name)


NOT_STARTED = [
    (("localhost:1", None, None), "`process_id`, `num_processes` must be given with `coordinator`"),
    ((None, 0, None), "`coordinator`, `num_processes` must be given with `process_id`"),
    (("localhost", 0, 2), "`coordinator` must be HOST:PORT, got 'localhost'"),
    (("localhost:1", 2, 2), r"`process_id` must be 0\.\.1, below `num_processes`; got 2"),
]


@pytest.mark.parametrize(("arguments", "message"), NOT_STARTED)
def test_half_a_start_is_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        processes.start(*arguments)


START = """
import sys
from jaxnet.engine import processes
try:
    processes.start(*eval(sys.argv[1]), timeout=2)
except (ValueError, TimeoutError) as error:
    print(type(error).__name__, error, file=sys.stderr)
"""


def test_a_coordinator_that_does_not_answer_is_named():
    coordinator = f"127.0.0.1:{free_port()}"
    (said,) = finish([start(1, "-c", START, (coordinator, 1, 2))])
    assert f"TimeoutError {coordinator} did not answer within 2 s" in said


def test_a_start_outside_a_cluster_says_what_is_missing():
    (said,) = finish([start(1, "-c", START, ())])
    assert "ValueError `coordinator`, `process_id` and `num_processes` must be given" in said


ALONE = """
import os, signal, sys
from jaxnet.engine import processes
signal.signal(signal.SIGTERM, lambda *_: print("handled", file=sys.stderr))
processes.start(sys.argv[1], int(sys.argv[2]), 2)
os.kill(os.getpid(), signal.SIGTERM)
processes.gather_ints([0])
"""


def test_a_handler_of_sigterm_is_kept():
    coordinator = f"127.0.0.1:{free_port()}"
    for said in finish([start(1, "-c", ALONE, coordinator, i) for i in range(2)]):
        assert "handled" in said


LOST = """
import os, sys
from jaxnet.engine import processes
processes.start(sys.argv[1], int(sys.argv[2]), 3)
processes.gather_ints([0])
print("ready", flush=True)
try:
    while True:
        processes.gather_ints([0])
except Exception as error:
    print(type(error).__name__, error, file=sys.stderr, flush=True)
    os._exit(3)
"""


def test_a_worker_that_is_killed_is_an_error_in_the_others_at_once():
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
            lost = f"ProcessLost another process of this run was lost, as process {i} of 3 noticed"
            assert re.search(f"{lost} .*Gloo .*(reset|closed) by peer", said, re.I), said
    finally:
        for process in started:
            process.kill()
            process.communicate()
