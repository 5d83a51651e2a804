"""Signals: which are noted, which are left alone, and what a second one does."""

import os
import signal

import pytest

from jaxnet.engine.signals import Stopped, catch_signals, raise_on_signals

TAKEN = [signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGUSR1, signal.SIGXCPU]


@pytest.fixture(autouse=True)
def handlers():
    """Start with those of a process that a shell starts; put back the others."""
    before = {number: signal.getsignal(number) for number in TAKEN}
    for number in TAKEN:
        signal.signal(number, signal.SIG_DFL)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


def send(*numbers):
    for number in numbers:
        os.kill(os.getpid(), number)


@pytest.mark.parametrize("number", TAKEN)
def test_a_signal_is_noted_and_the_handlers_come_back(number):
    before = [signal.getsignal(n) for n in TAKEN]
    with catch_signals() as received:
        assert received() is None
        send(number)
        assert received() == number
    assert [signal.getsignal(n) for n in TAKEN] == before


@pytest.mark.parametrize("number", [signal.SIGHUP, signal.SIGUSR1, signal.SIGXCPU])
def test_warnings_may_come_in_numbers_and_the_first_signal_counts(number):
    with catch_signals() as received:
        send(number, number, signal.SIGHUP, signal.SIGUSR1)
        assert received() == number


def test_a_second_interrupt_acts_at_once():
    with catch_signals() as received:
        send(signal.SIGHUP)
        with pytest.raises(KeyboardInterrupt):
            send(signal.SIGINT)
        assert received() == signal.SIGHUP


@pytest.mark.parametrize("number", [signal.SIGHUP, signal.SIGUSR1, signal.SIGXCPU])
def test_what_nohup_ignores_stays_ignored_and_a_users_handler_stays(number):
    signal.signal(number, signal.SIG_IGN)
    raise_on_signals()
    with catch_signals() as received:
        send(number)
        assert received() is None
    send(number)
    own = []
    signal.signal(number, lambda *args: own.append(args))
    with catch_signals() as received:
        send(number)
        assert (received(), len(own)) == (None, 1)


@pytest.mark.parametrize("number", TAKEN)
def test_a_command_line_is_ended_by_an_exception_that_a_warning_does_not_repeat(number):
    raise_on_signals()
    with pytest.raises(Stopped) as caught:
        send(number)
    assert caught.value.signum == number
    send(signal.SIGHUP, signal.SIGUSR1, signal.SIGXCPU)


def test_a_loop_notes_the_signals_of_a_command_line():
    raise_on_signals()
    with catch_signals() as received:
        send(signal.SIGHUP)
        assert received() == signal.SIGHUP
    with pytest.raises(Stopped):
        send(signal.SIGHUP)
