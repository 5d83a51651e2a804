"""How a run computes: on rows in memory or from the disk; its first layer as it is, or in dual form
(`gram`) where that is cheaper.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import lax
from jax.tree_util import Partial

from jaxnet import data, epochs, gram, net, optimizers, streams
from jaxnet.config import Config
from jaxnet.problem import Problem
from jaxnet.spec import Spec
from jaxnet.train import Step, make_step, on_rows, transpose, transposed

ROWS = 8192  # of the validation rows to one forward pass, which bounds its memory


class Form(NamedTuple):
    """The parts of a run that depend on where its rows are, and on the form of its first layer.

    params: the initial ones. run(state, best, parts, capacity, max_wait): makes steps and
    evaluates, as `epochs.run`. An evaluation on the validation rows is "loss", and "hits" (rows
    that are classified right) or "residual" (D_out,) (sums of squares). weights(params): the
    parameters as `Spec` has them, NumPy arrays.
    """

    params: dict[str, Any]
    optimizer: optax.GradientTransformation
    run: Callable[..., epochs.Chunk]
    weights: Callable[[Any], dict[str, np.ndarray]]


def use_gram(config: Config, problem: Problem) -> bool:
    """Whether the first layer is trained in dual form.

    Raises: ValueError if it is asked for and cannot be.
    """
    if config.gram == "on" and config.optimizer not in gram.OPTIMIZERS:
        raise ValueError(
            f"`gram` must be off for the optimizer {config.optimizer!r}: the dual form is for "
            f"{', '.join(gram.OPTIMIZERS)}"
        )
    if problem.mapped:
        if config.gram == "on":
            raise ValueError("`gram` must be off for a mapped table, whose rows are not in memory")
        return False
    if config.gram != "auto":
        return config.gram == "on"
    usual, dual = operations(config, problem)
    return config.optimizer in gram.OPTIMIZERS and dual < usual


def operations(config: Config, problem: Problem) -> tuple[int, int]:
    """What the first layer costs in this run as it is, and in dual form (`gram.operations`)."""
    rows, columns = problem.train.x.shape
    steps = config.epochs * problem.steps_per_epoch
    return gram.operations(rows, columns, problem.spec.sizes[1], problem.batch_size, steps)


def make(config: Config, problem: Problem, params: dict[str, np.ndarray]) -> Form:
    """The form of a run that begins with the weights `params`.

    Its schedule, decay, and clipping before either, are those of `config`.
    """
    num_steps = problem.steps_per_epoch * config.epochs
    decay = {} if config.weight_decay is None else {"weight_decay": config.weight_decay}
    rate = optimizers.schedule(config.schedule, config.learning_rate, num_steps)
    optimizer = optimizers.make(config.optimizer, rate, **decay)
    if use_gram(config, problem):
        return _dual(config, problem, params, optimizer)
    if config.clip_norm is not None:
        optimizer = optax.chain(optax.clip_by_global_norm(config.clip_norm), optimizer)
    spec = problem.spec
    loss = transposed(partial(net.loss, activation=spec.activation, loss=spec.loss))
    run = (_streamed if problem.mapped else _in_memory)(config, problem, make_step(loss, optimizer))
    return Form(transpose(params), optimizer, run, _to_numpy)


def _in_memory(config: Config, problem: Problem, step: Step) -> Callable[..., epochs.Chunk]:
    evaluate = _on_validation(problem.spec, _forward_transposed, problem.validation.x, problem)
    return _compiled(config, problem, on_rows(step, problem.train), evaluate)


def _compiled(config: Config, problem: Problem, step: Step, evaluate: Callable) -> Callable:
    """Epochs in one program, which gathers the rows of each batch on the device."""
    rows_at = _rows_at(config, problem)

    def run(state, best, parts, capacity, max_wait):
        return epochs.run(step, evaluate, state, best, rows_at, parts, capacity, max_wait)

    return run


def _streamed(config: Config, problem: Problem, step: Step) -> Callable[..., epochs.Chunk]:
    """Epochs over a mapped table: batches, and the rows to validate on, come from the disk."""
    train, validation = problem.train, problem.validation
    rows_at = data.row_batches(len(train), problem.batch_size, config.seed)
    sums = _jitted_sums(problem.spec, _forward_transposed)

    def batches(start, stop):
        return train.batch(np.stack([rows_at(i) for i in range(start, stop)]))

    bytes_of_step = problem.batch_size * train.width * np.dtype(config.dtype).itemsize
    starts = range(0, len(validation), ROWS)
    blocks = [np.arange(start, min(start + ROWS, len(validation))) for start in starts]
    stream = streams.Stream(
        Partial(step),
        batches,
        max(1, streams.BYTES // bytes_of_step),
        lambda params, block: sums(params, block.x, block.y),
        [partial(validation.batch, rows) for rows in blocks],
        len(validation),
    )

    def run(state, best, parts, capacity, max_wait):
        return streams.run(stream, state, best, parts, max_wait)

    return run


def _forward_transposed(params, x, *, activation):
    return net.forward(transpose(params), x, activation=activation)


def _dual(config, problem, params, optimizer) -> Form:
    spec, form = problem.spec, gram.prepare(problem.train.x, params["w1"])
    step = gram.make_step(
        form.rows(problem.train.x),
        problem.train.y,
        optimizer,
        activation=spec.activation,
        loss=spec.loss,
        clip_norm=config.clip_norm,
    )
    evaluate = _on_validation(spec, gram.forward, form.rows(problem.validation.x), problem)
    run = _compiled(config, problem, step, evaluate)
    return Form(params | form.params(), optimizer, run, form.weights)


def _to_numpy(params):
    return transpose(jax.tree.map(np.asarray, params))


def _rows_at(config: Config, problem: Problem) -> Callable[[int], np.ndarray | None]:
    """Step number -> row indices; None, for all rows in their order, if they are one batch."""
    rows = len(problem.train.x)
    if problem.batch_size == rows:
        return lambda step: None
    return data.row_batches(rows, problem.batch_size, config.seed)


def _on_validation(spec: Spec, forward: Callable, x: Any, problem: Problem) -> Callable:
    """The sums over the validation rows, whose inputs to `forward` are x, as a pytree of them."""
    y = problem.validation.y
    whole = len(y) // ROWS * ROWS
    blocks = jax.tree.map(lambda a: a[:whole].reshape(-1, ROWS, *a.shape[1:]), (x, y))
    rest = jax.tree.map(lambda a: a[whole:], (x, y))
    return Partial(_evaluate(spec, forward, len(y)), *jax.device_put((blocks, rest)))


def _sums(spec: Spec, forward: Callable, params: Any, x: Any, y: Any) -> dict[str, jax.Array]:
    """Over rows, whose inputs to `forward` are x: the sums of what `Form` says."""
    y_pred = forward(params, x, activation=spec.activation)
    total = {"loss": net.LOSSES[spec.loss](y_pred, y) * len(y)}
    if spec.loss == "cross_entropy":
        return total | {"hits": jnp.sum(y_pred.argmax(axis=1) == y)}
    return total | {"residual": jnp.square(y_pred - y).sum(axis=0)}


@functools.cache
def _jitted_sums(spec: Spec, forward: Callable) -> Callable:
    return jax.jit(partial(_sums, spec, forward))


@functools.cache
def _evaluate(spec: Spec, forward: Callable, num_rows: int) -> Callable:
    sums = partial(_sums, spec, forward)

    def evaluate(blocks, rest, params):
        parts = []
        if len(blocks[1]):
            each = lax.map(lambda block: sums(params, *block), blocks)
            parts.append(jax.tree.map(lambda a: a.sum(axis=0), each))
        if len(rest[1]):
            parts.append(sums(params, *rest))
        total = jax.tree.map(lambda *a: sum(a), *parts)
        return total | {"loss": total["loss"] / num_rows}

    return evaluate
