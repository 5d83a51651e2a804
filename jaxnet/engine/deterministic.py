"""A data-parallel step with the same bits on any number of devices, in any number of processes.

A batch is cut into a fixed number of shards. The gradients of each are computed by themselves and
summed in a fixed order, a binary tree over the shards: a device sums its own subtree, and each sums
the subtrees of all. XLA must not round otherwise in other surroundings:

- It compiles a loop of one turn, or one whose turns are alike, as part of the program around it; so
  it must not know the number of turns (`_one_by_one`).
- It rewrites a division by a scalar where the scalar is used once, and shares equal scalars before
  that on several devices, but after it on one; so they are shared here (`_merged`).
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import lax
from jax.sharding import Mesh
from jax.sharding import PartitionSpec as P

from jaxnet.engine import accumulate
from jaxnet.engine.accumulate import REDUCTIONS, Loss, ValueAndGrad
from jaxnet.spec import check_choice
from jaxnet.train import Step, TrainState, take

SHARDS = 8  # a power of 2
CALLS = ("jit", "closed_call", "custom_jvp_call", "custom_vjp_call")  # primitives of a program


def make_step(
    loss: Loss, optimizer: optax.GradientTransformation, mesh: Mesh, *, reduction: str
) -> Step:
    """Return the jitted step, as `train.make_step`, with the same bits on 1 to `SHARDS` devices.

    State and data lie whole on every device (`mesh.replicate`), a batch from the host may be
    divided (`mesh.rows`); its shards are neighbouring rows. reduction: "sum" or "mean", what the
    loss does over rows. A device holds the gradients of all its shards until they are summed.

    Runs that are to agree need devices of one kind and one version of JAX. On CPUs the number of
    threads changes bits too: set NPROC in the environment to one number for all of them, at least
    the devices of any process.

    Raises: ValueError for a `data` axis that does not divide the shards, for a `model` axis, and,
    when first called, for a batch that does not divide.
    """
    value_and_grad = _value_and_grad(loss, mesh, reduction)

    @_merged
    def update(state, grads):
        updates, opt_state = optimizer.update(grads, state.opt_state, state.params)
        return TrainState(optax.apply_updates(state.params, updates), opt_state, state.step + 1)

    @functools.partial(jax.jit, donate_argnames="state")
    def step(state: TrainState, batch: Any) -> tuple[TrainState, jax.Array]:
        accumulate.check_rows(batch, SHARDS, "the shards")
        value, grads = value_and_grad(state.params, batch)
        return update(state, grads), value

    return step


def check(mesh: Mesh) -> None:
    """Raise ValueError for a mesh that `make_step` does not take."""
    data, model = mesh.shape["data"], mesh.shape["model"]
    if SHARDS % data:
        raise ValueError(f"`mesh` must have a data axis that divides {SHARDS}, got {data}")
    if model > 1:
        raise ValueError(f"`mesh` must have a model axis of 1, got {model}")


def _value_and_grad(loss: Loss, mesh: Mesh, reduction: str) -> ValueAndGrad:
    check_choice("reduction", reduction, REDUCTIONS)
    check(mesh)
    own = SHARDS // mesh.shape["data"]
    of_shard = _merged(jax.value_and_grad(loss))

    def on_device(params, batch):
        batches = accumulate.split(batch, own, lambda leaf: leaf.reshape(own, -1, *leaf.shape[1:]))
        subtree = tree_sum(_one_by_one(of_shard, params, batches))
        total = accumulate.reduce(tree_sum(lax.all_gather(subtree, "data")), SHARDS, reduction)
        # through a loop, so that the update is compiled apart from the sum
        total = jax.tree.map(lambda leaf: leaf[None], total)
        total = _one_by_one(lambda _, leaf: leaf, params, total)
        return jax.tree.map(lambda leaf: leaf[0], total)

    def value_and_grad(params, batch):
        specs = jax.tree.map(lambda leaf: P("data") if np.ndim(leaf) else P(), batch)
        mapped = jax.shard_map(
            on_device, mesh=mesh, in_specs=(P(), specs), out_specs=P(), check_vma=False
        )
        return mapped(params, batch)

    return value_and_grad


def tree_sum(tree: Any) -> Any:
    """Sum arrays (2**n, ...) over their first axis: neighbours, then neighbouring pairs, ..."""

    def total(leaf):
        while len(leaf) > 1:
            leaf = leaf[0::2] + leaf[1::2]
        return leaf[0]

    return jax.tree.map(total, tree)


def _one_by_one(function: Callable, params: Any, batches: Any) -> Any:
    """function(params, batch) of each of stacked batches, stacked, as `lax.map` makes it."""
    number = len(jax.tree.leaves(batches)[0])
    shapes = jax.eval_shape(function, params, take(batches, 0))
    stacked = jax.tree.map(lambda leaf: jnp.zeros((number, *leaf.shape), leaf.dtype), shapes)
    # one more than is used: what is taken from one alone would not depend on the turn
    batches = jax.tree.map(lambda leaf: jnp.concatenate([leaf, leaf[:1]]), batches)

    def turn(i, stacked):
        values = function(params, take(batches, i))
        return jax.tree.map(
            lambda leaf, value: lax.dynamic_update_index_in_dim(leaf, value, i, 0), stacked, values
        )

    return lax.fori_loop(0, number + _zero(params), turn, stacked)


def _zero(params: Any) -> jax.Array:
    """0, which the compiler cannot know, or 1 if a certain parameter is NaN.

    Then the last turn is made once more, to the same result.
    """
    some = jax.tree.leaves(params)[0].ravel()[0]
    return (some != some).astype(jnp.int32)


def _merged(function: Callable) -> Callable:
    """Return the function that computes each of its equal subexpressions once."""

    def merged(*args):
        program, shape = jax.make_jaxpr(function, return_shape=True)(*args)
        values = _interpret(program, jax.tree.leaves(args), {})
        return jax.tree.unflatten(jax.tree.structure(shape), values)

    return merged


def _interpret(program: Any, args: list, known: dict) -> list:
    """The results of a program, a `ClosedJaxpr`; known: those of its equations so far, with their
    inputs.
    """
    jaxpr = program.jaxpr
    values = dict(zip(jaxpr.constvars, program.consts, strict=True))
    values |= dict(zip(jaxpr.invars, args, strict=True))

    def read(atom):
        return atom.val if _is_literal(atom) else values[atom]

    for eqn in jaxpr.eqns:
        inputs = [read(atom) for atom in eqn.invars]
        if eqn.primitive.name in CALLS:
            inner = "jaxpr" if eqn.primitive.name == "jit" else "call_jaxpr"
            results = _interpret(eqn.params[inner], inputs, known)
        else:
            key = _key(eqn, inputs)
            if key not in known:  # the inputs are kept, as their ids are part of the key
                known[key] = inputs, eqn.primitive.bind(*inputs, **eqn.params)
            results = known[key][1]
            results = results if eqn.primitive.multiple_results else [results]
        values |= dict(zip(eqn.outvars, results, strict=True))
    return [read(atom) for atom in jaxpr.outvars]


def _is_literal(atom: Any) -> bool:
    return hasattr(atom, "val")  # `jax.extend.core.Literal` takes long to import


def _key(eqn: Any, inputs: list) -> Any:
    """Equal for equations of the same results."""
    operands = tuple(
        (str(atom.aval), np.asarray(value).tobytes()) if _is_literal(atom) else id(value)
        for atom, value in zip(eqn.invars, inputs, strict=True)
    )
    key = eqn.primitive, operands, tuple(eqn.params.items())
    try:
        hash(key)
    except TypeError:
        return object()
    return object() if eqn.effects else key
