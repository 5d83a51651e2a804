"""A process of one participant: it is given a job and talks in lines of JSON.

    python -m benchmarks.worker JOB      JOB: {"mode", "workload", "participant", ...}

mode "check" prints the verdict; "time" obeys commands; "once" makes the steps of a whole process
and ends; "floor" measures products and traffic at each command. The folder for files is TMPDIR.
"""

from __future__ import annotations

import json
import os
import resource
import sys
import tempfile
import time
import traceback
import warnings
from pathlib import Path
from typing import Any, TextIO

import numpy as np

from jaxnet.spec import Batch

from . import check, workloads
from .participant import Inapplicable, Participant, Runner
from .workloads import Workload

LONGEST = 500  # steps of a compiled chunk: longer runs are multiples of it


def main(argument: str) -> int:
    """Do the job; an exception is told to the parent, and printed."""
    job = json.loads(argument)
    replies = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what libraries print is no reply
    workload = workloads.from_json(job["workload"])
    try:
        MODES[job["mode"]](job, workload, replies)
    except Inapplicable as error:
        _reply(replies, {"status": "inapplicable", "reason": str(error)})
    except Exception as error:
        traceback.print_exc()
        _reply(replies, {"status": "failed", "reason": f"{type(error).__name__}: {error}"[:300]})
        return 1
    return 0


def load_table(workload: Workload, participant: Participant) -> Batch | None:
    """The workload's data, made once for all processes that share TMPDIR."""
    if participant.own_data:
        return None
    path = Path(tempfile.gettempdir()) / f"{workload.name}.npz"
    if not path.exists():
        table = workloads.table_of(workload)
        partial = path.with_suffix(f".{os.getpid()}")
        with partial.open("wb") as file:
            np.savez(file, x=table.x, y=table.y)
        partial.rename(path)
    with np.load(path) as file:
        return Batch(file["x"], file["y"])


def _participant(job: dict[str, Any]) -> Participant:
    from .levers import LEVERS
    from .peers import PEERS

    return (PEERS | LEVERS)[job["participant"]]


def _check(job, workload: Workload, replies: TextIO) -> None:
    participant = _participant(job)
    table = load_table(workload, participant)
    runner = participant.build()(workload, table)
    results = _results(runner, workload, table, participant.adam)
    verdicts = [check.judge(*result) for result in results]
    worst = max(verdicts, key=lambda verdict: np.nan_to_num(verdict.share, nan=np.inf))
    share = worst.share if np.isfinite(worst.share) else 1e9
    _reply(replies, {"status": "ok", "share": share, "of": worst.of})


def _results(runner: Runner, workload: Workload, table: Any, adam: str) -> list[check.Result]:
    """What a participant computes, and what it should have, by member of a sweep."""
    own = getattr(runner, "own_results", None)
    if own is not None:
        return own(workload.check_steps)
    losses, params = np.asarray(runner.run(workload.check_steps)), runner.params()
    cases = check.cases_of(workload, table, workload.check_steps, adam)
    if not workload.members:
        return [(cases[0], losses, params)]
    members = enumerate(cases)
    return [(case, losses[i], {k: p[i] for k, p in params.items()}) for i, case in members]


def _time(job, workload: Workload, replies: TextIO) -> None:
    began = time.perf_counter()
    participant = _participant(job)
    build = participant.build()
    imported = time.perf_counter()
    table = load_table(workload, participant)
    loaded = time.perf_counter()
    runner = build(workload, table)
    runner.run(1)
    first = time.perf_counter() - loaded
    steps = _calibrate(runner, job["seconds"])
    _reply(replies, {
        "status": "ok", "import_s": imported - began, "first_s": first, "steps": steps,
    })  # fmt: skip
    for line in sys.stdin:
        if json.loads(line)["do"] == "quit":
            break
        seconds, made = timed(runner, steps)
        _reply(replies, {"status": "ok", "seconds": seconds / made, "rss_mb": rss_mb()})


def rss_mb() -> float:
    """The largest resident set of this process so far."""
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 2**20


def timed(runner: Runner, num_steps: int) -> tuple[float, int]:
    """Seconds of some steps, and how many these were."""
    own = getattr(runner, "seconds", None)
    if own is not None:
        return own(num_steps)
    began = time.perf_counter()
    runner.run(num_steps)
    return time.perf_counter() - began, num_steps


def _calibrate(runner: Runner, seconds: float) -> int:
    """The steps that take about so many seconds; the runner has made as many when it returns.

    They grow by no more than 8 times at once, since an early run may still compile.
    """
    own, steps = hasattr(runner, "seconds"), 1
    for _ in range(12):
        if not own:
            timed(runner, steps)  # compiles for that number
        spent, made = timed(runner, steps)
        wanted = max(1, round(seconds * made / spent))
        if seconds / 2 <= spent <= 2 * seconds or (steps == 1 and spent > seconds):
            return steps
        wanted = min(wanted, 8 * steps)
        wanted = wanted if wanted <= LONGEST or own else -(-wanted // LONGEST) * LONGEST
        if wanted == steps:
            return steps
        steps = wanted
    if not own:
        timed(runner, steps)
    return steps


def _once(job, workload: Workload, replies: TextIO) -> None:
    """All of a short program: import, data, weights, steps, result."""
    if job["enable_cache"]:
        from jaxnet.engine import compile_cache

        compile_cache.enable()
    participant = _participant(job)
    runner = participant.build()(workload, load_table(workload, participant))
    runner.run(workload.once_steps)
    runner.params()
    _reply(replies, {"status": "ok", "rss_mb": rss_mb()})


def _floor(job, workload: Workload, replies: TextIO) -> None:
    from . import floor

    measure = floor.BACKENDS[job["participant"]](workload)
    measure()  # compiles
    _reply(replies, {"status": "ok"})
    for line in sys.stdin:
        if json.loads(line)["do"] == "quit":
            break
        _reply(replies, {"status": "ok"} | measure())


def _reply(replies: TextIO, value: dict[str, Any]) -> None:
    print(json.dumps(value), file=replies, flush=True)


MODES = {"check": _check, "time": _time, "once": _once, "floor": _floor}


if __name__ == "__main__":
    warnings.filterwarnings("ignore")
    sys.exit(main(sys.argv[1]))
