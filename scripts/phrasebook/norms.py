"""Rows: layers that normalise."""

from phrasebook.row import Row

AFFINE = {"norm/scale": "norm.weight", "norm/bias": "norm.bias"}
STATISTICS = {"norm/mean": "norm.running_mean", "norm/var": "norm.running_var"}

ROWS = [
    Row(
        "LayerNorm",
        torch="""
            norm = nn.LayerNorm(5)

            y = norm(x)
        """,
        jax="""
            norm = nnx.LayerNorm(5, epsilon=1e-5, rngs=rngs)

            y = norm(x)
        """,
        trap="PyTorch adds 1e-5 to the variance, Flax 1e-6.",
        naive="""
            norm = nnx.LayerNorm(5, rngs=rngs)

            y = norm(x)
        """,
        given={"x": (3, 5)},
        layout=AFFINE,
    ),
    Row(
        "LayerNorm over several axes",
        torch="""
            norm = nn.LayerNorm((3, 4), elementwise_affine=False)

            y = norm(x)
        """,
        jax="""
            norm = nnx.LayerNorm(12, epsilon=1e-5, use_scale=False, use_bias=False, rngs=rngs)

            y = norm(x.reshape(2, 12)).reshape(2, 3, 4)
        """,
        trap="`nnx.LayerNorm` normalises the last axis alone.",
        naive="""
            norm = nnx.LayerNorm(4, epsilon=1e-5, use_scale=False, use_bias=False, rngs=rngs)

            y = norm(x)
        """,
        given={"x": (2, 3, 4)},
    ),
    Row(
        "RMSNorm",
        torch="""
            norm = nn.RMSNorm(5)

            y = norm(x)
        """,
        jax="""
            norm = nnx.RMSNorm(5, epsilon=float(jnp.finfo("float64").eps), rngs=rngs)

            y = norm(x)
        """,
        trap="PyTorch's default epsilon is that of the input's dtype, Flax's 1e-6.",
        naive="""
            norm = nnx.RMSNorm(5, rngs=rngs)

            y = norm(x)
        """,
        given={"x": (3, 5)},
        layout={"norm/scale": "norm.weight"},
    ),
    Row(
        "GroupNorm",
        torch="""
            norm = nn.GroupNorm(3, 6)

            y = norm(x)
        """,
        jax="""
            norm = nnx.GroupNorm(6, num_groups=3, epsilon=1e-5, rngs=rngs)

            y = norm(x.transpose(0, 2, 3, 1)).transpose(0, 3, 1, 2)
        """,
        trap="The groups come first in PyTorch, the features first in Flax; channels are last "
        "there, and the epsilon is 1e-6.",
        naive="""
            norm = nnx.GroupNorm(6, num_groups=3, rngs=rngs)

            y = norm(x.transpose(0, 2, 3, 1)).transpose(0, 3, 1, 2)
        """,
        given={"x": (2, 6, 2, 3)},
        layout=AFFINE,
    ),
    Row(
        "InstanceNorm2d",
        torch="""
            norm = nn.InstanceNorm2d(3, affine=True)

            y = norm(x)
        """,
        jax="""
            norm = nnx.InstanceNorm(3, epsilon=1e-5, rngs=rngs)

            y = norm(x.transpose(0, 2, 3, 1)).transpose(0, 3, 1, 2)
        """,
        trap="PyTorch's default has no weights, Flax's has; the epsilons are 1e-5 and 1e-6.",
        naive="""
            norm = nnx.InstanceNorm(3, rngs=rngs)

            y = norm(x.transpose(0, 2, 3, 1)).transpose(0, 3, 1, 2)
        """,
        given={"x": (2, 3, 4, 5)},
        layout=AFFINE,
    ),
    Row(
        "BatchNorm in training",
        torch="""
            norm = nn.BatchNorm1d(3, momentum=0.1)

            y = norm(x)
        """,
        jax="""
            norm = nnx.BatchNorm(3, momentum=0.9, epsilon=1e-5, rngs=rngs)

            old = norm.var[...]
            y = norm(x)
            norm.var[...] += (norm.var[...] - 0.9 * old) / (len(x) - 1)
        """,
        trap="The running variance is that of N - 1 in PyTorch, that of N in Flax; the output is "
        "the same until `eval`.",
        naive="""
            norm = nnx.BatchNorm(3, momentum=0.9, epsilon=1e-5, rngs=rngs)

            y = norm(x)
        """,
        given={"x": (5, 3)},
        layout=AFFINE | STATISTICS,
    ),
    Row(
        "Momentum of BatchNorm",
        torch="""
            norm = nn.BatchNorm1d(3, momentum=0.2, affine=False)

            y = norm(x), norm.running_mean.clone()
        """,
        jax="""
            norm = nnx.BatchNorm(
                3, momentum=0.8, epsilon=1e-5, use_scale=False, use_bias=False, rngs=rngs
            )

            old = norm.var[...]
            y = norm(x), norm.mean[...]
            norm.var[...] += (norm.var[...] - 0.8 * old) / (len(x) - 1)
        """,
        trap="The momentum is the share of the new batch in PyTorch, of the old average in Flax: "
        "one is 1 minus the other.",
        naive="""
            norm = nnx.BatchNorm(
                3, momentum=0.2, epsilon=1e-5, use_scale=False, use_bias=False, rngs=rngs
            )

            y = norm(x), norm.mean[...]
        """,
        given={"x": (5, 3)},
        layout=STATISTICS,
    ),
    Row(
        "BatchNorm in evaluation",
        torch="""
            norm = nn.BatchNorm1d(3).eval()

            y = norm(x)
        """,
        jax="""
            norm = nnx.BatchNorm(3, use_running_average=True, epsilon=1e-5, rngs=rngs)

            y = norm(x)
        """,
        trap="In training the batch is normalised by itself, and a row's output depends on the "
        "others.",
        naive="""
            norm = nnx.BatchNorm(3, epsilon=1e-5, rngs=rngs)

            y = norm(x)
        """,
        given={"x": (5, 3)},
        layout=AFFINE | STATISTICS,
    ),
]
