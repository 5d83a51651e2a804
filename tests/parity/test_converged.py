"""A network that has learnt its data: the loss is less than the rounding of its terms."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxnet import optimizers, parity

RNG = np.random.default_rng(0)
PARAMS = {"w1": RNG.standard_normal((7, 9)), "w2": RNG.standard_normal((9, 3))}
X, CLASSES = RNG.standard_normal((5, 7)), RNG.integers(0, 3, 5)


def forward(params, x):
    return jnp.tanh(x @ params["w1"]) @ params["w2"]


def cross_entropy(params, batch):
    scores = forward(params, batch["x"])
    own = jnp.take_along_axis(scores, batch["y"][:, None], 1)[:, 0]
    return (jax.nn.logsumexp(scores, 1) - own).mean()


def cross_entropy_by_logarithms(params, batch):
    scores = jax.nn.log_softmax(forward(params, batch["x"]))
    return -(jax.nn.one_hot(batch["y"], 3, dtype=scores.dtype) * scores).sum(1).mean()


def cross_entropy_by_odds(params, batch):
    scores = forward(params, batch["x"])
    odds = jnp.exp(scores - jnp.take_along_axis(scores, batch["y"][:, None], 1))
    return jnp.log1p((odds * (jnp.arange(3) != batch["y"][:, None])).sum(1)).mean()


def check(one, other, port_rate=1.0):
    sides = [
        parity.jax_participant(
            loss, optimizers.adam(rate), forward=lambda params, batch: forward(params, batch["x"])
        )
        for loss, rate in ((one, 1.0), (other, port_rate))
    ]
    case = parity.Case("learnt", PARAMS, lambda step: {"x": X, "y": CLASSES})
    return parity.check(sides[1], against=sides[0], case=case)


@pytest.mark.parametrize("port", [cross_entropy_by_logarithms, cross_entropy_by_odds])
def test_a_right_port_stays_equal_when_the_loss_is_rounding_only(port):
    report = check(cross_entropy, port)
    assert report.verdict == "equal", str(report)


def test_a_wrong_learning_rate_is_still_seen():
    report = check(cross_entropy, cross_entropy_by_logarithms, port_rate=1 + 1e-6)
    assert report.verdict == "mismatch"
    assert report.causes[0].name.startswith("learning rate")


def squares(params, batch):
    return jnp.square(forward(params, batch["x"]) - batch["y"]).mean()


def squares_in_another_order(params, batch):
    h = jnp.tanh(jnp.einsum("ni,ih->hn", batch["x"], params["w1"]))
    return jnp.square(jnp.einsum("hn,ho->on", h, params["w2"]).T - batch["y"]).sum() / 15


def judge(reference, port, batch, optimizer, params=PARAMS, network=forward, **settings):
    sides = [
        parity.jax_participant(
            loss, optimizer, forward=network and (lambda p, b: network(p, b["x"]))
        )
        for loss in (reference, port)
    ]
    case = parity.Case("learnt", params, lambda step: batch, **settings)
    return parity.check(sides[1], against=sides[0], case=case)


def own_predictions():
    h = np.tanh(X @ PARAMS["w1"])
    return {"x": X, "y": h @ PARAMS["w2"]}


@pytest.mark.parametrize("network", [forward, None])
@pytest.mark.parametrize("optimizer", [optimizers.sgd(0.1), optimizers.adam(0.01)])
def test_a_right_port_is_equal_on_data_that_the_network_knows_already(network, optimizer):
    report = judge(squares, squares_in_another_order, own_predictions(), optimizer, network=network)
    assert report.verdict == "equal", str(report)


def test_a_wrong_port_is_seen_on_data_that_the_network_knows_already():
    def penalised(params, batch):
        return squares(params, batch) + 1e-10 * jnp.square(params["w1"]).sum()

    report = judge(squares, penalised, own_predictions(), optimizers.sgd(0.1), num_steps=3)
    assert report.verdict == "mismatch"


def test_a_cross_entropy_near_0_may_round_as_its_scores_do_in_float32():
    params = {"w1": PARAMS["w1"], "w2": 4 * PARAMS["w2"]}
    x = np.random.default_rng(0).standard_normal((400, 7))
    scores = np.sort(np.tanh(x @ params["w1"]) @ PARAMS["w2"])
    x = x[np.argsort(np.abs(scores[:, 2] - scores[:, 1] - 2.5))[:5]]  # all are sure: loss 5e-5
    batch = {"x": x, "y": np.asarray(forward(params, x).argmax(1))}
    sides = cross_entropy_by_logarithms, cross_entropy
    report = judge(*sides, batch, optimizers.sgd(1e-3), params, steps=(1, 2), num_steps=3)
    assert report.verdict == "equal", str(report)


def test_a_mistake_that_only_small_residuals_show_is_seen_though_the_loss_began_huge():
    x = np.linalg.qr(RNG.standard_normal((8, 7)))[0]
    wide = 1e4 * RNG.standard_normal((7, 3))
    batch = {"x": x, "y": x @ wide + 1e-3 * RNG.standard_normal((8, 3))}

    def linear(params, x):
        return x @ params["w"]

    def loss(params, batch, share=1.0):
        residual = linear(params, batch["x"]) - batch["y"]
        return (jnp.where(jnp.abs(residual) < 3e-3, share, 1.0) * residual**2).sum()

    report = judge(
        loss,
        lambda params, batch: loss(params, batch, 1 + 1e-5),
        batch,
        optimizers.sgd(0.3),
        {"w": np.zeros((7, 3))},
        linear,
    )
    assert report.verdict == "mismatch"
