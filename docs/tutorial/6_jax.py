# %% model
import jax
import jax.numpy as jnp
import optax
from flax import nnx
from jax import lax

from problem import D_in, D_out, H, linear, x, y

jax.config.update("jax_enable_x64", True)


def layer(d_in, d_out):
    made = nnx.Linear(
        d_in, d_out, rngs=nnx.Rngs(0)
    )
    w, b = map(jnp.asarray, linear(d_in, d_out))
    nnx.update(made, {"kernel": w, "bias": b})
    return made


class DynamicNet(nnx.Module):
    def __init__(self, d_in, hidden, d_out):
        self.first = layer(d_in, hidden)
        self.middle = layer(hidden, hidden)
        self.last = layer(hidden, d_out)

    def __call__(self, x, repeats):
        def apply(h):
            return nnx.relu(self.middle(h))

        def skip(h):
            return h

        h = nnx.relu(self.first(x))
        for i in range(3):
            h = lax.cond(
                i < repeats, apply, skip, h
            )
        return self.last(h)


model = DynamicNet(D_in, H, D_out)
graphdef, w = nnx.split(model)


def loss_fn(w, repeats):
    model = nnx.merge(graphdef, w)
    y_pred = model(x, repeats)
    return jnp.square(y_pred - y).sum()


# %% gradient
loss_and_grads = jax.jit(
    jax.value_and_grad(loss_fn)
)
for repeats in range(4):
    _, grads = loss_and_grads(w, repeats)
    g = grads["middle"]["kernel"].get_value()
    norm = jnp.linalg.norm(g)
    print(f"repeats {repeats} {norm:.6e}")

# %% train
opt = optax.sgd(1e-4, momentum=0.9)
state = opt.init(w)


@jax.jit
def step(w, state, repeats):
    loss, grads = loss_and_grads(w, repeats)
    updates, state = opt.update(grads, state)
    w = optax.apply_updates(w, updates)
    return w, state, loss


for t in range(500):
    w, state, loss = step(w, state, t % 4)
    if t % 100 == 99:
        print(t, f"{loss:.6e}")
