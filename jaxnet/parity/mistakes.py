"""Known mistakes, each as the reference with that one mistake made: replayed, they name a cause."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np

from jaxnet import numpy_net
from jaxnet.parity.participants import Leaves, Participant, Plan, numpy_participant
from jaxnet.spec import Batch


class Mistake(NamedTuple):
    """A name, what to do about it, and the participant that makes it."""

    name: str
    remedy: str
    participant: Participant


def known_mistakes(reference: Participant, params: Leaves) -> list[Mistake]:
    """Every mistake that can be replayed on a reference with these parameters.

    Those inside the network and the optimizer need the oracle of one of our networks, which says
    how it is made; the others serve any reference.
    """
    found = [*_scales(reference), *_leaf_mistakes(reference, params), *_batch_mistakes(reference)]
    found += _sequence_mistakes(reference)
    if reference.plan is not None:
        found += [*_network_mistakes(reference, reference.plan)]
        found += [*_optimizer_mistakes(reference, reference.plan)]
    return found


def _scales(reference: Participant) -> Iterator[Mistake]:
    def rows(batch):
        return len(_first_array(batch))

    def elements(batch):
        last = [a for a in _arrays(batch) if a.ndim > 1][-1:]
        return last[0].size if last else rows(batch)

    factors: dict[str, tuple[Callable[[Any], float], str]] = {
        "factor 2": (lambda batch: 2.0, "compare the loss's definitions: (y_pred - y)**2 or half"),
        "factor 1/2": (lambda batch: 0.5, "optax.l2_loss is half of the squared error"),
        "mean over the batch for the sum": (lambda batch: 1 / rows(batch), "use reduction='sum'"),
        "mean over all elements for the sum": (
            lambda batch: 1 / elements(batch),
            "use reduction='sum'",
        ),
        "sum for the mean over the batch": (rows, "divide by the number of rows"),
        "sum for the mean over all elements": (elements, "use reduction='mean'"),
    }
    for name, (factor, remedy) in factors.items():
        for where in ("loss and gradient", "gradient", "loss"):

            def value_and_grad(params, batch, factor=factor, where=where):
                value, grads = reference.value_and_grad(params, batch)
                c = factor(batch)
                value = c * value if "loss" in where else value
                scaled = {k: c * g for k, g in grads.items()}
                return value, scaled if "gradient" in where else grads

            made = replace(reference, value_and_grad=value_and_grad)
            yield Mistake(f"{name} ({where})", remedy, made)


def _leaf_mistakes(reference: Participant, params: Leaves) -> Iterator[Mistake]:
    for name, leaf in params.items():

        def dropped(params, batch, name=name):
            value, grads = reference.value_and_grad(params, batch)
            return value, grads | {name: np.zeros_like(grads[name])}

        yield Mistake(
            f"dropped leaf {name}",
            f"{name} gets no gradient: is it frozen, detached, or missing from the optimizer?",
            replace(reference, value_and_grad=dropped),
        )
        if leaf.ndim == 2 and leaf.shape[0] == leaf.shape[1] > 1:

            def turned(leaves, name=name):
                return leaves | {name: leaves[name].T}

            def transposed(params, batch, turned=turned):
                value, grads = reference.value_and_grad(turned(params), batch)
                return value, turned(grads)

            forward = reference.forward
            yield Mistake(
                f"transposed weight {name}",
                f"{name} is square and used as its transpose: declare the axes in `layout`",
                replace(
                    reference,
                    value_and_grad=transposed,
                    forward=None
                    if forward is None
                    else lambda params, batch, turned=turned, f=forward: f(turned(params), batch),
                ),
            )


def _batch_mistakes(reference: Participant) -> Iterator[Mistake]:
    def without_last(batch):
        n = len(_first_array(batch))
        return _map_arrays(lambda a: a[:-1] if len(a) == n else a, batch)

    def half(batch):
        def rounded(a):
            return a.astype("float16").astype(a.dtype) if a.dtype.kind == "f" else a

        if isinstance(batch, Batch):
            return batch._replace(x=rounded(batch.x))
        return _map_arrays(rounded, batch)

    changes = {
        "dropped last sample": (without_last, "look for batch[:-1], or a loop that ends early"),
        "input through float16": (half, "keep the input in float32: look for .half() or float16"),
    }
    for name, (change, remedy) in changes.items():

        def value_and_grad(params, batch, change=change):
            return reference.value_and_grad(params, change(batch))

        forward = reference.forward
        made = replace(reference, value_and_grad=value_and_grad)
        if name == "input through float16" and forward is not None:
            made = replace(made, forward=lambda p, b, f=forward, change=change: f(p, change(b)))
        yield Mistake(name, remedy, made)


def _sequence_mistakes(reference: Participant) -> Iterator[Mistake]:
    """Mistakes between calls: they see the points in the order in which the candidate saw them."""
    seen: list[Leaves] = []

    def accumulated(params, batch):
        value, grads = reference.value_and_grad(params, batch)
        seen.append(grads)
        return value, {name: np.sum([g[name] for g in seen], axis=0) for name in grads}

    yield Mistake(
        "gradient accumulated, not zeroed",
        "call optimizer.zero_grad() before each backward()",
        replace(reference, value_and_grad=accumulated),
    )
    first: list[Any] = []

    def constant(params, batch):
        first.append(reference.value_and_grad(params, batch))
        return first[0]

    yield Mistake(
        "constant output",
        "the candidate ignores its parameters or its batch: is a closure or a cache used?",
        replace(reference, value_and_grad=constant, forward=None),
    )
    init, update = reference.init, reference.update
    if init is not None and update is not None:

        def late(params, batch):
            _, grads = reference.value_and_grad(params, batch)
            new_params, _ = update(params, grads, init(params))
            return reference.value_and_grad(new_params, batch)[0], grads

        yield Mistake(
            "loss logged after the update",
            "report the loss that the gradient was taken of, before the update",
            replace(reference, value_and_grad=late),
        )


def scaled_rate(reference: Participant, factor: float) -> Mistake:
    """The update with its step multiplied by a factor, which diagnosis fits to the candidate."""
    update = reference.update
    assert update is not None

    def scaled(params, grads, state):
        new, new_state = update(params, grads, state)
        return {k: params[k] + factor * (p - params[k]) for k, p in new.items()}, new_state

    return Mistake(
        f"learning rate times {factor:.4g}",
        "compare the learning rates, and what multiplies them",
        replace(reference, update=scaled),
    )


def _tie_rule(value_at_zero: float) -> Callable:
    def backward(h, grad):
        return np.where(h > 0, grad, np.where(h == 0, value_at_zero * grad, 0))

    return backward


def rounded_matmul(bits: int) -> Callable:
    """A product of operands that keep `bits` after the point: 7 is bfloat16, 10 is TF32."""

    def rounded(a):
        mantissa, exponent = np.frexp(a)
        return np.ldexp(np.round(mantissa * 2.0 ** (bits + 1)) / 2.0 ** (bits + 1), exponent)

    return lambda a, b: np.matmul(rounded(a), rounded(b))


def _network_mistakes(reference: Participant, plan: Plan) -> Iterator[Mistake]:
    spec = plan.spec
    function, backward = numpy_net.ACTIVATIONS[spec.activation]
    loss = numpy_net.LOSSES[spec.loss]

    def replay(name, remedy, activation=(function, backward), **hooks):
        def value_and_grad(params, batch):
            return numpy_net.backpropagate(params, batch, activation, loss, **hooks)

        changed = replace(reference, value_and_grad=value_and_grad)
        if matmul := hooks.get("matmul"):
            changed = replace(
                changed,
                forward=lambda params, batch: numpy_net.run_layers(
                    params, batch.x, function, batch.repeats, matmul
                )[2][-1],
            )
        return Mistake(name, remedy, changed)

    rule = {"relu": 0.0, "my_relu": 1.0}.get(spec.activation)
    if rule is not None:
        for tie in {0.0, 0.5, 1.0} - {rule}:
            yield replay(
                f"ReLU derivative {tie:g} at 0",
                f"the reference's is {rule:g}: jax.nn.relu and torch.relu pass 0, jnp.maximum 0.5, "
                "clamp and my_relu 1",
                (function, _tie_rule(tie)),
            )
    ways = {
        "first": lambda total, term: term,
        "last": lambda total, term: total if total.any() else term,
    }
    for which, combine in ways.items():
        yield replay(
            f"shared weight counted once (its {which} use)",
            "a weight that is applied several times must sum its gradients",
            combine=combine,
        )
    for name, bits in {"bfloat16": 7, "TF32": 10}.items():
        yield replay(
            f"{name} matrix products",
            "ask for full precision: jax.default_matmul_precision('highest'), "
            "torch.set_float32_matmul_precision('highest')",
            matmul=rounded_matmul(bits),
        )
    yield _stale_order(reference, plan)


def _stale_order(reference: Participant, plan: Plan) -> Mistake:
    """Backpropagation through weights that were already updated, the last layer's first."""
    activation = numpy_net.ACTIVATIONS[plan.spec.activation]
    loss = numpy_net.LOSSES[plan.spec.loss]

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


def _optimizer_mistakes(reference: Participant, plan: Plan) -> Iterator[Mistake]:
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


def _arrays(tree: Any) -> list[np.ndarray]:
    if isinstance(tree, dict):
        return [a for value in tree.values() for a in _arrays(value)]
    if isinstance(tree, (tuple, list)):
        return [a for value in tree for a in _arrays(value)]
    return [tree] if isinstance(tree, np.ndarray) and tree.ndim else []


def _first_array(batch: Any) -> np.ndarray:
    return _arrays(batch)[0]


def _map_arrays(function: Callable[[np.ndarray], np.ndarray], tree: Any) -> Any:
    if isinstance(tree, dict):
        return {key: _map_arrays(function, value) for key, value in tree.items()}
    if isinstance(tree, tuple) and hasattr(tree, "_fields"):
        return type(tree)(*(_map_arrays(function, value) for value in tree))
    if isinstance(tree, (tuple, list)):
        return type(tree)(_map_arrays(function, value) for value in tree)
    return function(tree) if isinstance(tree, np.ndarray) and tree.ndim else tree
