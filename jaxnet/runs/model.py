"""A trained network with its encoding: columns in, classes or numbers out."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save

from jaxnet.files import write
from jaxnet.runs.evaluation import outputs
from jaxnet.runs.folder import PARAMS
from jaxnet.runs.record import Record
from jaxnet.spec import Spec, check_params
from jaxnet.tables.column import Encoding, decode
from jaxnet.tables.encoding import encode_features
from jaxnet.tables.missing import Filled
from jaxnet.tables.options import AS_FOUND, ReadOptions


@dataclass(frozen=True, eq=False, kw_only=True)
class Model:
    """A network and how its columns are encoded.

    task: classification or regression. params: the dictionary w1, b1, ... in (in, out) layout.
    reading: how the text of its file was read.
    """

    task: str
    spec: Spec
    encoding: Encoding = field(repr=False)
    params: dict[str, np.ndarray] = field(repr=False)
    reading: ReadOptions = field(default=AS_FOUND, repr=False)

    def predict(self, columns: Any, *, unseen: str = "error") -> np.ndarray:
        """Return the class (N,) of each row, as the value that training had, or its number.

        columns: a mapping of names to arrays, or a DataFrame, that has the features; or, where all
        are numbers, these in order, (N, D). Missing values are filled as in training; what training
        had none of is logged. unseen: "error", or "zero" to take a category that training did not
        have for none of them. Numbers are float64 in the target's units, (N,), or (N, D) for a
        target of several columns.

        Raises: ValueError for a missing column, a value that is infinite, an unseen category, and a
        missing value if training was told to refuse them.
        """
        return decode(self.outputs(self._encode(columns, unseen)), self.encoding.target)

    def probabilities(self, columns: Any, *, unseen: str = "error") -> np.ndarray:
        """Return the probabilities (N, classes) in the order of the target's categories.

        Raises: as `predict`; ValueError for regression.
        """
        if not self.encoding.target.categories:
            raise ValueError("`probabilities` must be asked of a classification, got a regression")
        return softmax(self.outputs(self._encode(columns, unseen)))

    def _encode(self, columns: Any, unseen: str) -> np.ndarray:
        from jaxnet.tables.frames import from_columns  # brings the reader of files

        table = from_columns(columns, self.encoding.features, self.reading)
        filled = Filled(self.encoding)
        filled.update(table)
        x = encode_features(table, self.encoding, self.dtype, unseen)
        filled.log()
        return x

    @property
    def dtype(self) -> str:
        return str(self.params["w1"].dtype)

    def outputs(self, x: np.ndarray) -> np.ndarray:
        """The network's outputs (N, D_out), logits or standardised numbers, for x (N, D_in)."""
        return outputs(self.spec, self.params, x)


def softmax(y_pred: np.ndarray) -> np.ndarray:
    """The probabilities of logits (N, classes), in their dtype."""
    exps = np.exp(y_pred - y_pred.max(axis=1, keepdims=True))
    return exps / exps.sum(axis=1, keepdims=True)


def load(folder: str | Path, record: Record | None = None) -> Model:
    """Load the model of a run's folder, finished or not: its best so far by validation loss.

    record: `Record.load(folder)` if at hand.

    Raises: FileNotFoundError for a folder that holds no run, or no weights yet; ValueError for
    files that are damaged or do not fit each other.
    """
    record = record or Record.load(folder)
    path, spec, encoding = Path(folder) / PARAMS, record.spec, record.encoding
    if not path.is_file():
        raise FileNotFoundError(
            f"{folder}: the run has no weights yet; jaxnet train --resume {folder} makes them"
        )
    try:
        with safe_open(path, "np") as file:
            params = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
            line = json.loads((file.metadata() or {}).get("jaxnet", "{}"))
        if line.get("sha256") != _digest(params):
            raise ValueError("its bytes have changed since it was written")
        check_params(params)
        shapes = {name: leaf.shape for name, leaf in params.items()}
        widths = sum(column.width for column in encoding.features), encoding.target.width
        if widths != (spec.sizes[0], spec.sizes[-1]):
            raise ValueError(f"config.json encodes {widths[0]} inputs and {widths[1]} outputs")
        if shapes != spec.shapes():
            raise ValueError(f"its shapes are {shapes}, those of config.json {spec.shapes()}")
    except (ValueError, TypeError, OSError, SafetensorError) as error:
        raise ValueError(f"{path}: damaged, or not of this run ({error})") from None
    params = {name: params[name] for name in spec.shapes()}
    known = {"task": record.task, "encoding": encoding, "reading": record.config.reading}
    return Model(spec=spec, params=params, **known)


def save_params(path: Path, params: dict[str, np.ndarray], line: dict[str, Any]) -> None:
    """Write parameters as safetensors, whole at every moment, with a digest of their bytes.

    line: the metrics of the epoch that they are of, kept beside the digest as JSON.
    """
    params = {name: np.ascontiguousarray(leaf) for name, leaf in params.items()}
    path.parent.mkdir(exist_ok=True)
    write(path, save(params, {"jaxnet": json.dumps(line | {"sha256": _digest(params)})}))


def _digest(params: dict[str, np.ndarray]) -> str:
    digest = hashlib.sha256()
    for name in sorted(params):
        digest.update(name.encode() + np.ascontiguousarray(params[name]).tobytes())
    return digest.hexdigest()
