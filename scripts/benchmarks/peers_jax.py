"""The bare scan, which is the reference, and jaxnet's own ways to the same steps."""

from __future__ import annotations

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import lax

from jaxnet import net, optimizers, train
from jaxnet.engine import gram as gram_form
from jaxnet.spec import Batch

from .participant import Inapplicable, applies
from .workloads import Workload

CHUNK = 500  # steps to one call of the device, as in `train.fit_scan`


def activation_of(workload: Workload):
    """The activation as plain JAX: the rule of `my_relu` is that of this `where`."""
    return {"relu": jax.nn.relu, "my_relu": lambda h: jnp.where(h < 0, 0, h)}[workload.activation]


def loss_value(workload: Workload, y_pred, y):
    """The loss as plain JAX and optax."""
    if workload.loss == "sum_squares":
        return jnp.square(y_pred - y).sum()
    return optax.softmax_cross_entropy_with_integer_labels(y_pred, y).mean()


def plain_loss(workload: Workload):
    """loss(params, x, y), written as anyone would without a package."""
    activation, layers = activation_of(workload), len(workload.sizes) - 1

    def loss(params, x, y):
        for k in range(1, layers + 1):
            product = x.astype(workload.dtype) @ params[f"w{k}"].astype(workload.dtype)
            x = product.astype(x.dtype)
            x = x + params[f"b{k}"] if workload.bias else x
            x = activation(x) if k < layers else x
        return loss_value(workload, x, y)

    return loss


def plain_optimizer(workload: Workload) -> optax.GradientTransformation:
    """optax's own optimizer of that name."""
    return {"sgd": optax.sgd, "adam": optax.adam}[workload.optimizer](workload.learning_rate)


class Scan:
    """A body(x, y, state, rows) -> (state, loss), scanned; `state` is any pytree."""

    def __init__(self, workload, table, state, body, *, params, unroll=1, donate=True):
        self._workload, self._made, self._params = workload, 0, params
        self._table = jax.device_put((table.x, table.y))
        self._state = jax.tree.map(jnp.array, state)

        def many(table, state, rows, length):
            def one(state, rows):
                return body(*table, state, rows)

            return lax.scan(one, state, rows, length=length, unroll=unroll)

        donated = ("state",) if donate else ()
        self._many = jax.jit(many, static_argnames="length", donate_argnames=donated)
        self._rows_at = workload.rows_at()

    def run(self, num_steps):
        losses = []
        for start in range(0, num_steps, CHUNK):
            length = min(CHUNK, num_steps - start)
            rows = None
            if self._workload.batch is not None:
                rows = np.stack([self._rows_at(self._made + i) for i in range(length)])
            self._state, chunk = self._many(self._table, self._state, rows, length)
            losses.append(chunk)
            self._made += length
        return np.concatenate(jax.device_get(losses))

    def params(self):
        return jax.device_get(self._params(self._state))


def gather(x, y, rows):
    """The batch of a step: rows gathered on the device."""
    return (x, y) if rows is None else (x[rows], y[rows])


def plain_body(loss, optimizer):
    """The step of the reference."""

    def body(x, y, state, rows):
        params, opt_state = state
        value, grads = jax.value_and_grad(loss)(params, *gather(x, y, rows))
        updates, opt_state = optimizer.update(grads, opt_state, params)
        return (optax.apply_updates(params, updates), opt_state), value

    return body


def scan(workload: Workload, table: Batch, **options) -> Scan:
    """The reference."""
    optimizer = plain_optimizer(workload)
    params = jax.device_put(workload.params())
    body = plain_body(plain_loss(workload), optimizer)
    state = params, optimizer.init(params)
    return Scan(workload, table, state, body, params=lambda state: state[0], **options)


class FitScan:
    """jaxnet's public loop over a step that takes row indices."""

    def __init__(self, step, state, rows_at, params):
        self._step, self._state, self._rows_at, self._params = step, state, rows_at, params

    def run(self, num_steps):
        self._state, losses = train.fit_scan(self._step, self._state, self._rows_at, num_steps)
        return losses

    def params(self):
        return jax.device_get(self._params(self._state.params))


def fit_scan(workload: Workload, table: Batch) -> FitScan:
    """train.on_rows and train.fit_scan."""
    optimizer = optimizers.make(workload.optimizer, workload.learning_rate)
    half = "bfloat16" if workload.dtype == "bfloat16" else None
    options = {"loss": workload.loss, "compute_dtype": half}
    loss = partial(net.loss, activation=workload.activation, **options)
    step = train.on_rows(train.make_step(train.transposed(loss), optimizer), table)
    state = train.init(train.transpose(workload.params()), optimizer)
    return FitScan(step, state, workload.rows_at(), train.transpose)


def gram(workload: Workload, table: Batch) -> FitScan:
    """The first layer in its dual form, where that has less to do."""
    applies(workload, {"optimizer": gram_form.OPTIMIZERS})
    if workload.sizes[0] <= 2 * workload.rows:
        raise Inapplicable("there are more rows than columns")
    params = workload.params()
    form = gram_form.prepare(table.x, params["w1"])
    optimizer = optimizers.make(workload.optimizer, workload.learning_rate)
    step = gram_form.make_step(
        form.products(table.x), table.y, optimizer,
        activation=workload.activation, loss=workload.loss,
    )  # fmt: skip
    state = train.init(params | form.params(), optimizer)
    return FitScan(step, state, workload.rows_at(), form.weights)
