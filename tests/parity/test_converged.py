"""A network that has learnt its data: the loss is less than the rounding of its terms."""

import jax
import jax.numpy as jnp
import numpy as np

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


def check(one, other, port_rate=1.0):
    sides = [
        parity.jax_participant(
            loss, optimizers.adam(rate), forward=lambda params, batch: forward(params, batch["x"])
        )
        for loss, rate in ((one, 1.0), (other, port_rate))
    ]
    case = parity.Case("learnt", PARAMS, lambda step: {"x": X, "y": CLASSES})
    return parity.check(sides[1], against=sides[0], case=case)


def test_a_right_port_stays_equal_when_the_loss_is_rounding_only():
    report = check(cross_entropy, cross_entropy_by_logarithms)
    assert report.verdict == "equal", str(report)


def test_a_wrong_learning_rate_is_still_seen():
    report = check(cross_entropy, cross_entropy_by_logarithms, port_rate=1 + 1e-6)
    assert report.verdict == "mismatch"
    assert report.causes[0].name.startswith("learning rate")
