"""13. Precision: float64 needs a flag; what float32, TF32 and bfloat16 each do to a gradient."""

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

N, D_in, H, D_out = 64, 200, 100, 10

rng = np.random.default_rng(0)
x = rng.standard_normal((N, D_in))
y = rng.standard_normal((N, D_out))
w1 = rng.standard_normal((D_in, H)) / 10
w2 = rng.standard_normal((H, D_out))

# The mistake: NumPy's numbers are float64, and JAX makes them float32 without a warning.
print(f"without the flag: {x.dtype} becomes {jnp.asarray(x).dtype}")
jax.config.update("jax_enable_x64", True)  # best at the top of a program, as in 02
print(f"with the flag: {x.dtype} stays {jnp.asarray(x).dtype}")


def loss_fn(w1, dtype, bits):
    # A product in TF32 or bfloat16 rounds its factors to so many bits after the point, and adds up
    # in float32. CPUs do not have TF32: here the factors are rounded by hand.
    def product(a, b):
        a, b = (lax.reduce_precision(m, exponent_bits=11, mantissa_bits=bits) for m in (a, b))
        return a @ b

    h = jnp.tanh(product(jnp.asarray(x, dtype), w1))
    return jnp.square(product(h, jnp.asarray(w2, dtype)) - jnp.asarray(y, dtype)).sum()


def gradient(dtype, bits):
    return np.asarray(jax.grad(loss_fn)(jnp.asarray(w1, dtype), dtype, bits), "float64")


exact = gradient("float64", 52)
for name, dtype, bits in [
    ("float32", "float32", 23),
    ("TF32 products", "float32", 10),
    ("bfloat16 products", "float32", 7),
    ("bfloat16 throughout", "bfloat16", 7),
]:
    error = np.linalg.norm(gradient(dtype, bits) - exact) / np.linalg.norm(exact)
    print(f"{name}: the gradient is off by {error:.0e}")

# On a GPU float32 products may be TF32 by default: jax.default_matmul_precision("highest") turns it
# off. The mistake: a gradient checked by differences in float32, whose rounding is the larger.
for dtype in ("float32", "float64"):
    step = np.zeros_like(w1)
    step[0, 0] = 1e-6
    up, down = (loss_fn(jnp.asarray(w, dtype), dtype, 52) for w in (w1 + step, w1 - step))
    print(f"difference in {dtype}: {(up - down) / 2e-6:.2f}, gradient: {exact[0, 0]:.2f}")
