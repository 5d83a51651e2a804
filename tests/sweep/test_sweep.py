import csv
import json
import signal
import threading
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest

from jaxnet import runs
from jaxnet.cli import run_text
from jaxnet.runs.config import OPTIMIZERS, SCHEDULES, Config
from jaxnet.sweep import members as sweep_members
from jaxnet.sweep import settings, sweep
from jaxnet.sweep.members import Workers, train_members
from jaxnet.sweep.settings import Mapping

ROWS = 27


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    """A folder with a table of 27 rows: two numbers, a word, and targets of both kinds."""
    monkeypatch.chdir(tmp_path)
    rng = np.random.default_rng(5)
    x = rng.standard_normal((ROWS, 2))
    lines = ["a,b,word,kind,price"]
    for i, (a, b) in enumerate(x.tolist()):
        kind = int(a + b > 0) + int(i % 9 == 0)
        lines.append(f"{a},{b},{'xyz'[i % 3]},{kind},{3 * a - b + 10}")
    (tmp_path / "t.csv").write_text("\n".join(lines) + "\n")
    return tmp_path


def config(target="kind", **options):
    other = "price" if target == "kind" else "kind"
    kept: dict[str, Any] = {"hidden": (5,), "epochs": 4, "dtype": "float64", "batch_size": 4}
    return Config(data="t.csv", target=target, drop=(other,), **kept | options)


def plan(config, **options):
    return sweep.plan(config, **options)


MADE: dict[Any, Any] = {}  # runs, since both mappings are held against the same


def alone(planned, member):
    """The same network trained by `runs.train`, and the lines of its metrics."""
    config = planned.config_of(member.setting, member.key)
    dataset = planned.dataset_of(member.setting, member.key)
    if (config, member.key) not in MADE:
        run = runs.train(config, dataset=dataset)
        MADE[config, member.key] = run, run_text.read(run.folder).lines
    return MADE[config, member.key]


def assert_equal_alone(planned, trained):
    """Each member is the run that is made alone, to the rounding of its dtype."""
    # The same operations, of which some are fused or summed in another order. Adam's first steps
    # divide by a gradient's own size, so that rounding grows by some hundreds in few epochs.
    tolerance = {"float64": 1e-11, "float32": 2e-4}[planned.config.dtype]
    for member, params in trained:
        run, lines = alone(planned, member)
        assert (member.epochs, member.epoch, member.reason) == (run.epochs, run.epoch, run.reason)
        losses = [[line["train_loss"], line["val_loss"]] for line in lines]
        np.testing.assert_allclose(member.losses, losses, rtol=tolerance)
        validation = run.metrics["validation"]
        assert member.metrics.keys() == validation.keys()
        for name, value in member.metrics.items():
            np.testing.assert_allclose(value, validation[name], rtol=tolerance, err_msg=name)
        for name, leaf in params.items():
            np.testing.assert_allclose(leaf, run.params[name], rtol=0, atol=tolerance, err_msg=name)


MAPPINGS = {"one by one": Mapping(1, 1, 2, ""), "stacks": Mapping(2, 2, 1, "")}


@pytest.fixture(params=MAPPINGS)
def mapped(request, monkeypatch):
    """Both ways to train the members, on whatever size the test has."""
    monkeypatch.setattr(settings, "mapping", lambda plan, hidden: MAPPINGS[request.param])
    return request.param


CASES: dict[str, tuple[Config, dict[str, Any]]] = {
    "classes": (config(), {}),
    "numbers": (config("price"), {}),
    "float32": (config(dtype="float32"), {}),
    "folds": (config("price", batch_size=None), {"folds": 4}),
    "patience": (config(patience=1, epochs=9, optimizer="momentum"), {}),
    "evaluate every": (config(evaluate_every=3, epochs=7, patience=2), {}),
    "clipped, decayed": (config(clip_norm=0.1, optimizer="adamw"), {"weight_decay": (0.0, 0.3)}),
}


@pytest.mark.parametrize(
    ("mapped", "case"),
    [
        *(("stacks", case) for case in CASES if case != "float32"),
        *(("one by one", case) for case in ("float32", "patience", "clipped, decayed")),
    ],
    indirect=["mapped"],
)
def test_each_member_equals_the_run_made_alone(mapped, case):
    given, options = CASES[case]
    planned = plan(given, learning_rate=(1e-3, 3e-2), **({"seeds": 3} | options))
    trained = list(train_members(planned))
    assert len(trained) == planned.num_members
    order = {(s, k) for s in planned.settings for k in planned.keys}
    assert {(member.setting, member.key) for member, _ in trained} == order
    trained.sort(key=lambda pair: (pair[0].key, pair[0].setting))
    assert_equal_alone(planned, [trained[0], trained[-1]])


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_every_optimizer_takes_its_rate_and_decay_from_the_member(optimizer):
    schedule = SCHEDULES[OPTIMIZERS.index(optimizer) % len(SCHEDULES)]
    given = config(optimizer=optimizer, schedule=schedule, epochs=2)
    planned = plan(given, learning_rate=(1e-3, 1e-2), weight_decay=(0.0, 0.2))
    trained = sorted(train_members(planned), key=lambda pair: pair[0].setting)
    assert len({float(member.losses[-1, 0]) for member, _ in trained}) == 4
    assert_equal_alone(planned, [trained[-1]])


@pytest.mark.usefixtures("usual_code")
def test_how_steps_are_cut_into_calls_changes_no_bit(mapped, monkeypatch):
    planned = plan(config(patience=2, epochs=6), learning_rate=(1e-3, 3e-2), seeds=2)
    whole = {(m.setting, m.key): params for m, params in train_members(planned)}
    monkeypatch.setattr(sweep_members, "CALL_SECONDS", 1e-9)  # a step a call
    for member, params in train_members(planned):
        for name, leaf in params.items():
            np.testing.assert_array_equal(leaf, whole[member.setting, member.key][name])


def test_a_member_that_diverges_ends_alone(mapped):
    planned = plan(config("price", optimizer="sgd"), learning_rate=(1e-3, 1e200), seeds=2)
    trained = list(train_members(planned))
    for member, params in trained:
        diverged = member.setting.learning_rate > 1
        assert member.reason == ("diverged" if diverged else "epochs")
        assert member.epochs == (1 if diverged else 4)
        assert (member.metrics == {}) == diverged
        assert all(np.isfinite(leaf).all() for leaf in params.values())
    table = sweep.tabulate([member for member, _ in trained])
    assert [(row.members, row.diverged) for row in table] == [(2, 0), (2, 2)]


def test_a_member_that_has_stopped_makes_no_more_steps():
    planned = plan(config(patience=1, epochs=500), learning_rate=(0.3, 0.2))
    workers = Workers(planned, (5,), Mapping(1, 1, 1, ""))
    shares = []
    members = [member for member, _ in workers.results(shares.append, lambda: None)]
    assert {member.reason for member in members} == {"patience"}
    assert all(member.epochs - member.epoch == 1 for member in members)
    assert shares[-1] == 1  # what was not made counts as done


def test_folds_hold_out_every_row_once_and_no_statistic_leaks():
    planned = plan(config("price", batch_size=None), folds=4)
    datasets = [planned.dataset_of(planned.settings[0], key) for key in planned.keys]
    assert [len(dataset.validation) for dataset in datasets] == [7, 7, 7, 6]
    assert [len(dataset.train) for dataset in datasets] == [20] * 4
    values = planned.dataset.table.columns["price"]
    seen = []
    for dataset in datasets:
        column = dataset.encoding.target
        (train,), (held,) = dataset.train.blocks(), dataset.validation.blocks()
        held_out = held.y[:, 0] * column.std[0] + column.mean[0]
        rows = train.y[:, 0] * column.std[0] + column.mean[0]
        np.testing.assert_allclose(column.mean[0], rows.mean(), rtol=1e-12)  # sums of 20 numbers
        assert not set(np.round(rows, 9)) & set(np.round(held_out, 9))
        seen.extend(held_out)
    np.testing.assert_allclose(sorted(seen), sorted(values), rtol=1e-12)


def test_a_problem_at_hand_must_have_kept_its_rows():
    kept = runs.prepare(config(), keep_table=True)
    assert plan(config(), dataset=kept).dataset is kept
    dataset = runs.prepare(config())
    assert {name: len(column) for name, column in dataset.table.columns.items()} == dict.fromkeys(
        ("a", "b", "word", "kind"), 0
    )
    with pytest.raises(ValueError, match="`dataset` must be prepared with `keep_table`"):
        plan(config(), dataset=dataset)


def test_the_best_setting_is_an_ordinary_run_with_its_member_s_loss():
    found = sweep.run(config(), learning_rate=(1e-3, 3e-2), hidden=((5,), (4, 3)), seeds=2)
    assert str(found.folder) == "runs/t-sweep-1"
    means = [row.mean["loss"] for row in found.table]
    assert means == sorted(means)
    assert len(found.table) == 4
    of_best = [m for m in found.members if m.setting == found.table[0].setting]
    losses = [member.metrics["loss"] for member in of_best]
    np.testing.assert_allclose(means[0], np.mean(losses), rtol=1e-14)
    np.testing.assert_allclose(found.table[0].std["loss"], np.std(losses, ddof=1), rtol=1e-12)
    assert found.best is not None
    loss = found.best.metrics["validation"]["loss"] or 0.0
    np.testing.assert_allclose(loss, min(losses), rtol=1e-11)  # as above
    assert found.best.spec.sizes[1:-1] == found.table[0].setting.hidden
    assert runs.resume(found.best.folder, epochs=5).epochs == 5


def test_the_folder_has_a_line_for_each_member_and_the_options():
    given = config("price", out="new", evaluate_every=3)
    found = sweep.run(given, learning_rate=(1e-3, 3e-2), folds=3, weight_decay=(0.0, 0.1))
    with (found.folder / sweep.CSV).open() as file:
        lines = list(csv.DictReader(file))
    assert len(lines) == len(found.members) == 12
    for line, member in zip(lines, found.members, strict=True):
        assert float(line["val_loss"]) == member.metrics["loss"]
        assert [float(line["train_loss"]), float(line["val_loss"])] in member.losses.tolist()
        assert float(line["val_rmse"]) == member.metrics["rmse"]
        assert float(line["learning_rate"]) == member.setting.learning_rate
        assert float(line["weight_decay"]) == member.setting.weight_decay
        assert int(line["fold"]) == member.key.fold
        assert line["hidden"] == "5"
    described = json.loads((found.folder / sweep.JSON).read_text())
    assert (described["sweep"]["folds"], described["sweep"]["seeds"]) == (3, [0])
    assert (found.folder / sweep.PICTURE).read_bytes()[:4] == b"\x89PNG"
    with pytest.raises(FileExistsError, match="must not hold a sweep already: new"):
        sweep.run(given)


def test_one_setting_has_no_picture_and_folders_are_never_overwritten():
    Path("runs/t-sweep-1").mkdir(parents=True)
    found = sweep.run(config(epochs=1))
    assert found.folder.name == "t-sweep-2"
    assert not (found.folder / sweep.PICTURE).exists()


def test_if_every_setting_diverges_there_is_no_best():
    found = sweep.run(config("price", optimizer="sgd"), learning_rate=(1e200, 1e201))
    assert found.best is None
    assert not (found.folder / "best").exists()
    assert {member.reason for member in found.members} == {"diverged"}


def test_a_signal_ends_the_sweep_and_what_is_complete_stays(monkeypatch):
    planned = plan(config(epochs=3, out="new"), learning_rate=(1e-3, 1e-2, 1e-1), seeds=3)
    monkeypatch.setattr(settings, "mapping", lambda plan, hidden: MAPPINGS["one by one"])
    sent = threading.Event()

    def interrupt(progress):
        if progress.members and not sent.is_set():
            sent.set()
            signal.raise_signal(signal.SIGINT)

    monkeypatch.setattr(Workers, "_train", slowly(Workers._train, sent))
    with pytest.raises(sweep.Stopped, match=r"SIGINT after \d of 9 networks: new/sweep"):
        sweep.train(planned, on_progress=interrupt)
    lines = Path("new/sweep.csv").read_text().splitlines()
    assert 2 <= len(lines) < 10
    assert not Path("new/best").exists()


def slowly(train, sent):
    """Let two blocks pass, and hold the others until the signal was sent."""
    passed = []

    def held(self, block):
        passed.append(block)
        if len(passed) > 2:
            assert sent.wait(60)
        return train(self, block)

    return held


def test_memory_bounds_the_blocks(monkeypatch):
    planned = plan(config(), learning_rate=np.geomspace(1e-3, 1e-2, 24).tolist(), seeds=4)
    free = sweep.mapping_of(planned, (5,))
    assert free.splits * free.settings > 1
    member, split = settings._sizes(planned, (5,))[1:]
    monkeypatch.setattr(settings, "BUDGET", 2 * (5 * member + split))
    monkeypatch.setattr(settings, "_processors", lambda: 2)
    bounded = sweep.mapping_of(planned, (5,))
    assert (bounded.splits, bounded.settings, bounded.workers) == (1, 5, 2)
    monkeypatch.setattr(settings, "BUDGET", 1)
    assert sweep.mapping_of(planned, (5,))[:3] == (1, 1, 1)


def test_small_networks_are_stacked_and_large_ones_trained_one_by_one(monkeypatch):
    monkeypatch.setattr(settings, "_processors", lambda: 2)
    sizes = (5,), (2000, 300)
    planned = plan(config(), learning_rate=(1e-3, 1e-2), hidden=sizes, seeds=4)
    assert sweep.mapping_of(planned, sizes[0]).reason.startswith("stacks of 4, 2 at a time (")
    assert sweep.mapping_of(planned, sizes[1])[:2] == (1, 1)


BAD: dict[str, tuple[dict[str, Any], str]] = {
    "seeds": ({"seeds": 0}, "`seeds` must be an integer of at least 1, got 0"),
    "folds": ({"folds": 1}, "`folds` must be an integer of at least 2, got 1"),
    "more folds than rows": ({"folds": 28}, "`folds` must be 2..27, the number of rows; got 28"),
    "rate": ({"learning_rate": (1e-3, -1.0)}, "`learning_rate` must be a finite number above 0"),
    "decay": ({"weight_decay": (-1.0,)}, "`weight_decay` must be a finite number of at least 0"),
    "hidden": ({"hidden": ((5,), (0,))}, "`hidden` must be integers of at least 1"),
    "twice": ({"learning_rate": (0.1, 0.1)}, "`learning_rate` must be different values"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_input_is_told_before_any_work(folder, case):
    options, message = BAD[case]
    with pytest.raises(ValueError, match=message):
        sweep.run(config(), **options)
    with pytest.raises(ValueError, match="`max_time` must not be given to a sweep"):
        sweep.run(config(max_time=3.0))
    with pytest.raises(
        ValueError, match=r"`batch_size` must be 1\.\.13, the number of training rows"
    ):
        sweep.run(config(batch_size=20), folds=2)
    assert [path.name for path in folder.iterdir()] == ["t.csv"]


def test_one_architecture_is_one_program(caplog):
    sizes = (5,), (4, 3)
    planned = plan(config(), learning_rate=(1e-3, 1e-2, 0.1), hidden=sizes, seeds=3)
    with jax.log_compiles(True):
        list(train_members(planned))
    compiled = [m for m in caplog.messages if m.startswith("Compiling") and "(_run)" in m]
    assert len(compiled) == 2


def test_members_whose_splits_have_different_inputs_equal_the_runs_made_alone(folder, mapped):
    rng = np.random.default_rng(2)
    lines = ["a,b,kind"]
    for i, (a, b) in enumerate(rng.integers(0, 9, (ROWS, 2)).tolist()):
        lines.append(f"{'' if i == 4 else a},{b},{int(a > b)}")  # which one split trains on
    (folder / "t.csv").write_text("\n".join(lines) + "\n")
    given = Config(
        data="t.csv", target="kind", hidden=(5,), epochs=4, dtype="float64", numbers="bins",
        optimizer="adamw", batch_size=4,
    )  # fmt: skip
    planned = plan(given, learning_rate=(1e-3, 3e-2), seeds=4)
    widths = {encoding.width for encoding in planned.encodings.values()}
    assert len(widths) > 1
    trained = list(train_members(planned))
    assert {len(params["w1"]) for _, params in trained} == widths
    assert_equal_alone(planned, trained)
