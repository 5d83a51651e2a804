"""15. jax.vmap: networks of many seeds and learning rates train at once, in one program."""

import time

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

N, D_in, H, D_out = 16, 8, 4, 2

rng = np.random.default_rng(0)
x = rng.standard_normal((N, D_in), dtype="float32")
y = rng.standard_normal((N, D_out), dtype="float32")
seeds = jnp.arange(10)
learning_rates = jnp.array([1e-3, 3e-3, 1e-2, 3e-2])


def loss_fn(params):
    w1, w2 = params
    return jnp.square(jax.nn.relu(x @ w1) @ w2 - y).mean()


@jax.jit
def train(seed, learning_rate):
    # One network: nothing in this function knows that there will be many.
    key1, key2 = jax.random.split(jax.random.key(seed))
    params = jax.random.normal(key1, (D_in, H)), jax.random.normal(key2, (H, D_out))

    def step(params, _):
        loss, grads = jax.value_and_grad(loss_fn)(params)
        return jax.tree.map(lambda p, g: p - learning_rate * g, params, grads), loss

    return lax.scan(step, params, length=300)[1][-1]


# The mistake: vmap takes its arguments in pairs, as zip does, and 10 seeds are not 4 rates.
try:
    jax.vmap(train)(seeds, learning_rates)
except ValueError as error:
    print(f"one vmap: {str(error).splitlines()[0].rstrip(':')}")

# Every seed with every rate: map over the rates for one seed, and map that over the seeds.
of_one_seed = jax.vmap(train, in_axes=(None, 0))
train_grid = jax.jit(jax.vmap(of_one_seed, in_axes=(0, None)))
losses = train_grid(seeds, learning_rates)  # (10, 4)

for rate, mean, spread in zip(learning_rates, losses.mean(0), losses.std(0), strict=True):
    print(f"learning rate {rate:.3f}: loss {mean:.3f}, +- {spread:.3f} between the seeds")


def one_by_one(seeds, learning_rates):
    return [[train(seed, rate) for rate in learning_rates] for seed in seeds]


def seconds(run):
    times = []
    for _ in range(3):  # the first compiles
        start = time.perf_counter()
        jax.block_until_ready(run(seeds, learning_rates))
        times.append(time.perf_counter() - start)
    return min(times)


# The same numbers as one network after the other, in less time. Small networks gain the most: one
# alone does not keep the machine busy.
error = np.abs(losses - np.array(one_by_one(seeds, learning_rates))).max()
print(f"trained one by one: losses differ by at most {error:.0e}")
print(f"time of one by one / of all at once: {seconds(one_by_one) / seconds(train_grid):.1f}")
