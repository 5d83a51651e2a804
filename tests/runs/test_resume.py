"""Runs that stop and go on, in one process; tests/test_processes.py kills real ones."""

import json
import os
import shutil
import signal
import time
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from jaxnet import files, numpy_net, runs
from jaxnet.engine import checkpoint, epochs
from jaxnet.runs import folder as run_folder
from jaxnet.runs import session
from jaxnet.runs.config import Config

RANDOM = np.random.default_rng(0)
X = RANDOM.standard_normal((47, 3))
PRICE = 1000 + 50 * (X @ [1.0, -2.0, 0.5]) + RANDOM.standard_normal(47)
TABLE = "y,a,b,c\n" + "".join(f"{y},{r[0]},{r[1]},{r[2]}\n" for y, r in zip(PRICE, X, strict=True))


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "price.csv").write_text(TABLE)
    monkeypatch.setattr(session, "_plot", lambda folder, *_: (folder / "loss.png").touch())  # slow
    monkeypatch.setattr(epochs, "MAX_CHUNK", 3)  # so that chunks end within an epoch of 4 steps too
    return tmp_path


def config(**options):
    defaults: dict = {"epochs": 6, "hidden": (5,), "batch_size": 8, "validation": 0.3}
    return Config(data="price.csv", target="y", **(defaults | options))


def stop_at(step, signum=signal.SIGTERM):
    """An on_progress that sends this process a real signal when the run has made `step` steps."""
    sent = []

    def on_progress(progress):
        if progress.step >= step and not sent:
            sent.append(os.kill(os.getpid(), signum))

    return on_progress


def stopped(options, step, out="stopped"):
    with pytest.raises(runs.Stopped) as caught:
        runs.train(replace(options, out=out), on_progress=stop_at(step))
    return caught.value


def contents(folder):
    """All that must be equal: metrics, model, and every array of the newest checkpoint."""
    arrays = checkpoint.restore(folder / run_folder.CHECKPOINTS).tree
    return (
        (folder / run_folder.METRICS).read_bytes(),
        (folder / run_folder.PARAMS).read_bytes(),
        {name: leaf.tobytes() for name, leaf in arrays.items()},
    )


RUNS = {
    "adam cosine": {},
    "sgd constant": {"optimizer": "sgd", "schedule": "constant", "learning_rate": 0.01},
    "nesterov warmup": {"optimizer": "nesterov", "schedule": "warmup", "learning_rate": 0.01},
    "adamw float64": {"optimizer": "adamw", "dtype": "float64"},
    "clipped": {"clip_norm": 0.5, "weight_decay": 0.1},
    "no hidden layer": {"hidden": ()},
    "dropout": {"hidden": (5, 4), "dropout": 0.3},
    "ensemble": {"ensemble": 3, "clip_norm": 0.5, "dropout": 0.3},
    "ensemble on disk": {"ensemble": 2, "on_disk": "on"},
}


@pytest.mark.parametrize("name", RUNS)
@pytest.mark.parametrize("step", [4, 7])  # the end of an epoch, and the midst of one
def test_resume_is_bit_identical(folder, name, step):
    options = config(**RUNS[name])
    whole = runs.train(replace(options, out="whole"))
    assert stopped(options, step).signum == signal.SIGTERM
    assert checkpoint.steps("stopped/checkpoints") == [step]
    again = runs.resume("stopped")
    assert contents(folder / "stopped") == contents(folder / "whole")
    assert (again.epoch, again.epochs, again.metrics) == (whole.epoch, whole.epochs, whole.metrics)


@pytest.mark.usefixtures("usual_code")
def test_metrics_do_not_depend_on_how_the_steps_are_cut_into_chunks(folder, monkeypatch):
    options = config(dtype="float64", batch_size=1, epochs=2)
    runs.train(replace(options, out="short"))
    monkeypatch.setattr(epochs, "MAX_CHUNK", 500)
    runs.train(replace(options, out="long"))
    assert contents(folder / "short") == contents(folder / "long")


@pytest.mark.parametrize("saved", [[4], [7], []])
def test_what_was_written_after_the_last_checkpoint_is_made_again(folder, saved):
    """As after SIGKILL or a power cut: metrics beyond the checkpoint, and a torn line."""
    runs.train(config(out="whole"))
    if saved:
        stopped(config(), saved[0])
    else:
        runs.train(config(out="stopped", epochs=2))
        shutil.rmtree("stopped/checkpoints")
        (folder / "stopped/checkpoints").mkdir()  # as before the first checkpoint
        described = json.loads((folder / "stopped/config.json").read_text())
        described["config"]["epochs"] = 6
        (folder / "stopped/config.json").write_text(json.dumps(described))
    with (folder / "stopped" / "metrics.jsonl").open("a") as file:
        file.write('{"step": 8, "epoch": 2, "train_loss": 9.0, "val_loss": 9.0}\n' * (saved == [4]))
        file.write('{"step": 12, "ep')
    runs.resume("stopped")
    assert contents(folder / "stopped") == contents(folder / "whole")


def test_a_damaged_newest_checkpoint_falls_back_to_the_one_before_and_says_so(folder, caplog):
    runs.train(config(out="whole", checkpoint_every=0))
    stopped(config(checkpoint_every=0), 12)
    shutil.copytree("stopped", "twice")
    (folder / "stopped/checkpoints/12/checkpoint.json").write_text("{")
    runs.resume("stopped")
    assert "12: the checkpoint is damaged" in caplog.text
    assert "resuming from step 8" in caplog.text
    assert contents(folder / "stopped") == contents(folder / "whole")
    assert (folder / "stopped/checkpoints/12.damaged").is_dir()
    for step in (4, 8, 12):
        (folder / f"twice/checkpoints/{step}/checkpoint.json").write_text("{")
    before = (folder / "twice/metrics.jsonl").read_bytes()
    with pytest.raises(ValueError, match=r"12: the checkpoint is damaged .*; .*8: .*; .*4: "):
        runs.resume("twice")
    assert (folder / "twice/metrics.jsonl").read_bytes() == before


def test_more_epochs_go_on_as_a_run_that_had_them_from_the_beginning_with_a_constant_rate(folder):
    options = config(schedule="constant")
    runs.train(replace(options, out="whole", epochs=9))
    runs.train(replace(options, out="stopped"))
    run = runs.resume("stopped", epochs=9)
    assert run.epochs == 9
    assert contents(folder / "stopped") == contents(folder / "whole")
    described = json.loads((folder / "stopped/config.json").read_text())
    assert described["config"]["epochs"] == 9
    assert described["history"][0]["changed"] == {"epochs": 9}
    assert described["history"][0]["step"] == 24


def test_fewer_epochs_than_were_made_are_refused(folder):
    runs.train(config(out="run"))
    before = (folder / "run/config.json").read_bytes()
    with pytest.raises(ValueError, match="`epochs` must be at least 6, those made, got 5"):
        runs.resume("run", epochs=5)
    assert (folder / "run/config.json").read_bytes() == before


def test_a_run_whose_checkpoints_were_removed_does_not_begin_again(folder):
    runs.train(config(out="run"))
    shutil.rmtree("run/checkpoints")
    before = (folder / "run/metrics.jsonl").read_bytes()
    with pytest.raises(ValueError, match="run/checkpoints: the run's checkpoints are gone"):
        runs.resume("run", epochs=7)
    assert (folder / "run/metrics.jsonl").read_bytes() == before


def test_the_schedule_that_ends_later_is_said(caplog):
    runs.train(config(out="stopped"))
    runs.resume("stopped", epochs=8)
    assert "cosine schedule of the learning rate now ends after epoch 8" in caplog.text


def test_a_run_that_has_ended_is_only_loaded(folder):
    run = runs.train(config(out="whole"))
    before = contents(folder / "whole")
    again = runs.resume("whole")
    assert contents(folder / "whole") == before
    assert (again.metrics, again.reason) == (run.metrics, "epochs")
    for name, value in run.params.items():
        np.testing.assert_array_equal(again.params[name], value)


REFUSED: dict[str, tuple[dict[str, Any], str]] = {
    "optimizer": (
        {"optimizer": "sgd"},
        "`optimizer` must stay 'adam' to resume run, got 'sgd'",
    ),
    "hidden": ({"hidden": (6,)}, r"`hidden` must stay \(5,\) to resume run, got \(6,\)"),
    "seed": ({"seed": 1}, "`seed` must stay 0"),
    "batch": ({"batch_size": 9}, "`batch_size` must stay 8"),
    "clip": ({"clip_norm": 1.0}, "`clip_norm` must stay None"),
    "data": ({"data": "other.csv"}, r"`data` must be the file that run began with \(.* bytes, sha"),
    "no data": ({"data": "none.csv"}, "`data` names no file: none.csv"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_defines_the_run_cannot_change(folder, case):
    changed, message = REFUSED[case]
    (folder / "other.csv").write_text(TABLE.replace("999", "998", 1))
    stopped(config(), 4, "run")
    before = contents(folder / "run")
    with pytest.raises((ValueError, FileNotFoundError), match=message):
        runs.resume("run", **changed)
    assert contents(folder / "run") == before


def test_changed_data_are_refused_and_moved_data_found(folder):
    stopped(config(), 4, "run")
    (folder / "price.csv").rename(folder / "moved.csv")
    runs.resume("run", data="moved.csv", epochs=6)
    assert "moved.csv" in json.loads((folder / "run/config.json").read_text())["data"]["path"]
    (folder / "moved.csv").write_text(TABLE + TABLE.splitlines()[1] + "\n")
    with pytest.raises(ValueError, match="`data` must be the file that run began with"):
        runs.resume("run", epochs=7)


def edit(folder, change):
    path = folder / "run" / "config.json"
    described = json.loads(path.read_text())
    change(described)
    path.write_text(json.dumps(described))


def delete(name):
    return lambda described: described.pop(name)


def option(**changed):
    return lambda described: described["config"].update(changed)


EDITS = {
    "optimizer": (option(optimizer="sgd"), r"says optimizer 'sgd', and the checkpoint 'adam'; was"),
    "sizes": (option(hidden=[6]), r"says hidden \[6\], and the checkpoint \[5\]"),
    "no such": (option(optimizer="magic"), "not the record of a run .`optimizer` must be one of"),
    "unknown": (
        option(magic=1),
        r"not the record of a run \(`config` has an unknown field 'magic'\); was it ed",
    ),
    "type": (option(epochs="many"), "not the record of a run"),
    "no options": (delete("config"), r"not the record of a run \('config' is missing\)"),
    "no data": (delete("data"), "is missing"),
    "no encoding": (delete("encoding"), "not the record of a run"),
    "no std": (
        lambda d: d["encoding"]["features"][0].update(std=[0.0]),
        "`encoding.features.*std` does not fit column 'a'",
    ),
    "no list": (
        lambda d: d["encoding"]["features"][0].update(mean=5),
        "not the record of a run",
    ),
    "encoding": (
        lambda d: d["encoding"]["features"][0].update(mean=[7.0]),
        "says encoding '.*', and the checkpoint",
    ),
}


@pytest.mark.parametrize("case", EDITS)
def test_an_edited_config_is_refused_and_nothing_lost(folder, case):
    change, message = EDITS[case]
    stopped(config(), 4, "run")
    before = contents(folder / "run")
    edit(folder, change)
    with pytest.raises(ValueError, match=f"run/config.json: .*{message}"):
        runs.resume("run")
    assert contents(folder / "run") == before


def test_a_config_that_is_no_json_or_not_there_is_refused(folder):
    stopped(config(), 4, "run")
    (folder / "run/config.json").write_text('{"config": ')
    with pytest.raises(ValueError, match=r"config\.json: not readable as JSON"):
        runs.resume("run")
    (folder / "run/config.json").unlink()
    for name in ("run", "none"):
        with pytest.raises(FileNotFoundError, match=f"{name}: this is not the folder of a run"):
            runs.resume(name)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            lambda lines: lines[1:],
            r"must hold 2 lines of growing epochs up to step 8, got the epochs \[2\]",
        ),
        (
            lambda lines: lines[:1],
            r"must hold 2 lines of growing epochs up to step 8, got the epochs \[1\]",
        ),
        (lambda lines: [lines[0], lines[0]], r"got the epochs \[1, 1\] at the end of 2"),
        (lambda lines: [lines[0], *lines], r"got the epochs \[1, 1, 2\] at the end of 3"),
        (lambda lines: ["oops\n", *lines], "line 1 is not a line of metrics"),
    ],
)
def test_edited_metrics_are_refused_and_left_alone(folder, change, message):
    stopped(config(), 8, "run")
    path = folder / "run/metrics.jsonl"
    path.write_text("".join(change(path.read_text().splitlines(keepends=True))))
    before = path.read_bytes()
    with pytest.raises(ValueError, match=message):
        runs.resume("run")
    assert path.read_bytes() == before


def test_a_second_signal_acts_at_once(folder):
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell may have had it ignored

    def twice(progress):
        if progress.step >= 8:
            handler = signal.getsignal(signal.SIGINT)
            os.kill(os.getpid(), signal.SIGINT)
            while signal.getsignal(signal.SIGINT) == handler:  # two that are pending count as one
                time.sleep(0.001)
            os.kill(os.getpid(), signal.SIGINT)
            time.sleep(10)

    with pytest.raises(KeyboardInterrupt) as caught:
        runs.train(config(out="run", checkpoint_every=0), on_progress=twice)
    assert not isinstance(caught.value, runs.Stopped)
    whole = runs.train(config(out="whole"))
    assert runs.resume("run").metrics == whole.metrics


def test_handlers_are_restored(folder):
    before = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]
    runs.train(config(epochs=1))
    stopped(config(), 4)
    assert [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)] == before


def test_patience_stops_after_that_many_epochs_without_a_lower_loss(folder):
    options = config(epochs=200, learning_rate=0.1, schedule="constant", patience=3)
    run = runs.train(replace(options, out="run"))
    losses = [line["val_loss"] for line in run_folder.read_metrics(folder / "run")]
    best = int(np.argmin(losses)) + 1
    assert (run.reason, run.epoch, run.epochs) == ("patience", best, best + 3)
    # float32, of few rows
    assert run.metrics["validation"]["loss"] == pytest.approx(losses[best - 1], rel=2e-6, abs=0)
    assert runs.resume("run").epochs == run.epochs
    assert runs.resume("run", patience=4).epochs > run.epochs


def test_max_time_stops_and_saves(folder):
    run = runs.train(config(out="run", max_time=1e-9))
    assert (run.reason, run.epochs) == ("max_time", 0)
    runs.train(config(out="whole"))
    runs.resume("run", max_time=1e9)
    assert contents(folder / "run") == contents(folder / "whole")


def test_checkpoints_are_kept_by_number_and_saved_every_epoch_if_asked(folder):
    runs.train(config(out="run", checkpoint_every=0, keep=2))
    assert checkpoint.steps("run/checkpoints") == [20, 24]
    runs.train(config(out="slow", checkpoint_every=1000))
    assert checkpoint.steps("slow/checkpoints") == [24]


def test_a_run_that_diverges_keeps_its_best_model_and_its_last_good_checkpoint(folder):
    options = config(epochs=60, optimizer="sgd", learning_rate=2.0, checkpoint_every=0)
    message = r"became (nan|inf) at step \d+: try .*; --resume run --learning-rate ... continues"
    with pytest.raises(FloatingPointError, match=message):
        runs.train(replace(options, out="run"))
    lines = run_folder.read_metrics(folder / "run")
    best = min(lines, key=lambda line: line["val_loss"])
    metrics = runs.evaluate_validation("run").result()
    # float32 sums over another number of rows than while it trained, each rounding at 6e-8.
    assert metrics["loss"] == pytest.approx(best["val_loss"], rel=1e-5, abs=0)
    saved = checkpoint.restore("run/checkpoints")
    assert saved.step == lines[-1]["step"]
    assert all(np.isfinite(leaf).all() for leaf in saved.tree.values())


def test_the_learning_rate_can_change_on_the_way(folder):
    stopped(config(schedule="constant"), 8, "run")
    runs.resume("run", learning_rate=1e-9)
    lines = run_folder.read_metrics(folder / "run")
    # 16 steps of Adam, of at most 1e-9 each: no float32 weight between 1e-2 and 1 moves much.
    assert lines[-1]["val_loss"] == pytest.approx(lines[1]["val_loss"], rel=1e-5, abs=0)


def test_the_gradient_is_clipped_before_the_optimizer(folder):
    options = config(
        clip_norm=0.5, optimizer="sgd", learning_rate=0.1, schedule="constant", dtype="float64",
        weight_decay=0.2, epochs=3,
    )  # fmt: skip
    dataset = runs.prepare(options)
    run = runs.train(options, dataset=dataset)
    params = dataset.spec.init(0, "float64")
    best, batch_at = None, numpy_batches(dataset)
    for step in range(12):
        _, grads = numpy_net.value_and_grad(params, batch_at(step), loss="mean_squares")
        norm = np.sqrt(sum(np.square(g).sum() for g in grads.values()))
        scale = min(1.0, 0.5 / norm)
        params = {k: v - 0.1 * (scale * grads[k] + 0.2 * v) for k, v in params.items()}
        best = params if step == 4 * run.epoch - 1 else best
    assert best is not None
    for name, value in best.items():
        # float64: a dozen updates of numbers near 1, each some roundings of 1e-16.
        np.testing.assert_allclose(run.params[name], value, rtol=0, atol=1e-13, err_msg=name)


def numpy_batches(dataset):
    from jaxnet import data

    return data.batches(dataset.train, dataset.batch_size, 0)


def test_a_second_writer_is_refused(folder):
    stopped(config(), 4, "run")
    with files.lock(folder / "run"), pytest.raises(BlockingIOError, match="run: another proc"):
        runs.resume("run")
    runs.resume("run")


def test_a_folder_that_cannot_be_written_is_refused(folder):
    stopped(config(), 4, "run")
    (folder / "run" / files.LOCK).unlink(missing_ok=True)
    (folder / "run" / files.LOCK).mkdir()
    with pytest.raises(OSError, match=r"run: the run cannot be written \("):
        runs.resume("run")


def test_the_folder_of_a_run_that_began_meanwhile_is_not_taken(folder, monkeypatch):
    make = run_folder.make

    def make_late(out, name):
        made = make(out, name)
        (folder / "run/config.json").write_text("{}")
        return made

    monkeypatch.setattr("jaxnet.runs.folder.make", make_late)
    with pytest.raises(FileExistsError, match="`out` must not hold a run already"):
        runs.train(config(out="run"))
    assert (folder / "run/config.json").read_text() == "{}"


def test_weights_from_elsewhere_begin_a_run(folder):
    options = config(out="run")
    dataset = runs.prepare(options)
    params = dataset.spec.init(9)
    assert runs.create(options, params, dataset=dataset).as_posix() == "run"
    for name, value in runs.load("run").params.items():
        np.testing.assert_array_equal(value, params[name])
    assert run_folder.read_metrics(folder / "run") == []
    run = runs.resume("run")
    assert run.epochs == 6
    bad = params | {"w1": np.full_like(params["w1"], np.nan)}
    with pytest.raises(FloatingPointError, match="infinite or NaN at step 0"):
        runs.create(replace(options, out="nan"), bad, dataset=dataset)
    assert not (folder / "nan").exists()
    with pytest.raises(ValueError, match="`params` must have the shapes and dtypes"):
        runs.create(replace(options, out="other"), {"w1": params["w1"]}, dataset=dataset)


def test_metrics_go_to_tensorboard_and_not_twice(folder):
    with pytest.raises(runs.Stopped):
        runs.train(config(out="run", tensorboard=True), on_progress=stop_at(8))
    runs.resume("run")
    assert len(list((folder / "run/tensorboard").iterdir())) == 2


def test_a_data_file_that_changes_while_it_is_read_is_refused(folder, monkeypatch):
    from jaxnet.tables.reading import reader

    read = reader.read

    def read_late(*arguments):
        table = read(*arguments)
        (folder / "price.csv").write_text(TABLE + TABLE.splitlines()[1] + "\n")
        return table

    monkeypatch.setattr(reader, "read", read_late)
    with pytest.raises(ValueError, match=r"price\.csv: the file changed while it was read"):
        runs.prepare(config())


@pytest.mark.parametrize("number", [signal.SIGHUP, signal.SIGUSR1, signal.SIGXCPU])
def test_a_warning_saves_as_sigterm_does(folder, number):
    before = signal.signal(number, signal.SIG_DFL)  # a shell may have had it ignored

    def twice(progress):
        os.kill(os.getpid(), number)
        os.kill(os.getpid(), number)

    try:
        with pytest.raises(runs.Stopped, match=f"stopped by {number.name} at step .*, and saved"):
            runs.train(config(out="run"), on_progress=twice)
    finally:
        signal.signal(number, before)
    assert checkpoint.steps(folder / "run" / run_folder.CHECKPOINTS)


REMOVED = {
    "": r"run/metrics\.jsonl: could not be written \(No such file",
    "metrics.jsonl": r"run/metrics\.jsonl: could not be written \(No such file",
    "checkpoints": r"run/checkpoints: a checkpoint could not be written \(No such file",
    "config.json": None,
    "model": None,
}


@pytest.mark.parametrize("name", REMOVED)
def test_what_is_removed_while_a_run_trains_is_one_line_or_written_again(folder, caplog, name):
    path = folder / "run" / name

    def remove(progress):
        if progress.step >= 8 and not removed:
            removed.append(path)
            path.rename(folder / "gone")  # at once, also while a checkpoint is written

    removed = []
    if REMOVED[name]:
        with pytest.raises(OSError, match=REMOVED[name]):
            runs.train(config(out="run", checkpoint_every=0), on_progress=remove)
        assert name or not path.exists()
        return
    runs.train(config(out="run", checkpoint_every=0), on_progress=remove)
    assert path.exists()
    assert ("config.json: the file was removed, and is written" in caplog.text) == ("c" in name)
    assert runs.resume("run").metrics == runs.train(config(out="whole")).metrics
