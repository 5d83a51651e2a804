"""Until when a StableHLO file is promised to load, and whether it does here."""

import json
from datetime import date

import pytest
from export_helpers import make_run

from jaxnet import export
from jaxnet.export import lifetime


@pytest.mark.parametrize(
    ("built", "until"),
    [
        (date(2026, 5, 18), date(2026, 11, 18)),
        (date(2026, 6, 17), date(2026, 12, 17)),
        (date(2026, 8, 31), date(2027, 2, 28)),  # which has no 31st day
    ],
)
def test_the_promise_lasts_six_months_from_the_day_the_jaxlib_was_built(built, until, monkeypatch):
    monkeypatch.setattr(lifetime, "BUILT", {"1.0": built})
    assert lifetime.loads_until("1.0") == until
    assert f"its releases until {until} load" in lifetime.promise("1.0")


def test_of_a_newer_jaxlib_only_the_earliest_day_is_known(monkeypatch):
    monkeypatch.setattr(lifetime, "BUILT", {"1.0": date(2999, 1, 2), "1.1": date(2999, 3, 4)})
    assert lifetime.loads_until("1.2") == date(2999, 9, 4)
    assert lifetime.promise("1.2") == (
        "JAX promises that its releases until at least 2999-09-04 load model.stablehlo: 6 months "
        "after jaxlib 1.2, which wrote it, was built"
    )


def test_a_promise_that_has_passed_is_said():
    assert lifetime.promise("0.10.1").endswith(", was built; newer releases may refuse it") == (
        date.today() > date(2026, 11, 18)
    )


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_a_file_is_read_from_its_path_its_folder_and_its_run(tmp_path, dtype):
    run, made, _ = make_run(tmp_path, dtype=dtype)
    export.export(made, run / "model", ["stablehlo"])
    folder = run / "model"
    found = lifetime.inspect(folder / "model.stablehlo")
    assert found == lifetime.inspect(folder) == lifetime.inspect(run)
    assert found.path == folder / "model.stablehlo"
    assert found.versions["jaxlib"] == lifetime.installed()
    assert found.format.startswith("StableHLO_v1.")
    assert (found.platforms, found.error) == (("cpu", "cuda", "tpu"), "")


def test_a_file_that_does_not_load_says_why(tmp_path):
    path = tmp_path / "other.stablehlo"
    path.write_bytes(b"no such program")
    found = lifetime.inspect(path)
    assert (found.versions, found.format, found.platforms) == ({}, "unknown", ())
    assert found.error
    with pytest.raises(FileNotFoundError, match="there is no such file"):
        lifetime.inspect(tmp_path / "none")


@pytest.mark.parametrize("text", ["{", "[]", "{}", json.dumps({"versions": 1})])
def test_a_damaged_description_is_named(tmp_path, text):
    (tmp_path / "model.stablehlo").write_bytes(b"")
    (tmp_path / "model.json").write_text(text)
    with pytest.raises(ValueError, match=r"model\.json: damaged, or not of an export"):
        lifetime.inspect(tmp_path)


@pytest.mark.parametrize("code", ["import os; os.abort()", "import time; time.sleep(60)"])
def test_a_file_that_crashes_or_hangs_jax_is_one_sentence(tmp_path, monkeypatch, code):
    monkeypatch.setattr(lifetime, "CHILD", code)
    monkeypatch.setattr(lifetime, "SECONDS", 1)
    (tmp_path / "model.stablehlo").write_bytes(b"")
    assert lifetime.inspect(tmp_path).error.startswith("JAX did not read it within 1 seconds, or")
