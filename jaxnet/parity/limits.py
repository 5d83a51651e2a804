"""How far a number may be from the reference's: the bars of a point."""

from __future__ import annotations

from typing import Any, NamedTuple

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
TERMS = 64 * 2.0**-53  # float64: roundings of the terms of a sum that may remain where they cancel
NOISE = 100.0  # float64: multiples of what such a draw moves a number whose terms cancel
NEAR = 1e-3  # a share by which parameters are moved, to see the terms of a network that has learnt


class Scales(NamedTuple):
    """How large the terms of the loss and of each leaf of the gradient are, by stage and leaf.

    Once the network has learnt its data the terms cancel, and their rounding remains.

    sure: of terms that no input shows, as the 1 in log(1 + e): as large as these numbers are at the
    first step, but of a loss that begins larger than 1 for each output no more than that share.
    most: how large they may be: as at the first step, and as these numbers change when the
    parameters do, which tells of a network that has learnt already.
    """

    sure: dict[tuple[str, str], float]
    most: dict[tuple[str, str], float]


@np.errstate(all="ignore")  # a number that is not finite is refused at its point
def find_scales(reference: Participant, params: Leaves, batch: Any, first: Outputs) -> Scales:
    """Return the scales of a case from what comes before the first update."""
    near, _ = evaluate(reference, _moved(params, NEAR, np.random.default_rng(0)), batch)
    sizes = {key: _largest(v) for key, v in first.items() if key[0] in ("loss", "gradient")}
    outputs = sum(value.size for (stage, _), value in first.items() if stage == "forward") or 1
    share = min(1.0, outputs / max(sizes["loss", "loss"], 1e-300))
    most = {}
    for key, size in sizes.items():
        change = _largest(near[key] - first[key]) / NEAR
        most[key] = max(size, change if np.isfinite(change) else 0.0)
    return Scales({key: share * size for key, size in sizes.items()}, most)


def largest_output(want: Outputs) -> float | None:
    """Return how large the terms of a loss are that cancel: its network's outputs, if known."""
    return max((_largest(v) for (stage, _), v in want.items() if stage == "forward"), default=None)


def _largest(value: np.ndarray) -> float:
    return float(np.abs(value).max(initial=0))


def make_bars(
    reference: Participant,
    tier: str,
    params: Leaves,
    state: Leaves,
    batch: Any,
    want: Outputs,
    scales: Scales,
) -> tuple[Outputs, float]:
    """Return the bar of every number of a point, and how many bars a candidate may be off.

    scales: as `find_scales`, at the first step.
    """
    found, allowed = _bars(reference, tier, params, state, batch, want, scales)
    tiny = float(np.finfo(DTYPES[tier]).tiny)  # XLA flushes what is smaller to 0
    return {key: bar + tiny for key, bar in found.items()}, allowed


def _bars(reference, tier, params, state, batch, want, scales) -> tuple[Outputs, float]:
    bar: Outputs = {}
    if tier == MATHEMATICS:
        floor = _noise_floor(reference, params, batch, want, scales)
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
            largest = _largest(value)
            if key[0] == "loss":  # near 0 its rounding is that of its terms
                terms = largest_output(want)
                largest = max(largest, scales.most[key] if terms is None else terms)
            bar[key] = np.full(value.shape, max(error[key], bars.U * largest))
    return bar, PEER


def _noise_floor(reference, params, batch, want, scales) -> dict[tuple[str, str], float]:
    """Return what rounding may move the loss and each leaf of the gradient by, in float64.

    Numbers whose terms cancel, as the gradient of a bias before BatchNorm, or all of a network that
    has learnt its data, are little but the rounding of the terms. The floor is what rounding the
    inputs moves them by, and never more than the rounding of terms so large as `scales.most`, or
    than what the largest gradient of all may differ by; but no less than that of `scales.sure`. A
    number below the rounding is nothing else.
    """
    sizes = {key: _largest(want[key]) for key in scales.most}
    most = {key: TERMS * scale for key, scale in scales.most.items()}
    output = largest_output(want)
    least = most if output is None else most | {("loss", "loss"): TERMS * output}
    floor = {key: limit for key, limit in least.items() if sizes[key] <= limit}
    sure = {key: TERMS * scale for key, scale in scales.sure.items()}
    largest = max((size for key, size in sizes.items() if key[0] == "gradient"), default=0.0)
    for key, size in sizes.items():
        cancelled = reference.plan is None and key[0] == "gradient" and size < CANCELLED * largest
        most[key] = max(most[key], least[key], RELATIVE * largest if cancelled else 0.0)
    keys = [k for k, limit in most.items() if k not in floor and RELATIVE * sizes[k] < limit]
    for inputs in rounded(params, batch, "float64") if keys else ():
        found, _ = evaluate(reference, *inputs)
        for key in keys:
            change = NOISE * _largest(found[key] - want[key])
            floor[key] = min(max(floor.get(key, 0.0), change), most[key])
    return {key: max(limit, floor.get(key, 0.0)) for key, limit in sure.items()}


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
    eps = float(np.finfo(dtype).eps)
    draws = [_moved((params, batch), eps, rng) for _ in range(DRAWS)]
    return [cast(cast(draw, dtype), "float64") for draw in draws]


def _moved(tree: Any, share: float, rng: np.random.Generator) -> Any:
    """Return a tree whose floats are moved at random by about this share of them."""

    def moved(leaf):
        if not isinstance(leaf, np.ndarray) or leaf.dtype.kind != "f":
            return leaf
        return leaf * (1 + share * rng.standard_normal(leaf.shape))

    return map_leaves(moved, tree)
