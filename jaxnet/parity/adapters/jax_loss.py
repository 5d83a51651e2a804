"""A pure JAX loss of flat leaves as a participant's functions."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import jax
import numpy as np

from jaxnet.parity.participants import Leaves, check_leaves

# XLA's time is that of most checks; what it leaves undone changes no result but its rounding
QUICKLY = {"xla_backend_optimization_level": 0, "xla_llvm_disable_expensive_passes": True}


class Tree:
    """The structure of a pytree, which is built of a flat dictionary of its leaves by path.

    shapes: of its leaves, by name. Without `like` nothing is known: the dictionary is the pytree.
    """

    def __init__(self, like: Any):
        self.structure = None if like is None else jax.tree.structure(like)
        self.shapes = {name: np.shape(leaf) for name, leaf in paths(like)}

    def names(self) -> list[str] | None:
        """Return the names of the leaves, None if they are not known."""
        return None if self.structure is None else list(self.shapes)

    def without(self, names: frozenset[str]) -> Tree:
        """Return the tree of the other leaves: a flat dictionary, if any is taken away."""
        return Tree(None) if names else self

    def build(self, leaves: dict[str, Any]) -> Any:
        """Return the pytree of these leaves.

        Raises: ValueError for other names or shapes than those of `like`.
        """
        if self.structure is None:
            return leaves
        check_leaves(leaves, self.shapes)
        return self.structure.unflatten([leaves[name] for name in self.shapes])


def make(
    loss: Callable[[dict[str, Any], Any], tuple[Any, dict[str, Any]]],
    forward: Callable[[dict[str, Any], Any], Any] | None,
    frozen: frozenset[str],
) -> tuple[dict[str, Any], Callable[[dict[str, Any], Any], Any]]:
    """Return a participant's functions but those of its optimizer, and what they call.

    loss(flat leaves, batch) -> (loss, new buffers by name). forward(flat leaves, batch) ->
    prediction. frozen: the leaves that get no gradient. The latter is evaluate(flat leaves, batch)
    -> ((loss, (new buffers, prediction)), gradient), one program whose results stay on the device.
    """

    def split_loss(trained, others, batch):
        leaves = {**trained, **others}
        value, buffers = loss(leaves, batch)
        fixed = jax.lax.stop_gradient(leaves)
        return value, (buffers, None if forward is None else forward(fixed, batch))

    compiled = _compile(jax.value_and_grad(split_loss, has_aux=True))

    def evaluate(params, batch):
        own = trained(params, frozen)
        others = {name: leaf for name, leaf in params.items() if name not in own}
        with precision(params):
            return compiled(own, others, batch)

    def value_and_grad(params, batch):
        (value, _), grads = evaluate(params, batch)
        return jax.tree.map(np.asarray, (value, grads))

    def beside(i):
        return lambda params, batch: jax.tree.map(np.asarray, evaluate(params, batch)[0][1][i])

    functions: dict[str, Any] = {"value_and_grad": value_and_grad}
    if frozen:
        functions["buffers"] = beside(0)
    functions["narrowed"] = functools.partial(_narrowed, loss)
    if forward is not None:
        functions["forward"] = beside(1)
    return functions, evaluate


def _narrowed(loss: Callable, params: Leaves, batch: Any) -> list[str]:
    """Return the functions in which float64 becomes a narrower dtype: JAX's own by public name."""
    with precision(params):
        traced = jax.make_jaxpr(lambda leaves: loss(leaves, batch)[0])(params)
    return [*dict.fromkeys(_functions(traced.jaxpr))]


def _functions(jaxpr: Any) -> Iterator[str]:
    for equation in jaxpr.eqns:
        dtypes = {str(variable.aval.dtype) for variable in equation.invars}
        if equation.primitive.name == "convert_element_type" and dtypes == {"float64"}:
            new = str(equation.params["new_dtype"])
            if "float" in new and new != "float64":
                traceback = equation.source_info.traceback
                yield f"{_caller(traceback.frames if traceback else ())} computes in {new}"
        for value in jax.tree.leaves(list(equation.params.values())):
            inner = getattr(value, "jaxpr", value)
            if hasattr(inner, "eqns"):
                yield from _functions(inner)


def _caller(frames: Iterable[Any]) -> str:
    """Name the innermost public function of JAX, or the innermost function that is not JAX's."""
    for frame in frames:
        name = frame.function_name.split(".")[-1]
        if "/jax/_src/" not in frame.file_name.replace("\\", "/"):
            return f"{frame.function_name} ({frame.file_name.split('/')[-1]}:{frame.line_num})"
        for package in (jax.nn, jax.numpy, jax.scipy.special):
            if name in vars(package) and name != "astype":
                return f"{package.__name__}.{name}"
    return "a function"


def trained(leaves: Leaves, frozen: frozenset[str]) -> Leaves:
    """Return the leaves that get a gradient: floating ones that are not frozen."""
    return {k: v for k, v in leaves.items() if k not in frozen and v.dtype.kind == "f"}


@contextlib.contextmanager
def precision(params: Leaves) -> Iterator[None]:
    """Switch x64 on for float64 parameters, and TF32 and bfloat16 products off."""
    double = any(value.dtype == np.float64 for value in params.values())
    with jax.enable_x64(double), jax.default_matmul_precision("highest"):
        yield


def _compile(function: Callable) -> Callable:
    """Return a compiled function, whose batch (its last argument) may hold Python values.

    If it needs their values while it is traced, as `range(n)` does, they become constants.
    """
    jitted = jax.jit(function, compiler_options=QUICKLY)
    by_values: dict[Any, Callable] = {}

    def call(*arguments):
        *others, batch = arguments
        if not by_values:
            try:
                return jitted(*arguments)
            except (TypeError, IndexError):  # a tracer was asked for its value, or it is text
                pass
        leaves, structure = jax.tree.flatten(batch)
        arrays = [leaf for leaf in leaves if isinstance(leaf, np.ndarray)]
        places = tuple(None if isinstance(leaf, np.ndarray) else leaf for leaf in leaves)

        def closed(*others, arrays):
            rest = iter(arrays)
            merged = [next(rest) if value is None else value for value in places]
            return function(*others, structure.unflatten(merged))

        by_values.setdefault((structure, places), jax.jit(closed, compiler_options=QUICKLY))
        return by_values[structure, places](*others, arrays=arrays)

    return call


def paths(tree: Any) -> list[tuple[str, Any]]:
    """Return (path, leaf) of every leaf of a pytree ("layers/0/kernel")."""
    return [(path_name(path), leaf) for path, leaf in jax.tree_util.tree_leaves_with_path(tree)]


def _name(key: Any) -> str:
    for attribute in ("key", "name", "idx"):
        if hasattr(key, attribute):
            return str(getattr(key, attribute))
    return str(key)


def path_name(path: tuple) -> str:
    """Return a leaf's path as text, without the `value` of an nnx variable at its end."""
    wrapped = path and getattr(path[-1], "name", None) == "value"
    return "/".join(_name(key) for key in (path[:-1] if wrapped else path))
