"""What a comparison found: verdict, first difference, causes; as text, JSON, JUnit, Markdown."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple
from xml.etree import ElementTree

from jaxnet.parity.compare import Leaf
from jaxnet.parity.layers.located import Located
from jaxnet.parity.limits import MATHEMATICS, PRECISION
from jaxnet.parity.observe import STAGES

FLOOR = 1e-4  # distances of causes below this are rounding: they do not rank
MARGIN = 10.0  # a cause is named only if the runner-up is this many times further away


class ParityError(AssertionError):
    """A candidate that is not the reference's function: the message is the report."""


class Cause(NamedTuple):
    """A mistake that could explain the difference: distance 0 reproduces it, 1 explains nothing."""

    name: str
    remedy: str
    distance: float


@dataclass(frozen=True)
class Report:
    """The result of `check`.

    leaves: the worst element of every leaf at every point, in order; causes: ranked mistakes.
    drift: the relative distance of the float32 losses from the float64 reference's, by step, of the
    candidate and of a float32 shadow of the reference: reported, never judged. left_out: what was
    not compared. located: the layer of the first difference, where both sides have layers.
    """

    case: str
    candidate: str
    reference: str
    leaves: Sequence[Leaf]
    causes: Sequence[Cause] = ()
    drift: dict[str, dict[int, float]] = field(default_factory=dict)
    left_out: Sequence[str] = ()
    located: Located | None = None

    @property
    def n_compared(self) -> int:
        """The number of elements that were compared."""
        return sum(leaf.count for leaf in self.leaves)

    @property
    def verdict(self) -> str:
        """ "equal" or "mismatch"."""
        return "equal" if all(leaf.equal for leaf in self.leaves) else "mismatch"

    @property
    def first(self) -> Leaf | None:
        """The first difference by tier, probe, step and stage; what it leads to comes after it."""
        return next((leaf for leaf in self.leaves if not leaf.equal), None)

    @property
    def cause(self) -> str:
        """The mistake that explains the mismatch, or "ambiguous", or "unknown"; "" if equal."""
        if self.verdict == "equal":
            return ""
        if not self.causes:
            return "unknown"
        nearest, *others = self.causes
        if others and others[0].distance <= MARGIN * max(nearest.distance, FLOOR):
            return "ambiguous"
        return nearest.name

    @property
    def remedy(self) -> str:
        """What to do about the cause; of an unknown one, where to look next; "" if equal."""
        if self.first is None or self.cause == "ambiguous":
            return "tell the causes apart" if self.first else ""
        if self.causes:
            return self.causes[0].remedy
        stage, located = self.first.stage, self.located
        if stage in ("parameters", "optimizer"):
            return "compare the optimizers' arguments and defaults, and the schedules' first step"
        if stage == "free run":
            return "compare what goes from step to step: buffers, shared leaves, random keys"
        if located is None or not located.marks:
            return "give the layers names: `parity.tap`, or modules in place of functions"
        return f"compare the arguments of {located.layer}, their defaults, and the code around it"

    def raise_for_mismatch(self) -> None:
        """Raise ParityError, with this report as its message, unless the verdict is "equal"."""
        if self.verdict != "equal":
            raise ParityError(str(self))

    def worst(self) -> list[Leaf]:
        """The leaf with the largest ratio for each tier and stage."""
        table: dict[tuple[str, str], Leaf] = {}
        for leaf in self.leaves:
            key = leaf.tier, leaf.stage
            if key not in table or _share(leaf) > _share(table[key]):
                table[key] = leaf
        tiers = (MATHEMATICS, PRECISION)
        return sorted(table.values(), key=lambda a: (tiers.index(a.tier), STAGES.index(a.stage)))

    def __str__(self) -> str:
        lines = [f"{self.case}: {self.candidate} against {self.reference}: {self.verdict}"]
        lines[0] += f", {self.n_compared:,} numbers compared"
        if first := self.first:
            lines += [self.located.headline()] if self.located else []
            lines += [f"cause: {self.cause}"]
            lines += [f"  {c.distance:.1e}  {c.name}: {c.remedy}" for c in self.causes]
            lines += [] if self.causes else [f"  {self.remedy}"]
            lines += ["first difference:", *_explain(first)]
            lines += self.located.tree() if self.located else []
        lines += _columns([_HEADER, *map(_row, self.worst())])
        lines += _drift_lines(self.drift)
        lines += [f"left out: {text}" for text in self.left_out]
        return "\n".join(lines)

    def to_dict(self) -> dict[str, Any]:
        """The report as plain data; infinite ratios are the text "inf"."""
        return {
            "case": self.case,
            "candidate": self.candidate,
            "reference": self.reference,
            "verdict": self.verdict,
            "cause": self.cause,
            "remedy": self.remedy,
            "n_compared": self.n_compared,
            "first": _plain(self.first),
            "layer": self.located.to_dict() if self.located else None,
            "causes": [cause._asdict() for cause in self.causes],
            "leaves": [_plain(leaf) for leaf in self.leaves],
            "drift": {name: _texts(by_step) for name, by_step in self.drift.items()},
            "left_out": list(self.left_out),
        }

    def to_json(self) -> str:
        """The report as JSON text."""
        return to_json([self])

    def to_junit(self) -> str:
        """The report as JUnit XML, a test case for each tier and stage."""
        return to_junit([self])

    def to_markdown(self) -> str:
        """The report as a Markdown table."""
        return to_markdown([self])


def to_json(reports: Iterable[Report]) -> str:
    """Reports as JSON text: an object with a list `reports`."""
    return json.dumps({"reports": [r.to_dict() for r in reports]}, indent=1, allow_nan=False) + "\n"


def to_junit(reports: Iterable[Report]) -> str:
    """Reports as JUnit XML: a suite for each, with a test case for each tier and stage."""
    root = ElementTree.Element("testsuites")
    for report in reports:
        rows = report.worst()
        failures = sum(not leaf.equal for leaf in rows)
        suite = ElementTree.SubElement(
            root,
            "testsuite",
            name=f"{report.case}/{report.candidate}",
            tests=str(len(rows)),
            failures=str(failures),
        )
        for leaf in rows:
            test = ElementTree.SubElement(
                suite, "testcase", classname=report.candidate, name=f"{leaf.tier} {leaf.stage}"
            )
            if not leaf.equal:
                text = "\n".join(_explain(leaf))
                failure = ElementTree.SubElement(test, "failure", message=report.cause)
                failure.text = text
    ElementTree.indent(root)
    return ElementTree.tostring(root, encoding="unicode", xml_declaration=True) + "\n"


def to_markdown(reports: Iterable[Report]) -> str:
    """Reports as one Markdown table, then the causes of each mismatch, then the drift."""
    reports = list(reports)
    head = ["case", "candidate", *_HEADER]
    lines = [head, ["---"] * len(head)]
    lines += [[r.case, r.candidate, *_row(leaf)] for r in reports for leaf in r.worst()]
    text = ["| " + " | ".join(line) + " |" for line in lines]
    for report in reports:
        if report.verdict != "equal":
            text += ["", f"**{report.case}, {report.candidate}: {report.cause}**", ""]
            text += [f"- {c.name} (distance {c.distance:.1e}): {c.remedy}" for c in report.causes]
    return "\n".join(text) + "\n"


_HEADER = ["tier", "stage", "worst leaf", "step", "error", "limit", "share", "verdict"]


def table(reports: Iterable[Report]) -> str:
    """One table over many reports: a line for each candidate (or recording), tier and stage."""
    rows = [[_who(r), *_row(leaf)] for r in reports for leaf in r.worst()]
    return "\n".join(_columns([["candidate", *_HEADER], *rows]))


def _who(report: Report) -> str:
    return report.reference if report.reference.endswith("(recorded)") else report.candidate


def drift_table(reports: Iterable[Report]) -> str:
    """The drift of many reports in one table, each shadow once."""
    merged: dict[str, dict[int, float]] = {}
    for report in reports:
        merged |= report.drift
    return "\n".join(_drift_lines(merged))


def _row(leaf: Leaf) -> list[str]:
    return [
        leaf.tier,
        leaf.stage,
        leaf.leaf,
        leaf.probe or str(leaf.step),
        f"{abs(leaf.got - leaf.want):.1e}",
        f"{leaf.allowed * leaf.bar:.1e}",
        f"{_share(leaf):.1%}" if _share(leaf) < 10 else f"{_share(leaf):.1e} times",
        "equal" if leaf.equal else ("inherited" if leaf.inherited else "MISMATCH"),
    ]


def _share(leaf: Leaf) -> float:
    return leaf.ratio / leaf.allowed


def _explain(leaf: Leaf) -> list[str]:
    where = f"probe {leaf.probe}" if leaf.probe else f"step {leaf.step}"
    index = "".join(f"[{i}]" for i in leaf.index)
    return [
        f"  {leaf.tier}, {where}, {leaf.stage}, {leaf.leaf}{index}",
        f"  got {leaf.got:.9g}, want {leaf.want:.9g}, {leaf.ulps:.3g} ulps apart",
        f"  {leaf.ratio:.3g} bars of {leaf.bar:.3g}, where {leaf.allowed:g} are allowed",
    ]


def _columns(rows: list[list[str]]) -> list[str]:
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    return [
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
        for row in rows
    ]


def _drift_lines(drift: dict[str, dict[int, float]]) -> list[str]:
    if not drift:
        return []
    steps = sorted({step for by_step in drift.values() for step in by_step})
    rows = [["float32 loss, relative to float64, at step", *map(str, steps)]]
    for name, by_step in drift.items():
        rows.append([name, *(f"{by_step[s]:.1e}" if s in by_step else "-" for s in steps)])
    return _columns(rows)


def _plain(leaf: Leaf | None) -> dict[str, Any] | None:
    if leaf is None:
        return None
    return _texts(leaf._asdict() | {"equal": leaf.equal, "ulps": leaf.ulps})


def _texts(record: dict[Any, Any]) -> dict[Any, Any]:
    """The record with infinities and NaNs as text, which JSON has no numbers for."""
    return {
        key: str(value) if isinstance(value, float) and not math.isfinite(value) else value
        for key, value in record.items()
    }
