"""The scans of the levers."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import optax
from jax import flatten_util

from jaxnet.spec import Batch

from .peers_jax import (
    Scan,
    activation_of,
    gather,
    loss_value,
    plain_body,
    plain_loss,
    plain_optimizer,
    scan,
)
from .workloads import Workload


def out_in(workload: Workload, table: Batch, only_narrowing: bool = False) -> Scan:
    """Weights held as torch holds them."""
    activation, layers = activation_of(workload), len(workload.sizes) - 1
    turned = {
        f"w{k}"
        for k in range(1, layers + 1)
        if not only_narrowing or workload.sizes[k - 1] > workload.sizes[k]
    }

    def turn(params):
        return {name: p.T if name in turned else p for name, p in params.items()}

    def loss(params, x, y):
        for k in range(1, layers + 1):
            x = x @ (params[f"w{k}"].T if f"w{k}" in turned else params[f"w{k}"])
            x = x + params[f"b{k}"] if workload.bias else x
            x = activation(x) if k < layers else x
        return loss_value(workload, x, y)

    optimizer = plain_optimizer(workload)
    params = jax.tree.map(jnp.array, turn(workload.params()))
    state = params, optimizer.init(params)
    body = plain_body(loss, optimizer)
    return Scan(workload, table, state, body, params=lambda state: turn(state[0]))


def narrowing(workload: Workload, table: Batch) -> Scan:
    """Those of layers that narrow held as torch holds them, the others as they are."""
    return out_in(workload, table, only_narrowing=True)


def one_buffer(workload: Workload, table: Batch) -> Scan:
    """All parameters in one vector, so that the optimizer's arithmetic is one loop."""
    loss, optimizer = plain_loss(workload), plain_optimizer(workload)
    flat, unravel = flatten_util.ravel_pytree(jax.device_put(workload.params()))

    def body(x, y, state, rows):
        flat, opt_state = state
        value, grads = jax.value_and_grad(loss)(unravel(flat), *gather(x, y, rows))
        grads, _ = flatten_util.ravel_pytree(grads)
        updates, opt_state = optimizer.update(grads, opt_state, flat)
        return (optax.apply_updates(flat, updates), opt_state), value

    state = flat, optimizer.init(flat)
    return Scan(workload, table, state, body, params=lambda state: unravel(state[0]))


def no_donation(workload: Workload, table: Batch) -> Scan:
    """The state is copied at each call."""
    return scan(workload, table, donate=False)


def unroll(workload: Workload, table: Batch) -> Scan:
    """Four steps to one turn of the loop."""
    return scan(workload, table, unroll=4)


def hand_backward(workload: Workload, table: Batch) -> Scan:
    """The gradient as `numpy_net` derives it, in JAX: no residuals but the activations."""
    layers, optimizer = len(workload.sizes) - 1, plain_optimizer(workload)

    def value_and_grad(params, x, y):
        inputs = [x]
        for k in range(1, layers + 1):
            h = inputs[-1] @ params[f"w{k}"]
            h = h + params[f"b{k}"] if workload.bias else h
            inputs.append(jnp.maximum(h, 0) if k < layers else h)
        value, grad = jax.value_and_grad(lambda p: loss_value(workload, p, y))(inputs[layers])
        grads = {}
        for k in range(layers, 0, -1):
            grads[f"w{k}"] = inputs[k - 1].T @ grad
            if workload.bias:
                grads[f"b{k}"] = grad.sum(axis=0)
            if k > 1:
                grad = jnp.where(inputs[k - 1] > 0, grad @ params[f"w{k}"].T, 0)
        return value, grads

    def body(x, y, state, rows):
        params, opt_state = state
        value, grads = value_and_grad(params, *gather(x, y, rows))
        updates, opt_state = optimizer.update(grads, opt_state, params)
        return (optax.apply_updates(params, updates), opt_state), value

    params = jax.device_put(workload.params())
    state = params, optimizer.init(params)
    return Scan(workload, table, state, body, params=lambda state: state[0])
