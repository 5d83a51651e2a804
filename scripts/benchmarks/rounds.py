"""Interleaved rounds: each participant in its own process, taking turns."""

from __future__ import annotations

import contextlib
import json
import os
import statistics
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

from . import floor, workloads
from .levers import LEVERS
from .participant import Participant
from .peers import PEERS, REFERENCES
from .workloads import Workload

ROOT = Path(__file__).parent.parent
Say = Callable[[str], None]


class Settings(NamedTuple):
    """How it is measured: rounds, seconds of a participant's turn, whole processes of each; other:
    the interpreter of participants whose packages this one has not.
    """

    rounds: int
    seconds: float
    processes: int
    device: str
    other: str = ""


class Worker:
    """A process that does a job and answers in lines of JSON."""

    def __init__(self, python: str, job: dict[str, Any], folder: Path, environment: dict[str, str]):
        path = os.pathsep.join([str(ROOT), str(ROOT.parent), os.environ.get("PYTHONPATH", "")])
        env = with_bytecode({"PYTHONPATH": path, "TMPDIR": str(folder)} | environment)
        errors = folder / "errors.txt"
        with errors.open("a") as file:
            self._process = subprocess.Popen(
                [python, "-m", "benchmarks.worker", json.dumps(job)],
                stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=file, text=True, env=env,
            )  # fmt: skip

    def read(self) -> dict[str, Any]:
        """The next answer; of a process that has died, that it has."""
        assert self._process.stdout
        line = self._process.stdout.readline()
        if line:
            return json.loads(line)
        code = self._process.wait()
        return {"status": "failed", "reason": f"the process ended with code {code}"}

    def ask(self, **command: Any) -> dict[str, Any]:
        """The answer to a command."""
        assert self._process.stdin
        with contextlib.suppress(BrokenPipeError):
            print(json.dumps(command), file=self._process.stdin, flush=True)
        return self.read()

    def end(self) -> None:
        """Let it go, and wait until it has."""
        assert self._process.stdin
        assert self._process.stdout
        with contextlib.suppress(BrokenPipeError):
            print(json.dumps({"do": "quit"}), file=self._process.stdin, flush=True)
            self._process.stdin.close()
        self._process.stdout.close()
        self._process.wait()


def with_bytecode(environment: dict[str, str]) -> dict[str, str]:
    """This process's environment and more; Python keeps its bytecode, as of what is installed."""
    return {k: v for k, v in os.environ.items() if k != "PYTHONDONTWRITEBYTECODE"} | environment


def environment_of(participant: Participant, device: str) -> dict[str, str]:
    """What its process gets beside the environment of this one."""
    places = (
        {"JAX_PLATFORMS": "cpu", "CUDA_VISIBLE_DEVICES": ""}
        if device == "cpu"
        else {"XLA_PYTHON_CLIENT_PREALLOCATE": "false"}  # several share the GPU
    )
    return places | participant.environment


def choose(workload: Workload, names: list[str], settings: Settings) -> dict[str, Participant]:
    """Those of the names that are for workloads of this kind and this device."""
    gpu, half = settings.device == "gpu", workload.dtype == "bfloat16"
    known = PEERS | LEVERS
    chosen = {name: known[name] for name in names}
    return {
        name: p
        for name, p in chosen.items()
        if p.sweep == bool(workload.members)
        and (p.gpu if gpu else not p.only_gpu)
        and (p.half or not half)
        and (settings.other or not p.elsewhere)
    }


def measure(
    workload: Workload,
    names: list[str],
    settings: Settings,
    folder: Path,
    say: Say,
    *,
    checked: bool = True,
) -> dict[str, Any]:
    """All about a workload but whole processes: see `report` for its form.

    checked: compare each participant with float64 first. The reference always takes part.
    """
    reference = REFERENCES[bool(workload.members)]
    names = list(dict.fromkeys([reference, *names]))
    found: dict[str, Any] = {}
    workers: dict[str, Worker] = {}
    for name, participant in choose(workload, names, settings).items():
        found[name] = {"status": "absent", "reason": ", ".join(participant.needs)}
        python = participant.python(settings.other)
        if python is None:
            continue
        job = {"workload": workloads.to_json(workload), "participant": name}
        env = environment_of(participant, settings.device)
        found[name] = _verdict(python, job, folder, env) if checked else {"status": "ok"}
        if found[name]["status"] == "ok":
            job |= {"mode": "time", "seconds": settings.seconds}
            workers[name] = Worker(python, job, folder, env)
            found[name] |= workers[name].read()
        say(f"  {name}: {told(found[name])}")
    floors = _floor_workers(workload, settings, folder)
    times, pieces = _interleave(workers, floors, settings.rounds, found)
    for worker in (*workers.values(), *floors.values()):
        worker.end()
    return {
        "workload": workloads.to_json(workload),
        "reference": reference,
        "floor": summarize_floor(workload, pieces),
        "participants": found | summarize(found, times, reference),
    }


def told(entry: dict[str, Any]) -> str:
    """A participant's state as a line of progress."""
    if entry["status"] != "ok":
        return f"{entry['status']} ({entry['reason']})"
    error = f"error {entry['share']:.2g} of its limit, " if "share" in entry else ""
    return f"{error}first call {entry['first_s']:.2f} s, {entry['steps']} steps a round"


def _verdict(python: str, job: dict[str, Any], folder: Path, env: dict[str, str]) -> dict[str, Any]:
    """The check, in a process of its own."""
    worker = Worker(python, job | {"mode": "check"}, folder, env)
    answer = worker.read()
    worker.end()
    if answer["status"] == "ok" and not answer["share"] <= 1:
        reason = f"{answer['of']} is {answer['share']:.3g} of its limit away from float64"
        return answer | {"status": "wrong", "reason": reason}
    return answer


def _floor_workers(workload: Workload, settings: Settings, folder: Path) -> dict[str, Worker]:
    workers = {}
    for backend, package in floor.NEEDS.items():
        participant = Participant(backend, "", (package,), "")
        python = participant.python(settings.other)
        single = settings.device == "cpu" and workload.dtype == "float32"
        if python is None or (backend == "numpy" and not single):
            continue
        job = {"mode": "floor", "workload": workloads.to_json(workload), "participant": backend}
        worker = Worker(python, job, folder, environment_of(participant, settings.device))
        if worker.read()["status"] == "ok":
            workers[backend] = worker
        else:
            worker.end()
    return workers


def _interleave(
    workers: dict[str, Worker],
    floors: dict[str, Worker],
    rounds: int,
    found: dict[str, Any],
) -> tuple[dict[str, list[float]], dict[str, list[dict[str, Any]]]]:
    """Seconds a step by participant and round, and the pieces of the floor by backend."""
    times: dict[str, list[float]] = {name: [] for name in workers}
    pieces: dict[str, list[dict[str, Any]]] = {name: [] for name in floors}
    for number in range(rounds):
        for name in rotated(list(workers), number):
            if found[name]["status"] != "ok":
                continue
            answer = workers[name].ask(do="run")
            if answer["status"] != "ok":
                found[name] = answer
                continue
            times[name].append(answer["seconds"])
            found[name]["rss_mb"] = answer["rss_mb"]
        for name in rotated(list(floors), number):
            answer = floors[name].ask(do="run")
            if answer["status"] == "ok":
                pieces[name].append(answer)
    return times, pieces


def rotated(names: list[str], number: int) -> list[str]:
    start = number % max(1, len(names))
    return names[start:] + names[:start]


def summarize(
    found: dict[str, Any], times: dict[str, list[float]], reference: str
) -> dict[str, dict[str, Any]]:
    """Medians, and ratios to the reference taken within each round: median, least, most."""
    entries = {}
    for name, seconds in times.items():
        if found[name]["status"] != "ok" or not seconds:
            continue
        entry = found[name] | {"us": 1e6 * statistics.median(seconds), "seconds": seconds}
        if found.get(reference, {}).get("status") == "ok":
            ratios = [a / b for a, b in zip(seconds, times[reference], strict=True)]
            entry["ratio"] = [statistics.median(ratios), min(ratios), max(ratios)]
        entries[name] = entry
    return entries


def summarize_floor(workload: Workload, pieces: dict[str, list[dict[str, Any]]]) -> dict[str, Any]:
    """Each product by the backend that is best at it, by medians over the rounds."""
    medians = {
        backend: {
            "products": [
                statistics.median(column)
                for column in zip(*(answer["products"] for answer in answers), strict=True)
            ],
            "traffic": statistics.median(answer["traffic"] for answer in answers),
        }
        for backend, answers in pieces.items()
        if answers
    }
    products = [
        min((values["products"][i], backend) for backend, values in medians.items())
        for i in range(len(floor.products(workload)))
    ]
    traffic, by = min((values["traffic"], backend) for backend, values in medians.items())
    return {
        "us": 1e6 * (sum(seconds for seconds, _ in products) + traffic),
        "products": [
            {"m": m, "k": k, "n": n, "transposed": turned, "us": 1e6 * seconds, "by": backend}
            for (m, k, n, turned), (seconds, backend) in zip(
                floor.products(workload), products, strict=True
            )
        ],
        "traffic_us": 1e6 * traffic,
        "traffic_by": by,
        "traffic_mb": floor.traffic_bytes(workload) / 1e6,
        "gflops": floor.flops(workload) / sum(seconds for seconds, _ in products) / 1e9,
        "products_us": {
            backend: [1e6 * seconds for seconds in values["products"]]
            for backend, values in medians.items()
        },
    }
