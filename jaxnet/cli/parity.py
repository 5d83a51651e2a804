"""`jaxnet parity`: compare the tutorial's networks, print the verdicts, write the reports."""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from tyro.conf import Positional

from jaxnet.cli.options import Cached

if TYPE_CHECKING:
    from jaxnet.parity import Report

PROGRAMS = ("tensors", "sequential", "module", "dynamic")
DTYPES = {"float64": ("mathematics",), "float32": ("precision",)}


@dataclass(frozen=True, kw_only=True)
class Parity(Cached):
    """Compare the tutorial's networks with NumPy's hand-written gradients.

    The exit code is 0 if all are equal, else 1; the likely cause is named.

    Examples:
      jaxnet parity
      jaxnet parity dynamic --sizes 8 13 11 5 --steps 10
      jaxnet parity --self-test
    """

    programs: Positional[tuple[str, ...]] = ()
    """Of tensors, sequential, module and dynamic; by default all."""
    steps: int = 100
    """Steps of the training runs that are compared."""
    sizes: tuple[int, int, int, int] = (64, 1000, 100, 10)
    """The rows, the inputs, the hidden units and the outputs."""
    dtype: str = "both"
    """float64 (is it the same mathematics?), float32 (is it as precise?) or both."""
    self_test: bool = False
    """Plant every known mistake instead, and see whether it is caught and named."""
    json: Path | None = None
    """Write the reports to this file as JSON."""
    junit: Path | None = None
    """Write the reports to this file as JUnit XML."""
    markdown: Path | None = None
    """Write the reports to this file as Markdown."""

    def __call__(self) -> int:
        """Compare, print and write; 0 if all are equal, else 1."""
        self._check()
        if self.self_test:
            return self._self_test()
        from jaxnet.parity import tutorial

        tiers = DTYPES.get(self.dtype, ("mathematics", "precision"))
        start, reports = time.perf_counter(), []
        for name in self.programs or PROGRAMS:
            found = list(tutorial.run(name, self.sizes, self.steps, tiers))
            self._print(tutorial.PROGRAMS[name], found)
            reports += found
        self._write(reports)
        equal = sum(report.verdict == "equal" for report in reports)
        count = sum(report.n_compared for report in reports)
        seconds = time.perf_counter() - start
        print(f"{equal} of {len(reports)} equal, {count:,} numbers, {seconds:.0f} s")
        if not tutorial.has_torch():
            print(
                "PyTorch is not installed: its recorded runs were compared instead (pip install "
                "'jaxnet[torch]')"
            )
        return 0 if equal == len(reports) else 1

    def _check(self) -> None:
        """Raise ValueError naming the wrong option."""
        if self.programs and self.self_test:
            got = self.programs[0]
            raise ValueError(f"`programs` must not be given with `self_test`, got {got}")
        for name in self.programs:
            if name not in PROGRAMS:
                raise ValueError(f"`programs` must be of {', '.join(PROGRAMS)}; got {name!r}")
        if self.steps < 1:
            raise ValueError(f"`steps` must be at least 1, got {self.steps}")
        if min(self.sizes) < 1:
            raise ValueError(f"`sizes` must be at least 1 each, got {self.sizes}")
        if self.dtype not in ("both", *DTYPES):
            raise ValueError(f"`dtype` must be one of both, float64, float32; got {self.dtype!r}")
        for name in ("json", "junit", "markdown"):
            path = getattr(self, name)
            if path is not None and not path.parent.is_dir():
                raise ValueError(f"`{name}` must be in a folder that exists, got {path}")

    def _print(self, program, reports: list[Report]) -> None:
        from jaxnet.parity.report import drift_table, table

        sizes = "-".join(map(str, program.spec(self.sizes).sizes))
        print(
            f"== {program.name}: {self.sizes[0]} rows, {sizes}, {program.optimizer} "
            f"{program.learning_rate:g}, against the NumPy oracle"
        )
        print(table(reports))
        print()
        print(drift_table(reports))
        for report in reports:
            if report.verdict != "equal":
                print(f"\n{report}")
        print(flush=True)

    def _self_test(self) -> int:
        from jaxnet.parity import selftest

        results = []
        for result in selftest.run():
            results.append(result)
            verdict = "named" if result.named else ("caught" if result.caught else "MISSED")
            sight = "" if result.seen_in_float32 else "  (float32 cannot see it)"
            cause = "" if result.named else f"  diagnosed as: {result.cause}"
            distance = result.report.causes[0].distance if result.report.causes else float("nan")
            print(f"{verdict:6}  {distance:.0e}  {result.name}{sight}{cause}", flush=True)
        self._write([result.report for result in results])
        named = sum(result.named for result in results)
        caught = sum(result.caught for result in results)
        print(f"{len(results)} mistakes planted, {caught} caught, {named} named")
        return 0 if named == len(results) else 1

    def _write(self, reports: list[Report]) -> None:
        from jaxnet import files
        from jaxnet.parity.report import to_json, to_junit, to_markdown

        forms = (self.json, to_json), (self.junit, to_junit), (self.markdown, to_markdown)
        for path, form in forms:
            if path is not None:
                files.write(path, form(reports).encode())
                print(f"written: {path}")
