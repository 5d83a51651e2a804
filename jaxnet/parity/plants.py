"""Known mistakes, each planted in a JAX participant: the self-test must catch and name them."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import lax

from jaxnet import net, optimizers
from jaxnet.parity.adapters.makers import jax_participant
from jaxnet.parity.participants import Participant, cast, oracle
from jaxnet.spec import Spec

RATE = 1e-3
PLAIN = Spec((7, 5, 3), bias=True)
TIED = Spec((7, 5, 3), bias=True, activation="my_relu")
SQUARE = Spec((7, 5, 5, 3), bias=True)


class Plant(NamedTuple):
    """A mistake: its name, as diagnosis must give it; the right reference; the wrong candidate."""

    name: str
    reference: Participant
    candidate: Participant


def _network(params, batch):
    return net.forward(params, batch.x, repeats=batch.repeats)


def _sum_squares(forward, params, batch):
    return jnp.square(forward(params, batch) - batch.y).sum()


@functools.cache
def right_candidate() -> Participant:
    """Return the candidate without a mistake, compiled once; most plants change a part of it.

    It has no `run` of its own: a compiled loop would only take its time to compile.
    """
    loss = partial(_sum_squares, _network)
    return replace(jax_participant(loss, optimizers.sgd(RATE), forward=_network), run=None)


def _with_loss(loss: Callable, forward: Callable | None = None) -> Participant:
    made = jax_participant(loss, forward=forward)
    return replace(right_candidate(), value_and_grad=made.value_and_grad, forward=made.forward)


def _with_network(forward: Callable) -> Participant:
    return _with_loss(partial(_sum_squares, forward), forward)


def with_optimizer(optimizer: optax.GradientTransformation) -> Participant:
    """Return the candidate with another optimizer."""
    made = jax_participant(partial(_sum_squares, _network), optimizer)
    return replace(right_candidate(), init=made.init, update=made.update)


def plants() -> Iterator[Plant]:
    """Yield every known mistake, planted in a JAX participant, with the reference of the right."""
    yield from _loss_plants()
    yield from _network_plants()
    yield from _input_plants()
    yield from _order_plants()
    yield from _sgd_plants()
    yield from _adam_plants()


def _loss_plants() -> Iterator[Plant]:
    losses = {
        "factor 2": lambda r: 2 * jnp.square(r).sum(),
        "factor 1/2": lambda r: optax.l2_loss(r).sum(),
        "mean over the batch for the sum": lambda r: jnp.square(r).sum() / len(r),
        "mean over all elements for the sum": lambda r: jnp.square(r).mean(),
    }
    for name, function in losses.items():

        def loss(params, batch, function=function):
            return function(_network(params, batch) - batch.y)

        yield Plant(name, oracle(PLAIN, "sgd", RATE), _with_loss(loss, _network))


def _network_plants() -> Iterator[Plant]:
    rules = [(TIED, jax.nn.relu, "0"), (TIED, lambda h: jnp.maximum(h, 0), "0.5")]
    rules += [(PLAIN, net.my_relu, "1"), (PLAIN, lambda h: jnp.maximum(h, 0), "0.5")]
    for spec, function, tie in rules:

        def tied(params, batch, function=function):
            h = function(batch.x @ params["w1"] + params["b1"])
            return h @ params["w2"] + params["b2"]

        name = f"ReLU derivative {tie} at 0"
        yield Plant(name, oracle(spec, "sgd", RATE), _with_network(tied))

    def transposed(params, batch):
        return _network(params | {"w2": params["w2"].T}, batch)

    def dropped(params, batch):
        return _network(params | {"b1": lax.stop_gradient(params["b1"])}, batch)

    square = oracle(SQUARE, "sgd", RATE)
    yield Plant("transposed weight w2", square, _with_network(transposed))
    yield Plant("dropped leaf b1", square, _with_network(dropped))
    for which in ("first", "last"):
        name = f"shared weight counted once (its {which} use)"
        yield Plant(name, square, _with_network(partial(_counted_once, which=which)))
    for name, bits in {"bfloat16": 7, "TF32": 10}.items():
        product = _rounded_product(bits)

        def rounded(params, batch, product=product):
            h = jax.nn.relu(product(batch.x, params["w1"]) + params["b1"])
            return product(h, params["w2"]) + params["b2"]

        name = f"{name} matrix products"
        yield Plant(name, oracle(PLAIN, "sgd", RATE), _with_network(rounded))


def _counted_once(params, batch, which):
    """Apply the middle layer twice, once without a gradient for its weights."""
    frozen = {k: lax.stop_gradient(params[k]) for k in ("w2", "b2")}
    first, second = (params, frozen) if which == "first" else (frozen, params)
    h = jax.nn.relu(batch.x @ params["w1"] + params["b1"])
    for used in (first, second):
        h = jax.nn.relu(h @ used["w2"] + used["b2"])
    return h @ params["w3"] + params["b3"]


def _rounded_product(bits: int) -> Callable:
    def low(a):
        return lax.reduce_precision(a, 11 if a.dtype == float else 8, bits)

    @jax.custom_vjp
    def product(a, b):
        return low(a) @ low(b)

    product.defvjp(
        lambda a, b: (product(a, b), (a, b)),
        lambda saved, g: (low(g) @ low(saved[1]).T, low(saved[0]).T @ low(g)),
    )
    return product


def _gradient_plant(name: str, value_and_grad: Callable, **changes: Any) -> Plant:
    candidate = replace(right_candidate(), value_and_grad=value_and_grad, **changes)
    return Plant(name, oracle(PLAIN, "sgd", RATE), candidate)


def _input_plants() -> Iterator[Plant]:
    """Yield mistakes in what the network is given: the batch, and the precision."""
    value_and_grad, forward = right_candidate().value_and_grad, right_candidate().forward
    assert forward is not None

    def shorter(batch):
        return batch._replace(x=batch.x[:-1], y=batch.y[:-1])

    def half(batch):
        return batch._replace(x=batch.x.astype("float16").astype(batch.x.dtype))

    def single(function, params, *rest):
        found = function(*cast((params, *rest), "float32"))
        return cast(found, str(params["w1"].dtype))

    yield _gradient_plant("dropped last sample", lambda p, b: value_and_grad(p, shorter(b)))
    yield _gradient_plant(
        "input through float16",
        lambda p, b: value_and_grad(p, half(b)),
        forward=lambda p, b: forward(p, half(b)),
    )
    yield _gradient_plant(
        "computed in float32",
        partial(single, value_and_grad),
        forward=partial(single, forward),
        update=partial(single, right_candidate().update),
    )


def _order_plants() -> Iterator[Plant]:
    """Yield mistakes in the order of calls, and in what is kept from one to the next."""
    value_and_grad = right_candidate().value_and_grad
    first: list[Any] = []

    def constant(params, batch):
        first.append(value_and_grad(params, batch))
        return cast(first[0], str(params["w1"].dtype))

    yield _gradient_plant("constant output", constant, forward=None)
    total: dict[str, Any] = {}

    def accumulated(params, batch):
        value, grads = value_and_grad(params, batch)
        for name, grad in grads.items():
            total[name] = grad + total.get(name, 0)
        return value, dict(total)

    yield _gradient_plant("gradient accumulated, not zeroed", accumulated)

    def late(params, batch):
        _, grads = value_and_grad(params, batch)
        moved = {name: p - p.dtype.type(RATE) * grads[name] for name, p in params.items()}
        return value_and_grad(moved, batch)[0], grads

    yield _gradient_plant("loss logged after the update", late)

    def stale(params, batch):
        _, grads = value_and_grad(params, batch)
        moved = params | {"w2": params["w2"] - params["w2"].dtype.type(RATE) * grads["w2"]}
        h = batch.x @ params["w1"] + params["b1"]
        grad_y = 2 * (np.maximum(h, 0) @ params["w2"] + params["b2"] - batch.y)
        grad_h = np.where(h > 0, grad_y @ moved["w2"].T, 0)
        late_grads = {"w1": batch.x.T @ grad_h, "b1": grad_h.sum(axis=0)}
        return value_and_grad(params, batch)[0], grads | late_grads

    yield _gradient_plant("stale order", stale)


def _sgd_plants() -> Iterator[Plant]:
    def plant(name, optimizer, *arguments, **given):
        return Plant(name, oracle(PLAIN, *arguments, **given), with_optimizer(optimizer))

    yield plant("learning rate times 1.1", optimizers.sgd(1.1 * RATE), "sgd", RATE)
    yield plant("momentum missing", optimizers.sgd(RATE), "momentum", RATE)
    yield plant("weight decay 0.0001", optimizers.sgd(RATE, weight_decay=1e-4), "sgd", RATE)
    yield plant(
        "dampened first step",
        optax.chain(_damped_trace(0.9, 0.5), optax.scale(-RATE)),
        "sgd",
        RATE,
        momentum=0.9,
        dampening=0.5,
    )
    for shift in (1, -1):
        late = partial(_shifted, shift=shift)
        name = f"schedule off by one ({shift:+d})"
        yield plant(name, optimizers.adam(late), "adam", partial(_cosine, xp=np))


def _shifted(step, shift):
    return _cosine(jnp.maximum(step + shift, 0), jnp)


def _cosine(step, xp):
    return RATE * 0.5 * (1 + xp.cos(xp.pi * step / 20))


def _damped_trace(momentum: float, dampening: float) -> optax.GradientTransformation:
    def update(updates, state, params=None):
        buf = jax.tree.map(lambda b, g: momentum * b + (1 - dampening) * g, state.buf, updates)
        return buf, optimizers.MomentumState(state.count + 1, buf)

    return optax.GradientTransformation(
        optimizers.trace(momentum, dampening, nesterov=False).init, update
    )


def _adam_plants() -> Iterator[Plant]:
    def plant(name, optimizer, reference="adam", **given):
        return Plant(name, oracle(PLAIN, reference, RATE, **given), with_optimizer(optimizer))

    yield plant("Adam's step off by one", _with_adam(shift=1))
    yield plant("Adam without bias correction", _with_adam(correct=False))
    yield plant("Adam b2 0.99", optimizers.adam(RATE, b2=0.99))
    yield plant("Adam eps 1e-07", optimizers.adam(RATE, eps=1e-7))
    yield plant("Adam's eps inside the root", optax.adam(RATE, eps=0.0, eps_root=1e-8))
    yield plant("amsgrad's maximum after the bias correction", optax.amsgrad(RATE), amsgrad=True)
    yield plant(
        "decoupled weight decay for L2", optimizers.adamw(RATE, weight_decay=0.1), weight_decay=0.1
    )
    yield plant(
        "L2 weight decay for decoupled",
        optimizers.adam(RATE, weight_decay=0.1),
        "adamw",
        weight_decay=0.1,
    )
    yield plant("weight decay 0.0001", optax.adamw(RATE), "adamw")


def _with_adam(shift: int = 0, correct: bool = True) -> optax.GradientTransformation:
    """Return Adam whose count is off by `shift`, or whose moments keep their bias."""
    right = optimizers.scale_by_adam(0.9, 0.999, 1e-8)

    def update(updates, state: Any, params=None):
        moved, new = right.update(updates, state._replace(count=state.count + shift), params)
        adam: Any = new
        if not correct:
            moved = jax.tree.map(lambda m, v: m / (jnp.sqrt(v) + 1e-8), adam.mu, adam.nu)
        return moved, adam._replace(count=state.count + 1)

    return optax.chain(optax.GradientTransformation(right.init, update), optax.scale(-RATE))
