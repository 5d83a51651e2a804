# %% start
import jax
import jax.numpy as jnp

from problem import w1, w2, x, y

jax.config.update("jax_enable_x64", True)
x, y = jnp.asarray(x), jnp.asarray(y)
w1, w2 = jnp.asarray(w1), jnp.asarray(w2)


# %% forward
def forward(w1, w2):
    h = x @ w1
    h_relu = jnp.maximum(h, 0)
    return h, h_relu, h_relu @ w2


def loss_fn(y_pred):
    return jnp.square(y_pred - y).sum()


# %% backward
def backward(w2, h, h_relu, y_pred):
    grad_y = 2 * (y_pred - y)
    grad_w2 = h_relu.T @ grad_y
    grad_h = grad_y @ w2.T
    grad_h = jnp.where(h < 0, 0, grad_h)
    return x.T @ grad_h, grad_w2


# %% gradient
g1, g2 = backward(w2, *forward(w1, w2))
print(f"grad w1 {jnp.linalg.norm(g1):.6e}")
print(f"grad w2 {jnp.linalg.norm(g2):.6e}")

# %% train
for t in range(500):
    h, h_relu, y_pred = forward(w1, w2)
    g1, g2 = backward(w2, h, h_relu, y_pred)
    w1 = w1 - 1e-6 * g1
    w2 = w2 - 1e-6 * g2
    if t % 100 == 99:
        print(t, f"{loss_fn(y_pred):.6e}")
