"""How a run computes: rows in memory or on disk, one device or a mesh, the first layer in dual form
(`gram`) or as it is.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
import optax
from jax.sharding import Mesh
from jax.tree_util import Partial

from jaxnet import data
from jaxnet.engine import deterministic, epochs, gram, streams
from jaxnet.engine import mesh as parallel
from jaxnet.engine.mesh import Placement
from jaxnet.runs import evaluation, steps
from jaxnet.runs.config import Config, default_epochs
from jaxnet.runs.dataset import Dataset
from jaxnet.spec import Spec
from jaxnet.tables.metrics import Metrics, metrics_for
from jaxnet.train import Step, on_rows

# options of which the dual form has none
UNUSUAL = ("deterministic", "accumulate", "remat", "dropout", "label_smoothing", "class_weight")
UNUSUAL = (*UNUSUAL, "sample_weight")

# Where bfloat16 pays on a CPU (scripts/tools/bfloat16_gain.py): 0.58 of float32's time, and less
# with AMX, for products of so many multiplications; worth a word from some ten seconds on.
LARGE_PRODUCT = 2**23
LONG_RUN = 2e12
HALF_UNITS = {"avx512_bf16", "amx_bf16"}
CPU_INFO = Path("/proc/cpuinfo")

MakeChunk = Callable[..., epochs.Chunk]


class Trainer(NamedTuple):
    """What depends on where a run's rows are, and on the form of its first layer.

    params: the initial parameters, in that form. run(state, best, segments, capacity, max_wait):
    makes steps and evaluates, as `epochs.run`; the evaluations are those of `evaluation`.
    weights(params): NumPy arrays as `Spec.init` makes them. place(tree): parameters or a state, put
    where `run` wants them.
    """

    params: dict[str, Any]
    optimizer: optax.GradientTransformation
    run: MakeChunk
    weights: Callable[[Any], dict[str, np.ndarray]]
    place: Callable[[Any], Any]


def resolve(config: Config, dataset: Dataset) -> tuple[Config, Placement]:
    """Decide how a run computes: the options with `gram` and `on_disk` on or off and a number of
    `epochs`, and where its arrays lie.

    Raises: ValueError for options that exclude each other, a mesh that cannot be made, or a batch
    that does not divide.
    """
    dual, choices = _use_gram(config, dataset), ("off", "on")
    placement = Placement(_make_mesh(config, dataset), shards=not (dual or config.deterministic))
    epochs = config.epochs or default_epochs(len(dataset.train))
    on_disk = choices[dataset.on_disk]
    return replace(config, gram=choices[dual], on_disk=on_disk, epochs=epochs), placement


def _make_mesh(config: Config, dataset: Dataset) -> Mesh | None:
    """The mesh that the options ask for; None for one device, which needs none."""
    axes, processes, mesh = config.devices, jax.process_count(), None
    divisor, what = config.accumulate or 1, "`accumulate`"
    if axes is not None or processes > 1 or config.deterministic:
        axes = axes or ("all" if processes > 1 else 1)
        mesh = parallel.make_mesh(axes, parallel.devices_of(config.device))
        divisor *= mesh.shape["data"]
        devices = "the devices of the data axis"
        what = devices if config.accumulate is None else f"{what} times {devices}"
    if mesh is not None and config.deterministic:
        deterministic.check(mesh)
        divisor, what = deterministic.SHARDS, "the shards of a deterministic run"
    parallel.check_batch(dataset.batch_size, divisor, what)
    return mesh


def _use_gram(config: Config, dataset: Dataset) -> bool:
    """Whether the first layer is trained in dual form.

    Raises: ValueError if the options ask for it and it cannot be.
    """
    refused = {f"a run with `{name}`": getattr(config, name) for name in UNUSUAL}
    refused |= {
        "an ensemble": config.ensemble > 1,
        "a run in bfloat16": config.dtype == "bfloat16",
        f"the optimizer {config.optimizer!r}: the dual form is for {', '.join(gram.OPTIMIZERS)}": (
            config.optimizer not in gram.OPTIMIZERS
        ),
        "a table on disk, whose rows are not in memory": dataset.on_disk,
    }
    for reason, holds in refused.items():
        if holds and config.gram == "on":
            raise ValueError(f"`gram` must be off for {reason}; got on")
    if config.gram != "auto" or any(refused.values()):
        return config.gram == "on"
    usual, dual = operations(config, dataset)
    return dual < usual


def operations(config: Config, dataset: Dataset) -> tuple[int, int]:
    """What the first layer costs in this run as it is, and in dual form (`gram.operations`)."""
    rows, columns = len(dataset.train), dataset.spec.sizes[0]
    number = dataset.num_steps(config)
    return gram.operations(rows, columns, dataset.spec.sizes[1], dataset.batch_size, number)


def bfloat16_pays(config: Config, dataset: Dataset) -> bool:
    """Whether this run in float32 would take about half the time in bfloat16, and seconds less.

    It is known of CPUs only, by the flags that Linux tells.
    """
    platform = parallel.own_device(config.device).platform
    known = epochs.compiler_options("bfloat16", platform) and CPU_INFO.exists()
    if config.dtype != "float32" or config.gram == "on" or not known:
        return False
    products = [dataset.batch_size * math.prod(sizes) for sizes in pairwise(dataset.spec.sizes)]
    work = 6 * sum(products) * dataset.num_steps(config)  # three products a layer
    large = max(products) >= LARGE_PRODUCT and work >= LONG_RUN
    return large and not HALF_UNITS.isdisjoint(CPU_INFO.read_text().split())


def make_trainer(
    config: Config, dataset: Dataset, params: dict[str, np.ndarray], placement: Placement
) -> Trainer:
    """Return the trainer of a run that begins with the weights `params` (`steps.initial_params`).

    config, placement: as `resolve` returns them.
    """
    optimizer = steps.optimizer_of(config, dataset.num_steps(config))
    if config.gram == "on":
        return _dual(config, dataset, params, optimizer, placement)
    step = steps.make(config, dataset.spec, optimizer, placement)
    run = (_from_disk if dataset.on_disk else _in_memory)(config, dataset, step, placement)
    return Trainer(steps.transpose(params), optimizer, run, _to_numpy, placement.params)


def _in_memory(config: Config, dataset: Dataset, step: Step, placement: Placement) -> MakeChunk:
    (train,), (validation,) = dataset.train.blocks(), dataset.validation.blocks()
    step = on_rows(step, placement.replicate(train))
    evaluate = evaluation.on_rows(_evaluated(dataset), evaluation.forward, validation, placement)
    return _compiled(config, dataset, step, evaluate)


def _compiled(config: Config, dataset: Dataset, step: Step, evaluate: Callable) -> MakeChunk:
    """Epochs in one program, which gathers the rows of each batch on the device."""
    rows = len(dataset.train)
    # None: all rows in their order, if they are one batch
    rows_at = data.row_batches(rows, dataset.batch_size, config.seed)
    if dataset.batch_size == rows:
        rows_at = lambda step: None  # noqa: E731

    options = _compiler_options(config)

    def run(state, best, segments, capacity, max_wait):
        return epochs.run(
            step, evaluate, state, best, rows_at, segments, capacity, max_wait, options
        )

    return run


def _from_disk(config: Config, dataset: Dataset, step: Step, placement: Placement) -> MakeChunk:
    """Epochs over rows on disk, for training and validation; each process reads its own."""
    train, validation = dataset.train, dataset.validation
    rows_at = data.row_batches(len(train), dataset.batch_size, config.seed)
    local = placement.local_rows(dataset.batch_size)

    def batches(start, stop):
        return train.batch(np.stack([rows_at(i)[local] for i in range(start, stop)]))

    size = placement.round_down(evaluation.BLOCK)
    starts = range(0, len(validation), size)
    blocks = [range(start, min(start + size, len(validation))) for start in starts]
    step_bytes = len(range(dataset.batch_size)[local]) * dataset.spec.sizes[0]
    step_bytes *= np.dtype(config.param_dtype).itemsize
    block_sums = evaluation.block_sums(_evaluated(dataset), placement)
    slab, put = max(1, streams.BYTES // step_bytes), partial(placement.rows, axis=1)
    stream = streams.Stream(
        Partial(step),
        streams.Slabs(batches, put, slab, dataset.num_steps(config)),
        block_sums,
        [partial(placement.read, validation.batch, block) for block in blocks],
        len(validation),
        _compiler_options(config),
    )

    def run(state, best, segments, capacity, max_wait):
        return streams.run(stream, state, best, segments, max_wait)

    return run


def _compiler_options(config: Config) -> epochs.CompilerOptions:
    return epochs.compiler_options(config.dtype, parallel.own_device(config.device).platform)


def _dual(config, dataset, params, optimizer, placement) -> Trainer:
    """The trainer in dual form; each device of a mesh computes all of it, since it is small."""
    (train,), (validation,) = dataset.train.blocks(), dataset.validation.blocks()
    spec, dual = dataset.spec, gram.prepare(train.x, params["w1"])
    step = gram.make_step(
        placement.replicate(dual.products(train.x)),
        placement.replicate(evaluation.wide(spec, train.y)),
        optimizer,
        activation=spec.activation,
        loss=spec.loss,
        clip_norm=config.clip_norm,
    )
    rows = validation._replace(x=dual.products(validation.x))
    evaluate = evaluation.on_rows(spec, _dual_forward, rows, placement)
    run = _compiled(config, dataset, step, evaluate)
    return Trainer(params | dual.params(), optimizer, run, dual.weights, placement.params)


def _dual_forward(spec: Spec, params: Any, x: Any) -> jax.Array:
    return gram.forward(params, x, activation=spec.activation)


def _evaluated(dataset: Dataset) -> Spec:
    """The network as it is evaluated: of equal ones, what is compiled is shared."""
    return replace(dataset.spec, label_smoothing=0.0)


def _to_numpy(params):
    return steps.transpose(jax.tree.map(np.asarray, params))


def targets_of(dataset: Dataset) -> Metrics:
    """Return the validation targets, ready for `Metrics.of_sums` of any outputs."""
    metrics = metrics_for(dataset.spec.loss, dataset.encoding.target)
    if dataset.encoding.target.categories:  # of classes only their number matters
        metrics.rows = len(dataset.validation)
        return metrics
    for batch in dataset.validation.blocks():
        metrics.count(batch.y)
    return metrics


@contextlib.contextmanager
def on_device(config: Config) -> Iterator[None]:
    """Compute on this process's first device of `config.device`, in the precision of its dtype."""
    device = parallel.own_device(config.device)
    with jax.default_device(device), jax.enable_x64(config.dtype == "float64"):
        yield
