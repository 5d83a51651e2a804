"""What the figures were measured on."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import subprocess
from pathlib import Path
from typing import Any

LIBRARIES = (
    "jax", "jaxlib", "optax", "flax", "torch", "scikit-learn", "keras", "equinox", "numpy",
)  # fmt: skip


def describe(device: str) -> dict[str, Any]:
    """The processor, its cores, memory and caches, the system, and the libraries; no names."""
    return {
        "processor": _processor(),
        "cores": len(os.sched_getaffinity(0))
        if hasattr(os, "sched_getaffinity")
        else os.cpu_count(),
        "memory_gb": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30, 1),
        "device": _gpu() if device == "gpu" else "cpu",
        "system": f"{platform.system()} {platform.release().split('-')[0]}, {platform.machine()}",
        "python": platform.python_version(),
        "libraries": {name: v for name in LIBRARIES if (v := _version(name))},
    }


def _version(name: str) -> str | None:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None


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
