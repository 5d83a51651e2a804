"""A run's folder that a stranger made is read or refused in one line, and nothing else happens."""

import json
import os
import signal

import numpy as np
import pytest
from run_helpers import write_run, write_table

from jaxnet import files, runs
from jaxnet.cli import main
from jaxnet.engine import checkpoint
from jaxnet.parity import recording
from jaxnet.runs.config import Config
from jaxnet.runs.folder import CHECKPOINTS, read_metrics
from jaxnet.runs.model import load
from jaxnet.runs.params import save_params
from jaxnet.runs.record import Record
from jaxnet.runs.steps import initial_params
from jaxnet.spec import Spec

HUGE = 100 * 2**30  # bytes of a file without content


@pytest.fixture(autouse=True)
def no_hang():
    """End a test that waits for ever."""
    signal.alarm(60)
    yield
    signal.alarm(0)


@pytest.fixture
def run(tmp_path):
    """A run's folder without training, whose model has a report."""
    write_table(tmp_path / "t.csv")
    write_run(tmp_path / "run", tmp_path / "t.csv", "y")
    return tmp_path / "run"


def edit(folder, change):
    content = json.loads((folder / "config.json").read_text())
    change(content)
    (folder / "config.json").write_text(json.dumps(content))


def feature(**fields):
    return lambda content: content["encoding"]["features"][0].update(fields)


WRONG = {
    "code as bias": (lambda c: c["spec"].update(bias="__import__('os')"), "`spec.bias` must be"),
    "NaN": (lambda c: c["config"].update(learning_rate=float("nan")), "`config.learning_rate`"),
    "infinity": (lambda c: c["config"].update(max_time=float("inf")), "`config.max_time`"),
    "huge seed": (lambda c: c["config"].update(seed=10**30), "`config.seed` must be a 64-bit"),
    "huge epochs": (lambda c: c["config"].update(epochs=10**300), "`config.epochs` must be a 64"),
    "no rows": (lambda c: c["rows"].update(train=0), "`rows` must be at least 1"),
    "left out": (lambda c: c["data"].update(left_out=[1]), "`data.left_out` must be a list"),
    "task": (lambda c: c.update(task="regression"), "`task` must be classification"),
    "history": (lambda c: c.update(history=[None]), "`history` must be a list, each an obj"),
    "step": (lambda c: c.update(history=[{"changed": {}}]), r"`history\[0\]`: 'step' is missing"),
    "device": (lambda c: c.update(device={"platform": []}), "`device` must be an object of"),
    "versions": (lambda c: c.update(versions={"jax": 1}), "`versions` must be an object of text"),
    "kind": (feature(kind=""), r"`encoding.features\[0\].kind` does not fit"),
    "mean": (feature(mean="x"), r"`encoding.features\[0\].mean` must be a list"),
    "std": (feature(std=[0.0]), r"`encoding.features\[0\].std` does not fit"),
    "fill": (feature(fill=[]), r"`encoding.features\[0\].fill` does not fit"),
    "missing": (feature(missing=[7]), r"`encoding.features\[0\].missing` does not fit"),
    "place": (feature(missing=[True]), r"`encoding.features\[0\].missing` must be a list"),
    "bins": (feature(bins=[[0, 2.0, 1.0]]), r"`encoding.features\[0\].bins` does not fit"),
    "weighting": (lambda c: c["weighting"].update(classes=[-1]), "`weighting.classes` must be"),
    "layers": (lambda c: c["spec"].update(sizes=[2] * 30_001), "at most 1000 layers, got 30000"),
    "long": (lambda c: c["config"].update(dtype="x" * 10**6), "`dtype` must be one of"),
}
SHOWN = 4100  # characters of a message on the terminal


@pytest.mark.parametrize("case", WRONG)
def test_a_field_of_another_type_or_range_is_named(run, case, capsys):
    change, message = WRONG[case]
    edit(run, change)
    with pytest.raises(ValueError, match=rf"config\.json: not the record of a run \(.*{message}"):
        Record.load(run)
    assert main(["show", str(run)]) == 2
    printed = capsys.readouterr()
    assert printed.out == ""
    assert printed.err.count("\n") == 1
    assert len(printed.err) < SHOWN


def test_deep_nesting_is_refused(run):
    (run / "config.json").write_text('{"config":' + "[" * 100_000)
    with pytest.raises(ValueError, match="not readable as JSON"):
        Record.load(run)


def pipe(path):
    os.mkfifo(path)


def endless(path):
    path.symlink_to("/dev/zero")


def link(path):
    (path.parent / "elsewhere").write_text("precious")
    path.symlink_to(path.parent / "elsewhere")


PATHS = ("config.json", "metrics.jsonl", "model/params.safetensors", "model/model.json", ".lock")
PATHS += ("loss.png", "checkpoints/7/checkpoint.json", "tensorboard/events")


@pytest.mark.parametrize("made", [pipe, endless, link])
@pytest.mark.parametrize("name", PATHS)
def test_a_pipe_or_a_link_in_a_run_is_refused(run, name, made, capsys):
    path = run / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.unlink(missing_ok=True)
    made(path)
    what = "a pipe" if made is pipe else "a link"
    with pytest.raises(ValueError, match=f"{name}: must be a file or a folder, got {what}"):
        Record.load(run)
    commands = (["show"], ["export"], ["evaluate"], ["train", "--resume"])
    for command in commands:
        assert main([*command, str(run)]) == 2
        assert capsys.readouterr().err.count("\n") == 1


@pytest.mark.parametrize("name", ["checkpoints", "model", "tensorboard"])
def test_a_folder_that_is_a_link_is_not_written_into(tmp_path, run, name):
    outside = tmp_path / "outside"
    (outside / "5.part").mkdir(parents=True)
    (outside / "5.part" / "precious").write_text("precious")
    if (run / name).exists():
        (run / name).rename(tmp_path / "moved")
    (run / name).symlink_to(outside)
    with pytest.raises(ValueError, match=f"{name}: must be a file or a folder, got a link"):
        runs.resume(run)
    assert [path.name for path in outside.rglob("*")] == ["5.part", "precious"]


@pytest.mark.parametrize("name", ["config.json", "metrics.jsonl", "checkpoints", "model"])
def test_a_new_run_is_not_written_through_a_link(tmp_path, name):
    write_table(tmp_path / "t.csv")
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / name).symlink_to(tmp_path / "outside")  # which is not there yet
    config = Config(data=str(tmp_path / "t.csv"), target="y", epochs=1, out=str(tmp_path / "run"))
    with pytest.raises(ValueError, match=f"{name}: must be a file or a folder, got a link"):
        runs.train(config)
    assert (tmp_path / "run" / name).is_symlink()
    assert not (tmp_path / "outside").exists()


def test_links_of_ones_own_beside_a_run_are_left_alone(run):
    (run / "notes.txt").symlink_to("/dev/null")
    assert Record.load(run).task == "classification"


@pytest.mark.parametrize("name", ["config.json", "metrics.jsonl", "model/params.safetensors"])
def test_a_huge_file_is_refused_before_it_is_read(run, name):
    os.truncate(run / name, HUGE)
    with pytest.raises(ValueError, match=rf"{name}.*must take at most .* of memory.* got {HUGE:,}"):
        read_metrics(run) if "metrics" in name else load(run)


def test_a_huge_or_piped_checkpoint_is_a_damaged_one(tmp_path):
    with checkpoint.Writer(tmp_path) as writer:
        writer.save(3, {"w": np.arange(5.0)})
    for name in (checkpoint.ARRAYS, checkpoint.JSON):
        os.truncate(tmp_path / "3" / name, HUGE)
        with pytest.raises(checkpoint.Damaged, match="must take at most"):
            checkpoint.restore(tmp_path)
        (tmp_path / "3" / name).unlink()
        os.mkfifo(tmp_path / "3" / name)
        with pytest.raises(checkpoint.Damaged, match="must be a file, got a pipe"):
            checkpoint.restore(tmp_path)
        (tmp_path / "3" / name).unlink()
        with checkpoint.Writer(tmp_path / "again") as writer:
            writer.save(3, {"w": np.arange(5.0)})
        (tmp_path / "again" / "3" / name).rename(tmp_path / "3" / name)
        (tmp_path / "again" / "3").rename(tmp_path / "again" / f"{name}.part")


def test_metadata_of_a_checkpoint_of_another_type_are_named(tmp_path):
    write_table(tmp_path / "t.csv")
    config = Config(data=str(tmp_path / "t.csv"), target="y", epochs=1, out=str(tmp_path / "run"))
    folder = runs.train(config).folder
    path = sorted((folder / CHECKPOINTS).iterdir())[-1] / checkpoint.JSON
    whole = json.loads(path.read_text())
    whole.pop("sha256")
    for change in ({"best": 1}, {"identity": []}, {"epoch_loss": "x"}, {"evaluations": True}):
        content = whole | {"metadata": whole["metadata"] | change}
        path.write_text(json.dumps(content | {"sha256": checkpoint._digest(content)}))
        (name,) = change
        with pytest.raises(ValueError, match=f"not a checkpoint of a run .`metadata.{name}` must"):
            runs.resume(folder, epochs=2)


def test_a_network_larger_than_the_memory_is_refused_before_it_is_made(monkeypatch):
    monkeypatch.setattr(files, "memory", lambda: 4 * 4000)
    initial_params(Config(), Spec((10, 100)))  # 4,000 bytes
    with pytest.raises(ValueError, match="the network: must take at most 4,000 bytes of memory"):
        initial_params(Config(), Spec((11, 100)))
    with pytest.raises(ValueError, match="the network: must take at most"):
        initial_params(Config(ensemble=2), Spec((10, 100)))


def test_a_calibration_that_is_no_number_is_refused(run):
    model = load(run)
    for wrong in ({"temperature": "x"}, {"temperature": 0}, {"balance": 2}, {"balance": None}):
        save_params(run / "model" / "params.safetensors", model.params, wrong)
        (name,) = wrong
        with pytest.raises(ValueError, match=f"damaged, or not of this run .`{name}` is "):
            load(run)


def test_what_files_hold_is_printed_with_escapes(run, capsys):
    def rename(content):
        content["config"].update(target="\x1b[2J\ny")
        content["encoding"]["target"].update(name="\x1b[2J\ny", categories=["\x1b]0;x\x07", "\x9b"])
        content["encoding"]["features"][0].update(name="\x1b[31m\u202e")
        content["data"].update(name="\x1b[5m", left_out=["a\nb"])
        content["versions"].update(jaxnet="\x1b[1m")

    edit(run, rename)
    assert main(["show", str(run)]) == 0
    assert main(["train", "--resume", str(run)]) == 2
    printed = "".join(capsys.readouterr())
    assert r"\x1b[5m" in printed
    assert not {"\x1b", "\x9b", "\x07", "\u202e"} & {*printed}


def test_the_metrics_of_a_model_that_are_none_are_refused(run, capsys):
    (run / "model" / "metrics.json").write_text('{"epoch": 2, "train": 1.5}')
    assert main(["show", str(run)]) == 2
    assert "metrics.json: not the metrics of a model" in capsys.readouterr().err


@pytest.mark.parametrize("line", ["[1]", '{"step": 1, "epoch": 1, "x": [[]]}', '{"step": 1e400}'])
def test_a_line_of_metrics_holds_numbers_only(run, line):
    (run / "metrics.jsonl").write_text(line + "\n")
    with pytest.raises(ValueError, match="line 1 is not a line of metrics"):
        read_metrics(run)


def test_a_recording_that_is_huge_or_a_pipe_is_refused(tmp_path):
    path = tmp_path / "r.npz"
    path.touch()
    os.truncate(path, HUGE)
    with pytest.raises(ValueError, match="must take at most"):
        recording.load(path)
    path.unlink()
    os.mkfifo(path)
    with pytest.raises(ValueError, match="must be a file, got a pipe"):
        recording.load(path)


def test_many_arrays_of_the_same_bytes_in_a_recording_are_bounded(monkeypatch):
    monkeypatch.setattr(files, "memory", lambda: 4 * 800)
    index = {str(i): (0, "<f8", (10,)) for i in range(11)}
    values = np.zeros(80, np.uint8)
    recording._unpack(dict(list(index.items())[:10]), values)
    with pytest.raises(ValueError, match="the arrays: must take at most 800 bytes"):
        recording._unpack(index, values)
