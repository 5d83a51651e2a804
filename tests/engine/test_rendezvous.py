"""Processes that meet, or say in one sentence why not: here threads, since no JAX is needed."""

import contextlib
import socket
import threading
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from mesh_processes import free_port

from jaxnet.engine import rendezvous

MEMBERS = []  # whose connections the tests leave open


@pytest.fixture(autouse=True)
def patience(monkeypatch):
    """Fewer seconds: a thread answers in a thousandth. Connections are closed."""
    monkeypatch.setattr(rendezvous, "HELLO_TIMEOUT", 0.5)
    monkeypatch.setattr(rendezvous, "ANSWER_TIMEOUT", 1.0)
    monkeypatch.setattr(rendezvous, "RETRY_SECONDS", 0.01)
    yield
    while MEMBERS:
        MEMBERS.pop().connection.close()


def meet(*processes, coordinator=None, timeout=20.0) -> list[Any]:
    """What each of the processes (number, of how many) gets, or the error that it raises."""
    coordinator = coordinator or f"127.0.0.1:{free_port()}"

    def run(number, count):
        try:
            if number:
                members = rendezvous.reach(coordinator, number, count, timeout)
            else:
                members = rendezvous.gather(coordinator, count, timeout)
        except (ValueError, OSError) as error:
            return f"{type(error).__name__}: {error}"
        MEMBERS.extend(members.values())
        return members

    with ThreadPoolExecutor(len(processes)) as pool:
        return [future.result() for future in [pool.submit(run, *each) for each in processes]]


def test_processes_in_any_order_learn_who_the_others_are():
    second, first, main = meet((2, 3), (1, 3), (0, 3))
    assert {number: member.name.split(" (pid")[0] for number, member in main.items()} == {
        1: "process 1 of 3",
        2: "process 2 of 3",
    }
    main[2].connection.sendall(b"to 2")
    assert second[0].connection.recv(9) == b"to 2"
    assert first[0].name == second[0].name == rendezvous.own_name(0, 3)


def test_one_process_meets_nobody():
    assert meet((0, 1)) == [{}]


def test_a_port_in_use_is_refused():
    with socket.create_server(("127.0.0.1", 0)) as other:
        coordinator = f"127.0.0.1:{other.getsockname()[1]}"
        main, worker = meet((0, 2), (1, 2), coordinator=coordinator)
    assert main == (
        f"ValueError: `coordinator` must be a free port of process 0's machine, got {coordinator} "
        "(Address already in use): give all processes another one"
    )
    assert worker.startswith(f"ConnectionError: {coordinator} is answered by another program")
    assert "(it says nothing): give all processes a free port" in worker


@pytest.mark.parametrize("host", ["192.0.2.1", "no..host"])
def test_a_host_that_is_not_this_machine_or_no_host_is_refused(host):
    """192.0.2.1 is nobody's, by RFC 5737."""
    (main,) = meet((0, 2), coordinator=f"{host}:1234")
    assert main.startswith("ValueError: `coordinator` must be a free port of process 0's machine, ")


def test_a_host_that_does_not_resolve_is_named(monkeypatch):
    def resolve(*arguments, **options):
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    monkeypatch.setattr(socket, "getaddrinfo", resolve)
    main, worker = meet((0, 2), (1, 2), coordinator="nohost:1234", timeout=0.1)
    assert "got nohost:1234 (Name or service not known): give all processes another one" in main
    assert worker == (
        "TimeoutError: process 0 did not answer at nohost:1234 within 0.1 s (Name or service not "
        "known): start it, and give all processes its host and a free port as `coordinator`"
    )


@pytest.mark.parametrize("processes", [[(1, 3), (1, 3), (0, 3)], [(0, 2), (0, 2)]])
def test_two_processes_with_one_number_are_named_to_all(processes):
    said = meet(*processes)
    assert len(set(said)) == 1
    number = processes[0][0]
    assert said[0].startswith(
        f"ValueError: `process_id` must differ between processes, got {number} in two: process "
    )


def test_processes_that_count_differently_are_told():
    text = "ValueError: `num_processes` must be the same in all processes, got 2 in process 0 and 3"
    assert meet((0, 2), (1, 3)) == [f"{text} in process 1"] * 2


def test_a_process_that_does_not_come_is_named_to_those_who_did():
    coordinator = f"127.0.0.1:{free_port()}"
    said = meet((0, 4), (2, 4), coordinator=coordinator, timeout=0.3)
    text = f"TimeoutError: process 1, 3 of 4 did not come to {coordinator} within 0.3 s: start all "
    assert said == [text + "processes, each with its own `process_id`"] * 2


ANSWERS = {
    "another protocol": (b"SSH-2.0-other\r\n", "ConnectionError", "it says b'SSH-2.0-other\\r\\n'"),
    "bytes": (b"\x00\xff" * 500, "ConnectionError", "it says b'\\x00\\xff"),
    "no word": (b"", "TimeoutError", "it closes each connection"),
    "an answer that is none": (rendezvous.GREETING + b"[[\n", "TimeoutError", "it ended while"),
}


@pytest.mark.parametrize("case", ANSWERS)
def test_a_coordinator_that_answers_garbage_is_refused(case):
    content, error, text = ANSWERS[case]

    def answer():
        with contextlib.suppress(OSError):
            while True:
                connection = listener.accept()[0]
                connection.sendall(content)
                connection.close()

    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=answer)
        thread.start()
        coordinator = f"127.0.0.1:{listener.getsockname()[1]}"
        (said,) = meet((1, 2), coordinator=coordinator, timeout=0.2)
        listener.shutdown(socket.SHUT_RDWR)
        thread.join()
    assert said.startswith(f"{error}: ")
    assert text in said


STRANGERS = [b"", b"GET / HTTP/1.0\r\n\r\n", b"x" * 5000, b'{"process": []}\n', b"[" * 1500 + b"\n"]


def test_strangers_at_the_port_of_process_0_do_not_disturb():
    coordinator = f"127.0.0.1:{free_port()}"
    with ThreadPoolExecutor(1) as pool:
        main = pool.submit(meet, (0, 2), coordinator=coordinator)
        rendezvous.await_listener(coordinator, timeout=20)
        for content in STRANGERS:
            stranger = socket.create_connection(("127.0.0.1", int(coordinator.split(":")[1])))
            with stranger, contextlib.suppress(OSError):
                stranger.sendall(content)
        (worker,) = meet((1, 2), coordinator=coordinator)
        assert [*main.result()[0], *worker] == [1, 0]


def test_a_process_that_ends_before_all_are_there_may_come_again():
    coordinator = f"127.0.0.1:{free_port()}"
    with ThreadPoolExecutor(1) as pool:
        main = pool.submit(meet, (0, 3), coordinator=coordinator)
        rendezvous.await_listener(coordinator, timeout=20)
        with socket.create_connection(("127.0.0.1", int(coordinator.split(":")[1]))) as connection:
            connection.recv(len(rendezvous.GREETING))
            connection.sendall(b'{"process": 1, "of": 3, "name": "the first"}\n')
        assert [*map(list, meet((1, 3), (2, 3), coordinator=coordinator))] == [[0], [0]]
        names = {number: member.name for number, member in main.result()[0].items()}
    assert names == {number: rendezvous.own_name(number, 3) for number in (1, 2)}
