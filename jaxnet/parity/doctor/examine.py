"""The examination in a process of its own: a compiler that ends its process is found too."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

from jaxnet.parity.doctor import trials
from jaxnet.parity.doctor.programs import KNOWN, Program
from jaxnet.parity.doctor.trials import Wrong

HANG = 300.0  # seconds without a word from the process, after which it is ended
AGAIN = 3  # runs that must be right: what reads memory that was never written may be so by chance
FLAGS = {  # platform -> XLA's options that turn off what was found wrong before, the cheapest first
    "cpu": ("--xla_cpu_experimental_ynn_fusion_type=", "--xla_backend_optimization_level=0"),
    "gpu": ("--xla_gpu_autotune_level=0", "--xla_gpu_enable_triton_gemm=false"),
}
# by which a program ends its own process; any other signal comes from outside, and decides nothing
CRASHES = ("SIGABRT", "SIGBUS", "SIGFPE", "SIGILL", "SIGSEGV", "SIGTRAP")
CHILD = "from jaxnet.parity.doctor import examine; examine.child()"

Tell = Callable[[str, Any], None]


class Examination(NamedTuple):
    """What was found. known: each program of `KNOWN`, and what is wrong with it.

    tried, share: the programs of the search, and the largest difference in limits. wrong: the
    smallest that is. ended: how the process ended, if it did not end well, and the program that it
    had begun last. flags: XLA's options that were tried, and whether all is right with each.
    """

    facts: dict[str, Any]
    known: list[tuple[Program, Wrong | None]]
    tried: int
    share: float
    wrong: Wrong | None
    ended: tuple[str, Program | None] | None
    flags: dict[str, bool]


def examine(seconds: float, seed: int, on_facts: Callable[[dict], None]) -> Examination:
    """Run the known programs, and programs at random for some seconds; shrink what is wrong.

    on_facts: is given the devices and JAX's options as soon as they are known.
    """
    facts: dict[str, Any] = {}
    known, shares, begun, wrong, ended = [], [0.0], None, None, None
    for kind, value in events({"seconds": seconds, "seed": seed}):
        if kind == "facts":
            facts = value
            on_facts(facts)
        elif kind == "begun":
            begun = _program(value)
        elif kind == "known":
            known.append((_program(value[0]), _wrong(value[1])))
        elif kind == "checked":
            shares.append(value)
        elif kind == "wrong":
            wrong = _wrong(value)
        else:
            ended = value, begun
    programs = [wrong.program] if wrong else [ended[1]] if ended and ended[1] else []
    flags: dict[str, bool] = {}
    for flag in FLAGS.get(facts.get("platform", ""), ()) if programs else ():
        if not any(flags.values()) and flag not in os.environ.get("XLA_FLAGS", ""):
            request = {"programs": [*programs, *(p for p, found in known if found)]}
            answers = dict(events(request, flag))
            flags[flag] = answers.get("right", False) and "ended" not in answers
    return Examination(facts, known, len(shares) - 1, max(shares), wrong, ended, flags)


def events(request: dict[str, Any], flag: str = "") -> Iterator[tuple[str, Any]]:
    """Yield what a new process says to a request, and "ended" with how it ended if not well.

    Raises: ChildProcessError if it was ended from outside.
    """
    env = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    if flag:
        env["XLA_FLAGS"] = f"{env.get('XLA_FLAGS', '')} {flag}".strip()
    command = [sys.executable, "-c", CHILD, json.dumps(request)]
    pipes = {"stdout": subprocess.PIPE, "text": True, "env": env}
    with (
        tempfile.TemporaryFile("w+", errors="replace") as errors,
        subprocess.Popen(command, stderr=errors, **pipes) as process,
    ):
        assert process.stdout is not None
        hung = threading.Event()
        timer = _watch(process, hung)
        try:
            for line in process.stdout:
                timer.cancel()
                timer = _watch(process, hung)
                yield tuple(json.loads(line))
            code = process.wait()
        finally:
            timer.cancel()
            process.kill()
        errors.seek(0)
        if hung.is_set():
            yield "ended", f"the process gave no result for {HANG:g} s"
        elif code:
            yield "ended", _ending(code, errors.read())


def _watch(process: subprocess.Popen, hung: threading.Event) -> threading.Timer:
    def end() -> None:
        hung.set()
        process.kill()

    timer = threading.Timer(HANG, end)
    timer.daemon = True
    timer.start()
    return timer


def _ending(code: int, errors: str) -> str:
    last = next((line for line in reversed(errors.splitlines()) if line.strip()), "")
    how = f"ended with code {code}" if code > 0 else f"ended by {signal.Signals(-code).name}"
    if code < 0 and signal.Signals(-code).name not in CRASHES:
        raise ChildProcessError(f"the examination was {how} from outside: run it again")
    return f"the process {how}" + (f": {last.strip()[:300]}" if last else "")


def child() -> None:
    """What the new process does: answer the request with one line of JSON for each event."""
    import jax

    jax.config.update("jax_enable_compilation_cache", False)  # what it compiled before says nothing
    out = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what libraries print must not come between

    def tell(kind: str, value: Any) -> None:
        print(json.dumps([kind, value]), file=out, flush=True)

    request = json.loads(sys.argv[1])
    if "programs" in request:
        programs = [_program(value) for value in request["programs"]]
        tell("right", all(_is_right(program) for program in programs))
    else:
        work(request["seconds"], request["seed"], tell)


def _is_right(program: Program) -> bool:
    return not any(
        trials.check(program, compiled=compiled).wrong
        for compiled in (True, False)
        for _ in range(AGAIN)
    )


def work(seconds: float, seed: int, tell: Tell) -> None:
    """Examine in this process, and `tell` each event."""
    tell("facts", _facts())

    def begin(program: Program) -> None:
        tell("begun", program)

    wrong = None
    for program in KNOWN:
        begin(program)
        found = trials.check(program).wrong or trials.check(program, compiled=False).wrong
        tell("known", (program, found))
        wrong = wrong or found
    if wrong is None:
        for checked in trials.search(seconds, seed, begin):
            tell("checked", checked.share)
            if checked.wrong:
                wrong = checked.wrong
                break
    if wrong is not None:
        wrong = trials.shrink(wrong, seconds, begin)
        right = trials.check(wrong.program, compiled=not wrong.compiled).wrong is None
        tell("wrong", wrong._replace(other=right))


def _facts() -> dict[str, Any]:
    import jax

    devices = jax.devices()
    return {
        "platform": devices[0].platform,
        "devices": [f"{device.device_kind} ({device})" for device in devices],
        "matmul_precision": jax.config.jax_default_matmul_precision,  # type: ignore[missing-attribute]
        "x64": jax.config.jax_enable_x64,  # type: ignore[missing-attribute]
    }


def _program(value: list[Any]) -> Program:
    """A program as JSON holds it: a list."""
    program = Program(*value)
    return program._replace(sizes=tuple(program.sizes))


def _wrong(value: list[Any] | None) -> Wrong | None:
    return Wrong(*value)._replace(program=_program(value[0])) if value else None
