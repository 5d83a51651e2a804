"""05. Flax: the network as a Sequential of layers, which hold their own parameters."""

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

N, D_in, H, D_out = 64, 1000, 100, 10
learning_rate = 1e-4

rng = np.random.default_rng(0)
x = rng.standard_normal((N, D_in), dtype="float32")
y = rng.standard_normal((N, D_out), dtype="float32")

rngs = nnx.Rngs(0)
model = nnx.Sequential(nnx.Linear(D_in, H, rngs=rngs), nnx.relu, nnx.Linear(H, D_out, rngs=rngs))

# Split the model once into its structure and its parameters: the loss is then pure again.
graphdef, params = nnx.split(model)


def loss_fn(params, x, y):
    model = nnx.merge(graphdef, params)
    return jnp.square(model(x) - y).sum()


# Compiled, since layers are slow to run one operation at a time; 06 compiles the whole step.
value_and_grad = jax.jit(jax.value_and_grad(loss_fn))

for t in range(500):
    loss, grads = value_and_grad(params, x, y)
    if t % 100 == 99:
        print(f"{t} {loss:.6e}")

    params = jax.tree.map(lambda p, g: p - learning_rate * g, params, grads)

nnx.update(model, params)  # the model itself now holds what was learned
