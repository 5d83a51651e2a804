"""Libraries of modules over JAX, each with a compiled step in a Python loop: Equinox, Flax nnx."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np

from jaxnet.spec import Batch

from .peers_jax import activation_of, gather, loss_value, plain_optimizer
from .workloads import Workload


class StepLoop:
    """A step(rows) -> loss in a Python loop; params() are read by a function."""

    def __init__(self, workload, step, params):
        self._step, self._rows_at, self._made = step, workload.rows_at(), 0
        self._read = params

    def run(self, num_steps):
        losses = []
        for _ in range(num_steps):
            losses.append(self._step(self._rows_at(self._made)))
            self._made += 1
        return np.array(jax.device_get(losses))

    def params(self):
        return self._read()


def equinox(workload: Workload, table: Batch) -> StepLoop:
    """eqx.nn.Linear layers under filter_jit; state flattened outside the step, donated."""
    import equinox as eqx

    activation, optimizer = activation_of(workload), plain_optimizer(workload)
    layers = len(workload.sizes) - 1
    params, keys = workload.params(), jax.random.split(jax.random.key(0), layers)
    linears = []
    for k in range(1, layers + 1):
        d_in, d_out = workload.sizes[k - 1 : k + 1]
        linear = eqx.nn.Linear(d_in, d_out, workload.bias, key=keys[k - 1])
        linear = eqx.tree_at(lambda m: m.weight, linear, jnp.array(params[f"w{k}"].T))
        if workload.bias:
            linear = eqx.tree_at(lambda m: m.bias, linear, jnp.array(params[f"b{k}"]))
        linears.append(linear)

    def loss(linears, x, y):
        def one(x):
            for linear in linears[:-1]:
                x = activation(linear(x))
            return linears[-1](x)

        return loss_value(workload, jax.vmap(one)(x), y)

    state = linears, optimizer.init(eqx.filter(linears, eqx.is_inexact_array))
    leaves, treedef = jax.tree.flatten(state)
    table = jax.device_put((table.x, table.y))

    @eqx.filter_jit(donate="all-except-first")
    def update(data, leaves):
        (x, y), rows = data
        linears, opt_state = jax.tree.unflatten(treedef, leaves)
        value, grads = eqx.filter_value_and_grad(loss)(linears, *gather(x, y, rows))
        updates, opt_state = optimizer.update(grads, opt_state, linears)
        return value, jax.tree.leaves((eqx.apply_updates(linears, updates), opt_state))

    def step(rows):
        nonlocal leaves
        value, leaves = update((table, rows), leaves)
        return value

    def read():
        linears, _ = jax.tree.unflatten(treedef, leaves)
        found = {}
        for k, linear in enumerate(linears, start=1):
            found[f"w{k}"] = np.array(linear.weight.T)
            if workload.bias:
                found[f"b{k}"] = np.array(linear.bias)
        return found

    return StepLoop(workload, step, read)


def nnx_loop(workload: Workload, table: Batch) -> StepLoop:
    """nnx.jit of a step over module and optimizer, both cached by nnx.cached_partial."""
    from flax import nnx

    from jaxnet import flax_net

    model = flax_net.sequential(workload.spec, rngs=nnx.Rngs(0))
    flax_net.from_params(model, workload.params())
    optimizer = nnx.Optimizer(model, plain_optimizer(workload), wrt=nnx.Param)
    x, y = jax.device_put((table.x, table.y))

    def loss(model, batch):
        return loss_value(workload, model(batch[0]), batch[1])

    @nnx.jit
    def train_step(model, optimizer, x, y, rows):
        value, grads = nnx.value_and_grad(loss)(model, gather(x, y, rows))
        optimizer.update(model, grads)
        return value

    cached = nnx.cached_partial(train_step, model, optimizer)

    def read():
        return {name: np.array(leaf) for name, leaf in flax_net.to_params(model).items()}

    return StepLoop(workload, lambda rows: cached(x, y, rows), read)
