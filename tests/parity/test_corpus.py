"""The corpus of real bugs by `parity.check`: each is caught, located and named, none falsely."""

from pathlib import Path

import pytest
from corpus import BUGS
from corpus.check import check, layer, row

TABLE = (Path(__file__).parents[2] / "docs/corpus.md").read_text()

pytestmark = pytest.mark.usefixtures("quick_compilation")


@pytest.mark.parametrize("source", BUGS)
def test_a_repaired_port_is_equal(source):
    report = check(source, wrong=False)
    report.raise_for_mismatch()
    assert {leaf.stage for leaf in report.leaves} >= {"forward", "loss", "gradient", "parameters"}


@pytest.mark.parametrize("source", BUGS)
def test_a_real_bug_is_caught_located_and_named(source):
    bug, report = BUGS[source], check(source, wrong=True)
    assert report.first is not None
    assert (report.first.stage, layer(report)) == (bug.stage, bug.layer)
    if bug.cause is None:
        assert report.cause in ("unknown", "ambiguous")
    else:
        assert bug.cause in report.cause
    assert row(source, report) in TABLE.splitlines(), "run scripts/tools/corpus_table.py"


def test_the_table_holds_every_bug_and_no_other():
    linked = [line.split("](")[0] for line in TABLE.splitlines() if line.startswith("| [")]
    assert linked == [f"| [{bug.source}" for bug in BUGS.values()]
