"""08. Control flow and shared weights: the middle layer is applied 0 to 3 times at each step."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx
from jax import lax

N, D_in, H, D_out = 64, 1000, 100, 10
learning_rate = 1e-4

rng = np.random.default_rng(0)
x = rng.standard_normal((N, D_in), dtype="float32")
y = rng.standard_normal((N, D_out), dtype="float32")


def clamp(h):
    return jnp.where(h < 0, 0, h)


class DynamicNet(nnx.Module):
    def __init__(self, d_in, hidden, d_out, *, rngs):
        self.input_linear = nnx.Linear(d_in, hidden, rngs=rngs)
        self.middle_linear = nnx.Linear(hidden, hidden, rngs=rngs)
        self.output_linear = nnx.Linear(hidden, d_out, rngs=rngs)

    def __call__(self, x, repeats):
        h = clamp(self.input_linear(x))
        # Under jit `repeats` has no value yet: a Python `if` cannot read it, `lax.cond` can. One
        # compiled program serves every depth, and the one middle layer shares its weights.
        for i in range(3):
            h = lax.cond(i < repeats, lambda h: clamp(self.middle_linear(h)), lambda h: h, h)
        return self.output_linear(h)


model = DynamicNet(D_in, H, D_out, rngs=nnx.Rngs(0))
graphdef, params = nnx.split(model)
optimizer = optax.sgd(learning_rate, momentum=0.9)
opt_state = optimizer.init(params)


def loss_fn(params, x, y, repeats):
    model = nnx.merge(graphdef, params)
    return jnp.square(model(x, repeats) - y).sum()


@jax.jit
def step(params, opt_state, x, y, repeats):
    loss, grads = jax.value_and_grad(loss_fn)(params, x, y, repeats)
    updates, opt_state = optimizer.update(grads, opt_state, params)
    return optax.apply_updates(params, updates), opt_state, loss


for t in range(500):
    repeats = rng.integers(0, 4)
    params, opt_state, loss = step(params, opt_state, x, y, repeats)
    if t % 100 == 99:
        print(f"{t} {loss:.6e} repeats {repeats}")
