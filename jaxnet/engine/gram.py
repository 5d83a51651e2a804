"""The first layer in its dual form, for tables with more columns than rows: genes, spectra, text.

The gradient of w1 is x.T @ (that of x @ w1), so that under SGD, with or without momentum, w1 stays

    w1 = scale * w1_0 + z.T @ dual          z: the rows of x, centred, and their mean below them

and to train `scale` and `dual` (N + 1, H) is the same trajectory. A step needs two products of x,
made once: the kernel x @ z.T (N, N + 1) and the offset x @ w1_0 (N, H); its cost does not depend on
the number of columns. `scale` falls from 1 by weight decay alone. The update of Adam and its like
is not linear in the gradient. It is the kernel trick (Aizerman et al., 1964) for one layer; the
layers above are trained as ever.

Both products are made in float64 of centred rows, since the mean of x, times itself, would leave no
digits of float32 for the rest.
"""

from __future__ import annotations

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.tree_util import Partial

from jaxnet import net
from jaxnet.spec import check_choice
from jaxnet.train import Step, TrainState

OPTIMIZERS = ("sgd", "momentum", "nesterov")  # whose update is linear in gradient and parameters
COLUMNS = 4096  # of x at a time in float64


class Products(NamedTuple):
    """All that the first layer needs of N rows: kernel (N, rows of training + 1), offset (N, H)."""

    kernel: Any
    offset: Any


class Dual(NamedTuple):
    """w1 in terms of the training rows: scale (), coefficients (rows of training + 1, H)."""

    scale: Any
    coefficients: Any


class Gram(NamedTuple):
    """Training rows x (N, D_in), their mean (D_in,) float64, the initial w1 (D_in, H)."""

    x: np.ndarray
    mean: np.ndarray
    w1: np.ndarray

    def products(self, x: np.ndarray) -> Products:
        """Return the products of rows x (M, D_in) with the training rows and w1."""
        kernel = np.zeros((len(x), len(self.x) + 1))
        offset = np.zeros((len(x), self.w1.shape[1]))
        for columns, z in self._columns():
            block = x[:, columns].astype(float)
            kernel += block @ z.T
            offset += block @ self.w1[columns]
        return Products(kernel.astype(self.w1.dtype), offset.astype(self.w1.dtype))

    def params(self) -> dict[str, Dual]:
        """Return the dual of the initial w1."""
        dual = np.zeros((len(self.x) + 1, self.w1.shape[1]), self.w1.dtype)
        return {"w1": Dual(np.ones((), self.w1.dtype), dual)}

    def weights(self, params: dict[str, Any]) -> dict[str, np.ndarray]:
        """Return the parameters in their usual form, w1 (D_in, H) among them."""
        w1 = np.empty_like(self.w1)
        scale, dual = (np.asarray(leaf, float) for leaf in params["w1"])
        for columns, z in self._columns():
            w1[columns] = scale * self.w1[columns] + z.T @ dual
        return {name: w1 if name == "w1" else np.asarray(params[name]) for name in params}

    def _columns(self):
        for start in range(0, self.x.shape[1], COLUMNS):
            columns = slice(start, start + COLUMNS)
            mean = self.mean[columns]
            yield columns, np.vstack([self.x[:, columns].astype(float) - mean, mean])


def prepare(x: np.ndarray, w1: np.ndarray) -> Gram:
    """Return the dual form of training on rows x (N, D_in) from weights w1 (D_in, H).

    Raises: ValueError for shapes or dtypes that do not fit each other.
    """
    if x.ndim != 2 or w1.ndim != 2 or x.shape[1] != w1.shape[0] or x.dtype != w1.dtype:
        raise ValueError(
            f"`x` must be (N, {w1.shape[0]}) {w1.dtype}, as `w1` is, got {x.shape} {x.dtype}"
        )
    return Gram(np.asarray(x), np.mean(x, axis=0, dtype=float), np.asarray(w1))


def operations(
    rows: int, columns: int, hidden: int, batch_size: int, steps: int
) -> tuple[int, int]:
    """Return the arithmetic operations of `steps` steps in the first layer: as it is, in dual form.

    A step multiplies by the batch twice and updates each weight (counted as 8); the dual form makes
    its products before, and w1 after, in float64 (counted twice).
    """
    per_weight = 4 * batch_size + 8
    products = 2 * 2 * columns * rows * (rows + 2 * hidden)
    return (
        steps * per_weight * columns * hidden,
        steps * per_weight * (rows + 1) * hidden + products,
    )


def make_step(
    products: Products,
    y: Any,
    optimizer: optax.GradientTransformation,
    *,
    activation: str = "relu",
    loss: str = "sum_squares",
    clip_norm: float | None = None,
) -> Step:
    """Return the step that takes row indices (B,) for a batch, or None for all training rows.

    products: those of the training rows, with their targets y. optimizer: one of `OPTIMIZERS`, or
    any whose update is linear in gradient and parameters and the same for all of them. Clipping is
    not: clip_norm, which goes before it, is that of the gradient's norm in the usual form.
    """
    check_choice("activation", activation, tuple(net.ACTIVATIONS))
    check_choice("loss", loss, tuple(net.LOSSES))
    data = jax.device_put((products, y))
    return Partial(_step(optimizer, activation, loss, clip_norm), *data)


@functools.cache
def _step(optimizer, activation, loss, clip_norm):
    def value(pre, others, y):
        return net.LOSSES[loss](_above(pre, others, activation), y)

    @functools.partial(jax.jit, donate_argnames="state")
    def step(products, y, state, index):
        if index is not None:
            products, y = jax.tree.map(lambda a: a[index], (products, y))
        others = {name: leaf for name, leaf in state.params.items() if name != "w1"}
        pre = _preactivation(products, state.params["w1"])
        loss, (grad_pre, grads) = jax.value_and_grad(value, argnums=(0, 1))(pre, others, y)
        dual = _on_training_rows(grad_pre, index, state.params["w1"].coefficients)
        if clip_norm is not None:
            squares = jnp.vdot(grad_pre, products.kernel @ dual) + optax.tree.norm(
                grads, squared=True
            )
            factor = clip_norm / jnp.maximum(jnp.sqrt(squares), clip_norm)
            dual, grads = jax.tree.map(lambda g: g * factor, (dual, grads))
        grads = {"w1": Dual(jnp.zeros_like(state.params["w1"].scale), dual), **grads}
        updates, opt_state = optimizer.update(grads, state.opt_state, state.params)
        params = optax.apply_updates(state.params, updates)
        return TrainState(params, opt_state, state.step + 1), loss

    return step


def forward(params: dict[str, Any], x: Products, *, activation: str = "relu") -> jax.Array:
    """Return y_pred (N, D_out) for rows of which only the products are given."""
    others = {name: leaf for name, leaf in params.items() if name != "w1"}
    return _above(_preactivation(x, params["w1"]), others, activation)


def _preactivation(x: Products, w1: Dual) -> jax.Array:
    """x @ w1."""
    return w1.scale * x.offset + x.kernel @ w1.coefficients


def _on_training_rows(grad_pre, index, coefficients):
    """Scatter a batch's gradient over the training rows; the mean's is the sum of them all."""
    if index is None:
        return jnp.vstack([grad_pre, grad_pre.sum(axis=0)])
    dual = jnp.zeros_like(coefficients).at[index].set(grad_pre, unique_indices=True)
    return dual.at[-1].set(grad_pre.sum(axis=0))


def _above(pre: jax.Array, others: dict[str, jax.Array], activation: str) -> jax.Array:
    """The network above x @ w1: a network itself, its layers counted from one."""
    h = pre + others["b1"] if "b1" in others else pre
    names = {f"{name[0]}{int(name[1:]) - 1}": leaf for name, leaf in others.items() if name != "b1"}
    if not names:
        return h
    return net.forward(names, net.ACTIVATIONS[activation](h), activation=activation)
