"""How the processes of a run meet, before JAX connects them.

JAX ends a process in C++, and without a reason that helps, if the port is in use, two processes
have one number, or one of them never comes. So process 0 listens at the coordinator's port first.
Each of the others says its number there, and process 0 answers all of them: everyone is here, or
what is wrong. Then JAX gets the port; the connections stay open for `watchdog`.
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
import socket
import time
from collections.abc import Iterator
from typing import Any, NamedTuple

GREETING = b"jaxnet: process 0 waits here for the others\n"
ANSWER_TIMEOUT, HELLO_TIMEOUT = 10.0, 2.0  # seconds for process 0's greeting; for the others'
RETRY_SECONDS = 0.1
MAX_LINE = 2000  # bytes


class Member(NamedTuple):
    """Another process of the run: a connection to it, and "process 1 of 2 (pid 7 on host)"."""

    connection: socket.socket
    name: str


def own_name(process_id: int, num_processes: int) -> str:
    pid, host = os.getpid(), socket.gethostname()
    return f"process {process_id} of {num_processes} (pid {pid} on {host})"


def gather(
    coordinator: str, num_processes: int, timeout: float, *, all_addresses: bool = False
) -> dict[int, Member]:
    """Return the other processes by number, once all are here; process 0 calls it.

    coordinator: HOST:PORT. all_addresses: listen on every address of this machine, not on HOST's.

    Raises: ValueError if it cannot listen there, or if two processes have one number or disagree
    on how many there are; TimeoutError if one does not come. Those who came raise the same.
    """
    members: dict[int, Member] = {}
    came: list[socket.socket] = []
    with _listen(coordinator, num_processes, all_addresses) as listener:
        try:
            for connection in _connections(listener, members, num_processes - 1, timeout):
                if (said := _hello(connection)) is None:
                    connection.close()  # a stranger's
                    continue
                came.append(connection)
                _check(said, members, num_processes)
                members[said["process"]] = Member(connection, said["name"])
            if missing := [str(i) for i in range(1, num_processes) if i not in members]:
                raise TimeoutError(
                    f"process {', '.join(missing)} of {num_processes} did not come to {coordinator}"
                    f" within {timeout:g} s: start all processes, each with its own `process_id`"
                )
        except (ValueError, TimeoutError) as error:
            for connection in came:
                _tell(connection, {"error": type(error).__name__, "text": str(error)})
                connection.close()
            raise
    for connection, _ in members.values():
        _tell(connection, {"name": own_name(0, num_processes)})
    return members


def reach(
    coordinator: str, process_id: int, num_processes: int, timeout: float
) -> dict[int, Member]:
    """Return process 0 by its number, once it has said that all are here.

    Raises: ValueError or TimeoutError as process 0 does; TimeoutError if it does not answer;
    ConnectionError if another program answers.
    """
    deadline = time.monotonic() + timeout
    while True:
        try:
            connection = _greeted(coordinator, max(1.0, deadline - time.monotonic()))
            said = _introduce(connection, process_id, num_processes, timeout)
            break
        except _Stranger as stranger:
            raise ConnectionError(
                f"{coordinator} is answered by another program, or by a run that has all of its "
                f"processes (it says {stranger}): give all processes a free port of process 0's "
                "machine as `coordinator`"
            ) from None
        except OSError as error:
            if time.monotonic() >= deadline:
                raise TimeoutError(
                    f"process 0 did not answer at {coordinator} within {timeout:g} s "
                    f"({error.strerror or error}): start it, and give all processes its host and a "
                    "free port as `coordinator`"
                ) from None
        time.sleep(RETRY_SECONDS)
    if "error" in said:
        connection.close()
        raise (TimeoutError if said["error"] == "TimeoutError" else ValueError)(said["text"])
    return {0: Member(connection, said["name"])}


def await_listener(coordinator: str, timeout: float) -> None:
    """Wait until JAX listens: it ends a process that meets nobody there. Raises: TimeoutError."""
    deadline = time.monotonic() + timeout
    while True:
        try:
            return socket.create_connection(_split(coordinator), timeout=1).close()
        except OSError:
            if time.monotonic() >= deadline:
                raise TimeoutError(f"JAX of process 0 did not answer at {coordinator}") from None
            time.sleep(RETRY_SECONDS)


class _Stranger(Exception):
    """Something else than process 0 answers: what it says."""


def _split(coordinator: str) -> tuple[str, int]:
    """Raises: OSError for a host that can be none."""
    host, _, port = coordinator.rpartition(":")
    try:
        host.encode("idna")
    except UnicodeError:
        raise socket.gaierror(socket.EAI_NONAME, "no name of a host") from None
    return host.strip("[]"), int(port)


@contextlib.contextmanager
def _listen(coordinator: str, num_processes: int, all_addresses: bool) -> Iterator[socket.socket]:
    try:
        host, port = _split(coordinator)
        if all_addresses:
            dual = socket.has_dualstack_ipv6()
            family = socket.AF_INET6 if dual else socket.AF_INET
            listener = socket.create_server(("", port), family=family, dualstack_ipv6=dual)
        else:
            family, *_, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
            listener = socket.create_server(address[:2], family=family)
    except OSError as error:
        if error.errno == errno.EADDRINUSE:
            with contextlib.suppress(OSError):  # the ValueError of another process 0 comes through
                reach(coordinator, 0, num_processes, timeout=0)
        reason = str(error.strerror).split(" (while")[0]  # without the address, which follows
        raise ValueError(
            f"`coordinator` must be a free port of process 0's machine, got {coordinator} "
            f"({reason}): give all processes another one"
        ) from None
    with listener:
        yield listener


def _connections(
    listener: socket.socket, members: dict[int, Member], wanted: int, timeout: float
) -> Iterator[socket.socket]:
    """Yield connections until there are as many members as wanted, or the time is up."""
    deadline = time.monotonic() + timeout
    connection = None
    while True:
        for number, member in list(members.items()):
            if _has_ended(member.connection):  # and may be started again
                member.connection.close()
                del members[number]
        if connection is not None:
            yield connection
        if len(members) == wanted or time.monotonic() >= deadline:
            return
        listener.settimeout(min(1.0, max(0.01, deadline - time.monotonic())))
        try:
            connection = listener.accept()[0]
        except TimeoutError:
            connection = None


def _has_ended(connection: socket.socket) -> bool:
    connection.setblocking(False)
    try:
        return connection.recv(1, socket.MSG_PEEK) == b""
    except BlockingIOError:
        return False
    except OSError:
        return True
    finally:
        connection.setblocking(True)


def _hello(connection: socket.socket) -> dict[str, Any] | None:
    """What the other side says of itself; None if it is no process of a run."""
    try:
        connection.settimeout(HELLO_TIMEOUT)
        connection.sendall(GREETING)
        said = _message(connection, HELLO_TIMEOUT)
        return said | {"process": int(said["process"]), "of": int(said["of"])}
    except (OSError, ValueError, KeyError):
        return None


def _check(said: dict[str, Any], members: dict[int, Member], num_processes: int) -> None:
    """Raise ValueError for a process that cannot be one of this run's."""
    number = said["process"]
    if said["of"] != num_processes:
        raise ValueError(
            f"`num_processes` must be the same in all processes, got {num_processes} in process 0 "
            f"and {said['of']} in process {number}"
        )
    names = {0: own_name(0, num_processes)} | {i: member.name for i, member in members.items()}
    if number in names:
        raise ValueError(
            f"`process_id` must differ between processes, got {number} in two: {names[number]} and "
            f"{said['name']}"
        )


def _greeted(coordinator: str, timeout: float) -> socket.socket:
    """A connection to process 0. Raises: _Stranger, OSError."""
    timeout = min(timeout, ANSWER_TIMEOUT)
    connection = socket.create_connection(_split(coordinator), timeout)
    try:
        content = b""
        while content != GREETING:
            try:
                content += (part := connection.recv(len(GREETING)))
            except TimeoutError:
                raise _Stranger("nothing") from None
            if not GREETING.startswith(content):
                raise _Stranger(repr(content[:20]))
            if not part:
                raise ConnectionResetError("it closes each connection")
    except BaseException:
        connection.close()
        raise
    return connection


def _introduce(
    connection: socket.socket, process_id: int, num_processes: int, timeout: float
) -> dict[str, Any]:
    """Say who this is, and return the answer. Raises: OSError if process 0 ends meanwhile."""
    name = own_name(process_id, num_processes)
    try:
        _tell(connection, {"process": process_id, "of": num_processes, "name": name})
        return _message(connection, timeout + ANSWER_TIMEOUT)
    except (OSError, ValueError) as error:
        connection.close()
        if isinstance(error, OSError):
            raise
        raise ConnectionResetError("it ended while it waited for the others") from None


def _tell(connection: socket.socket, message: dict[str, Any]) -> None:
    with contextlib.suppress(OSError):
        connection.sendall(json.dumps(message).encode() + b"\n")


def _message(connection: socket.socket, timeout: float) -> dict[str, str]:
    """The other side's next message, safe to print. Raises: OSError; ValueError for no message."""
    try:
        items = json.loads(_line(connection, timeout)).items()
    except (AttributeError, RecursionError):
        raise ValueError("no message") from None
    return {k: "".join(c if c.isprintable() else "?" for c in str(v)) for k, v in items}


def _line(connection: socket.socket, timeout: float) -> bytes:
    """The next line, and no more of the stream; what came of it, if it ends or is too long."""
    content, deadline = b"", time.monotonic() + timeout
    while not content.endswith(b"\n") and len(content) < MAX_LINE:
        connection.settimeout(max(0.01, deadline - time.monotonic()))
        if not (byte := connection.recv(1)):
            break
        content += byte
    return content
