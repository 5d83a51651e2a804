"""config.json: what defines a run, written when it begins, and held against it when it goes on."""

from __future__ import annotations

import hashlib
import importlib.metadata
import json
import logging
import os
import platform
from collections.abc import Mapping
from dataclasses import asdict, fields, replace
from pathlib import Path
from typing import Any

import jax
from jax.sharding import Mesh

import jaxnet
from jaxnet.files import read_json, write_json
from jaxnet.runs.config import RESUMABLE, Config
from jaxnet.runs.dataset import Dataset
from jaxnet.runs.folder import CONFIG

PACKAGES = ("jax", "jaxlib", "optax", "numpy")
HERE = ("data", "out", "device")  # options that may differ from process to process

log = logging.getLogger("jaxnet")


def describe(
    config: Config, dataset: Dataset, device: jax.Device, mesh: Mesh | None = None
) -> dict[str, Any]:
    """All that defines a run, as JSON; mesh: None for one device."""
    return {
        "config": asdict(config) | {"batch_size": dataset.batch_size},
        "task": dataset.task,
        "spec": asdict(dataset.spec),
        "rows": {"train": dataset.train_rows, "validation": dataset.validation_rows},
        "data": dataset.source,
        "encoding": {
            "features": [column._asdict() for column in dataset.encoding.features],
            "target": dataset.encoding.target._asdict(),
        },
        **environment(device, mesh),
    }


def environment(device: jax.Device, mesh: Mesh | None = None) -> dict[str, Any]:
    """What decides the last bits of a run beside its options: libraries, devices, threads."""
    versions = {name: importlib.metadata.version(name) for name in PACKAGES}
    return {
        "device": {
            "platform": device.platform,
            "kind": device.device_kind,
            # XLA splits its sums over these, so that their number decides the last bits
            "processors": int(os.environ.get("NPROC") or os.cpu_count() or 1),
            **({} if mesh is None else {"mesh": _axes(mesh)}),
        },
        "versions": {"jaxnet": jaxnet.__version__, "python": platform.python_version()} | versions,
    }


def _axes(mesh: Mesh) -> str:
    return ",".join(f"{name}={size}" for name, size in mesh.shape.items())


def read_config(folder: str | Path) -> Config:
    """The options of the run in a folder, with its data file wherever that now is.

    Raises: FileNotFoundError; ValueError for options that are missing or wrong.
    """
    path = Path(folder) / CONFIG
    described = read_json(path)
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


def changed_config(folder: str | Path, changed: dict[str, Any]) -> Config:
    """The options of the run in a folder, as it goes on with those `changed`.

    Raises: ValueError for an option that cannot change.
    """
    before = read_config(folder)
    config = replace(before, **changed)
    for name, value in changes(before, config).items():
        if name not in RESUMABLE | {"data"}:
            raise ValueError(
                f"`{name}` must stay {getattr(before, name)!r} to go on with {folder}, got "
                f"{value!r}; train a new run with it"
            )
    return config


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


def digest(config: Config, dataset: Dataset) -> int:
    """A number below 2**31 of all that must be the same in each process of a run."""
    options = {name: value for name, value in asdict(config).items() if name not in HERE}
    same = [options, dataset.task, dataset.spec.sizes, dataset.source["sha256"]]
    content = json.dumps(same, sort_keys=True, default=str).encode()
    return int.from_bytes(hashlib.sha256(content).digest()[:4]) >> 1


def check_identity(folder: Path, began: Mapping, now: Mapping, dataset: Dataset) -> None:
    """Refuse a config.json that is not the one of the checkpoint, and data that differ."""
    if found := difference(began, now):
        name, old, new = found
        raise ValueError(
            f"{folder / CONFIG}: says {name} {new!r}, and the checkpoint {old!r}; was "
            "it edited? Set it back, or train a new run"
        )
    if list(dataset.spec.sizes) != now["sizes"] or dataset.source["sha256"] != now["data"]:
        raise ValueError(f"`dataset` must be that of {folder}, got another")


def note_resume(
    folder: Path, before: Config, config: Config, step: int, now: dict[str, Any]
) -> None:
    """Write into config.json what changes from here on, and say what may change the last bits.

    now: the `environment`.
    """
    path = folder / CONFIG
    described = read_json(path)
    for name, value in now.items():
        old, new = dict(described[name]), dict(value)
        if config.deterministic:  # the same bits on any
            old.pop("mesh", None), new.pop("mesh", None)
        if (found := difference(old, new)) and found[0] != "python":
            log.warning(
                "%s %s was %s and is %s: losses will agree to rounding, not to the bit",
                name,
                found[0],
                *("none" if text is None else text for text in found[1:]),
            )
    changed = changes(before, config)
    longer = config.epochs > before.epochs and config.schedule != "constant"
    if longer and step > 0:
        log.warning(
            "the %s schedule of the learning rate now ends after epoch %d, so it rises again from "
            "where the one over %d epochs had it", config.schedule, config.epochs, before.epochs,
        )  # fmt: skip
    if changed or now != {name: described[name] for name in now}:
        entry = {"step": step, "changed": changed, **now}
        history = [*described.get("history", []), entry]
        options = described["config"] | {k: v for k, v in changed.items() if k != "data"}
        if "data" in changed:
            described["data"]["path"] = str(Path(changed["data"]).absolute())
        content = described | {"config": options, "history": history} | now
        write_json(path, content)
