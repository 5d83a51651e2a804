"""10. State: BatchNorm keeps statistics, so a compiled step takes them in and gives them back."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import errors, nnx

N, D_in, D_out = 64, 100, 10
learning_rate = 1e-2

rng = np.random.default_rng(0)
x = rng.normal(3, 1, (N, D_in)).astype("float32")  # the running mean should become 3
y = rng.standard_normal((N, D_out), dtype="float32")

rngs = nnx.Rngs(0)
norm = nnx.BatchNorm(D_in, momentum=0.9, rngs=rngs)  # momentum=0.1 in PyTorch
model = nnx.Sequential(norm, nnx.Linear(D_in, D_out, rngs=rngs))

# The mistake: a compiled function uses the model from outside. While JAX traces it, the statistics
# are symbols, and Flax does not let them be written into a model that outlives the trace.
try:
    jax.jit(lambda x: model(x))(x)
except errors.TraceContextError as error:
    print(f"the model from outside: {str(error).split(' (')[0]}")

# Split the model in three: its structure, what is trained, and what is only carried along.
graphdef, params, stats = nnx.split(model, nnx.Param, nnx.BatchStat)
optimizer = optax.sgd(learning_rate)


def loss_fn(params, stats, x, y):
    model = nnx.merge(graphdef, params, stats, copy=True)  # variables that this call may write to
    loss = jnp.square(model(x) - y).mean()
    return loss, nnx.state(model, nnx.BatchStat)


@jax.jit
def step(params, stats, opt_state, x, y):
    grad_fn = jax.value_and_grad(loss_fn, has_aux=True)  # differentiates the first of its outputs
    (loss, stats), grads = grad_fn(params, stats, x, y)
    updates, opt_state = optimizer.update(grads, opt_state, params)
    return optax.apply_updates(params, updates), stats, opt_state, loss


def train(params, stats, keep):
    opt_state = optimizer.init(params)
    for _ in range(100):
        params, new_stats, opt_state, loss = step(params, stats, opt_state, x, y)
        stats = new_stats if keep else stats
    trained = nnx.merge(graphdef, params, stats)
    trained.eval()  # uses the statistics in place of those of the batch
    in_eval = jnp.square(trained(x) - y).mean()
    mean = jax.tree.leaves(stats)[0].mean()  # the leaves are in alphabetical order: mean, var
    return f"running mean {mean:.2f}; loss {loss:.3f} in training, {in_eval:.3f} in evaluation"


# The silent mistake is to drop the new statistics. Training looks right, and evaluation is wrong.
print(f"statistics dropped: {train(params, stats, keep=False)}")
print(f"statistics carried: {train(params, stats, keep=True)}")
