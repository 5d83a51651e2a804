"""11. Recompilation: jit compiles anew for each new function, shape and static value; count it."""

import jax
import jax.numpy as jnp
import numpy as np

N, D_in, D_out = 64, 1000, 10

rng = np.random.default_rng(0)
x = rng.standard_normal((N, D_in), dtype="float32")
w = rng.standard_normal((D_in, D_out), dtype="float32")
traced = []


def step(w, x, learning_rate):
    # JAX runs this body only to trace it, once before each compilation: a line in it counts them.
    # In a large program, jax.config.update("jax_log_compiles", True) logs each one.
    traced.append(x.shape)
    grad = jax.grad(lambda w: jnp.square(x @ w).sum())(w)
    return w - learning_rate * grad


def report(name):
    print(f"{name}: {len(traced)} compilations in 5 steps")
    traced.clear()


# The mistake: a jit inside the loop, of a function that is new at each turn.
for _ in range(5):
    jax.jit(lambda w: step(w, x, 1e-6))(w)
report("jit inside the loop")

compiled = jax.jit(step)
for _ in range(5):
    compiled(w, x, 1e-6)
report("jit before the loop")

# The mistake: a batch of another size at each step. Rows of zeros add nothing to this loss.
for t in range(5):
    compiled(w, x[: 20 + t], 1e-6)
report("five sizes of batch")

for t in range(5):
    compiled(w, np.pad(x[: 20 + t], ((0, 12 - t), (0, 0))), 1e-6)
report("filled up to one size")

# The mistake: a number that changes is static, and so a part of the program.
static = jax.jit(step, static_argnames="learning_rate")
for t in range(5):
    static(w, x, 1e-6 / (t + 1))
report("a static learning rate")

for t in range(5):
    compiled(w, x, 1e-6 / (t + 1))
report("as an argument")  # none: this shape was compiled above

# The mistake: an array from outside, which the trace copies into the program. The program is as
# large as the array, and never sees it change. Pass it as an argument.
table = x.copy()
captured = jax.jit(lambda w: (table @ w).sum())
argument = jax.jit(lambda w, table: (table @ w).sum())
size, without = len(captured.lower(w).as_text()), len(argument.lower(w, table).as_text())
print(f"a captured array: a program of {size:,} characters; as an argument: {without:,}")
before = float(captured(w))
table *= 2
ratio, right = captured(w) / before, argument(w, table) / before
print(f"the array doubled: the result is times {ratio:.1f}; as an argument: times {right:.1f}")
