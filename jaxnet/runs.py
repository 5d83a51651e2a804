"""A training run on a table, from a `Config` to a folder with metrics, weights, a picture."""

from __future__ import annotations

import contextlib
import hashlib
import importlib.metadata
import json
import math
import platform
from collections.abc import Callable
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
from safetensors.numpy import save_file

import jaxnet
from jaxnet import data, net, numpy_net, optimizers, tables
from jaxnet.config import Config
from jaxnet.encoding import Encoding, encode, fit_encoding, infer_task
from jaxnet.spec import Batch, Spec
from jaxnet.train import fit_scan, init, make_step, on_rows

FILES = ("config.json", "metrics.jsonl", "params.safetensors", "loss.png")  # of a run's folder
MAX_CHUNK = 500  # steps to one call of the device, so that progress shows and Ctrl-C is heard
EVALUATION_ROWS = 8192  # rows to one forward pass, which bounds its memory


class Problem(NamedTuple):
    """A table made ready: its encoding, the network for it, the rows to train and validate on."""

    table: tables.Table
    task: str
    reason: str
    encoding: Encoding
    spec: Spec
    train: Batch
    validation: Batch
    batch_size: int


class Progress(NamedTuple):
    """Where a run is: steps made and to make, the last loss, the last evaluation if any."""

    step: int
    num_steps: int
    loss: float
    metrics: dict[str, Any]


class Run(NamedTuple):
    """A finished run: its folder and network, and the final metrics by split."""

    folder: Path
    spec: Spec
    params: dict[str, np.ndarray]
    encoding: Encoding
    metrics: dict[str, dict[str, float | None]]


def prepare(config: Config) -> Problem:
    """Read the table and make it ready; every fault of the input is raised here."""
    path = data.digits_path() if config.data is None else config.data
    target = "digit" if config.target is None else config.target
    table = tables.read(path, config.drop)
    task, reason = infer_task(table, target)
    if config.task != "auto":
        task, reason = config.task, "you said so"
    num_rows = len(table.columns[target])
    rows, held_out = data.split(num_rows, config.validation, config.seed)
    encoding = fit_encoding(table, target, task, rows, config.categorical)
    x, y = encode(table, encoding, config.dtype)
    spec = Spec(
        sizes=(x.shape[1], *config.hidden, encoding.target.width),
        bias=True,
        activation=config.activation,
        loss="cross_entropy" if task == "classification" else "mean_squares",
    )
    batch_size = config.batch_size or min(32, len(rows))
    data.row_batches(len(rows), batch_size)  # refuses a batch larger than the training rows
    batches = Batch(x[rows], y[rows]), Batch(x[held_out], y[held_out])
    return Problem(table, task, reason, encoding, spec, *batches, batch_size)


def train(
    config: Config,
    *,
    problem: Problem | None = None,
    on_progress: Callable[[Progress], None] = lambda progress: None,
) -> Run:
    """Train as `config` says, and leave a run folder; `problem` is `prepare(config)` if at hand.

    The folder holds config.json, metrics.jsonl (a line after each epoch), params.safetensors (the
    dictionary w1, b1, ... in (in, out) layout) and loss.png. `on_progress` is called after each
    chunk and each epoch.

    Raises: ValueError for bad input, FileExistsError for a folder that holds a run, OSError for one
    that cannot be written, FloatingPointError for a loss that becomes NaN or infinite: the
    metrics of the epochs before it stay, and without any the folder goes.
    """
    problem = problem or prepare(config)
    device = _device(config.device)
    description = _describe(config, problem, device)
    folder, new = _make_folder(config.out, Path(problem.table.path).name.split(".")[0])
    _write_json(folder / "config.json", description)
    with jax.default_device(device), jax.enable_x64(config.dtype == "float64"):
        try:
            state, lines = _epochs(config, problem, folder / "metrics.jsonl", on_progress)
        except BaseException:  # Ctrl-C too
            if not (folder / "metrics.jsonl").exists():  # nothing to keep
                _discard(folder, new)
            raise
        params = jax.device_get(state.params)
        predict = _predictor(problem.spec)
        metrics = {
            name: evaluate(predict, state.params, batch, problem)
            for name, batch in (("train", problem.train), ("validation", problem.validation))
        }
    _save(folder / "params.safetensors", params)
    _plot(folder, lines, problem)
    return Run(folder, problem.spec, params, problem.encoding, metrics)


def _epochs(
    config: Config, problem: Problem, metrics_file: Path, on_progress: Callable[[Progress], None]
):
    """Run every epoch and append its metrics; return the last state and all lines."""
    spec = problem.spec
    rows_at = data.row_batches(len(problem.train.x), problem.batch_size, config.seed)
    steps_per_epoch = len(problem.train.x) // problem.batch_size
    num_steps = steps_per_epoch * config.epochs
    decay = {} if config.weight_decay is None else {"weight_decay": config.weight_decay}
    rate = optimizers.schedule(config.schedule, config.learning_rate, num_steps)
    optimizer = optimizers.make(config.optimizer, rate, **decay)
    loss = partial(net.loss, activation=spec.activation, loss=spec.loss)
    step = on_rows(make_step(loss, optimizer), problem.train)
    state = init(spec.init(config.seed, config.dtype), optimizer)
    chunk = math.ceil(steps_per_epoch / math.ceil(steps_per_epoch / MAX_CHUNK))
    predict = _predictor(spec)
    lines: list[dict[str, Any]] = []

    def on_chunk(state, losses):
        on_progress(
            Progress(int(state.step), num_steps, float(losses[-1]), lines[-1] if lines else {})
        )

    for epoch in range(1, config.epochs + 1):
        state, losses = fit_scan(
            step, state, rows_at, steps_per_epoch, chunk=chunk, on_chunk=on_chunk
        )
        line = {
            "step": epoch * steps_per_epoch,
            "epoch": epoch,
            "train_loss": float(losses.mean(dtype=float)),
        }
        validation = evaluate(predict, state.params, problem.validation, problem)
        if not math.isfinite(validation["loss"] or 0):
            raise FloatingPointError(
                f"the validation loss became {validation['loss']} at step {line['step']}: "
                "try a smaller learning rate, scaled inputs, or float64"
            )
        lines.append(line | {f"val_{name}": value for name, value in validation.items()})
        with metrics_file.open("a") as file:
            file.write(json.dumps(lines[-1]) + "\n")
        on_chunk(state, losses)
    return state, lines


def _predictor(spec: Spec) -> Callable[[Any, np.ndarray], np.ndarray]:
    forward = jax.jit(partial(net.forward, activation=spec.activation))

    def predict(params, x):
        parts = [x[i : i + EVALUATION_ROWS] for i in range(0, len(x), EVALUATION_ROWS)]
        return np.concatenate([forward(params, part) for part in parts])

    return predict


def evaluate(
    predict: Callable[[Any, np.ndarray], np.ndarray], params: Any, batch: Batch, problem: Problem
) -> dict[str, float | None]:
    """Return the loss and accuracy, or loss, rmse (in the target's units) and r2, on a batch.

    r2 is the mean over the target's columns of 1 - residual / total sum of squares; None if a
    column is constant.
    """
    y_pred = predict(params, batch.x).astype(float)
    with np.errstate(invalid="ignore"):  # the loss says so
        loss = float(numpy_net.LOSSES[problem.spec.loss](y_pred, batch.y)[0])
    metrics: dict[str, float | None] = {"loss": loss}
    if problem.task == "classification":
        return metrics | {"accuracy": float((y_pred.argmax(axis=1) == batch.y).mean())}
    y, std = batch.y.astype(float), np.asarray(problem.encoding.target.std)
    residual, total = (y_pred - y) * std, (y - y.mean(axis=0)) * std
    sums = np.square(residual).sum(axis=0), np.square(total).sum(axis=0)
    constant = (y == y[0]).all(axis=0).any()  # whose mean rounds, so that its sum may not be 0
    r2 = None if constant else float((1 - sums[0] / sums[1]).mean())
    return metrics | {"rmse": float(np.sqrt(np.square(residual).mean())), "r2": r2}


def _device(name: str) -> jax.Device:
    try:
        return jax.devices(None if name == "auto" else name)[0]
    except RuntimeError:
        known = sorted({device.platform for device in jax.devices()} | {"auto", "cpu"})
        raise ValueError(
            f"`device` must be one of {', '.join(known)} on this machine; got {name!r}"
        ) from None


def _make_folder(out: str | None, name: str) -> tuple[Path, list[Path]]:
    """Make `out`, or the next free runs/NAME-1, -2, ...; return it and all folders made."""
    folder = Path("runs" if out is None else out)
    if out is not None and any((folder / file).exists() for file in FILES):
        raise FileExistsError(f"`out` must not hold a run already: {folder}; give another folder")
    new = [path for path in (folder, *folder.parents) if not path.exists()]
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OSError(
            f"`out` must be a folder that can be made, got {folder} ({error.strerror})"
        ) from None
    if out is not None:
        return folder, new
    number = 1
    while True:
        numbered = folder / f"{name}-{number}"
        with contextlib.suppress(FileExistsError):
            numbered.mkdir()
            return numbered, [numbered, *new]
        number += 1


def _discard(folder: Path, new: list[Path]) -> None:
    """Remove a run that came to nothing: its config.json, and the folders that were made for it."""
    (folder / "config.json").unlink()
    with contextlib.suppress(OSError):  # not empty: something else lies there
        for path in new:
            path.rmdir()


def _describe(config: Config, problem: Problem, device: jax.Device) -> dict[str, Any]:
    """All that defines the run, as JSON."""
    file = Path(problem.table.path)
    with file.open("rb") as stream:
        digest = hashlib.file_digest(stream, "sha256").hexdigest()
    packages = ("jax", "jaxlib", "flax", "optax", "numpy")
    versions = {name: importlib.metadata.version(name) for name in packages}
    return {
        "config": asdict(config) | {"batch_size": problem.batch_size},
        "task": problem.task,
        "spec": asdict(problem.spec),
        "rows": {"train": len(problem.train.x), "validation": len(problem.validation.x)},
        "data": {"name": file.name, "bytes": file.stat().st_size, "sha256": digest},
        "encoding": {
            "features": [column._asdict() for column in problem.encoding.features],
            "target": problem.encoding.target._asdict(),
        },
        "device": {"platform": device.platform, "kind": device.device_kind},
        "versions": {"jaxnet": jaxnet.__version__, "python": platform.python_version()} | versions,
    }


def _write_json(path: Path, value: Any) -> None:
    path.write_text(json.dumps(value, indent=1, default=str) + "\n")  # str: a Path in the config


def _save(path: Path, params: dict[str, np.ndarray]) -> None:
    save_file(params, path)
    path.chmod(0o644)  # safetensors writes for the owner alone


def _plot(folder: Path, lines: list[dict[str, Any]], problem: Problem) -> None:
    from jaxnet import plots  # matplotlib takes a second to import

    title = f"{folder.name}: {problem.task} of {problem.encoding.target.name!r}"
    plots.learning_curves(lines, problem.spec.loss, title, folder / "loss.png")
