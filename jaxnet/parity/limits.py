"""How far a number may be from the reference's: the bars of a point."""

from __future__ import annotations

from typing import Any

import numpy as np

from jaxnet.parity import bars
from jaxnet.parity.observe import Outputs, evaluate
from jaxnet.parity.participants import Leaves, Participant, cast, map_leaves

MATHEMATICS, PRECISION = "mathematics", "precision"
DTYPES = {MATHEMATICS: "float64", PRECISION: "float32"}
RELATIVE = 1e-10  # float64: what a locked element may differ by, as a share of its leaf's largest
ROUNDING = 8 * 2.0**-53  # float64: the share of a parameter that adding its update may round away
# float32 without an oracle: multiples of the error of the reference's own float32 runs. Right ports
# reach 12, where nnx takes a variance as the mean of squares less the square of the mean.
PEER = 20.0
DRAWS = 4  # runs of the reference on inputs moved by a rounding, which show how far rounding goes
CANCELLED = 1e-4  # float64: a gradient this much smaller than the largest may be rounding only
TERMS = 64 * 2.0**-53  # float64: roundings of its size at the first step that may remain of a loss
NOISE = 100.0  # float64: multiples of what such a draw moves a gradient that cancels to nothing


def find_scales(first: Outputs) -> dict[tuple[str, str], float]:
    """Return how large the terms of the loss and of each leaf of the gradient are: as large as
    these are at the first step, and those of the loss as the network's outputs.

    Once the network has learnt its data the terms cancel, and their rounding remains.
    """
    sizes = {key: float(np.abs(value).max(initial=0)) for key, value in first.items()}
    outputs = [size for key, size in sizes.items() if key[0] in ("forward", "loss")]
    scales = {key: size for key, size in sizes.items() if key[0] == "gradient"}
    return scales | {("loss", "loss"): max(outputs)}


def make_bars(
    reference: Participant,
    tier: str,
    params: Leaves,
    state: Leaves,
    batch: Any,
    want: Outputs,
    scales: dict[tuple[str, str], float],
) -> tuple[Outputs, float]:
    """Return the bar of every number of a point, and how many bars a candidate may be off.

    scales: as `find_scales`, at the first step.
    """
    found, allowed = _bars(reference, tier, params, state, batch, want)
    if tier == MATHEMATICS:
        found = {key: bar + TERMS * scales.get(key, 0.0) for key, bar in found.items()}
    tiny = float(np.finfo(DTYPES[tier]).tiny)  # XLA flushes what is smaller to 0
    return {key: bar + tiny for key, bar in found.items()}, allowed


def _bars(reference, tier, params, state, batch, want) -> tuple[Outputs, float]:
    bar: Outputs = {}
    if tier == MATHEMATICS:
        floor = {} if reference.plan else _noise_floor(reference, params, batch, want)
        for (stage, name), value in want.items():
            largest = np.abs(value).max(initial=0)
            if stage == "parameters":  # of the step that was made: a small rate hides nothing
                change = np.abs(value.astype(float) - params[name]).max(initial=0)
                largest = change + ROUNDING / RELATIVE * largest
            limit = max(RELATIVE * largest, floor.get((stage, name), 0.0))
            bar[stage, name] = np.full(value.shape, limit)
        return bar, 1.0
    for (stage, name), new in want.items():
        if stage in ("parameters", "optimizer"):
            old = params[name] if stage == "parameters" else state.get(name, np.zeros_like(new))
            bar[stage, name] = bars.update_bar(old, new)
    if reference.plan is not None:
        network = bars.network_bars(reference.plan.spec, params, batch)
        return bar | network, bars.LIMIT
    error = _single_error(reference, params, batch)
    for key, value in want.items():
        if key not in bar:
            scale = bars.U * np.abs(value).max(initial=0)
            bar[key] = np.full(value.shape, max(error[key], scale))
    return bar, PEER


def _noise_floor(reference, params, batch, want) -> dict[tuple[str, str], float]:
    """Return what rounding may move each leaf of the gradient by, in float64.

    A gradient whose terms cancel, as that of a bias before BatchNorm, is nothing but the rounding
    of its terms. The floor is never more than what the largest gradient of all may differ by.
    """
    sizes = {k: float(np.abs(v).max(initial=0)) for k, v in want.items() if k[0] == "gradient"}
    largest = max(sizes.values(), default=0.0)
    keys = [key for key, size in sizes.items() if size < CANCELLED * largest]
    floor = dict.fromkeys(keys, 0.0)
    if not keys:
        return floor
    for inputs in rounded(params, batch, "float64"):
        found, _ = evaluate(reference, *inputs)
        for key in keys:
            moved = NOISE * float(np.abs(found[key] - want[key]).max(initial=0))
            floor[key] = min(max(floor[key], moved), RELATIVE * largest)
    return floor


def _single_error(reference, params, batch) -> dict[tuple[str, str], float]:
    """Return the largest error of each leaf in float32 runs of the reference: at this point, and at
    points that differ by a rounding.
    """
    worst: dict[tuple[str, str], float] = {}
    for inputs in [(params, batch), *rounded(params, batch, "float32")]:
        exact, _ = evaluate(reference, *inputs)
        single, _ = evaluate(reference, *cast(inputs, "float32"))
        for key, value in exact.items():
            error = np.abs(single[key].astype(float) - value).max(initial=0)
            worst[key] = max(worst.get(key, 0.0), float(error))
    return worst


def rounded(params: Leaves, batch: Any, dtype: str) -> list[tuple[Leaves, Any]]:
    """Return the inputs moved at random by about a rounding of `dtype`; zeros stay zeros."""
    rng = np.random.default_rng(0)

    def moved(leaf):
        if not isinstance(leaf, np.ndarray) or leaf.dtype.kind != "f":
            return leaf
        return leaf * (1 + np.finfo(dtype).eps * rng.standard_normal(leaf.shape))

    return [cast(cast(map_leaves(moved, (params, batch)), dtype), "float64") for _ in range(DRAWS)]
