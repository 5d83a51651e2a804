"""Which process was lost, and how, is known in all others; here they are threads, JAX is not."""

import logging
import socket
import threading
import time

import pytest

from jaxnet.engine import watchdog
from jaxnet.engine.rendezvous import Member
from jaxnet.engine.watchdog import Watchdog


@pytest.fixture
def ended(monkeypatch):
    """The exit codes of processes that the watchdog has ended."""
    codes = []
    monkeypatch.setattr(watchdog.os, "_exit", codes.append)
    monkeypatch.setattr(watchdog, "BEAT", 0.05)
    monkeypatch.setattr(watchdog, "GRACE", 0.1)
    return codes


@pytest.fixture
def star(ended):
    """star(): process 0's connections to 1 and 2, and theirs to it."""
    made = []

    def make():
        pairs = [socket.socketpair() for _ in range(2)]
        made.extend(connection for pair in pairs for connection in pair)
        main = {i + 1: Member(pair[0], f"process {i + 1}") for i, pair in enumerate(pairs)}
        return main, *({0: Member(pair[1], "process 0")} for pair in pairs)

    yield make
    for connection in made:
        connection.close()
    for thread in threading.enumerate():
        if thread.name == "jaxnet watchdog":
            thread.join(timeout=10)


def test_a_process_that_ends_is_named_to_all_others_at_once(star, ended):
    main, first, second = star()
    dogs = [Watchdog(main), Watchdog(second)]
    time.sleep(0.2)  # a few signs of life
    first[0].connection.close()
    assert {dog.explain() for dog in dogs} == {
        "process 1 has ended, and its own output may say why"
    }
    time.sleep(3 * watchdog.GRACE)
    assert ended == []  # since the main thread has asked


def test_a_process_that_is_silent_is_lost_and_the_others_end_with_one_line(
    star, ended, monkeypatch, caplog
):
    monkeypatch.setattr(watchdog, "SILENCE", 0.5)
    caplog.set_level(logging.ERROR, "jaxnet")
    main, _, second = star()
    for members in (main, second):
        Watchdog(members).advice = lambda: "; --resume it"
    while len(ended) < 2:
        time.sleep(0.01)
    assert ended == [2, 2]
    text = "process 1 has not answered for 1 s: end it, if it still is there; --resume it"
    assert caplog.messages == [text] * 2


def test_a_process_that_leaves_is_not_lost_and_one_that_fails_is(star):
    main, first, second = star()
    dogs = [Watchdog(members) for members in (main, first, second)]
    dogs[1].leave()
    first[0].connection.close()
    assert dogs[0].explain(seconds=0.3) == ""
    dogs[2].leave(orderly=False)
    assert dogs[0].explain().startswith("process 2 has ended")
