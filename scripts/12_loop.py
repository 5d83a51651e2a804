"""12. The loop: one training step run eagerly, compiled, and compiled with its loop, all timed."""

import time

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

N, D_in, H, D_out = 64, 64, 32, 10
learning_rate = 1e-6

rng = np.random.default_rng(0)
shapes = (N, D_in), (N, D_out), (D_in, H), (H, D_out)
x, y, w1, w2 = (jnp.asarray(rng.standard_normal(shape, dtype="float32")) for shape in shapes)


def loss_fn(params):
    w1, w2 = params
    return jnp.square(jax.nn.relu(x @ w1) @ w2 - y).sum()


def step(params, _=None):
    loss, grads = jax.value_and_grad(loss_fn)(params)
    return jax.tree.map(lambda p, g: p - learning_rate * g, params, grads), loss


compiled_step = jax.jit(step)


def python_loop(step, num_steps):
    params, loss = step((w1, w2))
    for _ in range(num_steps - 1):
        params, loss = step(params)
    return loss


@jax.jit
def compiled_loop():
    _, losses = lax.scan(step, (w1, w2), length=1000)
    return losses[-1]


def measure(name, run, num_steps, wait=True):
    jax.block_until_ready(run())  # the first call compiles, and is not timed
    times = []
    for _ in range(5):
        start = time.perf_counter()
        loss = run()
        if wait:
            jax.block_until_ready(loss)
        times.append(time.perf_counter() - start)
        jax.block_until_ready(loss)
    print(f"{name}: {1e6 * min(times) / num_steps:.1f} us per step, loss {loss:.1f}")
    return min(times) / num_steps


# The mistake: JAX returns before the result is there. A clock that is stopped at once measures only
# how long it takes to ask for it.
asked = measure("compiled loop, not waited for", compiled_loop, 1000, wait=False)
# The mistake: no jit. Python sends each operation to the device by itself, and derives the gradient
# anew at every step.
eager = measure("eager steps, 10 of them", lambda: python_loop(step, 10), 10)
by_step = measure("compiled steps", lambda: python_loop(compiled_step, 1000), 1000)
by_loop = measure("compiled loop", compiled_loop, 1000)

print(
    f"times as long as the compiled loop: eager {eager / by_loop:.0f}, compiled steps "
    f"{by_step / by_loop:.1f}, not waited for {asked / by_loop:.4f}"
)
