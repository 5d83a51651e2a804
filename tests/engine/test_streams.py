"""Runs whose rows stay on the disk are the runs on the same rows in memory."""

import json
import os
import signal
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from jaxnet import data, runs
from jaxnet.engine import checkpoint, epochs, streams
from jaxnet.runs import evaluation, session
from jaxnet.runs.config import Config
from jaxnet.runs.folder import CHECKPOINTS, METRICS

RANDOM = np.random.default_rng(0)
X = RANDOM.standard_normal((87, 3))
NUMBERS = 1000 + 50 * (X @ [1.0, -2.0, 0.5]) + RANDOM.standard_normal(87)
CLASSES = np.where(NUMBERS > 1000, "dear", "cheap")
ROWS = [f"{y},{c},{r[0]},{r[1]},{r[2]}\n" for y, c, r in zip(NUMBERS, CLASSES, X, strict=True)]
TARGETS = {"price": "kind", "kind": "price"}  # and what to drop


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "houses.csv").write_text("price,kind,a,b,c\n" + "".join(ROWS))
    monkeypatch.setattr(session, "_plot", lambda folder, *_: (folder / "loss.png").touch())  # slow
    monkeypatch.setattr(streams, "BYTES", 3 * 8 * 3 * 4)  # slabs of 3 steps, of 7 to an epoch
    monkeypatch.setattr(evaluation, "BLOCK", 10)  # three blocks of the 26 validation rows
    return tmp_path


def config(target="price", **options):
    defaults: dict = {"epochs": 4, "hidden": (5,), "batch_size": 8, "validation": 0.3}
    drop = (TARGETS[target],)
    return Config(data="houses.csv", target=target, drop=drop, **(defaults | options))


def lines(out):
    return [json.loads(line) for line in Path(out, METRICS).read_text().splitlines()]


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("optimizer", ["momentum", "adam"])
def test_a_streamed_run_is_the_run_in_memory(target, optimizer):
    found = []
    for where in ("off", "on"):
        options = config(target, optimizer=optimizer, on_disk=where, out=where, gram="off")
        found.append(runs.train(options))
    for name, leaf in found[0].params.items():
        # the fit of mean and std by blocks rounds otherwise: 1e-16, seen through float32
        np.testing.assert_allclose(found[1].params[name], leaf, rtol=1e-5, atol=1e-6)
    assert len(lines("on")) == 4
    for one, other in zip(lines("off"), lines("on"), strict=True):
        assert one.keys() == other.keys()
        np.testing.assert_allclose([*other.values()], [*one.values()], rtol=1e-5)


@pytest.mark.usefixtures("usual_code")
def test_how_calls_are_cut_changes_no_bit(monkeypatch):
    contents = []
    for most, slab in ((5000, 3), (2, 1), (9, 50)):
        monkeypatch.setattr(epochs, "MAX_CHUNK", most)
        monkeypatch.setattr(streams, "BYTES", slab * 8 * 3 * 4)
        out = f"chunks-{most}"
        runs.train(config(on_disk="on", out=out))
        arrays = checkpoint.restore(Path(out) / CHECKPOINTS).tree
        contents.append((lines(out), {name: leaf.tobytes() for name, leaf in arrays.items()}))
    assert contents[0] == contents[1] == contents[2]


@pytest.mark.parametrize("step", [5, 7, 16])
def test_a_stopped_run_goes_on_to_the_same_bits(step, monkeypatch):
    monkeypatch.setattr(epochs, "MAX_CHUNK", 3)
    options, sent = config(on_disk="on"), []

    def stop(progress):
        if progress.step >= step and not sent:
            sent.append(os.kill(os.getpid(), signal.SIGTERM))

    whole = runs.train(replace(options, out="whole"))
    with pytest.raises(runs.Stopped):
        runs.train(replace(options, out="stopped"), on_progress=stop)
    resumed = runs.resume("stopped")
    assert lines("whole") == lines("stopped")
    for name, leaf in whole.params.items():
        np.testing.assert_array_equal(resumed.params[name], leaf)


def test_patience_ends_both_at_the_same_epoch():
    ends = []
    for where in ("off", "on"):
        options = config(on_disk=where, out=where, epochs=60, learning_rate=0.3, patience=2)
        run = runs.train(options)
        ends.append((run.epoch, run.epochs, run.reason))
    assert ends[0] == ends[1]
    assert ends[0][2] == "patience"


def test_very_many_rows_train_in_the_order_of_their_blocks(monkeypatch):
    monkeypatch.setattr(data, "LARGE", 50)
    monkeypatch.setattr(data, "BLOCK", 8)
    ends = [
        runs.train(config(on_disk=where, out=where, gram="off")).metrics for where in ("off", "on")
    ]
    for split, metrics in ends[0].items():
        assert ends[1][split] == pytest.approx(metrics, rel=1e-5)


def test_the_dual_form_of_a_mapped_table_is_refused_before_anything_is_written(folder):
    with pytest.raises(ValueError, match="`gram` must be off for a table on disk"):
        runs.train(config(on_disk="on", optimizer="sgd", gram="on"))
    assert not (folder / "runs").exists()
