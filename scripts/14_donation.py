"""14. In place: arrays never change: `.at` returns a new one, donation reuses the old memory."""

import jax
import jax.numpy as jnp
import numpy as np

x = jnp.arange(3.0)

# The mistake: a write as in NumPy and PyTorch.
try:
    x[0] = 5
except TypeError as error:
    print(f"x[0] = 5: {str(error).split(' Instead')[0]}")

# The mistake: `.at` is called, and what it returns is not taken.
x.at[0].set(5)
print(f"x.at[0].set(5): x is {x}")
x = x.at[0].set(5)
print(f"x = x.at[0].set(5): x is {x}")

# The mistake: an index out of range is no error, since a compiled program cannot raise one. The
# write is left out, and a read takes the last element.
x = x.at[7].set(9)
print(f"x = x.at[7].set(9): x is {x}, and x[7] is {x[7]}")


# The old weights stay in memory beside the new ones. A donated argument gives its memory to the
# result instead.
def step(w, grad):
    return w - 0.1 * grad


def megabytes():
    return sum(array.nbytes for array in jax.live_arrays()) / 1e6


w = jnp.ones((1000, 1000))
grad = jnp.ones((1000, 1000))
print(f"weights and gradient: {megabytes():.0f} MB")
new = jax.jit(step)(w, grad)
print(f"after a step: {megabytes():.0f} MB")
del new

address = w.unsafe_buffer_pointer()
donating = jax.jit(step, donate_argnames="w")
new = donating(w, grad)
print(f"after a step that donates: {megabytes():.0f} MB")
print(f"the new weights lie where the old ones were: {new.unsafe_buffer_pointer() == address}")

# The mistake: the donated weights are used again.
try:
    np.asarray(w)
except RuntimeError as error:
    print(f"the old weights: {error}")

# Give the result the old name: then nothing can use the old weights by accident.
w = new
for _ in range(99):
    w = donating(w, grad)
print(f"after 100 steps: {w[0, 0]:.2f}, {megabytes():.0f} MB")
