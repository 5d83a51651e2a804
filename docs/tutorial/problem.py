"""The data and first weights of the tutorial.

NumPy draws them once, for all three columns.
"""

import numpy as np

N, D_in, H, D_out = 64, 1000, 100, 10

rng = np.random.default_rng(0)
x = rng.standard_normal((N, D_in))
y = rng.standard_normal((N, D_out))
w1 = rng.standard_normal((D_in, H))
w2 = rng.standard_normal((H, D_out))


def linear(fan_in, fan_out):
    """Draw a layer as torch.nn.Linear does.

    Returns a weight (fan_in, fan_out) and a
    bias (fan_out,), uniform in +-fan_in**-0.5.
    """
    bound = fan_in**-0.5
    size = (fan_in, fan_out)
    w = rng.uniform(-bound, bound, size)
    return w, rng.uniform(
        -bound, bound, fan_out
    )
