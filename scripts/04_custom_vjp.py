"""04. jax.custom_vjp: a ReLU with a backward rule of its own."""

import jax
import jax.numpy as jnp
import numpy as np

jax.config.update("jax_enable_x64", True)

N, D_in, H, D_out = 64, 1000, 100, 10
learning_rate = 1e-6

rng = np.random.default_rng(0)
x = rng.standard_normal((N, D_in))
y = rng.standard_normal((N, D_out))
params = {"w1": rng.standard_normal((D_in, H)), "w2": rng.standard_normal((H, D_out))}


@jax.custom_vjp
def my_relu(x):
    return jnp.maximum(x, 0)


def my_relu_fwd(x):
    return my_relu(x), x  # the output, and what the backward rule will need


def my_relu_bwd(x, grad):
    return (jnp.where(x < 0, 0, grad),)  # one gradient for each argument


my_relu.defvjp(my_relu_fwd, my_relu_bwd)


def loss_fn(params, x, y):
    y_pred = my_relu(x @ params["w1"]) @ params["w2"]
    return jnp.square(y_pred - y).sum()


for t in range(500):
    loss, grads = jax.value_and_grad(loss_fn)(params, x, y)
    if t % 100 == 99:
        print(f"{t} {loss:.6e}")

    params = jax.tree.map(lambda p, g: p - learning_rate * g, params, grads)
