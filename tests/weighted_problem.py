"""Problems whose rows have weights, whose hidden units are masked, whose labels are smoothed."""

from typing import Any

import numpy as np
from helpers import named, problem

from jaxnet.spec import LOSSES, Spec

SPECS = {  # one of each loss and activation rule, biased and not
    "sum_squares relu": Spec((7, 6, 5, 3), True),
    "mean_squares tanh": Spec((7, 6, 5, 3), False, "tanh", "mean_squares"),
    "cross_entropy my_relu": Spec((7, 6, 5, 3), True, "my_relu", "cross_entropy"),
    "quantile silu": Spec((7, 6, 5, 3), True, "silu", "quantile"),
    "smoothed gelu": Spec((7, 6, 5, 3), True, "gelu", "cross_entropy", 0.3),
}
assert {spec.loss for spec in SPECS.values()} == set(LOSSES)


def weighted_problem(spec: Spec, parts: str = "weights masks", seed: int = 0):
    """Return float64 parameters and a batch of 4 rows with `parts`, and the options of the loss.

    A row counts nothing, another thrice; a third of the hidden units is 0.
    """
    params, batch = problem(spec, seed=seed)
    rng = np.random.default_rng(seed + 2)
    masks = tuple((rng.random((4, size)) > 1 / 3) * 1.5 for size in spec.sizes[1:-1])
    fields = {"weights": np.array([0.5, 3.0, 0.0, 1.25]), "masks": masks}
    names: dict[str, Any] = {**named(spec), "label_smoothing": spec.label_smoothing}
    return params, batch._replace(**{part: fields[part] for part in parts.split()}), names
