# %% function
import jax
import jax.numpy as jnp

from problem import w1, w2, x, y

jax.config.update("jax_enable_x64", True)


@jax.custom_vjp
def my_relu(h):
    return jnp.maximum(h, 0)


def forward_rule(h):
    return my_relu(h), h


def backward_rule(h, grad):
    return (jnp.where(h < 0, 0, grad),)


my_relu.defvjp(forward_rule, backward_rule)

# %% gradient
h = jnp.array([-1.0, 0.0, 1.0])
grad = jax.grad(lambda h: my_relu(h).sum())(h)
print("at -1, 0, 1:", grad.tolist())


# %% train
@jax.value_and_grad
def loss_and_grads(w):
    y_pred = my_relu(x @ w[0]) @ w[1]
    return jnp.square(y_pred - y).sum()


w = (jnp.asarray(w1), jnp.asarray(w2))
for t in range(500):
    loss, grads = loss_and_grads(w)
    w = jax.tree.map(
        lambda p, g: p - 1e-6 * g, w, grads
    )
    if t % 100 == 99:
        print(t, f"{loss:.6e}")
