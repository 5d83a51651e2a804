"""Text that several commands print."""

import re
from pathlib import Path

import pytest

from jaxnet.cli import text
from jaxnet.tables.convert import Conversion


@pytest.mark.parametrize(
    ("name", "value", "shown"),
    [
        ("accuracy", 0.98765, "98.77%"),
        ("val_accuracy", 1.0, "100.00%"),
        ("val_loss", 0.123456, "0.1235"),
        ("rmse", 12345.6, "12,346"),
        ("mae", 1234.5678, "1235"),
        ("loss", 1.23e17, "1.23e+17"),
        ("balanced_accuracy", 0.5, "50.00%"),
        ("r2", None, "-"),
    ],
)
def test_a_metric_is_written_in_one_way(name, value, shown):
    assert text.metric_text(name, value) == shown


def test_a_conversion_is_reported_while_it_lasts_and_at_its_end(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(text, "REPORT_SECONDS", 0.0)
    report = text.conversion_reporter()
    folder = Path("a.parquet.arrays").absolute()
    report(Conversion(folder, 100, 5_600, False))
    report(Conversion(folder, 2_030, 113_680, True))
    line, last = capsys.readouterr().err.splitlines()
    assert re.fullmatch(r"jaxnet: 100 rows converted, \d+ MB/s", line)
    assert last == (
        "jaxnet: 2,030 rows are read from the arrays in a.parquet.arrays (113,680 bytes); the "
        "folder may be deleted, and is then made again when it is needed"
    )


def test_a_path_is_relative_below_the_current_folder_and_quoted(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert text.short(tmp_path / "a b") == Path("a b")
    assert text.short(tmp_path.parent) == tmp_path.parent
    assert text.quote(Path("a b")) == "'a b'"
