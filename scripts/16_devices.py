"""16. Devices: a mesh, the rows of a batch divided over it, and the numbers of one device."""

import os

# Eight virtual devices on any machine. JAX reads the flag when it starts, so it comes first.
os.environ["XLA_FLAGS"] = "--xla_force_host_platform_device_count=8"

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P

jax.config.update("jax_enable_x64", True)  # double precision, to print the digits that 01 prints

N, D_in, H, D_out = 64, 1000, 100, 10
learning_rate = 1e-6

rng = np.random.default_rng(0)
x = rng.standard_normal((N, D_in))
y = rng.standard_normal((N, D_out))
w1 = rng.standard_normal((D_in, H))
w2 = rng.standard_normal((H, D_out))


def loss_fn(params, x, y):
    w1, w2 = params
    return jnp.square(jax.nn.relu(x @ w1) @ w2 - y).sum()


@jax.jit
def step(params, x, y):
    # Written for one device. Where the arrays lie decides where it runs.
    loss, grads = jax.value_and_grad(loss_fn)(params, x, y)
    return jax.tree.map(lambda p, g: p - learning_rate * g, params, grads), loss


def train(params, x, y):
    for t in range(500):
        params, loss = step(params, x, y)
        loss.block_until_ready()  # virtual devices can block each other if steps queue up
        if t % 100 == 99:
            print(f"{t} {loss:.6e}")


devices = jax.devices("cpu")
# Auto: the compiler divides the work. JAX's default is Explicit, where the program says more.
mesh = jax.make_mesh((8,), ("data",), axis_types=(AxisType.Auto,), devices=devices)
by_rows = NamedSharding(mesh, P("data"))  # the first axis is divided over the devices
whole = NamedSharding(mesh, P())  # every device holds all of it

# The mistake: the batch is on eight devices, and the weights are on one.
batch = jax.device_put((x, y), by_rows)
try:
    step(jax.device_put((w1, w2), devices[0]), *batch)
except ValueError as error:
    print(f"weights on one device: {str(error).split('.')[0]}")

# Put both on the mesh. No line of the step adds up the gradients of the devices, as DDP does in
# PyTorch: the compiler sees that the rows are divided, and writes it.
params = jax.device_put((w1, w2), whole)
program = str(step.lower(params, *batch).compile().as_text())
rows = batch[0].addressable_shards[0].data.shape[0]
print(f"{len(devices)} devices, {rows} rows on each, {program.count('all-reduce(')} all-reduce")
train(params, *batch)  # the losses that 01 to 04 print

print("the same step on one device:")
train((w1, w2), x, y)
