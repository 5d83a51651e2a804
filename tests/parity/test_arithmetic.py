"""A cause is read from the numbers where it explains all of them, and nothing is said otherwise."""

import numpy as np
import pytest

from jaxnet.parity.causes.arithmetic import explain, explain_updates

RNG = np.random.default_rng(0)
W, V, B = RNG.normal(size=(4, 6)), RNG.normal(size=(4, 6)), RNG.normal(size=6)
SQUARE, CUBE = RNG.normal(size=(5, 5)), RNG.normal(size=(2, 3, 4))
LOSS = np.array(1.7)
COUNTS = {"rows": 10, "tokens": 12, "unmasked tokens": 8}
EVENS = [0, 2, 4, 1, 3, 5]
FEATURES = RNG.normal(size=(12, 2)).reshape(3, 4, 2)  # channels, places

EXPLAINED = {
    "one factor": ({"w": (W, 2 * W), "b": (B, 2 * B)}, "factor 2 on all leaves"),
    "a factor on one leaf": ({"w": (W, 0.5 * W), "b": (B, B)}, "factor 1/2 on w"),
    "a factor of counts": (
        {"loss": (LOSS, LOSS * 2 / 3), "w": (W, W * 2 / 3)},
        "factor 2/3 on all leaves",
    ),
    "a mean for a sum": ({"loss": (LOSS, LOSS / 10)}, "factor 1/10 on loss"),
    "a sum for a mean": ({"loss": (LOSS, LOSS * 12)}, "factor 12 on loss"),
    "a root": ({"w": (W, W * np.sqrt(7))}, "factor sqrt(7) on w"),
    "any factor": ({"w": (W, 1.2345678 * W)}, "factor 1.23457 on w"),
    "a sign": ({"w": (W, -W), "b": (B, B)}, "sign of w"),
    "zeros": ({"w": (W, 0 * W), "b": (B, B)}, "zero: w"),
    "a constant": ({"w": (W, W + 0.25), "b": (B, B + 0.25)}, "constant 0.25 added to all leaves"),
    "a transpose": ({"k": (SQUARE, SQUARE.T)}, "axes in the order (1, 0): k"),
    "a transpose to another shape": ({"w": (W, W.T)}, "axes in the order (1, 0): w"),
    "axes of a kernel": ({"k": (CUBE, CUBE.transpose(2, 0, 1))}, "axes in the order (2, 0, 1): k"),
    "a reshape": ({"w": (W, W.reshape(6, 4))}, "reshaped: w"),
    "another order of flattening": (
        {"w": (W, W.T.reshape(4, 6))},
        "flattened with the axes in the order (1, 0): w",
    ),
    "reversed rows": ({"w": (W, W[::-1])}, "reversed: w"),
    "reversed columns": ({"w": (W, W[:, ::-1]), "b": (B, B[::-1])}, "reversed: all leaves"),
    "even columns first": (
        {"w": (W, W[:, EVENS]), "b": (B, B[EVENS])},
        "3 x 2 read as 2 x 3 (interleaved): all leaves",
    ),
    "channels last": (
        {"w": (FEATURES.reshape(12, 2), FEATURES.transpose(1, 0, 2).reshape(12, 2))},
        "3 x 4 read as 4 x 3 (interleaved): w",
    ),
    "gates in another order": (
        {"w": (W, W[:, [2, 3, 0, 1, 4, 5]])},
        "3 blocks in the order [1, 0, 2]: w",
    ),
    "rows moved": ({"w": (W, np.roll(W, 1, 1))}, "moved by 1 of 6: w"),
    "rows permuted": ({"w": (W, W[:, [3, 1, 0, 5, 4, 2]])}, "permuted, [3, 1, 0, 5, 4, 2]: w"),
    "two leaves swapped": ({"v": (V, W), "w": (W, V), "b": (B, B)}, "v and w swapped"),
    "another leaf's values": ({"v": (V, W), "w": (W, W)}, "v has the values of w"),
    "a shape of 1": ({"w": (B, B[:, None])}, "reshaped: w"),
}

UNEXPLAINED = {
    "equal leaves": {"w": (W, W * (1 + 1e-12))},
    "two factors": {"w": (W, 2 * W), "b": (B, 3 * B)},
    "a factor that leaves a millionth": {"w": (W, 2 * W + 3e-6 * V)},
    "a factor on a part of a leaf": {"w": (W, np.where(W > 0, 2 * W, W))},
    "a factor on a single number": {"loss": (LOSS, LOSS * 1.2345678)},
    "a constant on a single number": {"loss": (LOSS, LOSS + 0.1)},
    "a factor and a sign": {"w": (W, 2 * W), "b": (B, -B)},
    "other numbers": {"w": (W, V)},
    "a small difference": {"w": (W, W + 1e-7 * V)},
    "a transpose and a factor": {"k": (SQUARE, 2 * SQUARE.T)},
    "one leaf of two explained": {"k": (SQUARE, SQUARE.T), "w": (W, V)},
    "numbers that are not finite": {"w": (W, W * np.inf)},
    "another shape": {"w": (W, W[:3])},
}


@pytest.mark.parametrize("case", EXPLAINED)
def test_what_turns_all_numbers_into_the_others_is_named_alone(case):
    pairs, name = EXPLAINED[case]
    found = explain(pairs, COUNTS)
    assert [text for text, _, _ in found] == [name]
    assert found[0][1]
    assert found[0][2] <= 1e-6


@pytest.mark.parametrize("case", EXPLAINED)
def test_a_name_survives_rounding_and_no_more(case):
    pairs, name = EXPLAINED[case]

    def shaken(share):
        sizes = {k: np.abs(g - w if g.shape == w.shape else g).max() for k, (w, g) in pairs.items()}
        noise = {k: share * sizes[k] * RNG.choice([-1, 1], g.shape) for k, (_, g) in pairs.items()}
        return {k: (w, g + noise[k]) for k, (w, g) in pairs.items()}

    assert [text for text, _, _ in explain(shaken(1e-10), COUNTS)] == [name]
    if any(g.size > 1 for _, g in pairs.values()):
        assert explain(shaken(1e-3), COUNTS) == []


@pytest.mark.parametrize("case", UNEXPLAINED)
def test_nothing_is_said_where_nothing_explains_every_number(case):
    assert explain(UNEXPLAINED[case], COUNTS) == []


def test_a_difference_of_rounding_needs_no_explanation_beside_one_that_does():
    noise = 1 + 1e-13 * RNG.normal(size=B.shape)
    assert [name for name, _, _ in explain({"w": (W, 2 * W), "b": (B, B * noise)})] == [
        "factor 2 on w"
    ]


OLD = {"w": RNG.normal(size=(3, 4)), "b": RNG.normal(size=4)}
MOVE = {name: 0.01 * RNG.normal(size=p.shape) for name, p in OLD.items()}
UPDATES = {  # (step, leaf, parameter, move) -> the candidate's new parameter
    "learning rate times 1.1": lambda i, k, p, u: p + 1.1 * u,
    "another schedule: learning rate times 1 at step 1, 0.5 at step 3": lambda i, k, p, u: (
        p + u / (1 if i == 1 else 2)
    ),
    "weight decay on w": lambda i, k, p, u: p + u - 0.001 * i * p * (k == "w"),
    "no weight decay on w": lambda i, k, p, u: p + u + 0.001 * p * (k == "w"),
    "does not move: b": lambda i, k, p, u: p + u * (k == "w"),
}


def explained(change, move=MOVE):
    points, wrong = [], set()
    for step in (1, 3):
        leaves = {k: (p, p + move[k], change(step, k, p, move[k])) for k, p in OLD.items()}
        wrong |= {k for k, (_, want, got) in leaves.items() if abs(got - want).max() > 1e-12}
        points.append((step, leaves))
    return [name for name, _, _ in explain_updates(points, wrong)]


@pytest.mark.parametrize("name", UPDATES)
def test_new_parameters_name_what_is_wrong_in_the_update(name):
    assert explained(UPDATES[name]) == [name]


def test_a_frozen_leaf_that_moves_is_named():
    frozen = MOVE | {"b": np.zeros(4)}
    assert explained(lambda i, k, p, u: p + MOVE[k], frozen) == [
        "frozen in the reference, but moves: b"
    ]


def test_updates_that_nothing_explains_have_no_name():
    assert explained(lambda i, k, p, u: p + u + 0.01 * RNG.normal(size=p.shape)) == []
