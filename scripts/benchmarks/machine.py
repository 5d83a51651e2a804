"""What the figures were measured on."""

from __future__ import annotations

import contextlib
import functools
import importlib.metadata
import json
import os
import platform
import subprocess
from pathlib import Path
from typing import Any

LIBRARIES = (
    "jax", "jaxlib", "optax", "flax", "torch", "scikit-learn", "keras", "equinox", "numpy",
)  # fmt: skip


def describe(device: str, other: str) -> dict[str, Any]:
    """The processor, its cores, memory and caches, the system, and the libraries, those of another
    interpreter too, with its JAX; no names.
    """
    return {
        "processor": _processor(),
        "cores": len(os.sched_getaffinity(0))
        if hasattr(os, "sched_getaffinity")
        else os.cpu_count(),
        "memory_gb": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30, 1),
        "device": _gpu() if device == "gpu" else "cpu",
        "system": f"{platform.system()} {platform.release().split('-')[0]}, {platform.machine()}",
        "python": platform.python_version(),
        "libraries": _elsewhere(other) | _versions(),
        "elsewhere": _elsewhere(other).get("jax", ""),
    }


def _versions() -> dict[str, str]:
    found = {}
    for name in LIBRARIES:
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            found[name] = importlib.metadata.version(name)
    return found


@functools.cache
def _elsewhere(python: str) -> dict[str, str]:
    """The libraries of another interpreter, each with its version of Python."""
    if not python:
        return {}
    show = "from benchmarks import machine as m; import json; print(json.dumps(m.told()))"
    root = str(Path(__file__).parent.parent)
    done = subprocess.run(
        [python, "-c", show], capture_output=True, text=True, check=True,
        env=os.environ | {"PYTHONPATH": root},
    )  # fmt: skip
    return json.loads(done.stdout)


def told() -> dict[str, str]:
    """What this interpreter tells another one of its libraries."""
    python = platform.python_version()
    return {name: f"{version} (Python {python})" for name, version in _versions().items()}


def _processor() -> str:
    """The model, and what tells its generation where the model's name does not."""
    path = Path("/proc/cpuinfo")
    if not path.exists():
        return platform.processor() or platform.machine()
    pairs = (line.split(":", 1) for line in path.read_text().splitlines() if ":" in line)
    values = {}
    for key, value in pairs:
        values.setdefault(key.strip(), value.strip())
    found = values.get("model name", platform.machine())
    if "cpu family" in values:
        found += f" (family {values['cpu family']}, model {values['model']})"
    wide = "AVX-512" if "avx512f" in values.get("flags", "") else ""
    return f"{found} {wide}".strip()


def _gpu() -> str:
    """The GPU's name, as its driver tells it."""
    command = ["nvidia-smi", "--query-gpu=name", "--format=csv,noheader"]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
