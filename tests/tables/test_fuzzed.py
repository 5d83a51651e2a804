"""Generated files are read as Python's csv and pyarrow read them, or refused with a place."""

import importlib.util
import logging
from pathlib import Path

import pytest

PATH = Path(__file__).parents[2] / "scripts" / "tools" / "fuzz_tables.py"
SPEC = importlib.util.spec_from_file_location("fuzz_tables", PATH)
assert SPEC is not None
assert SPEC.loader is not None
fuzz_tables = importlib.util.module_from_spec(SPEC)
SPEC.loader.exec_module(fuzz_tables)
SEEDS = {"cells": 150, "values": 30, "parquet": 30}  # for longer, run the script
# Of which each found a fault once: a quote that two quotes closed while more text was to come.
KNOWN = [("cells", 1651)]


@pytest.mark.parametrize("name", SEEDS)
def test_generated_files_are_read_as_others_read_them(tmp_path, name, caplog):
    caplog.set_level(logging.ERROR, "jaxnet")
    for seed in range(SEEDS[name]):
        fuzz_tables.check(name, seed, tmp_path)


@pytest.mark.parametrize(("name", "seed"), KNOWN)
def test_a_file_that_was_read_wrong_once_is_read_right(tmp_path, name, seed):
    fuzz_tables.check(name, seed, tmp_path)


def test_a_reader_that_is_wrong_is_found(tmp_path, monkeypatch):
    monkeypatch.setattr(fuzz_tables, "copies", lambda *args: iter([]))
    with pytest.raises(AssertionError):
        fuzz_tables.check("cells", 0, tmp_path)
