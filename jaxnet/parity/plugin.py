"""The pytest plugin: a `parity` fixture that fails a test with the report, and --parity-json=PATH.

def test_port(parity):
    parity.check(candidate, against=reference, case=case)
"""

from __future__ import annotations

import json
from typing import Any

import pytest

REPORTS = pytest.StashKey[list[dict[str, Any]]]()


class Checker:
    """The fixture's value: its `check` takes what `parity.check` takes."""

    def __init__(self, reports: list[dict[str, Any]]):
        self._reports = reports

    def check(self, candidate: Any, **arguments: Any) -> Any:
        """Compare, keep the report for --parity-json, and fail the test unless all is equal."""
        from jaxnet import parity

        report = parity.check(candidate, **arguments)
        self._reports.append(report.to_dict())
        if report.verdict != "equal":
            pytest.fail(str(report), pytrace=False)
        return report


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add --parity-json."""
    group = parser.getgroup("parity", "jaxnet parity")
    group.addoption("--parity-json", metavar="PATH", help="write every parity report as JSON")


def pytest_configure(config: pytest.Config) -> None:
    """Start with no reports."""
    config.stash[REPORTS] = []


@pytest.fixture
def parity(request: pytest.FixtureRequest) -> Checker:
    """`parity.check(candidate, against=reference, case=case)` fails the test on a mismatch."""
    return Checker(request.config.stash[REPORTS])


def pytest_sessionfinish(session: pytest.Session) -> None:
    """Write the session's reports, if a path was given; a worker of xdist sends them instead."""
    reports = session.config.stash[REPORTS]
    if hasattr(session.config, "workeroutput"):
        session.config.workeroutput["parity"] = json.dumps(reports)
    elif path := session.config.getoption("--parity-json"):
        from jaxnet import files

        text = json.dumps({"reports": reports}, indent=1, allow_nan=False)
        files.write(path, f"{text}\n".encode())


@pytest.hookimpl(optionalhook=True)
def pytest_testnodedown(node: Any) -> None:
    """Take the reports of a worker of pytest-xdist."""
    node.config.stash[REPORTS] += json.loads(getattr(node, "workeroutput", {}).get("parity", "[]"))
