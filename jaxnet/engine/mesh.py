"""One program over many devices: a mesh, and where arrays lie on it.

Each process (`processes`) runs the same program, and JAX's own runtime moves what must move (gloo
between CPUs, NCCL between GPUs). On a mesh with the axes `data` and `model`, the rows of a batch
are divided over `data`; wide parameters may be divided over `model`. With the step that
`data_parallel` returns, `train.fit`, `train.fit_scan` and `epochs.run` work as on one device, to
rounding; docs/parallel.md has an example.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np
from jax import lax
from jax.experimental import multihost_utils
from jax.sharding import AxisType, Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

AXES = ("data", "model")
MIN_COLUMNS = 512  # narrower layers cost more to exchange than to compute everywhere


def devices_of(platform: str) -> list[jax.Device]:
    """The devices of all processes of a platform, "cpu" or "gpu"; "auto" for JAX's default.

    Raises: ValueError for one that is not here.
    """
    try:
        return jax.devices(None if platform == "auto" else platform)
    except RuntimeError:
        known = sorted({device.platform for device in jax.devices()} | {"auto", "cpu"})
        raise ValueError(
            f"`device` must be one of {', '.join(known)} on this machine; got {platform!r}"
        ) from None


def own_device(platform: str) -> jax.Device:
    """The first of this process's devices; as `devices_of`."""
    own = jax.process_index()
    return next(device for device in devices_of(platform) if device.process_index == own)


def make_mesh(axes: str | int = "all", devices: Sequence[jax.Device] | None = None) -> Mesh:
    """Return the mesh of all processes with the axes `data` and `model`.

    axes: "data=4,model=2"; "all", or a number of devices, for `data` alone. devices: by default
    all, those of a process next to each other; a mesh of fewer takes the first.

    Raises: ValueError for another axis or form, for more devices than there are, and for fewer of
    them in one process than in another.
    """
    devices = list(jax.devices() if devices is None else devices)
    devices.sort(key=lambda device: device.process_index)
    sizes = _axis_sizes(axes, len(devices))
    data, model = (sizes.get(name, 1) for name in AXES)
    if data * model > len(devices):
        platform = devices[0].platform
        hint = f"; XLA_FLAGS=--xla_force_host_platform_device_count={data * model} makes as many"
        raise ValueError(
            f"`mesh` must have at most {len(devices)} devices, those of the platform {platform}, "
            f"got data={data} x model={model}{hint if platform == 'cpu' else ''}"
        )
    grid = np.array(devices[: data * model]).reshape(data, model)
    per_process = [sum(d.process_index == i for d in grid.flat) for i in range(jax.process_count())]
    if len(set(per_process)) > 1:
        raise ValueError(
            f"`mesh` must have as many devices in each of the {len(per_process)} processes, got "
            f"data={data} x model={model}, which are {per_process}"
        )
    return Mesh(grid, AXES, axis_types=(AxisType.Auto,) * len(AXES))


def _axis_sizes(axes: str | int, num_devices: int) -> dict[str, int]:
    if axes == "all":
        sizes = {"data": num_devices}
    elif re.fullmatch(r"\d+", str(axes)):
        sizes = {"data": int(axes)}
    else:
        pairs = [part.partition("=") for part in str(axes).split(",")]
        sizes = {name.strip(): int(n) if n.strip().isdigit() else 0 for name, _, n in pairs}
        if len(sizes) < len(pairs):
            raise ValueError(f"`mesh` must name each axis once, got {axes!r}")
    if set(sizes) - set(AXES) or not sizes:
        raise ValueError(
            f"`mesh` must have the axes data and model, as data=4,model=2; got {axes!r}"
        )
    if min(sizes.values()) < 1:
        raise ValueError(f"`mesh` must have axes of at least 1 device, got {axes!r}")
    return sizes


def check_batch(batch_size: int, divisor: int, what: str = "the devices of the data axis") -> None:
    """Raise ValueError unless the rows of a batch divide by `divisor`, which is `what`."""
    if batch_size % divisor:
        raise ValueError(f"`batch_size` must be a multiple of {divisor}, {what}; got {batch_size}")


def replicate(mesh: Mesh, tree: Any) -> Any:
    """Put arrays, which are the same in every process, on every device whole."""
    return jax.tree.map(lambda leaf: _put(leaf, NamedSharding(mesh, P())), tree)


def shard_params(mesh: Mesh, tree: Any, *, min_columns: int = MIN_COLUMNS, axis: int = -1) -> Any:
    """Put parameters, or a state, on the mesh: wide arrays by columns over `model`, others whole.

    Wide is an array whose axis `axis` has at least `min_columns` and divides by `model`: weights
    (in, out) and biases (out,) of a wide layer, and the optimizer's moments, which have their
    shapes. axis: -1, or 0 for weights (out, in). The arrays are the same in every process.
    """
    return jax.tree.map(lambda leaf: _put(leaf, _sharding(mesh, leaf, min_columns, axis)), tree)


def _sharding(mesh: Mesh, leaf: Any, min_columns: int, axis: int) -> NamedSharding:
    shape, model = np.shape(leaf), mesh.shape["model"]
    if model == 1 or not shape or shape[axis] < min_columns or shape[axis] % model:
        return NamedSharding(mesh, P())
    spec: list[str | None] = [None] * len(shape)
    spec[axis] = "model"
    return NamedSharding(mesh, P(*spec))


def _put(leaf: Any, sharding: NamedSharding) -> jax.Array:
    leaf = to_host(leaf)
    array = np.asarray(leaf, jax.dtypes.canonicalize_dtype(leaf.dtype))
    return jax.make_array_from_callback(array.shape, sharding, lambda index: array[index])


def to_host(tree: Any) -> Any:
    """Return the arrays whole, as NumPy arrays, in every process.

    All processes must call it, in the same order: what none of them holds whole is gathered.
    """

    def whole(leaf):
        if isinstance(leaf, jax.Array) and not (
            leaf.is_fully_addressable or leaf.is_fully_replicated
        ):
            return multihost_utils.process_allgather(leaf, tiled=True)
        return np.asarray(leaf)

    return jax.tree.map(whole, tree)


def own_rows(mesh: Mesh, batch_size: int) -> slice:
    """Which rows of a batch this process has to give to `rows`.

    Raises: ValueError if the batch does not divide over the `data` axis.
    """
    check_batch(batch_size, mesh.shape["data"])
    own = [any(d.process_index == jax.process_index() for d in line) for line in mesh.devices]
    at = np.flatnonzero(own)
    first, stop = int(at[0]), int(at[-1]) + 1
    assert stop - first == len(at), "the devices of a process are next to each other"
    per_device = batch_size // mesh.shape["data"]
    return slice(first * per_device, stop * per_device)


def rows(mesh: Mesh, local_rows: Any, *, axis: int = 0) -> Any:
    """Make global arrays, divided over `data`, of which each process gives its own rows.

    local_rows: a pytree of arrays whose axis `axis` has the rows that `own_rows` names: 0 for a
    batch (N, ...), 1 for the batches of a chunk of steps (steps, N, ...).
    """
    sharding = NamedSharding(mesh, P(*[None] * axis, "data"))

    def put(leaf):
        leaf = np.asarray(leaf)
        leaf = leaf.astype(jax.dtypes.canonicalize_dtype(leaf.dtype), copy=False)
        return jax.make_array_from_process_local_data(sharding, leaf)

    return jax.tree.map(put, local_rows)


@functools.cache
def data_parallel(
    step: Callable, mesh: Mesh, *, min_columns: int = MIN_COLUMNS, axis: int = -1
) -> Callable:
    """Return the step that divides the rows of its batch over `data`, and the state as
    `shard_params` does.

    step(state, batch) -> (state, loss), as `train.make_step` returns it. Each array of the batch
    has the rows first, or no axis. Wrapped in `train.on_rows`, each device gathers its own rows.

    Raises: ValueError, when first called, for a batch that does not divide over the axis.
    """

    def split(leaf):
        if np.ndim(leaf) == 0:
            return leaf
        check_batch(leaf.shape[0], mesh.shape["data"])
        return lax.with_sharding_constraint(leaf, NamedSharding(mesh, P("data")))

    def place(leaf):
        return lax.with_sharding_constraint(leaf, _sharding(mesh, leaf, min_columns, axis))

    @functools.partial(jax.jit, donate_argnames="state")
    def data_parallel_step(state, batch):
        # on the way in too, or XLA might carry it through a loop of steps as it likes
        state, loss = step(jax.tree.map(place, state), jax.tree.map(split, batch))
        return jax.tree.map(place, state), place(loss)

    return data_parallel_step


class Placement(NamedTuple):
    """Where the arrays of a run lie.

    mesh: None for JAX's default device. shards: whether the rows of batches and wide parameters are
    divided over the mesh; if not, every device holds all arrays whole.
    """

    mesh: Mesh | None = None
    shards: bool = True

    def step(self, step: Callable) -> Callable:
        """Return the step that divides the rows of its batch, over weights (out, in)."""
        if self.mesh is None or not self.shards:
            return step
        return data_parallel(step, self.mesh, axis=0)

    def params(self, tree: Any) -> Any:
        """Put parameters (out, in), or a state, where the step wants them."""
        if self.mesh is None:
            return tree
        return shard_params(self.mesh, tree, axis=0) if self.shards else replicate(self.mesh, tree)

    def replicate(self, tree: Any) -> Any:
        """Put arrays, which are the same in every process, on every device whole."""
        return jax.device_put(tree) if self.mesh is None else replicate(self.mesh, tree)

    def replicate_inside(self, tree: Any) -> Any:
        """Return results of a compiled program whole on every device."""
        if self.mesh is None:
            return tree
        return lax.with_sharding_constraint(tree, NamedSharding(self.mesh, P()))

    def shard(self, tree: Any, axis: int) -> Any:
        """Divide the rows, on `axis`, of arrays that every process has whole."""
        if self.mesh is None or not self.shards:
            return self.replicate(tree)
        number = np.shape(jax.tree.leaves(tree)[0])[axis]
        index = (slice(None),) * axis + (self.local_rows(number),)
        return rows(self.mesh, jax.tree.map(lambda leaf: leaf[index], tree), axis=axis)

    def local_rows(self, number: int) -> slice:
        """Return which of so many rows this process gives to `rows`."""
        return slice(None) if self.mesh is None else own_rows(self.mesh, number)

    def rows(self, tree: Any, axis: int) -> Any:
        """Divide the rows, on `axis`, of arrays of which each process has its local rows."""
        return tree if self.mesh is None else rows(self.mesh, tree, axis=axis)

    def read(self, read: Callable[[np.ndarray], Any], index: range) -> Any:
        """Return read(index), of which each process reads its local rows if they divide."""
        if self.mesh is None:
            return read(np.array(index))
        if not self.shards or len(index) % self.mesh.shape["data"]:
            return self.replicate(read(np.array(index)))
        return self.rows(read(np.array(index[self.local_rows(len(index))])), axis=0)

    def round_down(self, number: int) -> int:
        """Return the greatest number of rows, at most `number`, that divides over the devices."""
        return number if self.mesh is None else number - number % self.mesh.shape["data"]
