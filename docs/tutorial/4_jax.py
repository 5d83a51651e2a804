# %% model
import jax
import jax.numpy as jnp
import optax
from flax import nnx

from problem import D_in, D_out, H, linear, x, y

jax.config.update("jax_enable_x64", True)

rngs = nnx.Rngs(0)
model = nnx.Sequential(
    nnx.Linear(D_in, H, rngs=rngs),
    nnx.relu,
    nnx.Linear(H, D_out, rngs=rngs),
)

# %% weights
sizes = {0: (D_in, H), 2: (H, D_out)}
for i in sizes:
    kernel, bias = linear(*sizes[i])
    nnx.update(
        model.layers[i],
        {
            "kernel": jnp.asarray(kernel),
            "bias": jnp.asarray(bias),
        },
    )

# %% gradient
graphdef, w = nnx.split(model)


def loss_fn(w):
    y_pred = nnx.merge(graphdef, w)(x)
    return jnp.square(y_pred - y).sum()


loss_and_grads = jax.value_and_grad(loss_fn)
_, grads = loss_and_grads(w)
g = grads["layers"][0]["kernel"].get_value()
print(f"grad w1 {jnp.linalg.norm(g):.6e}")

# %% optimizer
opt = optax.adam(1e-4)
state = opt.init(w)


@jax.jit
def step(w, state):
    loss, grads = loss_and_grads(w)
    updates, state = opt.update(grads, state)
    w = optax.apply_updates(w, updates)
    return w, state, loss


# %% train
for t in range(500):
    w, state, loss = step(w, state)
    if t % 100 == 99:
        print(t, f"{loss:.6e}")
