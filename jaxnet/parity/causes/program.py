"""Known mistakes, each as the reference with that one mistake: a replay that fits names a cause."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import numpy as np

from jaxnet.parity.causes.network import Mistake, network_mistakes, optimizer_mistakes
from jaxnet.parity.participants import Leaves, Participant, map_leaves
from jaxnet.spec import Batch


def known_mistakes(
    reference: Participant, leaves: Leaves, without_gradient: set[str]
) -> list[Mistake]:
    """Return every mistake that can be replayed on a reference.

    leaves: those in which a mistake may be. without_gradient: those that get none. Mistakes inside
    the network and the optimizer need the NumPy oracle as the reference, which says how it is made.
    """
    found = [*_scales(reference), *_batch_mistakes(reference), *_sequence_mistakes(reference)]
    found += _leaf_mistakes(reference, leaves, without_gradient)
    if reference.plan is not None:
        found += [*network_mistakes(reference, reference.plan)]
        found += [*optimizer_mistakes(reference, reference.plan)]
    return found


def _scales(reference: Participant) -> Iterator[Mistake]:
    def rows(batch):
        return len(_arrays(batch)[0])

    def elements(batch):
        matrices = [a for a in _arrays(batch) if a.ndim > 1]
        return matrices[-1].size if matrices else rows(batch)

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


def _leaf_mistakes(
    reference: Participant, leaves: Leaves, without_gradient: set[str]
) -> Iterator[Mistake]:
    for name, leaf in leaves.items():

        def dropped(params, batch, name=name):
            value, grads = reference.value_and_grad(params, batch)
            return value, grads | {name: np.zeros_like(grads[name])}

        if name in without_gradient:
            yield Mistake(
                f"dropped leaf {name}",
                f"{name} gets no gradient: is it frozen, detached, or missing from the optimizer?",
                replace(reference, value_and_grad=dropped),
            )
        if leaf.ndim == 2 and leaf.shape[0] == leaf.shape[1] > 1:
            yield Mistake(
                f"transposed weight {name}",
                f"{name} is square and used as its transpose: declare the axes in `layout`",
                _transposed(reference, name),
            )


def _transposed(reference: Participant, name: str) -> Participant:
    def turned(leaves):
        return leaves | {name: leaves[name].T}

    def value_and_grad(params, batch):
        value, grads = reference.value_and_grad(turned(params), batch)
        return value, turned(grads)

    made = replace(reference, value_and_grad=value_and_grad)
    if forward := reference.forward:
        made = replace(made, forward=lambda params, batch: forward(turned(params), batch))
    return made


def _batch_mistakes(reference: Participant) -> Iterator[Mistake]:
    def without_last(batch):
        n = len(_arrays(batch)[0])
        return map_leaves(lambda a: a[:-1] if _is_array(a) and len(a) == n else a, batch)

    def half(batch):
        def rounded(a):
            floating = _is_array(a) and a.dtype.kind == "f"
            return a.astype("float16").astype(a.dtype) if floating else a

        if isinstance(batch, Batch):
            return batch._replace(x=rounded(batch.x))
        return map_leaves(rounded, batch)

    yield Mistake(
        "dropped last sample",
        "look for batch[:-1], or a loop that ends early",
        replace(
            reference, value_and_grad=lambda p, b: reference.value_and_grad(p, without_last(b))
        ),
    )
    made = replace(reference, value_and_grad=lambda p, b: reference.value_and_grad(p, half(b)))
    if forward := reference.forward:
        made = replace(made, forward=lambda p, b: forward(p, half(b)))
    remedy = "keep the input in float32: look for .half() or float16"
    yield Mistake("input through float16", remedy, made)


def _sequence_mistakes(reference: Participant) -> Iterator[Mistake]:
    """Yield mistakes between calls: they must see the points in the candidate's order."""
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


def _arrays(batch: Any) -> list[np.ndarray]:
    found: list[np.ndarray] = []
    map_leaves(lambda leaf: found.append(leaf) if _is_array(leaf) else None, batch)
    return found


def _is_array(leaf: Any) -> bool:
    return isinstance(leaf, np.ndarray) and leaf.ndim > 0
