"""07. nnx.Module: a network as a class of one's own, trained by SGD."""

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


class TwoLayerNet(nnx.Module):
    def __init__(self, d_in, hidden, d_out, *, rngs):
        # Layers given to `self` are found by nnx.split, as torch finds its submodules.
        self.linear1 = nnx.Linear(d_in, hidden, rngs=rngs)
        self.linear2 = nnx.Linear(hidden, d_out, rngs=rngs)

    def __call__(self, x):
        h = self.linear1(x)
        h_relu = jnp.where(h < 0, 0, h)  # any JAX function may stand between the layers
        return self.linear2(h_relu)


model = TwoLayerNet(D_in, H, D_out, rngs=nnx.Rngs(0))
graphdef, params = nnx.split(model)
optimizer = optax.sgd(learning_rate)
opt_state = optimizer.init(params)


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
