"""Known mistakes inside the NumPy oracle: in its network, and in its optimizer."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from typing import NamedTuple

import numpy as np

from jaxnet import numpy_net
from jaxnet.parity.participants import Participant, Plan, numpy_participant


class Mistake(NamedTuple):
    """A name, what to do about it, and the participant that makes it."""

    name: str
    remedy: str
    participant: Participant


def _tie_rule(value_at_zero: float) -> Callable:
    def backward(h, grad):
        return np.where(h > 0, grad, np.where(h == 0, value_at_zero * grad, 0))

    return backward


def rounded_matmul(bits: int) -> Callable:
    """Return the product of operands rounded to `bits` binary digits: bfloat16 has 7, TF32 10."""

    def rounded(a):
        mantissa, exponent = np.frexp(a)
        return np.ldexp(np.round(mantissa * 2.0 ** (bits + 1)) / 2.0 ** (bits + 1), exponent)

    return lambda a, b: np.matmul(rounded(a), rounded(b))


def _forward(function, matmul, params, batch):
    given = batch.repeats, matmul, batch.masks
    return numpy_net.run_layers(params, batch.x, function, *given)[2][-1]


def network_mistakes(reference: Participant, plan: Plan) -> Iterator[Mistake]:
    """Yield the mistakes in a network's forward and backward pass."""
    spec = plan.spec
    function, backward = numpy_net.ACTIVATIONS[spec.activation]
    loss = partial(numpy_net.LOSSES[spec.loss], label_smoothing=spec.label_smoothing)

    def replay(name, remedy, activation=(function, backward), **hooks):
        def value_and_grad(params, batch):
            return numpy_net.backpropagate(params, batch, activation, loss, **hooks)

        changed = replace(reference, value_and_grad=value_and_grad)
        if matmul := hooks.get("matmul"):
            changed = replace(changed, forward=partial(_forward, function, matmul))
        return Mistake(name, remedy, changed)

    rule = {"relu": 0.0, "my_relu": 1.0}.get(spec.activation)
    for tie in () if rule is None else {0.0, 0.5, 1.0} - {rule}:
        remedy = (
            f"the reference's is {rule:g}: jax.nn.relu and torch.relu pass 0, jnp.maximum 0.5, "
            "clamp and my_relu 1"
        )
        yield replay(f"ReLU derivative {tie:g} at 0", remedy, (function, _tie_rule(tie)))
    ways = {
        "first": lambda total, term: term,
        "last": lambda total, term: total if total.any() else term,
    }
    remedy = "a weight that is applied several times must sum its gradients"
    for which, combine in ways.items():
        yield replay(f"shared weight counted once (its {which} use)", remedy, combine=combine)
    remedy = (
        "ask for full precision: jax.default_matmul_precision('highest'), "
        "torch.set_float32_matmul_precision('highest')"
    )
    for name, bits in {"bfloat16": 7, "TF32": 10}.items():
        yield replay(f"{name} matrix products", remedy, matmul=rounded_matmul(bits))
    yield _stale_order(reference, plan)


def _stale_order(reference: Participant, plan: Plan) -> Mistake:
    """Backpropagate through weights that were updated already."""
    activation = numpy_net.ACTIVATIONS[plan.spec.activation]
    smoothing = plan.spec.label_smoothing
    loss = partial(numpy_net.LOSSES[plan.spec.loss], label_smoothing=smoothing)

    def value_and_grad(params, batch):
        _, grads = reference.value_and_grad(params, batch)
        rate = plan.learning_rate(0) if callable(plan.learning_rate) else plan.learning_rate
        moved = {name: p - rate * grads[name] for name, p in params.items()}
        return numpy_net.backpropagate(params, batch, activation, loss, backward_params=moved)

    return Mistake(
        "stale order: weights updated before the gradient passed through them",
        "compute every gradient before any update",
        replace(reference, value_and_grad=value_and_grad),
    )


def optimizer_mistakes(reference: Participant, plan: Plan) -> Iterator[Mistake]:
    """Yield the mistakes in an optimizer and its hyperparameters."""
    rate, given = plan.learning_rate, plan.hyperparameters

    def replay(name, remedy, optimizer):
        made = numpy_participant(reference.value_and_grad, optimizer)
        return Mistake(name, remedy, replace(reference, init=made.init, update=made.update))

    def own(learning_rate=rate, **changed):
        return numpy_net.make_optimizer(plan.optimizer, learning_rate, **(given | changed))

    if callable(rate):
        for shift in (-1, 1):
            yield replay(
                f"schedule off by one ({shift:+d})",
                "the first step takes the schedule's value at 0",
                own(lambda step, shift=shift: rate(max(step + shift, 0))),
            )
    decays = {0.0, 1e-4, 1e-2} - {given.get("weight_decay", 1e-2 * (plan.optimizer == "adamw"))}
    for decay in sorted(decays) if plan.optimizer not in ("rmsprop", "adagrad") else ():
        yield replay(
            f"weight decay {decay:g}",
            "set it: torch's AdamW has 1e-2 by default, optax's adamw 1e-4, the others 0",
            own(weight_decay=decay),
        )
    if plan.optimizer in ("adam", "adamw"):
        yield from _adam_mistakes(replay, own, plan)
    if given.get("dampening"):
        yield replay(
            "dampened first step",
            "torch's first momentum buffer is the undamped gradient",
            _damped_first(rate, **given),
        )
    if plan.optimizer in ("momentum", "nesterov") or given.get("momentum"):
        yield replay("momentum missing", "set the momentum", numpy_net.sgd(rate))


def _adam_mistakes(replay: Callable, own: Callable, plan: Plan) -> Iterator[Mistake]:
    given = plan.hyperparameters
    for key, values in {
        "b1": (0.5, 0.99),
        "b2": (0.99, 0.9999),
        "eps": (1e-7, 1e-6, 1e-10),
    }.items():
        for value in values:
            if given.get(key) != value:
                yield replay(f"Adam {key} {value:g}", f"set {key}", own(**{key: value}))
    decoupled = plan.optimizer == "adamw"
    if given.get("weight_decay", decoupled):
        yield replay(
            "L2 weight decay for decoupled" if decoupled else "decoupled weight decay for L2",
            "adam adds the decay to the gradient, adamw to the update",
            own(decoupled=not decoupled),
        )
    variants = {
        "Adam's step off by one": ("count steps from 1 in 1 - b**t", {"shift": 1}),
        "Adam without bias correction": ("divide by 1 - b**t", {"correct": False}),
        "Adam's eps inside the root": ("add eps after the square root", {"eps_inside": True}),
    }
    if given.get("amsgrad"):
        variants["amsgrad's maximum after the bias correction"] = (
            "torch takes the maximum of the raw moments",
            {"corrected_maximum": True},
        )
    for name, (remedy, change) in variants.items():
        yield replay(name, remedy, _adam_variant(plan.learning_rate, decoupled, **given, **change))


def _adam_variant(
    learning_rate,
    decoupled,
    *,
    b1=0.9,
    b2=0.999,
    eps=1e-8,
    weight_decay=None,
    amsgrad=False,
    shift=0,
    correct=True,
    eps_inside=False,
    corrected_maximum=False,
) -> numpy_net.Optimizer:
    decay = (1e-2 if decoupled else 0.0) if weight_decay is None else weight_decay

    def rule(p, g, t, m, v, *v_max):
        g = g if decoupled else g + decay * p
        m, v = b1 * m + (1 - b1) * g, b2 * v + (1 - b2) * g * g
        c1, c2 = (1 - b1 ** (t + shift), 1 - b2 ** (t + shift)) if correct else (1, 1)
        if corrected_maximum:
            v_max = (np.maximum(v_max[0], v / c2),)
            v_hat = v_max[0]
        else:
            v_max = tuple(np.maximum(old, v) for old in v_max)
            v_hat = (v_max[0] if amsgrad else v) / c2
        root = np.sqrt(v_hat + eps) if eps_inside else np.sqrt(v_hat) + eps
        direction = m / c1 / root
        return (direction + decay * p if decoupled else direction), m, v, *v_max

    return numpy_net.make_rule(rule, learning_rate, ("m", "v", "v_max") if amsgrad else ("m", "v"))


def _damped_first(learning_rate, *, momentum, dampening, nesterov=False, weight_decay=0.0):
    def rule(p, g, t, buf):
        buf = momentum * buf + (1 - dampening) * (g + weight_decay * p)
        return buf, buf

    return numpy_net.make_rule(rule, learning_rate, ("momentum",))
