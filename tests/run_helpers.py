"""A run's folder without the training: the weights are those before the first step."""

from dataclasses import replace

import numpy as np

import jaxnet
from jaxnet.runs.config import Config
from jaxnet.runs.folder import PARAMS, append_metrics
from jaxnet.runs.model import Model
from jaxnet.runs.params import save_params
from jaxnet.runs.record import Record
from jaxnet.runs.steps import initial_params
from jaxnet.spec import Spec
from jaxnet.tables.fitting import fit_encoding
from jaxnet.tables.reading.reader import read
from jaxnet.tables.targets import infer_task


def write_table(path):
    """Write a table of 200 rows: numbers a and b, and y, whether a is the greater."""
    rng = np.random.default_rng(0)
    rows = (f"{a!r},{b!r},{'yes' if a > b else 'no'}\n" for a, b in rng.random((200, 2)).tolist())
    path.write_text("a,b,y\n" + "".join(rows))


def write_run(
    folder,
    data,
    target,
    *,
    hidden=(5,),
    activation="relu",
    dtype="float32",
    categorical=(),
    seed=3,
    ensemble=1,
    numbers="standard",
):
    """Write config.json, metrics.jsonl and weights for a table file; return the model."""
    table = read(data)
    task = infer_task(table, target)[0]
    rows = np.arange(len(table.columns[target]))
    encoding = fit_encoding(table, target, task, rows, categorical, numbers=numbers)
    sizes = (sum(c.width for c in encoding.features), *hidden, encoding.target.width)
    loss = "cross_entropy" if task == "classification" else "mean_squares"
    spec = Spec(sizes, True, activation, loss)
    config = Config(data=str(data), target=target, epochs=4, ensemble=ensemble)
    params = initial_params(replace(config, seed=seed, dtype=dtype), spec)
    model = Model(task=task, spec=spec, encoding=encoding, params=params)
    folder.mkdir(parents=True)
    record = Record(
        config=config,
        task=task,
        spec=spec,
        rows={"train": len(rows), "validation": 0},
        data={"name": data.name, "path": str(data), "bytes": data.stat().st_size, "sha256": "0"},
        encoding=encoding,
        device={"platform": "cpu", "kind": "cpu", "processors": 2},
        versions={"jaxnet": jaxnet.__version__},
    )
    record.save(folder)
    metric = {"val_accuracy": 0.5} if task == "classification" else {"val_rmse": 1.5, "val_r2": 0.1}
    for epoch, loss in enumerate((3.0, 1.25, 1.5, 1.375), start=1):
        line = {
            "step": 7 * epoch,
            "epoch": epoch,
            "train_loss": loss / 2,
            "val_loss": loss,
            **metric,
        }
        append_metrics(folder, line)
    save_params(folder / PARAMS, model.params, {"step": 14, "epoch": 2})
    return model
