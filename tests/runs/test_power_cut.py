"""What was said to be saved is on the disk, also if the power fails at that moment."""

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from disk_calls import Disk
from run_helpers import write_run, write_table

import jaxnet
from jaxnet import files, runs
from jaxnet.engine import checkpoint
from jaxnet.runs import model, model_plots
from jaxnet.runs import predict as inference
from jaxnet.runs.config import Config
from jaxnet.runs.folder import METRICS
from jaxnet.tables.convert import convert

SOURCE = Path(jaxnet.__file__).parent.parent


@pytest.fixture
def disk(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write_table(tmp_path / "table.csv")
    return Disk(tmp_path, monkeypatch)


def config(**options):
    made = Config(data="table.csv", target="y", hidden=(3,), epochs=6, checkpoint_every=0, keep=1)
    return replace(made, **options)


def test_a_run_is_on_the_disk_and_no_checkpoint_goes_before_a_newer_is_there(disk, tmp_path):
    runs.train(config(out="deep/er/run"))
    assert disk.checkpoints_removed == 5
    disk.check(tmp_path / "deep")
    runs.resume("deep/er/run", epochs=8)
    disk.check(tmp_path / "deep")
    assert len((tmp_path / "deep/er/run" / METRICS).read_text().splitlines()) == 8


def predict(folder, name):
    write_run(folder / "run", folder / "table.csv", "y")
    inference.predict(model.load("run"), "table.csv", name)
    return [folder / name]


def export(folder, name):
    from jaxnet.export import export

    write_run(folder / "run", folder / "table.csv", "y")
    export(model.load("run"), name, ["pytorch"])
    return [folder / name]


def sweep(folder, name):
    from jaxnet.sweep import sweep

    sweep.run(config(out=name, epochs=1), learning_rate=(0.1, 0.01))
    return [folder / name]


def picture(folder, name):
    model_plots.confusion_matrix(np.eye(2, dtype=int), ["no", "yes"], "title", name)
    return [folder / name]


def arrays(folder, name):
    convert("table.csv")
    return [folder / "table.csv.arrays"]


@pytest.mark.parametrize(
    ("made", "name"),
    [(predict, "out.csv"), (predict, "out.parquet"), (export, "new/exported"), (sweep, "new/swept")]
    + [(picture, "a.png"), (arrays, "")],
)
def test_what_a_command_writes_is_on_the_disk_when_it_ends(disk, tmp_path, made, name):
    disk.check(*made(tmp_path, name))


def test_metrics_torn_after_those_that_a_checkpoint_counts_on_are_cut(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write_table(tmp_path / "table.csv")
    runs.train(config(out="whole"))
    runs.train(config(out="run", epochs=3))
    with (tmp_path / "run" / METRICS).open("ab") as file:
        file.write(b"\0" * 100 + b"\xff\n{}\n")
    runs.resume("run", epochs=6)
    lines = (tmp_path / "run" / METRICS).read_bytes().splitlines()
    assert len(lines) == 6
    assert b"\0" not in b"".join(lines)


@contextlib.contextmanager
def mounted(image, folder):
    """Mount an ext4 image that writes nothing by itself for five minutes."""
    folder.mkdir(exist_ok=True)
    made = subprocess.run(
        ["mount", "-o", "loop,commit=300", image, folder], capture_output=True, text=True
    )
    if made.returncode:
        pytest.skip(f"no ext4 image can be mounted here: {made.stderr.strip()}")
    try:
        yield folder
    finally:
        subprocess.run(["umount", folder], check=True)


@pytest.fixture
def image(tmp_path):
    if sys.platform != "linux" or os.geteuid() or not shutil.which("mkfs.ext4"):
        pytest.skip("an ext4 image needs Linux, root, and mkfs.ext4")
    path = tmp_path / "image"
    with path.open("wb") as file:
        file.truncate(2**25)
    subprocess.run(["mkfs.ext4", "-q", "-F", path], check=True)
    return path


def start(folder, *options):
    return subprocess.Popen(
        [sys.executable, "-m", "jaxnet", "train", *options],
        cwd=folder,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=os.environ | {"JAX_PLATFORMS": "cpu", "PYTHONPATH": str(SOURCE)},
    )


def test_a_run_that_said_it_saved_is_resumed_after_a_power_cut(image, tmp_path):
    options = ["--data", "table.csv", "--target", "y", "--hidden", "16", "--epochs", "1000000"]
    with mounted(image, tmp_path / "disk") as disk:
        write_table(disk / "table.csv")
        files.sync(disk / "table.csv")
        files.sync(disk)
        process = start(disk, *options, "--out", "run")
        while not (disk / "run" / METRICS).exists():
            assert process.poll() is None
            time.sleep(0.01)
        time.sleep(0.3)
        process.send_signal(signal.SIGTERM)
        err = process.communicate(timeout=60)[1]
        assert "and saved" in err
        shutil.copyfile(image, tmp_path / "cut")  # what the disk holds, and not the memory
        saved = checkpoint.steps(disk / "run" / "checkpoints")
    with mounted(tmp_path / "cut", tmp_path / "disk") as disk:
        found = checkpoint.restore(disk / "run" / "checkpoints")
        assert (found.step, found.damaged) == (saved[-1], ())
        lines = (disk / "run" / METRICS).read_bytes().count(b"\n")
        assert lines >= found.metadata["evaluations"] > 0
        record = runs.Record.load(disk / "run")
        assert record.config.epochs == 1_000_000
        model.load(disk / "run", record)
        process = start(disk, "--resume", "run", "--max-time", "0.1")
        assert process.communicate(timeout=60)[1] == ""
        assert process.returncode == 0
