"""Run a reader's file in a process of its own, which is ended when its time is over."""

from __future__ import annotations

import contextlib
import os
import re
import selectors
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any, NamedTuple

import jaxnet
from jaxnet.exercises import wire
from jaxnet.exercises.exercise import Exercise

PRINTED = 20_000  # characters that are kept of what the file prints
GRACE = 2.0  # seconds in which an ended process says where it was
START = (
    "import sys; sys.path.append(sys.argv[1]); from jaxnet.exercises.child import main; "
    "main(int(sys.argv[2]))"
)


class Outcome(NamedTuple):
    """What became of the process: its reply, or {"failed": why there is none}; what it printed."""

    reply: dict[str, Any]
    printed: str
    seconds: float


def run(exercise: Exercise, path: Path, source: str, rounds: list[Any], seconds: float) -> Outcome:
    """Ask a file's functions in a process of its own, on the CPU, with float64 on.

    What it started is ended with it. No more than 20,000 characters that it prints are kept, and
    no more than 64 MiB that it answers.
    """
    request: dict[str, Any] = {"number": exercise.number, "path": str(path), "source": source}
    request |= {"rounds": rounds, "seconds": seconds}
    reader, writer = os.pipe()
    began = time.perf_counter()
    root = Path(jaxnet.__file__).parents[1]
    process = subprocess.Popen(
        [sys.executable, "-P", "-c", START, str(root), str(writer)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        pass_fds=[writer],
        env=os.environ | _environment(exercise),
        start_new_session=True,
    )
    os.close(writer)
    try:
        assert process.stdin
        with contextlib.suppress(BrokenPipeError), process.stdin as stream:
            stream.write(wire.pack(request))
        found = _collect(process, reader, began + seconds)
        reply = _reply(process, found, seconds, str(path))
    finally:
        _end(process)
        os.close(reader)
    printed = found["stdout"].decode(errors="replace")
    return Outcome(reply, printed, time.perf_counter() - began)


def _environment(exercise: Exercise) -> dict[str, str]:
    own = {"JAX_PLATFORMS": "cpu", "JAX_ENABLE_X64": "1", "TF_CPP_MIN_LOG_LEVEL": "3"}
    return own | dict(exercise.environment)


def _collect(process: subprocess.Popen, reader: int, end: float) -> dict[str, bytes]:
    """Read what comes by each way, until the answer is whole, all are closed, or time is over."""
    assert process.stdout
    assert process.stderr
    limits = {"answer": wire.MOST, "stdout": PRINTED, "stderr": PRINTED}
    found = dict.fromkeys(limits, b"")
    with selectors.DefaultSelector() as selector:
        ways = reader, process.stdout.fileno(), process.stderr.fileno()
        for descriptor, name in zip(ways, limits, strict=True):
            selector.register(descriptor, selectors.EVENT_READ, name)
        aborted = False
        while selector.get_map() and not _is_whole(found["answer"]):
            left = end - time.perf_counter()
            if left <= 0 and not aborted:
                os.kill(process.pid, signal.SIGABRT)  # faulthandler then says where it is
                aborted, end = True, end + GRACE
                found["late"] = b"1"
            elif left <= 0:
                break
            for key, _ in selector.select(max(left, 0.01)):
                content = os.read(key.fd, 2**16)
                if not content:
                    selector.unregister(key.fd)
                found[key.data] = (found[key.data] + content)[: limits[key.data]]
            if process.poll() is not None and not selector.select(0):
                break
        for key, _ in selector.select(0) if selector.get_map() else []:
            if key.data == "stdout":
                found["stdout"] = (found["stdout"] + os.read(key.fd, PRINTED))[:PRINTED]
    return found


def _is_whole(answer: bytes) -> bool:
    return len(answer) >= 8 and len(answer) >= 8 + int.from_bytes(answer[:8], "little")


def _reply(
    process: subprocess.Popen, found: dict[str, bytes], seconds: float, path: str
) -> dict[str, Any]:
    trace = found["stderr"].decode(errors="replace")
    if "late" in found:
        where = re.search(rf'File "{re.escape(path)}", line (\d+) in (\S+)', trace)
        at = f" It was in line {where[1]}, in {where[2]}." if where else ""
        return {"failed": f"the time limit of {seconds:g} s is over.{at} (--seconds gives more)"}
    answer = found["answer"]
    if not _is_whole(answer):
        if len(answer) >= wire.MOST:
            return {"failed": "the functions returned more than 64 MiB"}
        try:
            code = process.wait(GRACE)
        except subprocess.TimeoutExpired:
            return {"failed": "no answer can come: does the file close its descriptors?"}
        how = f"signal {-code}" if code < 0 else f"exit code {code}"
        last = trace.strip().splitlines()[-1:] if code == 1 else []
        text = f"the process ended ({how}) before the functions had answered"
        return {"failed": "\n".join([text, *last])}
    try:
        reply = wire.unpack(answer[8:])
    except ValueError:
        reply = None
    if not isinstance(reply, dict):
        return {"failed": "the answer cannot be read: does the file write to other descriptors?"}
    return reply


def _end(process: subprocess.Popen) -> None:
    """End the process and all that it started."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    for stream in (process.stdout, process.stderr):
        if stream:
            stream.close()
