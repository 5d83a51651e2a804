"""A run's options beyond one device and one memory: what they compute, and what they refuse."""

import contextlib
from pathlib import Path

import jax
import mesh_runs
import numpy as np
import pytest
from mesh_processes import finish, start
from mesh_runs import BLOCK, MESHES, config

from jaxnet import runs, sweep
from jaxnet.engine import checkpoint, epochs, streams
from jaxnet.engine.mesh import Placement
from jaxnet.runs import evaluation, session, trainer
from jaxnet.runs.folder import CHECKPOINTS, read_metrics

RANDOM = np.random.default_rng(0)
X = RANDOM.standard_normal((87, 3))
ROWS = [f"{'yes' if r[0] > r[1] else 'no'},{r[0]},{r[1]},{r[2]}\n" for r in X]

ONEDNN = (("xla_cpu_experimental_onednn_custom_call", True),)


def write_table(path):
    (path / "table.csv").write_text("y,a,b,c\n" + "".join(ROWS))


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write_table(tmp_path)
    monkeypatch.setattr(session, "_plot", lambda folder, *_: (folder / "loss.png").touch())  # slow
    return tmp_path


def ends(out):
    arrays = checkpoint.restore(Path(out) / CHECKPOINTS).tree
    return read_metrics(Path(out)), arrays


def assert_close(got, want, **tolerance):
    for one, other in zip(got[0], want[0], strict=True):
        np.testing.assert_allclose([*one.values()], [*other.values()], **tolerance)
    for name, value in want[1].items():
        np.testing.assert_allclose(got[1][name], value, err_msg=name, **tolerance)


# float64: the sums of 21 steps in another order, of rounding 1e-16
SAME = {"rtol": 1e-11, "atol": 1e-13}


@pytest.fixture(scope="module")
def plain(tmp_path_factory):
    """Runs with no option of memory or devices, in memory and on disk."""
    path = tmp_path_factory.mktemp("plain")
    write_table(path)
    with contextlib.chdir(path):
        for where in ("off", "on"):
            runs.train(config(out=where, dtype="float64", on_disk=where))
    return path


@pytest.mark.parametrize(
    ("where", "options"),
    [
        ("on", {"accumulate": 4}),
        ("off", {"accumulate": 4, "remat": True}),
        ("on", {"devices": 1}),
        ("off", {"deterministic": True}),
        ("on", {"deterministic": True}),
    ],
)
def test_an_option_of_memory_or_devices_changes_no_more_than_rounding(plain, where, options):
    runs.train(config(out="other", dtype="float64", on_disk=where, **options))
    assert_close(ends("other"), ends(plain / where), **SAME)


def test_bfloat16_is_of_the_products_alone():
    run = runs.train(config(out="half", dtype="bfloat16"))
    plain = runs.train(config(out="single"))
    assert {leaf.dtype for leaf in run.params.values()} == {np.dtype("float32")}
    assert run.params["w1"].tobytes() != plain.params["w1"].tobytes()
    # bfloat16 has 8 bits: products of rounding 2**-9, which Adam's quotients keep
    assert_close(ends("half")[:1] + ({},), ends("single")[:1] + ({},), rtol=0.02)
    assert runs.resume("half", epochs=4).epochs == 4
    record = runs.Record.load(Path("half"))
    by_onednn = jax.__version_info__ >= (0, 12)
    assert (record.device.get("products") == "oneDNN") == by_onednn


@pytest.mark.parametrize(
    ("pays", "flags", "options"),
    [
        (True, "sse avx512_bf16", {}),
        (True, "sse amx_bf16", {}),
        (False, "sse avx512f", {}),  # no units for it
        (False, "sse amx_bf16", {"hidden": (64,)}),  # small products
        (False, "sse amx_bf16", {"epochs": 1}),  # over at once
        (False, "sse amx_bf16", {"dtype": "bfloat16"}),
        (False, "sse amx_bf16", {"dtype": "float64"}),
    ],
)
def test_bfloat16_is_advised_where_it_would_pay(monkeypatch, folder, pays, flags, options):
    known = epochs.compiler_options if jax.__version_info__ >= (0, 12) else lambda *_: ONEDNN
    monkeypatch.setattr(epochs, "compiler_options", known)
    (folder / "cpuinfo").write_text(f"flags\t\t: {flags}\n")
    monkeypatch.setattr(trainer, "CPU_INFO", folder / "cpuinfo")
    large = {"hidden": (4096, 4096), "epochs": 1000, "batch_size": 16}
    dataset = runs.prepare(config(**large | options))
    wanted, _ = trainer.resolve(config(**large | options), dataset)
    assert trainer.bfloat16_pays(wanted, dataset) == pays


def test_bfloat16_from_the_disk_is_that_in_memory():
    runs.train(config(out="disk", dtype="bfloat16", on_disk="on"))
    runs.train(config(out="memory", dtype="bfloat16", on_disk="off"))
    assert_close(ends("disk"), ends("memory"), rtol=1e-5)


@pytest.fixture(scope="module")
def meshes(tmp_path_factory):
    """The runs of `mesh_runs`, made by one process with 4 virtual devices."""
    path = tmp_path_factory.mktemp("meshes")
    write_table(path)
    finish([start(4, mesh_runs.__file__, quick=True, cwd=path)])
    return path


@pytest.mark.parametrize("name", MESHES)
def test_a_run_on_a_mesh_is_the_run_on_one_device(meshes, name):
    """float64, as above; the dual form makes its products of the same columns in the same order."""
    assert_close(ends(meshes / f"{name} many"), ends(meshes / f"{name} one"), **SAME)


def test_validation_rows_that_do_not_divide_are_all_counted(plain, monkeypatch):
    """26 rows in blocks of 10: the last is of 6, whole on each of the devices."""
    dataset = runs.prepare(config(on_disk="on", dtype="float64"))
    mesh = trainer.resolve(config(devices=1), dataset)[1].mesh
    monkeypatch.setattr(evaluation, "BLOCK", BLOCK)
    for where in (Placement(), Placement(mesh), Placement(mesh, shards=False)):
        index = range(3, 9)
        read = where.read(dataset.validation.batch, index)
        want = dataset.validation.batch(np.array(index))
        np.testing.assert_array_equal(read.x, want.x.astype(np.asarray(read.x).dtype))
        np.testing.assert_array_equal(read.y, want.y)
    for where in ("on", "off"):
        runs.train(config(out=where, on_disk=where, dtype="float64"))
        assert_close(ends(where), ends(plain / "off"), **SAME)


REFUSED = {
    "more devices than there are": (
        {"devices": 99},
        "`mesh` must have at most 1 devices, those of the platform cpu, got data=99",
    ),
    "another axis": ({"devices": "rows=2"}, "`mesh` must have the axes data and model"),
    "microbatches that do not divide": (
        {"accumulate": 3},
        "`batch_size` must be a multiple of 3, `accumulate`; got 8",
    ),
    "the dual form in microbatches": (
        {"accumulate": 2, "gram": "on", "optimizer": "sgd"},
        "`gram` must be off for a run with `accumulate`; got on",
    ),
    "the dual form in bfloat16": (
        {"dtype": "bfloat16", "gram": "on", "optimizer": "sgd"},
        "`gram` must be off for a run in bfloat16; got on",
    ),
    "shards that do not divide": (
        {"deterministic": True, "batch_size": 12},
        "`batch_size` must be a multiple of 8, the shards of a deterministic run; got 12",
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_be_is_refused_before_any_work(name, folder):
    options, message = REFUSED[name]
    before = sorted(folder.rglob("*"))
    with pytest.raises(ValueError, match=message):
        runs.train(config(**options))
    assert sorted(folder.rglob("*")) == before


CONFIGS = [
    ({"devices": "0"}, "`devices` must be a number of at least 1, all, or a mesh"),
    ({"devices": "some"}, "`devices` must be a number of at least 1, all, or a mesh"),
    ({"accumulate": 0}, "`accumulate` must be at least 1, got 0"),
    ({"accumulate": 2, "deterministic": True}, "`accumulate` must not be given with"),
    ({"dtype": "float16"}, "`dtype` must be one of float32, float64, bfloat16"),
]


@pytest.mark.parametrize(("options", "message"), CONFIGS)
def test_options_are_checked_when_made(options, message):
    with pytest.raises(ValueError, match=message):
        config(**options)


@pytest.mark.parametrize(
    "options",
    [{"devices": 2}, {"deterministic": True}, {"accumulate": 2}, {"remat": True}],
    ids=lambda options: next(iter(options)),
)
def test_a_sweep_refuses_what_it_does_not_do(options):
    with pytest.raises(ValueError, match=f"`{next(iter(options))}` must not be given to a sweep"):
        sweep.plan(config(**options))


def test_a_sweep_refuses_bfloat16():
    with pytest.raises(ValueError, match="`dtype` must be float32 or float64 for a sweep"):
        sweep.plan(config(dtype="bfloat16"))


def test_a_run_can_go_on_in_less_memory_and_not_to_other_bits():
    runs.train(config(out="run"))
    assert runs.resume("run", epochs=4, accumulate=2, remat=True, devices=1).epochs == 4
    with pytest.raises(ValueError, match="`deterministic` must stay"):
        runs.resume("run", epochs=5, accumulate=None, deterministic=True)
    with pytest.raises(ValueError, match="`dtype` must stay"):
        runs.resume("run", epochs=5, dtype="bfloat16")


def test_a_slab_holds_as_many_steps_as_its_bytes_allow(monkeypatch):
    seen = []
    stream = streams.Stream
    monkeypatch.setattr(streams, "Stream", lambda *parts: seen.append(parts) or stream(*parts))
    monkeypatch.setattr(streams, "BYTES", 3 * 8 * 3 * 4)
    runs.train(config(on_disk="on"))
    assert seen[0][1].size == 3


def test_the_devices_of_another_platform_are_refused():
    known = sorted({"auto", "cpu"} | {device.platform for device in jax.devices()})
    with pytest.raises(ValueError, match=f"`device` must be one of {', '.join(known)}"):
        runs.train(config(device="tpu"))
