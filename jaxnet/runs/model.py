"""A trained network with its encoding: columns in, classes or numbers out."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from jaxnet.runs.evaluation import measure, outputs
from jaxnet.runs.folder import PARAMS
from jaxnet.runs.params import read_params
from jaxnet.runs.record import Record
from jaxnet.spec import QUANTILES, Batch, Spec
from jaxnet.tables.calibration import balanced_threshold, fit_temperature, softmax
from jaxnet.tables.column import Column, Encoding, classes, decode
from jaxnet.tables.encoding import encode_features, encode_target
from jaxnet.tables.metrics import Metrics, chosen, quantiles
from jaxnet.tables.missing import Filled
from jaxnet.tables.reading.options import AS_FOUND, ReadOptions
from jaxnet.tables.statistics import Sample
from jaxnet.tables.table import Table
from jaxnet.tables.weights import EQUAL, Weighting

FITTED = 2**19  # logits that these are fitted to


@dataclass(frozen=True, eq=False, kw_only=True)
class Model:
    """A network, or an ensemble of such, and how its columns are encoded.

    task: classification or regression. params: the dictionary w1, b1, ... in (in, out) layout; each
    leaf of an ensemble has the axis (members,) first. weighting: of rows that it is evaluated on.
    temperature: what logits are divided by to become probabilities. balance: of two classes, the
    probability of the second from which on to predict it so that both are found equally often on
    the validation rows; None where it is not known. Both are fitted at the end of training.
    reading: how the text of its file was read.
    """

    task: str
    spec: Spec
    encoding: Encoding = field(repr=False)
    weighting: Weighting = EQUAL
    params: dict[str, np.ndarray] = field(repr=False)
    temperature: float = 1.0
    balance: float | None = None
    reading: ReadOptions = field(default=AS_FOUND, repr=False)

    @property
    def classes(self) -> np.ndarray:
        """The classes in the order of the probabilities, as training had them: (classes,).

        Raises: ValueError for regression.
        """
        if not self.encoding.target.categories:
            raise ValueError("`classes` must be asked of a classification, got a regression")
        return classes(self.encoding.target)

    def predict(
        self, columns: Any, *, unseen: str = "error", threshold: float | str | None = None
    ) -> np.ndarray:
        """Return the class (N,) of each row, as the value that training had, or its number.

        columns: a mapping of names to arrays, or a DataFrame, that has the features; or, where all
        are numbers, these in order, (N, D). Missing values are filled as in training; what training
        had none of is logged. unseen: "error", or "zero" to take a category that training did not
        have for none of them. threshold: for two classes, the probability of the second from which
        on it is predicted, or "balance" for that of `balance`. Numbers are float64 in the target's
        units, (N,), or (N, D) for a target of several columns; of quantiles it is the median.

        Raises: ValueError for a missing column, a value that is infinite, an unseen category, a
        missing value if training was told to refuse them, a threshold that does not fit.
        """
        cut = self.threshold(threshold)
        return self.decode(self.outputs(self._encode(columns, unseen)), cut)

    def probabilities(self, columns: Any, *, unseen: str = "error") -> np.ndarray:
        """Return the probabilities (N, classes) in the order of `classes`.

        Raises: as `predict`; ValueError for regression.
        """
        if not self.encoding.target.categories:
            raise ValueError("`probabilities` must be asked of a classification, got a regression")
        return self.softmax(self.outputs(self._encode(columns, unseen)))

    def interval(self, columns: Any, *, unseen: str = "error") -> tuple[np.ndarray, np.ndarray]:
        """Return the quantiles 0.1 and 0.9 of each row, in the shape of `predict`.

        Raises: as `predict`; ValueError for a run without the quantile loss.
        """
        if self.spec.loss != "quantile":
            raise ValueError(f"`loss` must be quantile for an interval, got {self.spec.loss}")
        low, _, high = self.quantiles(self.outputs(self._encode(columns, unseen)))
        return low, high

    def evaluate(
        self, columns: Any, *, unseen: str = "error", threshold: float | str | None = None
    ) -> dict[str, Any]:
        """Return the metrics (`tables.metrics`: their `report`) on columns with the target.

        Raises: as `predict`; ValueError for a class that training did not have.
        """
        return self.measure([self.batch(columns, unseen)], threshold).report()

    def score(self, columns: Any, *, unseen: str = "error") -> float:
        """Return the accuracy, or r2, on columns with the target. Raises: as `evaluate`."""
        found = self.evaluate(columns, unseen=unseen)
        return found["accuracy" if self.encoding.target.categories else "r2"]

    def batch(self, columns: Any, unseen: str = "error") -> Batch:
        """Return columns with the target encoded: x (N, D_in) and y. Raises: as `evaluate`."""
        encoding = self.encoding
        table = _table(columns, (*encoding.features, encoding.target), self.reading)
        x = encode_features(table, encoding, self.dtype, unseen)
        return Batch(x, encode_target(table, encoding, self.dtype))

    def measure(self, batches: Iterable[Batch], threshold: float | str | None = None) -> Metrics:
        """Return the metrics on batches of encoded rows."""
        calibration: dict[str, Any] = {}
        cut = self.threshold(threshold)
        if self.encoding.target.categories:
            calibration = {"temperature": self.temperature, "threshold": cut}
        return measure(self.spec, self.encoding.target, self.params, batches, **calibration)

    @property
    def scale(self) -> tuple[np.ndarray, np.ndarray]:
        """The std and the mean (D_out,) that turn outputs into the target's units."""
        target = self.encoding.target
        copies = len(QUANTILES) if self.spec.loss == "quantile" else 1
        return np.repeat(target.std, copies), np.repeat(target.mean, copies)

    def folded(self) -> Model:
        """Return the same model with its temperature in the last layer, so that it is 1."""
        last = len(self.spec.sizes) - 1
        params = {
            name: leaf / leaf.dtype.type(self.temperature) if int(name[1:]) == last else leaf
            for name, leaf in self.params.items()
        }
        return replace(self, params=params, temperature=1.0)

    def _encode(self, columns: Any, unseen: str) -> np.ndarray:

        table = _table(columns, self.encoding.features, self.reading)
        filled = Filled(self.encoding)
        filled.update(table)
        x = encode_features(table, self.encoding, self.dtype, unseen)
        filled.log()
        return x

    @property
    def members(self) -> list[dict[str, np.ndarray]]:
        """The parameters of each network of the ensemble; of a single network, its own."""
        if self.params["w1"].ndim == 2:
            return [self.params]
        number = len(self.params["w1"])
        return [{name: p[k] for name, p in self.params.items()} for k in range(number)]

    @property
    def dtype(self) -> str:
        return str(self.params["w1"].dtype)

    def outputs(self, x: np.ndarray) -> np.ndarray:
        """The network's outputs (N, D_out), logits or standardised numbers, for x (N, D_in)."""
        return outputs(self.spec, self.params, x)

    def softmax(self, y_pred: np.ndarray) -> np.ndarray:
        """The calibrated probabilities of outputs (N, classes), in their dtype."""
        return softmax(y_pred / y_pred.dtype.type(self.temperature))

    def decode(self, y_pred: np.ndarray, threshold: float | None = None) -> np.ndarray:
        """What outputs (N, D_out) say of the target, as `predict` returns it."""
        target = self.encoding.target
        if target.categories:
            return classes(target)[chosen(y_pred, self.temperature, threshold)]
        return self.quantiles(y_pred)[1] if self.spec.loss == "quantile" else decode(y_pred, target)

    def quantiles(self, y_pred: np.ndarray) -> list[np.ndarray]:
        """The quantiles that outputs (N, 3 D) hold, low to high, in the target's units."""
        return [decode(level, self.encoding.target) for level in quantiles(y_pred)]

    def threshold(self, asked: float | str | None) -> float | None:
        """Return the probability that `predict`'s argument stands for. Raises: ValueError."""
        number = len(self.encoding.target.categories)
        if asked is None:
            return None
        if number != 2:
            what = f"{number} classes" if number else "numbers"
            raise ValueError(f"`threshold` must be given for two classes only, got {what}")
        if asked == "balance" and self.balance is None:
            raise ValueError(
                "`threshold` must be a number for this run, whose training has not ended or whose "
                "validation rows have one class only, got balance"
            )
        value = self.balance if asked == "balance" else asked
        if not isinstance(value, (int, float)) or not 0 <= value <= 1:
            raise ValueError(f"`threshold` must be a number 0..1, or balance; got {asked!r}")
        return float(value)


def _table(columns: Any, features: tuple[Column, ...], reading: ReadOptions) -> Table:
    from jaxnet.tables.frames import from_columns  # only columns in memory need it

    return from_columns(columns, features, reading)


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
        params, known = read_params(path)
        members = record.config.ensemble
        axis = () if members == 1 else (members,)
        wanted = {name: (*axis, *shape) for name, shape in spec.shapes().items()}
        copies = len(QUANTILES) if spec.loss == "quantile" else 1
        widths = encoding.width, copies * encoding.target.width
        if widths != (spec.sizes[0], spec.sizes[-1]):
            raise ValueError(f"config.json encodes {widths[0]} inputs and {widths[1]} outputs")
        shapes = {name: leaf.shape for name, leaf in params.items()}
        for name in wanted.keys() | shapes.keys():
            if shapes.get(name) != wanted.get(name):
                own, other = shapes.get(name), wanted.get(name)
                raise ValueError(f"its {name} is {own or 'missing'}, that of config.json {other}")
    except ValueError as error:
        raise ValueError(f"{path}: damaged, or not of this run ({error})") from None
    params = {name: params[name] for name in spec.shapes()}
    return Model(
        task=record.task,
        spec=spec,
        encoding=encoding,
        weighting=record.weighting,
        params=params,
        reading=record.config.reading,
        **known,
    )


def fit_calibration(model: Model, batches: Iterable[Batch]) -> dict[str, float]:
    """Return a classifier's temperature, and of two classes the balance, fitted to rows.

    Of rows whose logits are more than FITTED numbers, a sample is taken. A regression has none, an
    ensemble no temperature: its probabilities are means.
    """
    number = len(model.encoding.target.categories)
    if not number:
        return {}
    sample = Sample(max(FITTED // number, 1000))
    for batch in batches:
        sample.update(model.outputs(batch.x), batch.y)
    logits, y = sample.arrays
    if not np.isfinite(logits).all():
        return {}
    temperature = fit_temperature(logits, y) if len(model.members) == 1 else 1.0
    found, balance = {"temperature": temperature}, None
    if number == 2:
        balance = balanced_threshold(softmax(logits / temperature)[:, 1], y)
    return found if balance is None else found | {"balance": balance}
