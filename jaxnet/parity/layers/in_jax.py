"""The layers of a JAX program: nnx modules by their calls, and by `tap`."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.extend.core import get_opaque_trace_state

from jaxnet.parity.adapters.jax_loss import precision
from jaxnet.parity.layers.calls import Key, LayerRun, Locks, Taps
from jaxnet.parity.participants import Leaves, map_leaves


def run(
    loss: Callable[[Any, Any], Any],
    params: Leaves,
    batch: Any,
    build: Callable[[dict[str, Any]], Any],
    locks: Locks | None = None,
) -> LayerRun:
    """Return every layer call of loss(build(params), batch).

    build(params) -> what `loss` takes: an nnx module, whose modules are the layers, or any pytree.
    locks: None records values only; with {} or locks there are gradients too. What is recorded of a
    locked array is what came by itself. Code under another transformation (a jitted function, the
    cell inside an nnx.RNN) has no calls.
    """

    def function(trained: dict[str, Any], zeros: dict[Key, Any]) -> Any:
        model = build(fixed | trained)
        taps = _Taps(zeros, locks or {})
        with taps.active(), _intercepted(_modules(model), taps):
            value = loss(model, arrays)
        times.update(taps.times)
        return value, taps.values

    times: dict[str, tuple[int, int]] = {}
    with precision(params):
        arrays = map_leaves(lambda v: jnp.asarray(v) if isinstance(v, np.ndarray) else v, batch)
        fixed = {name: jnp.asarray(value) for name, value in params.items()}
        leaves = _leaves(build(fixed))
        trained = {name: value for name, value in fixed.items() if _floating(value)}
        if locks is None:
            (value, values), grads, cotangents = jax.jit(function)(trained, {}), {}, {}
        else:
            _, shapes = jax.eval_shape(function, trained, {})
            zeros = {key: jnp.zeros(v.shape) for key, v in shapes.items() if _floating(v)}
            both = jax.jit(jax.value_and_grad(function, argnums=(0, 1), has_aux=True))
            (value, values), (grads, cotangents) = both(trained, zeros)
        value, grads, values, cotangents = jax.device_get((value, grads, values, cotangents))
    return LayerRun(np.asarray(value), grads, times, values, cotangents, leaves)


class _Taps(Taps):
    """Records the values of one trace; the zero that goes with an array gets its gradient."""

    def __init__(self, zeros: Mapping[Key, Any], locks: Locks):
        super().__init__(self._record, _is_array)
        self.values: dict[Key, Any] = {}
        self._zeros, self._locks = zeros, locks
        self._state = get_opaque_trace_state(convention="nnx")

    def live(self) -> bool:
        return get_opaque_trace_state(convention="nnx") == self._state

    def _record(self, key: Key, x: Any) -> Any:
        self.values[key] = x.astype(float) if _floating(x) else x  # NumPy has no bfloat16
        value, grad = self._locks.get(key, (None, None))
        if value is not None:  # in full precision, though what came was rounded
            value = jnp.asarray(value) if _floating(x) else jnp.asarray(value, x.dtype)
        if key in self._zeros:
            return _lock(x, self._zeros[key], value, grad)
        return x if value is None else value  # an integer, or the run without gradients


def _lock(x: Any, zero: Any, value: Any, grad: np.ndarray | None) -> Any:
    """Return `value`, or x; give x the gradient `grad`, or what arrives, which `zero` gets."""

    @jax.custom_vjp
    def lock(x, zero):
        return x if value is None else value

    def backward(_, arrived):
        passed = arrived if grad is None else jnp.asarray(grad)
        return passed.astype(x.dtype), arrived.astype(zero.dtype)

    lock.defvjp(lambda x, zero: (lock(x, zero), None), backward)
    return lock(x, zero)


def _is_array(value: Any) -> bool:
    signed = isinstance(value, jax.Array) and jnp.issubdtype(value.dtype, jnp.signedinteger)
    return signed or (isinstance(value, jax.Array) and _floating(value))


def _floating(value: Any) -> bool:
    return jnp.issubdtype(value.dtype, jnp.floating)


def _modules(model: Any) -> dict[str, nnx.Module]:
    """Return the modules that can be called, by path."""
    parts = nnx.iter_graph(model) if isinstance(model, nnx.Module) else ()
    return {
        _name(path): part
        for path, part in parts
        if isinstance(part, nnx.Module)
        and any("__call__" in vars(base) for base in type(part).__mro__)
    }


def _leaves(model: Any) -> dict[str, frozenset[str]]:
    modules = _modules(model)
    parts = list(nnx.iter_graph(model)) if modules else ()
    names = {id(part): _name(path) for path, part in parts if isinstance(part, nnx.Variable)}
    return {
        path: frozenset(names[id(part)] for _, part in nnx.iter_graph(module) if id(part) in names)
        for path, module in modules.items()
    }


def _name(path: tuple) -> str:
    return "/".join(map(str, path))


@contextlib.contextmanager
def _intercepted(modules: Mapping[str, nnx.Module], taps: Taps) -> Iterator[None]:
    """Let the calls of these modules go through the taps."""
    paths = {id(module): path for path, module in modules.items()}

    def intercept(original: Callable) -> Callable:
        @functools.wraps(original)
        def call(module, *args, **kwargs):
            if id(module) not in paths or not taps.live():
                return original(module, *args, **kwargs)
            path = paths.pop(id(module))  # for its time: super().__call__ is no call of its own
            try:
                return taps.call(path, functools.partial(original, module), args, kwargs)
            finally:
                paths[id(module)] = path

        return call

    classes = {type(module) for module in modules.values()}
    own = {cls: vars(cls).get("__call__") for cls in classes}
    calls = {cls: intercept(cls.__call__) for cls in classes}
    try:
        for cls, call in calls.items():
            cls.__call__ = call
        yield
    finally:
        for cls, call in own.items():
            if call is None:
                del cls.__call__
            else:
                cls.__call__ = call
