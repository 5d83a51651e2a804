"""config.json: what defines a run, written when it begins, and held against it when it goes on."""

from __future__ import annotations

import hashlib
import importlib.metadata
import json
import os
import platform
from collections.abc import Mapping
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any

import jax

import jaxnet
from jaxnet import run_folder
from jaxnet.config import RESUMABLE, Config
from jaxnet.problem import Problem

PACKAGES = ("jax", "jaxlib", "optax", "numpy", "orbax-checkpoint")


def describe(config: Config, problem: Problem, device: jax.Device) -> dict[str, Any]:
    """All that defines a run, as JSON."""
    return {
        "config": asdict(config) | {"batch_size": problem.batch_size},
        "task": problem.task,
        "spec": asdict(problem.spec),
        "rows": {"train": problem.train_rows, "validation": problem.validation_rows},
        "data": problem.source,
        "encoding": {
            "features": [column._asdict() for column in problem.encoding.features],
            "target": problem.encoding.target._asdict(),
        },
        **environment(device),
    }


def environment(device: jax.Device) -> dict[str, Any]:
    """What decides the last bits of a run beside its options: libraries, device, threads."""
    versions = {name: importlib.metadata.version(name) for name in PACKAGES}
    return {
        "device": {
            "platform": device.platform,
            "kind": device.device_kind,
            # XLA splits its sums over these, so that their number decides the last bits
            "processors": int(os.environ.get("NPROC") or os.cpu_count() or 1),
        },
        "versions": {"jaxnet": jaxnet.__version__, "python": platform.python_version()} | versions,
    }


def read_config(folder: Path, described: Mapping[str, Any]) -> Config:
    """The options of a run, with its data file wherever that now is.

    Raises: ValueError for options that are missing or wrong.
    """
    path = folder / run_folder.CONFIG
    try:
        options: dict[str, Any] = dict(described["config"])
        unknown = sorted(set(options) - {field.name for field in fields(Config)})
        if unknown:
            raise ValueError(f"unknown option {unknown[0]!r}")
        if options["data"] is not None:
            options["data"] = described["data"]["path"]
        options |= {name: tuple(v) for name, v in options.items() if isinstance(v, list)}
        return Config(**options | {"out": None})
    except (KeyError, TypeError, ValueError) as error:
        reason = f"{error} is missing" if isinstance(error, KeyError) else str(error)
        raise ValueError(f"{path}: not the options of a run ({reason}); was it edited?") from None


def identity(described: Mapping[str, Any]) -> dict[str, Any]:
    """What must stay the same for a run to go on, name by name."""
    options = {k: v for k, v in described["config"].items() if k not in RESUMABLE | {"data", "out"}}
    encoding = json.dumps(described["encoding"], sort_keys=True).encode()
    return json.loads(json.dumps(options)) | {
        "task": described["task"],
        "sizes": list(described["spec"]["sizes"]),
        "data": described["data"]["sha256"],
        "encoding": hashlib.sha256(encoding).hexdigest(),
    }


def difference(began: Mapping[str, Any], now: Mapping[str, Any]) -> tuple[str, Any, Any] | None:
    """The first name, value and new value in which two identities differ."""
    for name in {**began, **now}:
        if began.get(name) != now.get(name):
            return name, began.get(name), now.get(name)
    return None


def changes(before: Config, after: Config) -> dict[str, Any]:
    """The options that differ, and the new values."""
    old, new = asdict(before), asdict(after)
    return {name: value for name, value in new.items() if value != old[name] and name != "out"}
