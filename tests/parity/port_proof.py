"""Torch programs and their ports side by side in float64, by means of their own only."""

import contextlib
from typing import Any, NamedTuple

import jax
import numpy as np
import optax
import torch
from flax import nnx
from ports.leaves import leaf
from ports.table import Kind, Port, params_of

from jaxnet.parity.participants import map_leaves

STAGES = ("forward", "loss", "gradient", "buffers", "optimizer")


class Run(NamedTuple):
    """What a program computes: arrays by stage and leaf; after `steps` updates the last stage."""

    forward: dict[str, Any]
    loss: dict[str, Any]
    gradient: dict[str, Any]
    buffers: dict[str, Any]
    optimizer: dict[str, Any]


@contextlib.contextmanager
def double():
    """Make torch's new tensors float64, and JAX's."""
    torch.set_default_dtype(torch.float64)
    try:
        with jax.enable_x64(True):
            yield
    finally:
        torch.set_default_dtype(torch.float32)


def rounded(values):
    """Return integers instead, so that there are ties."""
    return {k: np.round(4 * v) if v.dtype.kind == "f" else v for k, v in values.items()}


def torch_run(kind: Kind, steps: int, ties: bool = False) -> tuple[dict, Run]:
    """Return the initial values by name, and the run of the torch program."""

    def tensors(values):
        return map_leaves(
            lambda v: torch.tensor(v) if isinstance(v, np.ndarray) else v,
            rounded_batch(values) if ties else values,
        )

    module = kind.make()
    if ties:
        values = rounded(params_of(module))
        module.load_state_dict({k: torch.tensor(v) for k, v in values.items()})
    with double():
        module.double()
        initial = params_of(module)
        first = tensors(kind.batch(0))
        with torch.no_grad():
            forward = kind.forward(module, first).numpy()
        module.load_state_dict({k: torch.tensor(v) for k, v in initial.items()})
        value = kind.loss(module, first)
        named = dict(module.named_parameters())
        found = torch.autograd.grad(
            value, [p for p in named.values() if p.requires_grad], allow_unused=True
        )
        grads = zip([k for k, p in named.items() if p.requires_grad], found, strict=True)
        grads = {k: g.numpy() for k, g in grads if g is not None}
        after = params_of(module)
        buffers = {k: after[k] for k, _ in module.named_buffers()}
        module.load_state_dict({k: torch.tensor(v) for k, v in initial.items()})
        optimizer = kind.optimizer(module.parameters())
        scheduler = None if kind.scheduler is None else kind.scheduler(optimizer)
        for i in range(steps):
            optimizer.zero_grad()
            kind.loss(module, tensors(kind.batch(i))).backward()
            if kind.clip is not None:
                kind.clip(module.parameters())
            optimizer.step()
            if scheduler is not None:
                scheduler.step()
        loss = {"": value.detach().numpy()}
        return initial, Run({"": forward}, loss, grads, buffers, params_of(module))


def rounded_batch(batch):
    return map_leaves(
        lambda v: np.round(v) if isinstance(v, np.ndarray) and v.dtype.kind == "f" else v, batch
    )


class Functions(NamedTuple):
    """A port as pure functions over {path: array}, all leaves or the trained ones."""

    loss: Any  # (trained, rest, batch) -> value, rest
    forward: Any
    trained: list[str]
    unflatten: Any  # back to the tree that the optimizer takes


def functions(port: Port) -> Functions:
    if port.module is None:
        paths, structure = jax.tree_util.tree_flatten_with_path(port.like)
        names = [
            "/".join(str(getattr(k, "key", getattr(k, "idx", k))) for k in p) for p, _ in paths
        ]

        def unflatten(leaves):
            return structure.unflatten([leaves[name] for name in names])

        return Functions(
            lambda t, r, b: (port.loss(unflatten(t), b), r),
            lambda t, r, b: port.forward(unflatten(t), b),
            names,
            unflatten,
        )
    for part in (p for _, p in nnx.iter_graph(port.module) if isinstance(p, nnx.Module)):
        # nnx.RNN makes its first carry in param_dtype; nnx.Embed keeps its initial values' dtype
        for name in ("dtype", "param_dtype"):
            if getattr(part, name, None) == np.float32:
                setattr(part, name, np.float64)
    graphdef, trained, rest = nnx.split(port.module, nnx.Param, ...)

    def fill(state, leaves):
        flat = nnx.to_flat_state(state)
        return nnx.from_flat_state(
            [
                (path, variable.replace(leaves["/".join(map(str, path))]))
                if "/".join(map(str, path)) in leaves
                else (path, variable)
                for path, variable in flat
            ]
        )

    def merge(t, r):
        return nnx.merge(graphdef, fill(trained, t), fill(rest, r), copy=True)

    def loss(t, r, batch):
        module = merge(t, r)
        value = port.loss(module, batch)
        new = nnx.to_flat_state(nnx.state(module, nnx.Not(nnx.Param)))
        new = {"/".join(map(str, path)): variable[...] for path, variable in new}
        return value, {name: new[name] for name in r}

    return Functions(
        loss,
        lambda t, r, b: port.forward(merge(t, r), b),
        ["/".join(map(str, path)) for path, _ in nnx.to_flat_state(trained)],
        lambda leaves: fill(trained, leaves),
    )


def terms(entry) -> list:
    """Return the (name, function) whose sum a leaf of a port is."""
    if isinstance(entry, leaf):
        return list(entry.terms)
    name, axes = (entry, None) if isinstance(entry, str) else entry
    return [(name, lambda x: x.transpose(axes) if axes else x)]


def taken(layout, values) -> dict[str, Any]:
    """Return a port's leaves from torch's, where it has them all."""
    return {
        own: sum(take(values[name]) for name, take in terms(entry))
        for own, entry in layout.items()
        if all(name in values for name, _ in terms(entry))
    }


def port_run(port: Port, initial, batches, optimizing: bool, ties: bool = False) -> Run:
    """Run a port from torch's initial values, one update for each batch where `optimizing`."""
    with double():
        made = functions(port)
        own = {k: jax.numpy.asarray(v) for k, v in taken(port.layout, initial).items()}
        trained = {name: own[name] for name in made.trained}
        rest = {name: value for name, value in own.items() if name not in trained}
        step = jax.value_and_grad(made.loss, has_aux=True)
        step = jax.jit(step) if optimizing else step  # for one call it is quicker uncompiled
        batches = [rounded_batch(b) if ties else b for b in batches]
        (value, buffers), grads = step(trained, rest, batches[0])
        forward = made.forward(trained, rest, batches[0])
        update, params = jax.jit(port.optimizer.update), trained
        state = port.optimizer.init(made.unflatten(trained)) if optimizing else None
        for batch in batches if optimizing else []:
            (_, rest), g = step(params, rest, batch)
            updates, state = update(made.unflatten(g), state, made.unflatten(params))
            new = optax.apply_updates(made.unflatten(params), updates)
            params = dict(zip(params, _leaves(new, made, params), strict=True))
        last = params | rest
        return jax.tree.map(np.asarray, Run({"": forward}, {"": value}, dict(grads), buffers, last))


def _leaves(tree, made, params):
    """Return the leaves of an optimizer's tree in the order of `params`."""
    flat = jax.tree.leaves(tree)
    order = jax.tree.leaves(made.unflatten({name: i for i, name in enumerate(params)}))
    return [leaf for _, leaf in sorted(zip(order, flat, strict=True), key=lambda pair: pair[0])]


def distances(want: Run, got: Run, layout) -> dict[str, float]:
    """Return each stage's largest difference, as a share of its leaf's largest, or itself."""
    found = {}
    for stage in STAGES:
        theirs, ours = getattr(want, stage), getattr(got, stage)
        if stage in ("forward", "loss"):
            pairs = [(theirs[""], ours[""])]
        elif stage == "gradient":  # of a sum it is each term's
            pairs = [
                (take(theirs[name]), ours[own])
                for own, entry in layout.items()
                for name, take in terms(entry)
                if own in ours and name in theirs
            ]
        else:
            expected = taken(layout, theirs)
            pairs = [(expected[own], ours[own]) for own in ours if own in expected]
        found[stage] = max((distance(a, b) for a, b in pairs), default=0.0)
    return found


def distance(a, b) -> float:
    a, b = np.asarray(a, "float64"), np.asarray(b, "float64")
    assert a.shape == b.shape, (a.shape, b.shape)
    return float(np.abs(a - b).max() / max(np.abs(a).max(), 1e-3))
