"""Where the arrays of a run lie: on one device, or on a mesh of them (`parallel`)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import numpy as np
from jax import lax
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from jaxnet.engine import deterministic
from jaxnet.engine import mesh as parallel
from jaxnet.runs.config import Config
from jaxnet.runs.dataset import Dataset
from jaxnet.train import Step


def mesh_of(config: Config, dataset: Dataset) -> Mesh | None:
    """The mesh that a run's options ask for; None for one device, which needs none.

    Raises: ValueError for a mesh that cannot be, or a batch that does not divide over it.
    """
    axes, processes = config.devices, jax.process_count()
    if axes is None and processes == 1 and not config.deterministic:
        _check_batch(dataset, config.accumulate or 1, "accumulate")
        return None
    axes = axes or ("all" if processes > 1 else 1)
    mesh = parallel.make_mesh(axes, parallel.devices_of(config.device))
    if config.deterministic:
        deterministic.check(mesh)
        _check_batch(dataset, deterministic.SHARDS, "deterministic")
    parallel.check_batch(mesh, dataset.batch_size)
    parts = (config.accumulate or 1) * mesh.shape["data"]
    _check_batch(dataset, parts, "accumulate")
    return mesh


def _check_batch(dataset: Dataset, parts: int, name: str) -> None:
    if dataset.batch_size % parts:
        raise ValueError(
            f"`batch_size` must be a multiple of {parts} for `{name}`, got {dataset.batch_size}"
        )


class Placement(NamedTuple):
    """Where arrays are put. mesh: None for JAX's default device. divides: whether the rows of
    batches are divided over a mesh here, and wide parameters; else it is for arrays that lie whole
    on each device.
    """

    mesh: Mesh | None
    divides: bool

    def step(self, step: Step) -> Step:
        """The step that divides its batch, over weights (out, in)."""
        if self.mesh is None or not self.divides:
            return step
        return parallel.data_parallel(step, self.mesh, axis=0)

    def params(self, tree: Any) -> Any:
        """Parameters (out, in), or a state."""
        if self.mesh is None:
            return tree
        if not self.divides:
            return parallel.replicate(self.mesh, tree)
        return parallel.shard_params(self.mesh, tree, axis=0)

    def replicate(self, tree: Any) -> Any:
        """Arrays that each device needs whole."""
        return jax.device_put(tree) if self.mesh is None else parallel.replicate(self.mesh, tree)

    def shard(self, tree: Any, axis: int) -> Any:
        """Arrays that each process has whole, their rows, on `axis`, divided over the devices."""
        if self.mesh is None or not self.divides:
            return self.replicate(tree)
        own = self.local_rows(np.shape(jax.tree.leaves(tree)[0])[axis])
        index = (slice(None),) * axis + (own,)
        return parallel.rows(self.mesh, jax.tree.map(lambda leaf: leaf[index], tree), axis=axis)

    def local_rows(self, number: int) -> slice:
        """Which of so many rows this process gives to `rows`."""
        return slice(None) if self.mesh is None else parallel.own_rows(self.mesh, number)

    def rows(self, tree: Any, axis: int) -> Any:
        """Arrays of which each process has its own rows, on `axis`."""
        return tree if self.mesh is None else parallel.rows(self.mesh, tree, axis=axis)

    def read(self, rows_of: Callable[[np.ndarray], Any], index: range) -> Any:
        """rows_of(index), of which each process reads its own where they divide."""
        if self.mesh is None:
            return rows_of(np.array(index))
        if not self.divides or len(index) % self.mesh.shape["data"]:
            return self.replicate(rows_of(np.array(index)))
        return self.rows(rows_of(np.array(index[self.local_rows(len(index))])), axis=0)

    def round_down(self, number: int) -> int:
        """So many rows, or fewer, that divide over the devices."""
        return number if self.mesh is None else number - number % self.mesh.shape["data"]

    def replicate_inside(self, tree: Any) -> Any:
        """Inside a program: results that each process needs whole."""
        if self.mesh is None:
            return tree
        return lax.with_sharding_constraint(tree, NamedSharding(self.mesh, P()))
