"""Recordings: they keep every number, judge as the participant would live, and fail by name."""

import contextlib
import json
import re
import shutil
from dataclasses import replace
from functools import cache

import numpy as np
import pytest
from disk_calls import Disk

from jaxnet import data, numpy_net
from jaxnet.parity import tutorial
from jaxnet.parity.checks import check
from jaxnet.parity.participants import Participant, numpy_participant, oracle
from jaxnet.parity.points import Case
from jaxnet.parity.recording import FORMAT, load, record, trajectory
from jaxnet.spec import Spec

SPEC = Spec((4, 3, 2), bias=True)
REFERENCE = oracle(SPEC, "adam", 1e-3)
SHIPPED = tutorial.RECORDINGS / "tensors.npz"


def case():
    batch = data.random_problem(SPEC, 6, seed=1, dtype="float64")
    params = SPEC.init(0, "float64")
    probes = tutorial.make_probes(SPEC, params, batch)
    rows = [batch._replace(x=batch.x + i) for i in range(4)]  # another batch in every step
    return Case("small", params, lambda i: rows[i % 4], (1, 2, 3), 4, probes)


def candidate(factor=1.0, learning_rate=1e-3):
    """The same network by other functions, its loss times a factor."""

    def value_and_grad(params, batch):
        value, grads = numpy_net.value_and_grad(params, batch)
        return factor * value, {name: factor * grad for name, grad in grads.items()}

    optimizer = numpy_net.make_optimizer("adam", learning_rate)
    return numpy_participant(value_and_grad, optimizer, name="candidate")


def test_a_recording_is_on_the_disk_when_it_is_written(tmp_path, monkeypatch):
    disk = Disk(tmp_path, monkeypatch)
    record(tmp_path / "small.npz", REFERENCE, case())
    disk.check(tmp_path / "small.npz")


@pytest.fixture
def path(tmp_path):
    record(tmp_path / "small.npz", REFERENCE, case())
    return tmp_path / "small.npz"


def assert_same(got, want):
    """Of the same names, dtypes and values, to the bit."""
    assert list(got) == list(want)
    for key in want:
        assert np.asarray(got[key]).dtype == np.asarray(want[key]).dtype, key
        np.testing.assert_array_equal(got[key], want[key], strict=True)


def test_a_recording_keeps_every_number(path):
    got, want = load(path), trajectory(REFERENCE, case())
    assert (got.name, got.reference) == ("numpy (recorded)", None)
    assert (got.case.name, got.case.steps, got.case.num_steps) == ("small", (1, 2, 3), 4)
    assert_same(got.case.params, want.case.params)
    np.testing.assert_array_equal(got.losses, want.losses, strict=True)
    np.testing.assert_array_equal(got.shadow, want.shadow, strict=True)
    for i in range(4):
        np.testing.assert_array_equal(got.case.batch_at(i).x, want.case.batch_at(i).x, strict=True)
    assert len(got.points) == len(want.points) == 14
    for new, old in zip(got.points, want.points, strict=True):
        assert (new.tier, new.step, new.probe) == (old.tier, old.step, old.probe)
        assert new.allowed == old.allowed
        for group in ("params", "state", "grads", "want", "bar"):
            assert_same(getattr(new, group), getattr(old, group))
        assert_same(new.batch._asdict(), old.batch._asdict())


def test_a_recording_says_what_made_it_and_where(path):
    with np.load(path, allow_pickle=False) as file:
        about = json.loads(file["about"].tobytes())
        assert file.files == ["about", "values"]
        assert {file[name].dtype for name in file.files} == {np.dtype("uint8")}
    assert about["format"] == FORMAT
    assert about["versions"]["numpy"] == np.__version__
    assert {"python", "jax", "optax"} <= set(about["versions"])
    assert about["platform"]


def test_a_dictionary_of_arrays_is_a_batch_too_and_no_optimizer_is_needed(tmp_path):
    def value_and_grad(params, batch):
        residual = params["w"] * batch["x"] - batch["y"]
        return np.square(residual).sum(), {"w": (2 * residual * batch["x"]).sum(keepdims=True)}

    batch = {"x": np.arange(3.0), "y": np.ones(3)}
    made = Case("line", {"w": np.ones(1)}, lambda _: batch, (1,), 1)
    record(tmp_path / "line.npz", Participant("line", value_and_grad), made)
    got = load(tmp_path / "line.npz")
    assert_same(got.points[0].batch, batch)
    assert len(got.losses) == len(got.shadow) == 0
    other = Participant("other", lambda params, batch: value_and_grad(params, batch))
    assert check(other, against=got).verdict == "equal"


@pytest.mark.parametrize(
    ("made", "verdict", "cause"),
    [
        (candidate(), "equal", ""),
        (candidate(factor=2.0), "mismatch", "factor 2 on all leaves"),
        (candidate(learning_rate=2e-3), "mismatch", "learning rate times 2"),
    ],
    ids=["right", "factor 2", "learning rate"],
)
def test_a_recording_judges_as_the_participant_would_live(made, verdict, cause, path):
    live = check(made, against=REFERENCE, case=case())
    recorded = check(made, against=load(path))
    assert recorded.verdict == live.verdict == verdict
    assert recorded.leaves == live.leaves  # the ratios among them, to the bit
    assert recorded.drift[made.name] == live.drift[made.name]
    assert live.cause != "unknown"
    assert recorded.cause == cause  # it cannot be replayed with a mistake in it


@cache
def shipped(name):
    return load(tutorial.RECORDINGS / f"{name}.npz")


@pytest.mark.parametrize("name", tutorial.PROGRAMS)
def test_the_oracle_equals_the_shipped_recording_of_torch(name):
    reference = tutorial.in_numpy(tutorial.PROGRAMS[name], tutorial.RECORDED_SIZES)
    report = check(reference, against=shipped(name))
    assert report.verdict == "equal", str(report)
    assert report.reference.startswith("torch")
    assert {leaf.probe for leaf in report.leaves} == {"", "ties", "dead units", "large", "tiny"}
    assert report.n_compared > 3000


@pytest.mark.parametrize("name", ["sequential", "dynamic"])
@pytest.mark.usefixtures("quick_compilation")
def test_net_equals_the_shipped_recording_of_torch(name):
    program = tutorial.PROGRAMS[name]
    made = tutorial.in_jax(program, tutorial.RECORDED_SIZES, program.activation)
    net = replace(made, run=None)
    report = check(net, against=shipped(name))
    assert report.verdict == "equal", str(report)


@pytest.mark.parametrize("name", tutorial.PROGRAMS)
def test_a_wrong_relu_is_unequal_to_the_shipped_recording(name):
    program = tutorial.PROGRAMS[name]
    other = "relu" if program.activation == "my_relu" else "my_relu"
    wrong = tutorial.in_numpy(program._replace(activation=other), tutorial.RECORDED_SIZES)
    report = check(wrong, against=shipped(name))
    assert {leaf.probe for leaf in report.leaves if not leaf.equal} == {"ties"}


def test_the_shipped_recordings_are_small():
    sizes = {path.name: path.stat().st_size for path in tutorial.RECORDINGS.glob("*.npz")}
    assert set(sizes) == {f"{name}.npz" for name in tutorial.PROGRAMS}
    assert max(sizes.values()) < 150_000


def refused(path):
    """The error of a file that cannot be read names the file."""
    with pytest.raises(ValueError, match=re.escape(f"{path}: not a readable parity recording")):
        load(path)


@pytest.mark.parametrize("kept", [0, 1, 4, 100, 0.5, 0.99, -1])
def test_a_truncated_or_empty_file_is_refused(kept, tmp_path):
    content = SHIPPED.read_bytes()
    length = int(kept * len(content)) if isinstance(kept, float) else kept
    (tmp_path / "short.npz").write_bytes(content[:length])
    refused(tmp_path / "short.npz")


def test_a_flipped_bit_is_refused_or_changes_nothing(tmp_path):
    content, path = SHIPPED.read_bytes(), tmp_path / "flipped.npz"
    rng = np.random.default_rng(0)
    ends = [0, 8, 26, 30, len(content) - 150, len(content) - 60, len(content) - 20]
    count = 0
    for i in (*ends, *rng.integers(0, len(content), 30)):
        flipped = bytearray(content)
        flipped[i] ^= 1 << int(rng.integers(8))
        path.write_bytes(flipped)
        with contextlib.suppress(ValueError):  # a byte that says nothing of the numbers
            for new, old in zip(load(path).points, shipped("tensors").points, strict=True):
                assert_same(new.want, old.want)
            continue
        refused(path)
        count += 1
    assert count > 25


@pytest.mark.parametrize(
    "write",
    [
        lambda path: path.write_text("x,y\n1,2\n"),
        lambda path: np.savez(path, x=np.zeros(3)),
        lambda path: np.savez(path, about=np.frombuffer(b"[1, 2]", np.uint8)),
        lambda path: np.savez(path, about=np.frombuffer(b"{}", np.uint8)),
        lambda path: np.savez(path, about=np.array([{}], dtype=object)),
        lambda path: path.mkdir(),
    ],
    ids=["text", "foreign", "list", "nothing", "pickle", "folder"],
)
def test_a_file_that_is_no_recording_is_refused(write, tmp_path):
    write(tmp_path / "other.npz")
    refused(tmp_path / "other.npz")


def changed(path, change):
    """The recording at a path with its description changed."""
    with np.load(path, allow_pickle=False) as file:
        about, values = json.loads(file["about"].tobytes()), file["values"]
    change(about)
    text = np.frombuffer(json.dumps(about).encode(), np.uint8)
    np.savez(path, about=text, values=values)


def test_a_newer_format_is_refused_by_its_name(path):
    changed(path, lambda about: about.update(format="jaxnet parity recording 2"))
    with pytest.raises(ValueError, match=r"small\.npz: .*its format is 'jaxnet .* 2', not '.* 1'"):
        load(path)


@pytest.mark.parametrize("place", [[0, "|O", [1]], [10**9, "<f8", [1]], [0, "<f8", [10**12]]])
def test_an_array_that_the_file_does_not_hold_is_refused(place, path):
    changed(path, lambda about: about["arrays"].update({"params/w1": place}))
    refused(path)


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"no recording at .*none\.npz"):
        load(tmp_path / "none.npz")


def test_a_recording_that_fails_leaves_the_old_one(path, tmp_path):
    before = shutil.copy(path, tmp_path / "before.npz").read_bytes()
    broken = replace(REFERENCE, value_and_grad=lambda params, _: (np.float64("nan"), params))
    with pytest.raises(ValueError, match="not compared"):
        record(path, broken, case())
    assert path.read_bytes() == before
    assert {file.name for file in tmp_path.iterdir()} == {"small.npz", "before.npz"}
