"""`jaxnet parity`: its options, what it prints, the files it writes."""

from __future__ import annotations

import time
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from jaxnet.parity import Report

PROGRAMS = ("tensors", "sequential", "module", "dynamic")
DTYPES = {"float64": ("mathematics",), "float32": ("precision",)}


@dataclass(frozen=True, kw_only=True)
class ParityOptions:
    """What is compared, and where the report goes."""

    steps: int = 100
    """Length of the free run; single steps are compared at 1, 2, 3, 10 and 100."""
    sizes: tuple[int, int, int, int] = (64, 1000, 100, 10)
    """N, D_in, H and D_out."""
    dtype: str = "both"
    """both, float64 (the mathematics) or float32 (the precision)."""
    self_test: bool = False
    """Plant every known mistake and see whether it is caught and named."""
    json: Path | None = None
    """Write the reports as JSON."""
    junit: Path | None = None
    """Write the reports as JUnit XML."""
    markdown: Path | None = None
    """Write the reports as Markdown."""

    def validate(self) -> None:
        """Raise ValueError naming the wrong option; not at once, since tyro would reformat it."""
        if self.steps < 1:
            raise ValueError(f"`steps` must be at least 1, got {self.steps}")
        if min(self.sizes) < 1:
            raise ValueError(f"`sizes` must be at least 1 each, got {self.sizes}")
        if self.dtype not in ("both", *DTYPES):
            raise ValueError(f"`dtype` must be one of both, float64, float32; got {self.dtype!r}")
        for path in (self.json, self.junit, self.markdown):
            if path is not None and not path.parent.is_dir():
                raise ValueError(f"the report's folder does not exist: {path.parent}")


def run(names: Iterable[str], options: ParityOptions) -> int:
    """Compare every implementation of the named programs; 0 if all are equal, else 1."""
    from jaxnet.parity import tutorial

    options.validate()
    names = tuple(names)
    if names and options.self_test:
        raise ValueError(f"`programs` must be left out with --self-test, got {' '.join(names)}")
    names = names or PROGRAMS
    for name in names:
        if name not in PROGRAMS:
            raise ValueError(f"`programs` must be of {', '.join(PROGRAMS)}; got {name!r}")
    if options.self_test:
        return _self_test(options)
    tiers = DTYPES.get(options.dtype, ("mathematics", "precision"))
    start, reports = time.perf_counter(), []
    for name in names:
        found = list(tutorial.run(name, options.sizes, options.steps, tiers))
        _print(tutorial.PROGRAMS[name], options, found)
        reports += found
    _write(options, reports)
    wrong = [r for r in reports if r.verdict != "equal"]
    count = sum(r.n_compared for r in reports)
    seconds = time.perf_counter() - start
    print(
        f"{len(reports) - len(wrong)} of {len(reports)} equal, {count:,} numbers, {seconds:.0f} s"
    )
    if not tutorial.has_torch():
        print("PyTorch is not installed: its recorded trajectories stood in (extra `torch`)")
    return 1 if wrong else 0


def _print(program, options: ParityOptions, reports: list[Report]) -> None:
    from jaxnet.parity.report import drift_table, table

    sizes = "-".join(map(str, program.spec(options.sizes).sizes))
    print(
        f"== {program.name}: {options.sizes[0]} rows, {sizes}, "
        f"{program.optimizer} {program.learning_rate:g}, against the NumPy oracle"
    )
    print(table(reports))
    print()
    print(drift_table(reports))
    for report in reports:
        if report.verdict != "equal":
            print(f"\n{report}")
    print(flush=True)


def _self_test(options: ParityOptions) -> int:
    from jaxnet.parity import selftest

    results = []
    for result in selftest.run():
        results.append(result)
        verdict = "named" if result.named else ("caught" if result.caught else "MISSED")
        sight = "" if result.seen_in_float32 else "  (float32 cannot see it)"
        cause = "" if result.named else f"  diagnosed as: {result.cause}"
        distance = result.report.causes[0].distance if result.report.causes else float("nan")
        print(f"{verdict:6}  {distance:.0e}  {result.name}{sight}{cause}", flush=True)
    _write(options, [result.report for result in results])
    named = sum(result.named for result in results)
    caught = sum(result.caught for result in results)
    print(f"{len(results)} mistakes planted, {caught} caught, {named} named")
    return 0 if named == len(results) else 1


def _write(options: ParityOptions, reports: list[Report]) -> None:
    from jaxnet.parity.report import to_json, to_junit, to_markdown

    for path, form in (
        (options.json, to_json),
        (options.junit, to_junit),
        (options.markdown, to_markdown),
    ):
        if path is not None:
            path.write_text(form(reports))
            print(f"written: {path}")
