"""Rows: initial values. What is random is compared by its largest value, or its spread."""

from phrasebook.row import Row

ROWS = [
    Row(
        "Initial values of Linear",
        torch="""
            linear = nn.Linear(400, 300)
            y = round(linear.weight.abs().max().item(), 3), bool((linear.bias != 0).all())
        """,
        jax="""
            uniform = nnx.initializers.variance_scaling(1 / 3, "fan_in", "uniform")
            def bias_init(key, shape, dtype):
                return jax.random.uniform(key, shape, dtype, -1, 1) / jnp.sqrt(400)
            linear = nnx.Linear(400, 300, kernel_init=uniform, bias_init=bias_init, rngs=rngs)
            y = round(float(abs(linear.kernel[...]).max()), 3), bool((linear.bias[...] != 0).all())
        """,
        trap="PyTorch draws weight and bias from U(-1/sqrt(in), 1/sqrt(in)). Flax's default is a "
        "truncated normal of variance 1/in, with zeros for the bias.",
        naive="""
            linear = nnx.Linear(400, 300, rngs=rngs)
            y = round(float(abs(linear.kernel[...]).max()), 3), bool((linear.bias[...] != 0).all())
        """,
        check="value",
    ),
    Row(
        "xavier_uniform_",
        torch="y = round(nn.init.xavier_uniform_(torch.empty(300, 400)).max().item(), 3)",
        jax="""
            init = nnx.initializers.xavier_uniform()
            y = round(float(init(rngs(), (400, 300)).max()), 3)
        """,
        trap="`lecun_uniform` looks at the inputs only.",
        naive="""
            init = nnx.initializers.lecun_uniform()
            y = round(float(init(rngs(), (400, 300)).max()), 3)
        """,
        check="value",
    ),
    Row(
        "kaiming_normal_",
        torch="""
            w = nn.init.kaiming_normal_(torch.empty(300, 400))
            y = bool(w.abs().max() > 4 * w.std())
        """,
        jax="""
            init = nnx.initializers.variance_scaling(2.0, "fan_in", "normal")
            w = init(rngs(), (400, 300))
            y = bool(abs(w).max() > 4 * w.std())
        """,
        trap="`he_normal`, `xavier_normal` and `lecun_normal` are truncated: nothing is beyond 2.3 "
        "standard deviations. PyTorch's are not.",
        naive="""
            w = nnx.initializers.he_normal()(rngs(), (400, 300))
            y = bool(abs(w).max() > 4 * w.std())
        """,
        check="value",
    ),
    Row(
        "Fan of a kernel that is transposed",
        torch="y = round(nn.init.kaiming_uniform_(torch.empty(300, 400)).max().item(), 3)",
        jax="y = round(float(nnx.initializers.he_uniform()(rngs(), (400, 300)).max()), 3)",
        trap="An initialiser of JAX takes the last axis for the outputs. Of a shape (out, in) it "
        "takes the wrong fan.",
        naive="y = round(float(nnx.initializers.he_uniform()(rngs(), (300, 400)).max()), 3)",
        check="value",
    ),
    Row(
        "orthogonal_",
        torch="""
            w = nn.init.orthogonal_(torch.empty(3, 5, dtype=torch.double))
            y = (w @ w.T).round(decimals=6).abs()
        """,
        jax="""
            w = nnx.initializers.orthogonal()(rngs(), (5, 3), float)
            y = abs((w.T @ w).round(6))
        """,
        check="value",
    ),
    Row(
        "Initial values of Embedding",
        torch="y = round(nn.Embedding(400, 300).weight.std().item(), 1)",
        jax="""
            normal = nnx.initializers.normal(1.0)
            embedding = nnx.Embed(400, 300, embedding_init=normal, rngs=rngs)
            y = round(float(embedding.embedding[...].std()), 1)
        """,
        trap="PyTorch draws from N(0, 1), Flax with the variance 1 / features.",
        naive="""
            embedding = nnx.Embed(400, 300, rngs=rngs)
            y = round(float(embedding.embedding[...].std()), 1)
        """,
        check="value",
    ),
]
