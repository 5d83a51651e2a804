import json
import random
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxnet import train
from jaxnet.engine import checkpoint

RNG = np.random.default_rng(0)
PARAMS = {
    "w1": RNG.standard_normal((7, 5)).astype(np.float32),
    "b1": RNG.standard_normal(5).astype(np.float32),
    "none": np.zeros((0, 3), np.float32),
}


def tree():
    return {
        "state": train.init(PARAMS, optax.adam(1e-3)),
        "key": jax.random.key(3),
        "half": jnp.arange(3, dtype=jnp.bfloat16),
        "double": np.array([1 / 3]),
        "number": 4,
        "yes": np.array([True, False]),
    }


def bits(leaf):
    leaf = jax.random.key_data(leaf) if checkpoint._is_key(leaf) else leaf
    return np.asarray(leaf).dtype, np.asarray(leaf).shape, np.asarray(leaf).tobytes()


@pytest.fixture
def folder(tmp_path):
    """Three checkpoints of one tree, of which the last two are kept."""
    with checkpoint.Writer(tmp_path, keep=2) as writer:
        for step in (1, 2, 5):
            writer.save(step, tree(), {"epoch": step, "loss": 1 / 3})
    return tmp_path


def test_every_leaf_comes_back_bit_for_bit_in_its_structure(folder):
    saved = checkpoint.restore(folder, tree())
    assert (saved.step, saved.metadata, saved.damaged) == (5, {"epoch": 5, "loss": 1 / 3}, ())
    assert jax.tree.structure(saved.tree) == jax.tree.structure(tree())
    assert list(map(bits, jax.tree.leaves(saved.tree))) == list(map(bits, jax.tree.leaves(tree())))
    assert isinstance(saved.tree["state"].params["w1"], jax.Array)
    assert isinstance(saved.tree["double"], np.ndarray)


def test_without_a_structure_the_leaves_come_by_name(folder):
    got = checkpoint.restore(folder).tree
    np.testing.assert_array_equal(got["state/params/w1"], PARAMS["w1"])
    assert {"key", "state/step", "state/opt_state/0/mu/b1"} <= set(got)


def test_the_last_ones_are_kept_and_nothing_else_lies_there(folder):
    assert checkpoint.steps(folder) == [2, 5]
    assert sorted(path.name for path in folder.iterdir()) == ["2", "5"]
    assert checkpoint.restore(folder, tree(), step=2).metadata["epoch"] == 2


def test_a_save_copies_the_state_before_it_is_donated(tmp_path):
    step = train.make_step(lambda params, batch: (params["w1"] ** 2).sum(), optax.sgd(0.1))
    state = train.init({"w1": PARAMS["w1"]}, optax.sgd(0.1))
    with checkpoint.Writer(tmp_path) as writer:
        writer.save(0, state)
        step(state, None)
    got = checkpoint.restore(tmp_path).tree["params/w1"]
    np.testing.assert_array_equal(got, PARAMS["w1"])


def test_no_file_is_a_pickle(folder):
    for path in folder.rglob("*"):
        if path.is_file():
            assert path.read_bytes()[:2] != b"\x80\x04", path
    assert json.loads((folder / "5" / "checkpoint.json").read_text())["format"] == 2


def changed(**leaves):
    return tree() | leaves


LIKE = {
    "shape": (
        changed(state=train.init(PARAMS | {"w1": np.zeros((7, 6), "f4")}, optax.adam(1e-3))),
        r"leaf state/params/w1 is float32 \(7, 5\) in the .*float32 \(7, 6\) is asked for",
    ),
    "dtype": (
        changed(double=np.zeros(1, "f4")),
        r"leaf double is float64 \(1,\) .* float32 \(1,\)",
    ),
    "missing": (changed(more=np.zeros(3)), "the leaf more is not in the checkpoint"),
    "extra": (
        {k: v for k, v in tree().items() if k != "half"},
        "the checkpoint has a leaf half that is not asked for",
    ),
    "optimizer": (
        changed(state=train.init(PARAMS, optax.sgd(0.1))),
        "the checkpoint has a leaf state/opt_state/0/count that is not asked for",
    ),
}


@pytest.mark.parametrize("case", LIKE)
def test_a_tree_that_differs_is_refused_by_the_leafs_name(folder, case):
    like, message = LIKE[case]
    with pytest.raises(ValueError, match=message) as caught:
        checkpoint.restore(folder, like)
    assert not isinstance(caught.value, checkpoint.Damaged)


def files_of(folder):
    return sorted(path for path in (folder / "5").rglob("*") if path.is_file())


def test_every_flipped_bit_is_noticed_and_the_one_before_is_taken(folder, capfd):
    generator = random.Random(0)
    for path in files_of(folder):
        content = path.read_bytes()
        last = len(content) - 1  # a byte of an array, which no format of its own would notice
        for place in (generator.randrange(last), generator.randrange(last), last):
            flipped = bytearray(content)
            flipped[place] ^= 1 << generator.randrange(8)
            path.write_bytes(flipped)
            saved = checkpoint.restore(folder, tree())
            assert saved.step == 2, path
            assert len(saved.damaged) == 1
            assert "5: the checkpoint is damaged (" in saved.damaged[0]
        path.write_bytes(content)
    assert checkpoint.restore(folder, tree()).step == 5
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize("kept", [0, 0.5])
def test_every_file_cut_short_or_gone_is_noticed(folder, kept):
    for path in files_of(folder):
        content = path.read_bytes()
        path.write_bytes(content[: int(kept * len(content))])
        assert checkpoint.restore(folder, tree()).step == 2, path
        path.unlink()
        assert checkpoint.restore(folder, tree()).step == 2, path
        path.write_bytes(content)


def test_all_damaged_is_an_error_that_names_each(folder):
    for step in ("2", "5"):
        (folder / step / "checkpoint.json").write_text("{")
    with pytest.raises(checkpoint.Damaged, match=r"5: the checkpoint .*; .*2: the checkpoint"):
        checkpoint.restore(folder, tree())


def rewrite(path, **changed):
    content = json.loads(path.read_text()) | changed
    content.pop("sha256")
    path.write_text(json.dumps(content | {"sha256": checkpoint._digest(content)}))


def test_a_newer_format_is_refused_and_not_taken_for_damage(folder):
    rewrite(folder / "5" / "checkpoint.json", format=3)
    with pytest.raises(
        ValueError, match="has format 3, of a newer jaxnet; this one reads format 2"
    ):
        checkpoint.restore(folder, tree())


def test_a_huge_declared_shape_is_refused_before_it_is_allocated(folder):
    leaves = json.loads((folder / "5" / "checkpoint.json").read_text())["leaves"]
    rewrite(folder / "5" / "checkpoint.json", leaves=leaves | {"double": [[10**15], "float64"]})
    with pytest.raises(ValueError, match=r"double is float64 \(1000000000000000,\) in the check"):
        checkpoint.restore(folder, tree())


def test_leftovers_of_a_killed_writer_are_removed_and_never_read(folder):
    shutil.copytree(folder / "5", folder / "9.part")
    assert checkpoint.restore(folder, tree()).step == 5
    with checkpoint.Writer(folder):
        assert sorted(path.name for path in folder.iterdir()) == ["2", "5"]


def test_set_aside_keeps_what_was_damaged_under_another_name(folder):
    checkpoint.set_aside(folder, 2)
    assert checkpoint.steps(folder) == [2]
    with checkpoint.Writer(folder) as writer:
        writer.save(5, tree())
    checkpoint.set_aside(folder, 2)
    names = sorted(path.name for path in folder.iterdir())
    assert names == ["2", "5.damaged", "5.damaged-1"]


def test_bad_trees_and_steps_are_refused(tmp_path):
    with checkpoint.Writer(tmp_path) as writer:
        with pytest.raises(ValueError, match="`tree` must hold arrays of numbers only, got a: "):
            writer.save(1, {"a": np.array(["text"])})
        with pytest.raises(ValueError, match="two of a/b"):
            writer.save(1, {"a": {"b": np.zeros(1)}, "a/b": np.zeros(1)})
        writer.save(3, tree())
        with pytest.raises(ValueError, match="`step` must be after the last checkpoint, 3; got 3"):
            writer.save(3, tree())
    with pytest.raises(FileNotFoundError, match="there is no checkpoint"):
        checkpoint.restore(tmp_path / "none", tree())
    with pytest.raises(FileNotFoundError, match="there is no checkpoint 4"):
        checkpoint.restore(tmp_path, tree(), step=4)


def test_a_disk_that_refuses_is_one_oserror_and_the_checkpoints_before_stay(folder, monkeypatch):
    def full(*args, **options):
        raise OSError(28, "No space left on device")

    writer = checkpoint.Writer(folder)
    monkeypatch.setattr("os.fsync", full)
    writer.save(9, tree())
    with pytest.raises(OSError, match=r"could not be written \(No space left") as caught, writer:
        pass
    assert caught.value.errno == 28
    assert sorted(path.name for path in folder.iterdir()) == ["2", "5"]
    assert checkpoint.restore(folder, tree()).step == 5
