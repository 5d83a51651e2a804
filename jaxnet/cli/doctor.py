"""`jaxnet doctor`: does this machine's JAX compute right? Until when does an export load?"""

from __future__ import annotations

import math
import os
import platform
import time
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tyro.conf import Positional

import jaxnet

if TYPE_CHECKING:
    from jaxnet.parity.doctor.examine import Examination
    from jaxnet.parity.doctor.programs import Program
    from jaxnet.parity.doctor.trials import Wrong

PACKAGES = ("jax", "jaxlib", "numpy", "optax", "flax")


@dataclass(frozen=True, kw_only=True)
class Doctor:
    """Check that JAX computes right here, and that an export loads.

    Compiled programs, those of known faults and others, are compared with NumPy.

    The exit code is 0 if all is right, else 1, and the smallest program is shown.

    Examples:
      jaxnet doctor
      jaxnet doctor --seconds 600 --seed 1
      jaxnet doctor runs/wine-1/model/model.stablehlo
    """

    file: Positional[Path | None] = None
    """A model.stablehlo, or a folder with one: say what wrote it, until when JAX promises to load
    it, and whether the JAX that is installed does; nothing else is checked."""
    seconds: float = 8.0
    """How long to search; a program that is wrong is made smaller for as long again."""
    seed: int = 0
    """Of the search: another seed tries other programs."""
    json: Path | None = None
    """Write what was found to this file as JSON."""

    def __call__(self) -> int:
        """Examine and print; 0 if all is right, else 1."""
        self._check()
        if self.file is not None:
            return _print_file(self.file, self.json)
        from jaxnet.parity.doctor.examine import examine

        about = _about()
        for name, text in about.items():
            print(f"{name:9}  {text}", flush=True)
        start = time.perf_counter()
        found = examine(self.seconds, self.seed, _print_facts)
        _print_known(found)
        if found.wrong is None and found.ended is None:
            print(
                f"search     {found.tried} programs at random (seed {self.seed}): all right; the "
                f"largest difference is {found.share:.0%} of what rounding may do"
            )
        print(f"{time.perf_counter() - start:.0f} s", flush=True)
        if found.wrong is not None:
            _print_wrong(found.wrong)
        elif found.ended is not None:
            _print_ended(*found.ended)
        right = found.wrong is None and found.ended is None
        if not right:
            print("\n".join(["", "what to do:", *_advice(found)]))
        _write(self.json, about | _as_json(found))
        return 0 if right else 1

    def _check(self) -> None:
        """Raise ValueError naming the wrong option."""
        if not 0 <= self.seconds < math.inf:
            raise ValueError(f"`seconds` must be a number of at least 0, got {self.seconds}")
        if self.seed < 0:
            raise ValueError(f"`seed` must be at least 0, got {self.seed}")
        if self.json is not None and not self.json.parent.is_dir():
            raise ValueError(f"`json` must be in a folder that exists, got {self.json}")


def _about() -> dict[str, str]:
    """What is installed and set, as far as it is known without JAX."""
    texts = [f"jaxnet {jaxnet.__version__}", f"python {platform.python_version()}"]
    for name in PACKAGES:
        try:
            texts.append(f"{name} {version(name)}")
        except PackageNotFoundError:
            texts.append(f"{name} is not installed")
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    names = ("NPROC", "OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS")
    threads = [f"{name}={os.environ[name]}" for name in names if name in os.environ]
    return {
        "versions": ", ".join(texts),
        "threads": ", ".join([f"{cores} cores", *threads]),
        "XLA_FLAGS": os.environ.get("XLA_FLAGS") or "not set",
    }


def _print_facts(facts: dict[str, Any]) -> None:
    from jaxnet.engine import compile_cache

    print(f"devices    {facts['platform']}: {', '.join(facts['devices'])}")
    default = facts["matmul_precision"] or "default"
    means = {"cpu": "float32 in full", "gpu": "TF32 where the GPU has it"}
    means = means.get(facts["platform"], "bfloat16") if default == "default" else "as it is set"
    x64 = "on" if facts["x64"] else "off"
    print(f"precision  float32 products {default} ({means}), float64 (jax_enable_x64) {x64}")
    print(f"cache      {compile_cache.folder() or 'none'}", flush=True)


def _print_known(found: Examination) -> None:
    for program, wrong in found.known:
        verdict = "WRONG" if wrong else "right"
        print(f"known      {verdict}: {program} (wrong in {_releases(program)})")


def _releases(program: Program) -> str:
    """The releases of jaxlib that compile a known program wrong."""
    from jaxnet.parity.doctor.programs import FAULTS

    releases, report = FAULTS[program.form]
    span = releases[0] if len(releases) == 1 else f"{releases[0]} to {releases[-1]}"
    return f"jaxlib {span}" + (f", {report}" if report else "")


def _print_wrong(wrong: Wrong) -> None:
    ways = ("compiled", "op by op") if wrong.compiled else ("op by op", "compiled")
    print(
        f"\nWRONG: {wrong.program}\n"
        f"{ways[0]}, {wrong.wrong:,} of {wrong.count:,} numbers of the {wrong.leaf} are wrong, by "
        f"up to {wrong.error:.2g} of the largest; {ways[1]} it is "
        f"{'right' if wrong.other else 'wrong too'}. The program:\n"
    )
    _print_program(wrong.program)


def _print_ended(how: str, program: Program | None) -> None:
    print(f"\nWRONG: {how}")
    if program is not None:
        print(f"It had begun {program}. The program:\n")
        _print_program(program)


def _print_program(program: Program) -> None:
    print("".join(f"    {line}\n" for line in program.runnable().splitlines()), end="")


def _advice(found: Examination) -> list[str]:
    """What to do, one line each."""
    from jaxnet.parity.doctor.programs import RIGHT

    lines = []
    for flag, helps in found.flags.items():
        tried = "tried here: all is right then" if helps else "tried here: that does not help"
        lines.append(f"  set XLA_FLAGS={flag} before Python starts ({tried})")
    wrong = {_releases(program) for program, error in found.known if error}
    if wrong:
        lines.append(f"  or install a right release: pip install jax=={RIGHT} jaxlib=={RIGHT}")
        lines.append(f"  known to be wrong on CPUs: {'; '.join(sorted(wrong))}")
    else:
        lines.append(
            "  this fault is not known here: try another release of JAX, and report the program "
            "above to its authors (github.com/jax-ml/jax/issues)"
        )
    return lines


def _as_json(found: Examination) -> dict[str, Any]:
    ended = found.ended and {"how": found.ended[0], "program": found.ended[1]}
    return found.facts | {
        "known": [
            {"program": str(program), "right": wrong is None, "wrong_in": _releases(program)}
            for program, wrong in found.known
        ],
        "tried": found.tried,
        "share_of_limit": found.share if math.isfinite(found.share) else None,
        "wrong": None
        if found.wrong is None
        else {
            **found.wrong._asdict(),
            "program": found.wrong.program._asdict(),
            "error": found.wrong.error if math.isfinite(found.wrong.error) else None,
            "source": found.wrong.program.runnable(),
        },
        "ended": ended,
        "flags": found.flags,
    }


def _print_file(path: Path, json: Path | None) -> int:
    """Say what wrote a StableHLO file, until when JAX promises to load it, and whether it does."""
    from jaxnet.export import lifetime

    found, jaxlib = lifetime.inspect(path), lifetime.installed()
    wrote = found.versions.get("jaxlib", found.versions.get("jax"))
    told = ", ".join(f"{name} {value}" for name, value in found.versions.items())
    print(f"file       {found.path}")
    print(f"written by {told or f'unknown: there is no {lifetime.DESCRIPTION} beside it'}")
    print(f"format     {found.format}, for {', '.join(found.platforms) or 'unknown platforms'}")
    if wrote is not None:
        print(f"promise    {lifetime.promise(wrote)}")
    loads = f"no: {found.error}" if found.error else "yes"
    print(f"loads      {loads} (jaxlib {jaxlib})")
    content = found._asdict() | {"path": str(found.path), "jaxlib": jaxlib}
    until = None if wrote is None else str(lifetime.loads_until(wrote))
    _write(json, content | {"loads_until": until})
    return 1 if found.error else 0


def _write(path: Path | None, content: dict[str, Any]) -> None:
    if path is None:
        return
    import json

    from jaxnet import files

    files.write(path, json.dumps(content, indent=1).encode() + b"\n")
    print(f"written: {path}")
