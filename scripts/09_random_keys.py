"""09. Random keys: the same key draws the same numbers, so each step of dropout needs its own."""

import importlib.util

import jax
import jax.numpy as jnp
import numpy as np

N, D_in, D_out, rate = 64, 1000, 10, 0.5

rng = np.random.default_rng(0)
x = rng.standard_normal((N, D_in), dtype="float32")
y = rng.standard_normal((N, D_out), dtype="float32")
w = rng.standard_normal((D_in, D_out), dtype="float32")


def draw_kept(key):
    return jax.random.bernoulli(key, 1 - rate, (N, D_in))


def always_dropped(keys):
    return 1 - np.mean(np.any([draw_kept(key) for key in keys], axis=0))


# PyTorch draws from a hidden generator, which every draw moves on. A key of JAX is a plain value,
# and nothing moves it on. The mistake: the same key in 100 steps.
key = jax.random.key(0)
share = always_dropped([key for t in range(100)])
print(f"one key for 100 steps: {share:.0%} of the inputs are dropped at every step")

# Fold the number of the step into the key. A run that is resumed at step 70 draws what the whole
# run drew there, since the mask depends on nothing else.
share = always_dropped([jax.random.fold_in(key, t) for t in range(100)])
print(f"a key for each step: {share:.0%}")

# Two draws in one step, as two layers make them: split the key in two, and do not use it again.
key1, key2 = jax.random.split(key)
print(f"one key for two layers: {np.mean(draw_kept(key) == draw_kept(key)):.0%} of the masks agree")
print(f"a key for each layer: {np.mean(draw_kept(key1) == draw_kept(key2)):.0%}")


# No seed makes JAX and PyTorch draw the same numbers. To compare them, draw once, and pass the mask
# as data.
def loss_fn(w, mask):
    return jnp.square((x * mask) @ w - y).mean()


mask = np.asarray(draw_kept(key1) / (1 - rate))  # what is kept is scaled up, as torch does
grad = jax.grad(loss_fn)(w, mask)

if importlib.util.find_spec("torch"):
    import torch

    w = torch.tensor(w, requires_grad=True)
    loss = torch.nn.functional.mse_loss((torch.tensor(x) * torch.tensor(mask)) @ w, torch.tensor(y))
    (other,) = torch.autograd.grad(loss, w)
    error = np.abs(grad - other.numpy()).max() / np.abs(grad).max()
    print(f"the same mask: torch's gradient differs by {error:.0e} of its largest element")
else:
    print("torch is not installed, so its gradient is not compared here")
