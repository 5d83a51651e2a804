"""The pytest plugin: a `parity` fixture whose failure is the report, and --parity-json=PATH.

def test_port(parity):
    parity.check(candidate, against=reference, case=case)
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

REPORTS = pytest.StashKey[list]()


class Checker:
    """What the fixture gives: `check` as jaxnet.parity's, failing the test on a mismatch."""

    def __init__(self, reports: list):
        self._reports = reports

    def check(self, candidate: Any, **arguments: Any) -> Any:
        """Compare, keep the report for --parity-json, and fail with it unless all is equal."""
        from jaxnet import parity

        report = parity.check(candidate, **arguments)
        self._reports.append(report)
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
    """Write the reports of the session, if a path was given."""
    path = session.config.getoption("--parity-json")
    if path:
        from jaxnet.parity.report import to_json

        Path(path).write_text(to_json(session.config.stash[REPORTS]))
