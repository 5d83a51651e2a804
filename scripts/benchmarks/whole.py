"""Whole processes: import, data, training and end, with a cold and a warm cache of programs."""

from __future__ import annotations

import statistics
import time
from pathlib import Path
from typing import Any

from . import workloads
from .levers import LEVERS
from .participant import Participant
from .peers import PEERS
from .rounds import Say, Settings, Worker, environment_of, rotated
from .workloads import Workload


def whole_processes(
    workload: Workload, result: dict[str, Any], settings: Settings, folder: Path, say: Say
) -> None:
    """Add `once`: seconds, MB of fresh processes, interleaved, from an empty and a full cache."""
    known = PEERS | LEVERS
    names = [n for n, entry in result["participants"].items() if entry["status"] == "ok"]
    spent: dict[tuple[str, str], list[tuple[float, float]]] = {}
    for number in range(settings.processes):
        for name in rotated(names, number):
            cache = folder / "caches" / f"{workload.name}-{name}-{number}".replace(" ", "-")
            for state in ("cold", "warm") if known[name].cache else ("cold",):
                figures = _once(workload, known[name], settings, folder, cache)
                if figures is not None:
                    spent.setdefault((name, state), []).append(figures)
    for (name, state), figures in spent.items():
        once = result["participants"][name].setdefault("once", {"steps": workload.once_steps})
        once[state], once[f"{state}_mb"] = map(statistics.median, zip(*figures, strict=True))
    say(f"  whole processes of {workload.once_steps} steps: {settings.processes} of each")


def _once(
    workload: Workload, participant: Participant, settings: Settings, folder: Path, cache: Path
) -> tuple[float, float] | None:
    """Seconds from the start of a process to its end, and its largest resident set; None if it
    failed.
    """
    cache.mkdir(parents=True, exist_ok=True)
    caches = {
        "": {},
        "jax": {
            "JAX_COMPILATION_CACHE_DIR": str(cache),
            "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
            "JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES": "-1",
        },
        "jaxnet": {"XDG_CACHE_HOME": str(cache)},
        "torch": {"TORCHINDUCTOR_CACHE_DIR": str(cache), "TRITON_CACHE_DIR": str(cache)},
    }
    job = {
        "mode": "once", "workload": workloads.to_json(workload), "participant": participant.name,
        "enable_cache": participant.cache == "jaxnet",
    }  # fmt: skip
    env = environment_of(participant, settings.device) | caches[participant.cache]
    python = participant.python(settings.other)
    assert python
    began = time.perf_counter()
    worker = Worker(python, job, folder, env)
    answer = worker.read()
    worker.end()
    seconds = time.perf_counter() - began
    return (seconds, answer["rss_mb"]) if answer["status"] == "ok" else None
