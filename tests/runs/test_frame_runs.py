"""Runs on columns in memory: the same as on a file, and resumed with the same columns only."""

from typing import Any

import numpy as np
import pytest

from jaxnet import runs
from jaxnet.runs import session
from jaxnet.runs.config import Config

ROWS = 30
RNG = np.random.default_rng(2)
FRAME = {
    "a": RNG.standard_normal(ROWS),
    "word": np.array(["x", "y", "z"], object)[np.arange(ROWS) % 3],
    "id": np.arange(ROWS),
    "price": RNG.standard_normal(ROWS),
}


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(session, "_plot", lambda folder, *_: None)  # slow
    return tmp_path


def config(**options):
    kept: dict[str, Any] = {"hidden": (5,), "drop": ("id",), "epochs": 3}
    return Config(target="price", **kept | options)


def test_a_run_on_a_frame_is_that_on_its_file(folder):
    rows = zip(*(column.tolist() for column in FRAME.values()), strict=True)
    text = "".join(",".join(map(str, row)) + "\n" for row in rows)
    (folder / "t.csv").write_text("a,word,id,price\n" + text)
    in_memory = runs.train(config(), table=FRAME)
    of_file = runs.train(config(data="t.csv"))
    assert in_memory.folder.name == "frame-1"
    assert in_memory.encoding == of_file.encoding
    for name, leaf in of_file.params.items():
        np.testing.assert_array_equal(in_memory.params[name], leaf)
    record = runs.Record.load(in_memory.folder)
    assert (record.data["name"], record.data["path"]) == ("frame", "")
    assert record.config.data is None


def test_a_frame_run_is_resumed_with_the_same_frame_only():
    whole = runs.train(config(schedule="constant", out="whole"), table=FRAME)
    runs.train(config(schedule="constant", out="half", epochs=1), table=FRAME)
    with pytest.raises(ValueError, match="half: the run was trained on a data frame, which no"):
        runs.resume("half", epochs=3)
    for change in ({"a": FRAME["a"] + 1e-9}, {"word": np.roll(FRAME["word"], 1)}):
        with pytest.raises(ValueError, match="`table` must be the one that half began with"):
            runs.resume("half", table=FRAME | change, epochs=3)
    # a dropped column is no part of it
    again = runs.resume("half", table=FRAME | {"id": np.zeros(ROWS)}, epochs=3)
    for name, leaf in whole.params.items():
        np.testing.assert_array_equal(again.params[name], leaf)
    with pytest.raises(ValueError, match="half: the run was trained on a data frame"):
        runs.evaluate_validation("half")
    found = runs.evaluate_validation("half", table=FRAME)
    assert found.result() == again.metrics["validation"]


def test_a_table_beside_a_file_or_without_a_target_is_refused():
    with pytest.raises(ValueError, match="`table` must be given with a target, and without a file"):
        runs.train(config(data="t.csv"), table=FRAME)
    with pytest.raises(ValueError, match="`table` must be given with a target"):
        runs.train(Config(), table=FRAME)
    with pytest.raises(ValueError, match=r"together, or .*; got the target 'price' alone"):
        runs.train(config())
    with pytest.raises(ValueError, match="no column 'id'"):
        runs.train(config(), table={name: FRAME[name] for name in ("a", "price")})
