"""06. optax and jax.jit: Adam makes the updates, and the whole step is compiled."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx

N, D_in, H, D_out = 64, 1000, 100, 10
learning_rate = 1e-4

rng = np.random.default_rng(0)
x = rng.standard_normal((N, D_in), dtype="float32")
y = rng.standard_normal((N, D_out), dtype="float32")

rngs = nnx.Rngs(0)
model = nnx.Sequential(nnx.Linear(D_in, H, rngs=rngs), nnx.relu, nnx.Linear(H, D_out, rngs=rngs))
graphdef, params = nnx.split(model)

optimizer = optax.adam(learning_rate)
opt_state = optimizer.init(params)  # both moments of every parameter, as plain data


def loss_fn(params, x, y):
    model = nnx.merge(graphdef, params)
    return jnp.square(model(x) - y).sum()


@jax.jit
def step(params, opt_state, x, y):
    loss, grads = jax.value_and_grad(loss_fn)(params, x, y)
    updates, opt_state = optimizer.update(grads, opt_state, params)
    return optax.apply_updates(params, updates), opt_state, loss


for t in range(500):
    params, opt_state, loss = step(params, opt_state, x, y)
    if t % 100 == 99:
        print(f"{t} {loss:.6e}")
