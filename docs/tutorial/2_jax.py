# %% start
import jax
import jax.numpy as jnp

from problem import w1, w2, x, y

jax.config.update("jax_enable_x64", True)
w = {
    "w1": jnp.asarray(w1),
    "w2": jnp.asarray(w2),
}


# %% loss
def loss_fn(w):
    h = x @ w["w1"]
    h_relu = jnp.where(h < 0, 0, h)
    y_pred = h_relu @ w["w2"]
    return jnp.square(y_pred - y).sum()


# %% gradient
grads = jax.grad(loss_fn)(w)
for k in w:
    g = jnp.linalg.norm(grads[k])
    print(f"grad {k} {g:.6e}")

# %% train
for t in range(500):
    loss, grads = jax.value_and_grad(loss_fn)(w)
    w = jax.tree.map(
        lambda p, g: p - 1e-6 * g, w, grads
    )
    if t % 100 == 99:
        print(t, f"{loss:.6e}")
