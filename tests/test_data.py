import math

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from jaxnet import data
from jaxnet.spec import Batch, Spec

REGRESSION, CLASSES = Spec(sizes=(7, 5, 3)), Spec(sizes=(7, 5, 3), loss="cross_entropy")


def test_the_random_problem_is_seeded():
    for spec in (REGRESSION, CLASSES):
        first, again = (data.random_problem(spec, num_rows=6, seed=4) for _ in range(2))
        other = data.random_problem(spec, num_rows=6, seed=5)
        np.testing.assert_array_equal(first.x, again.x)
        np.testing.assert_array_equal(first.y, again.y)
        assert not np.array_equal(first.x, other.x)
        assert not np.array_equal(first.y, other.y)


def test_the_random_problem_has_the_tutorials_sizes_by_default():
    batch = data.random_problem()
    assert (batch.x.shape, batch.y.shape, batch.repeats) == ((64, 1000), (64, 10), None)


def test_the_random_problem_is_standard_normal():
    batch = data.random_problem(Spec(sizes=(200, 5, 100)), num_rows=50)
    for values in (batch.x, batch.y):  # 5000 values or more: their mean and std are within 5 sigma
        assert abs(values.mean()) < 5 / math.sqrt(values.size)
        assert abs(values.std() - 1) < 5 / math.sqrt(2 * values.size)


@pytest.mark.parametrize("dtype", ["float16", "float32", "float64"])
def test_a_dtype_only_rounds_the_random_problem(dtype):
    batch, exact = (data.random_problem(REGRESSION, 6, 4, kind) for kind in (dtype, "float64"))
    assert (batch.x.dtype, batch.y.dtype) == (dtype, dtype)
    np.testing.assert_array_equal(batch.x, exact.x.astype(dtype))
    np.testing.assert_array_equal(batch.y, exact.y.astype(dtype))


def test_random_classes_are_int32_and_all_occur():
    batch = data.random_problem(CLASSES, num_rows=60)
    assert (batch.y.shape, batch.y.dtype) == ((60,), np.int32)
    assert set(batch.y.tolist()) == {0, 1, 2}


def test_the_digits_are_the_1797_images_of_uci():
    with np.load(data.digits_path(), allow_pickle=False) as arrays:
        pixels, digit = arrays["pixels"], arrays["digit"]
    assert (pixels.shape, pixels.dtype, digit.shape, digit.dtype) == (
        (1797, 64),
        np.uint8,
        (1797,),
        np.uint8,
    )
    assert (pixels.min(), pixels.max()) == (0, 16)
    assert np.bincount(digit).tolist() == [178, 182, 177, 183, 181, 182, 181, 179, 174, 180]


def test_the_digits_ship_with_their_source_and_licence():
    text = data.digits_path().with_suffix(".txt").read_text(encoding="utf-8")
    for words in ("Optical Recognition of Handwritten Digits", "CC BY 4.0", "10.24432/C50P49"):
        assert words in text


@given(st.integers(2, 300), st.floats(0.001, 0.999), st.integers(0, 2**40))
@settings(deadline=None, max_examples=50)
def test_a_split_is_disjoint_covers_all_rows_and_leaves_neither_side_empty(n, share, seed):
    train, validation = data.split(n, share, seed)
    assert sorted([*train, *validation]) == list(range(n))
    assert min(len(train), len(validation)) >= 1
    # Within one row of the share, as far as both sides keep a row.
    assert abs(len(validation) - min(max(share * n, 1), n - 1)) <= 0.5


def test_a_split_is_seeded_and_shuffled():
    (train, held), (again, held_again) = data.split(50, 0.3, 4), data.split(50, 0.3, 4)
    np.testing.assert_array_equal(train, again)
    np.testing.assert_array_equal(held, held_again)
    assert set(held) != set(data.split(50, 0.3, 5)[1])
    assert train.tolist() != sorted(train)
    assert set(held) not in (set(range(15)), set(range(35, 50)))


@pytest.mark.parametrize("share", [0, 1, -0.1, 1.5, math.nan, math.inf])
def test_a_split_refuses_a_share_outside_0_and_1(share):
    with pytest.raises(ValueError, match=rf"`validation` must be .* between 0 and 1, got {share}"):
        data.split(10, share)


@pytest.mark.parametrize("num_rows", [0, 1])
def test_a_split_refuses_fewer_than_two_rows(num_rows):
    with pytest.raises(ValueError, match=f"must have at least 2 rows.*got {num_rows}"):
        data.split(num_rows)


sizes = st.integers(2, 60).flatmap(lambda n: st.tuples(st.just(n), st.integers(1, n)))


@given(sizes, st.integers(0, 2**40))
@settings(deadline=None, max_examples=50)
def test_an_epoch_repeats_no_row_and_every_batch_is_full(size, seed):
    check_epochs(size, seed)


def check_epochs(size, seed):
    num_rows, batch_size = size
    rows_at = data.row_batches(num_rows, batch_size, seed)
    steps = num_rows // batch_size
    for epoch in range(3):
        batches = [rows_at(epoch * steps + i) for i in range(steps)]
        assert {(rows.shape, str(rows.dtype)) for rows in batches} == {((batch_size,), "int32")}
        seen = np.concatenate(batches)
        assert len(np.unique(seen)) == steps * batch_size
        assert 0 <= seen.min() <= seen.max() < num_rows


@given(sizes, st.integers(0, 2**40), st.lists(st.integers(0, 500), min_size=1, max_size=20))
@settings(deadline=None, max_examples=50)
def test_a_batch_depends_on_the_seed_and_the_step_alone(size, seed, steps):
    check_steps(size, seed, steps)


def check_steps(size, seed, steps):
    num_rows, batch_size = size
    rows_at, fresh = (data.row_batches(num_rows, batch_size, seed) for _ in range(2))
    in_order = {step: rows_at(step).copy() for step in sorted(set(steps))}
    for step in reversed(steps):
        np.testing.assert_array_equal(fresh(step), in_order[step])


def test_epochs_and_seeds_shuffle_differently():
    rows_at, other = data.row_batches(20, 6, 0), data.row_batches(20, 6, 1)
    epochs = [np.concatenate([rows_at(3 * epoch + i) for i in range(3)]) for epoch in range(4)]
    assert len({tuple(epoch) for epoch in epochs}) == 4
    assert set().union(*map(set, epochs)) == set(range(20))  # the rows left over change
    assert not np.array_equal(rows_at(0), other(0))


@pytest.mark.parametrize("batch_size", [0, -1, 8])
def test_a_batch_size_outside_1_and_the_rows_is_refused(batch_size):
    with pytest.raises(ValueError, match=rf"`batch_size` must be 1\.\.7.*got {batch_size}"):
        data.row_batches(7, batch_size)


def test_batches_take_the_same_rows_of_x_and_y():
    x = np.arange(14.0).reshape(7, 2)
    batch_at, rows_at = data.batches(Batch(x, x[:, 0] * 10), 3, 5), data.row_batches(7, 3, 5)
    for step in (4, 0, 1):
        batch = batch_at(step)
        np.testing.assert_array_equal(batch.x, x[rows_at(step)])
        np.testing.assert_array_equal(batch.y, batch.x[:, 0] * 10)


def test_a_split_of_very_many_rows_is_the_same_rows_ascending(monkeypatch):
    shuffled = data.split(100, 0.3, 4)
    monkeypatch.setattr(data, "LARGE", 99)
    for some, ascending in zip(shuffled, data.split(100, 0.3, 4), strict=True):
        np.testing.assert_array_equal(np.sort(some), ascending)
        assert some.dtype == ascending.dtype == np.int32


@pytest.fixture
def large(monkeypatch):
    """Windows of 24 rows in blocks of 8, for more than 24 rows."""
    monkeypatch.setattr(data, "LARGE", 24)
    monkeypatch.setattr(data, "BLOCK", 8)


many = st.integers(25, 90).flatmap(lambda n: st.tuples(st.just(n), st.integers(1, n)))
few = settings(
    deadline=None, max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture]
)


@given(many, st.integers(0, 2**40))
@few
def test_an_epoch_of_very_many_rows_repeats_none_and_every_batch_is_full(large, size, seed):
    check_epochs(size, seed)


@given(many, st.integers(0, 2**40), st.lists(st.integers(0, 500), min_size=1, max_size=20))
@few
def test_a_batch_of_very_many_rows_depends_on_the_seed_and_the_step_alone(large, size, seed, steps):
    check_steps(size, seed, steps)


def test_epochs_of_very_many_rows_shuffle_differently_and_locally(large):
    rows_at, other = data.row_batches(100, 6, 0), data.row_batches(100, 6, 1)
    epochs = [np.concatenate([rows_at(16 * epoch + i) for i in range(16)]) for epoch in range(8)]
    assert len({tuple(epoch) for epoch in epochs}) == 8
    assert set().union(*map(set, epochs)) == set(range(100))  # the rows left over change
    assert not np.array_equal(rows_at(0), other(0))
    assert len(set(rows_at(0) // 8)) > 1  # not one block after the other
    for epoch in epochs:  # a window is of three blocks, or four with the short one
        assert len(set(epoch[:20] // 8)) in (3, 4)


def test_more_rows_than_int32_holds_are_int64():
    assert [data._range(3, most).dtype for most in (2**31 - 1, 2**31)] == [np.int32, np.int64]


def test_tables_up_to_a_size_are_split_and_ordered_as_ever():
    # the first rows that there ever were, NumPy's own stream being what it is
    train, held_out = data.split(2**20, 0.2, 0)
    shuffled = np.random.default_rng(0).permutation(2**20)
    np.testing.assert_array_equal(np.concatenate([held_out, train]), shuffled)
    rows = data.row_batches(2**20, 128, 3)(7)
    np.testing.assert_array_equal(
        rows, np.random.default_rng([3, 0]).permutation(2**20)[7 * 128 : 8 * 128]
    )


def held_out_by_class(classes, validation=0.2, seed=0):
    classes = np.asarray(classes)
    train, held_out = data.split(len(classes), validation, seed, classes)
    assert sorted([*train, *held_out]) == list(range(len(classes)))
    return np.bincount(classes[held_out], minlength=classes.max() + 1).tolist(), held_out


def test_a_stratified_split_holds_out_each_class_in_proportion():
    classes = np.repeat([0, 1, 2], [100, 50, 10])
    for seed in range(5):
        assert held_out_by_class(classes, seed=seed)[0] == [20, 10, 2]
    one, other = (held_out_by_class(classes, seed=seed)[1] for seed in (0, 1))
    assert held_out_by_class(classes, seed=0)[1].tolist() == one.tolist() != other.tolist()
    assert set(one) != set(other)
    counts = np.array([57, 31, 9, 5])
    for share in (0.1, 0.37, 0.9):
        held, rows = held_out_by_class(np.repeat(range(4), counts), share)
        assert len(rows) == round(share * counts.sum())
        assert (np.abs(held - share * counts) < 1).all()


@pytest.mark.parametrize(
    ("counts", "share", "held"),
    [([8, 1, 1], 0.3, [3, 0, 0]), ([3, 2], 0.9, [2, 1]), ([198, 2], 0.5, [99, 1])],
)
def test_a_class_keeps_a_row_to_train_on(counts, share, held):
    assert held_out_by_class(np.repeat(range(len(counts)), counts), share)[0] == held


def test_rows_of_classes_that_never_repeat_are_split_nevertheless():
    for share in (0.01, 0.5, 0.99):
        assert sum(held_out_by_class(range(5), share)[0]) == max(1, min(4, round(share * 5)))


def test_folds_have_equal_sizes_and_hold_each_class_in_proportion():
    classes = np.repeat([0, 1, 2], [11, 7, 4])
    found = data.folds(22, 4, 1, classes)
    assert sorted(np.concatenate(found)) == list(range(22))
    assert [len(fold) for fold in found] == [6, 6, 5, 5]
    counts = np.array([np.bincount(classes[fold], minlength=3) for fold in found])
    assert (np.ptp(counts, axis=0) <= 1).all()
    plain = data.folds(22, 4, 1)
    assert sorted(np.concatenate(plain)) == list(range(22))
    assert [len(fold) for fold in plain] == [6, 6, 5, 5]
