"""03. jax.grad: the loss as a pure function of the parameters, which JAX differentiates."""

import jax
import jax.numpy as jnp
import numpy as np

jax.config.update("jax_enable_x64", True)

N, D_in, H, D_out = 64, 1000, 100, 10
learning_rate = 1e-6

rng = np.random.default_rng(0)
x = rng.standard_normal((N, D_in))
y = rng.standard_normal((N, D_out))
params = {"w1": rng.standard_normal((D_in, H)), "w2": rng.standard_normal((H, D_out))}


def forward(params, x):
    h = x @ params["w1"]
    h_relu = jnp.where(h < 0, 0, h)  # its derivative at 0 is 1, as in 01; jnp.maximum's is one half
    return h_relu @ params["w2"]


def loss_fn(params, x, y):
    return jnp.square(forward(params, x) - y).sum()


for t in range(500):
    # No graph is kept and no gradient has to be zeroed: the gradient is a value that is returned.
    loss, grads = jax.value_and_grad(loss_fn)(params, x, y)
    if t % 100 == 99:
        print(f"{t} {loss:.6e}")

    params = jax.tree.map(lambda p, g: p - learning_rate * g, params, grads)
