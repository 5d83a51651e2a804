"""Until when JAX promises to load a StableHLO file, and whether the JAX that is installed does.

JAX promises that an exported program can be loaded by releases that are built up to 6 months after
the jaxlib that wrote it (docs.jax.dev, "Compatibility guarantees"). What counts is when they were
built, and not when the file was written.
"""

from __future__ import annotations

import calendar
import json
import os
import re
import resource
import subprocess
import sys
from datetime import date
from importlib.metadata import version
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.export
import jax.numpy as jnp

from jaxnet.files import memory, read, read_json

STABLEHLO, DESCRIPTION = "model.stablehlo", "model.json"
MONTHS = 6
SECONDS = 120  # for a file to load and compile
CHILD = "from jaxnet.export.lifetime import child; child()"
BUILT = {  # release of jaxlib -> the day on which it was built, the newest last
    "0.10.1": date(2026, 5, 18),
    "0.10.2": date(2026, 6, 17),
    "0.11.0": date(2026, 7, 16),
    "0.11.1": date(2026, 8, 17),
    "0.11.2": date(2026, 9, 17),
    "0.12.0": date(2026, 10, 16),
    "0.12.0.1": date(2026, 10, 20),
}


class StableHLO(NamedTuple):
    """A file: what wrote it, by package; its format; the platforms; why it does not load, or ""."""

    path: Path
    versions: dict[str, str]
    format: str
    platforms: tuple[str, ...]
    error: str


def loads_until(jaxlib: str) -> date:
    """Return the day up to which JAX promises that its releases load what this jaxlib writes.

    Of a release that is not in `BUILT` it is the earliest that the day can be: it was built after
    those that are, if it is newer.
    """
    built = BUILT.get(jaxlib) or list(BUILT.values())[-1]
    year, month = divmod(built.year * 12 + built.month - 1 + MONTHS, 12)
    return date(year, month + 1, min(built.day, calendar.monthrange(year, month + 1)[1]))


def promise(jaxlib: str) -> str:
    """Return the promise in a sentence."""
    until = loads_until(jaxlib)
    least = "" if jaxlib in BUILT else "at least "
    text = (
        f"JAX promises that its releases until {least}{until} load {STABLEHLO}: {MONTHS} months "
        f"after jaxlib {jaxlib}, which wrote it, was built"
    )
    return text if until >= date.today() else f"{text}; newer releases may refuse it"


def installed() -> str:
    """Return the version of jaxlib."""
    return version("jaxlib")


def inspect(path: str | Path) -> StableHLO:
    """Read a StableHLO file, or that of a model's or run's folder, and compile it here.

    JAX does not guard against what someone made on purpose, and so this is done in a process of its
    own, of bounded time and memory.

    Raises: FileNotFoundError; ValueError for a model.json beside it that is damaged.
    """
    path = Path(path)
    if path.is_dir():
        inner = path / "model" / STABLEHLO
        path = inner if inner.is_file() else path / STABLEHLO
    if not path.is_file():
        raise FileNotFoundError(f"{path}: there is no such file")
    command = [sys.executable, "-c", CHILD, str(path)]
    env = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    found = b""
    try:
        found = subprocess.run(command, env=env, capture_output=True, timeout=SECONDS).stdout
        kind, platforms, error = json.loads(found.splitlines()[-1])
    except (subprocess.TimeoutExpired, ValueError, IndexError):
        kind, platforms = "unknown", ()
        error = f"JAX did not read it within {SECONDS} seconds, or crashed"
    return StableHLO(path, _versions(path), kind, tuple(platforms), error)


def child() -> None:
    """Print what a process of its own finds in a file: its format, its platforms, and why it does
    not load, or "". It may take at most half of the memory.
    """
    most = memory() // 2
    resource.setrlimit(resource.RLIMIT_DATA, (most, most))
    content = read(sys.argv[1])
    found = re.search(rb"StableHLO_v[0-9.]*[0-9]", content)
    platforms: tuple[str, ...] = ()
    try:
        exported = jax.export.deserialize(bytearray(content))
        platforms = tuple(exported.platforms)
        _compile(exported)
        error = ""
    except Exception as problem:  # whatever JAX raises says why
        error = f"{type(problem).__name__}: {(str(problem) or '-').splitlines()[0]}"
    print(json.dumps([found[0].decode() if found else "unknown", platforms, error]))


def _compile(exported: Any) -> None:
    """Compile for two rows."""
    rows = [
        jax.ShapeDtypeStruct([n if isinstance(n, int) else 2 for n in aval.shape], aval.dtype)
        for aval in exported.in_avals
    ]
    with jax.enable_x64(any(aval.dtype == jnp.float64 for aval in exported.in_avals)):
        jax.jit(exported.call).lower(*rows).compile()


def _versions(path: Path) -> dict[str, str]:
    """What model.json says wrote the file, {} if there is none."""
    beside = path.with_name(DESCRIPTION)
    if not beside.is_file():
        return {}
    try:
        versions = read_json(beside)["versions"]
        return {str(name): str(value) for name, value in versions.items()}
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"{beside}: damaged, or not of an export ({error!r})") from None
