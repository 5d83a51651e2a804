"""02. jax.numpy: the same program on JAX arrays, which live on the CPU or GPU and never change."""

import jax
import jax.numpy as jnp
import numpy as np

jax.config.update("jax_enable_x64", True)  # double precision, to print the digits that NumPy prints

N, D_in, H, D_out = 64, 1000, 100, 10
learning_rate = 1e-6

rng = np.random.default_rng(0)
x = jnp.asarray(rng.standard_normal((N, D_in)))
y = jnp.asarray(rng.standard_normal((N, D_out)))
w1 = jnp.asarray(rng.standard_normal((D_in, H)))
w2 = jnp.asarray(rng.standard_normal((H, D_out)))

for t in range(500):
    h = x @ w1
    h_relu = jnp.maximum(h, 0)
    y_pred = h_relu @ w2
    loss = jnp.square(y_pred - y).sum()
    if t % 100 == 99:
        print(f"{t} {loss:.6e}")

    grad_y_pred = 2 * (y_pred - y)
    grad_w2 = h_relu.T @ grad_y_pred
    grad_h = jnp.where(h < 0, 0, grad_y_pred @ w2.T)
    grad_w1 = x.T @ grad_h

    # A JAX array cannot be written to: the update makes new ones.
    w1 = w1 - learning_rate * grad_w1
    w2 = w2 - learning_rate * grad_w2
