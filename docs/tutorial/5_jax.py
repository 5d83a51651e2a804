# %% model
import jax
import jax.numpy as jnp
import optax
from flax import nnx

from problem import D_in, D_out, H, linear, x, y

jax.config.update("jax_enable_x64", True)


class TwoLayerNet(nnx.Module):
    def __init__(
        self, d_in, hidden, d_out, rngs
    ):
        self.linear1 = nnx.Linear(
            d_in, hidden, rngs=rngs
        )
        self.linear2 = nnx.Linear(
            hidden, d_out, rngs=rngs
        )

    def __call__(self, x):
        h = self.linear1(x)
        h_relu = jnp.where(h < 0, 0, h)
        return self.linear2(h_relu)


# %% weights
model = TwoLayerNet(
    D_in, H, D_out, rngs=nnx.Rngs(0)
)
w1, b1 = map(jnp.asarray, linear(D_in, H))
w2, b2 = map(jnp.asarray, linear(H, D_out))
nnx.update(
    model.linear1, {"kernel": w1, "bias": b1}
)
nnx.update(
    model.linear2, {"kernel": w2, "bias": b2}
)

# %% gradient
graphdef, w = nnx.split(model)


def loss_fn(w):
    y_pred = nnx.merge(graphdef, w)(x)
    return jnp.square(y_pred - y).sum()


loss_and_grads = jax.value_and_grad(loss_fn)
_, grads = loss_and_grads(w)
for name, layer in grads.items():
    for leaf in ("kernel", "bias"):
        g = layer[leaf].get_value()
        norm = jnp.linalg.norm(g)
        print(f"{name} {leaf:6s} {norm:.6e}")

# %% train
opt = optax.sgd(1e-4)
state = opt.init(w)


@jax.jit
def step(w, state):
    loss, grads = loss_and_grads(w)
    updates, state = opt.update(grads, state)
    w = optax.apply_updates(w, updates)
    return w, state, loss


for t in range(500):
    w, state, loss = step(w, state)
    if t % 100 == 99:
        print(t, f"{loss:.6e}")
