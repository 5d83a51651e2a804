"""Rows: points where the derivative is a choice, infinite, or lost."""

from phrasebook.row import Row

ROWS = [
    Row(
        "clamp between two bounds",
        torch="y = x.clamp(-1, 1).sum()",
        jax="y = jnp.where((x < -1) | (x > 1), jax.lax.stop_gradient(x.clip(-1, 1)), x).sum()",
        trap="At a bound itself `clamp` passes the whole gradient, `jnp.clip` half of it.",
        naive="y = x.clip(-1, 1).sum()",
        given={"x": [-2.0, -1.0, 0.5, 1.0, 3.0]},
    ),
    Row(
        "clamp from below",
        torch="y = x.clamp(min=0).sum()",
        jax="y = jnp.where(x < 0, 0, x).sum()",
        trap="At exactly 0 `clamp` passes the gradient 1, `relu` 0, and `jnp.maximum` 1/2: three "
        "functions, which differ only there.",
        naive="y = jnp.maximum(x, 0).sum()",
        given={"x": [-1.5, 0.0, 2.0]},
    ),
    Row(
        "relu at 0",
        torch="y = F.relu(x).sum()",
        jax="y = nnx.relu(x).sum()",
        trap="The derivative at 0 is 0 in both; `jnp.maximum` has 1/2 there.",
        naive="y = jnp.maximum(x, 0).sum()",
        given={"x": [-1.0, 0.0, 2.0]},
    ),
    Row(
        "abs at 0",
        torch="y = x.abs().sum()",
        jax="y = (x * jnp.sign(x)).sum()",
        trap="The derivative at 0 is 0 in PyTorch, 1 in JAX: an L1 penalty moves weights that are "
        "0.",
        naive="y = jnp.abs(x).sum()",
        given={"x": [-1.0, 0.0, 2.0]},
    ),
    Row(
        "maximum of two tensors at a tie",
        torch="y = torch.maximum(a, b).sum()",
        jax="y = jnp.maximum(a, b).sum()",
        trap="Both sides get half of the gradient, in both. `where` gives all of it to one.",
        naive="y = jnp.where(a >= b, a, b).sum()",
        given={"a": [1.0, 2.0, 3.0], "b": [3.0, 2.0, 1.0]},
    ),
    Row(
        "leaky_relu at 0",
        torch="y = F.leaky_relu(x).sum()",
        jax="y = jnp.where(x > 0, x, 0.01 * x).sum()",
        trap="At 0 PyTorch takes the slope below 0, `nnx.leaky_relu` that above.",
        naive="y = nnx.leaky_relu(x).sum()",
        given={"x": [-1.0, 0.0, 2.0]},
    ),
    Row(
        "Norm at 0",
        torch="y = x.norm(dim=1).sum()",
        jax="y = optax.safe_norm(x, 0.0, axis=1).sum()",
        trap="PyTorch's gradient is 0 where the vector is 0; that of `jnp.linalg.norm` is nan, "
        "which spreads to all parameters.",
        naive="y = jnp.linalg.norm(x, axis=1).sum()",
        given={"x": [[3.0, 4.0], [0.0, 0.0]]},
    ),
    Row(
        "where around log",
        torch="""
            safe = torch.where(x > 0, x, 1)
            y = torch.where(x > 0, safe.log(), 0).sum()
        """,
        jax="""
            safe = jnp.where(x > 0, x, 1)
            y = jnp.where(x > 0, jnp.log(safe), 0).sum()
        """,
        trap="In both, the side that is not taken is computed too: its infinite derivative times "
        "0 is nan. The argument must be made safe, not only the result.",
        naive="y = jnp.where(x > 0, jnp.log(x), 0).sum()",
        given={"x": [0.0, 0.5, 2.0]},
    ),
    Row(
        "softplus of large numbers",
        torch="y = F.softplus(x).sum()",
        jax="y = jnp.where(x > 20, x, nnx.softplus(jnp.minimum(x, 20))).sum()",
        trap="Above 20 PyTorch's is x itself.",
        naive="y = nnx.softplus(x).sum()",
        given={"x": [-3.0, 0.0, 20.5]},
    ),
]
