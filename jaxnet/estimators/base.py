"""What the estimators share: X and y to a dataset, and its training without a folder."""

from __future__ import annotations

from dataclasses import asdict, replace
from typing import Any

import jax
import numpy as np
from sklearn.base import BaseEstimator
from sklearn.utils import check_random_state, validation
from sklearn.utils.validation import check_consistent_length, validate_data

from jaxnet.runs import loop, state, steps, trainer
from jaxnet.runs.config import Config
from jaxnet.runs.dataset import Dataset, fit
from jaxnet.runs.model import Model, fit_calibration
from jaxnet.runs.state import RunState
from jaxnet.spec import Spec
from jaxnet.tables import frames
from jaxnet.tables.column import Column, Encoding, encoding_from_json, encoding_to_json
from jaxnet.tables.rows import rows_of
from jaxnet.tables.table import Table
from jaxnet.tables.targets import find_labels
from jaxnet.tables.weights import EQUAL, Weighting

OWN = ("batch_size", "class_weight", "hidden", "categorical", "random_state", "validation")


class Estimator(BaseEstimator):
    def __init__(
        self,
        *,
        hidden=(128,),
        activation="relu",
        optimizer="adam",
        learning_rate=1e-3,
        weight_decay=None,
        schedule="cosine",
        batch_size=None,
        epochs=None,
        patience=None,
        validation=0.2,
        categorical=(),
        numbers="auto",
        ensemble=1,
        dropout=0.0,
        random_state=0,
        dtype="float32",
    ):
        self.__dict__.update({k: v for k, v in locals().items() if k != "self"})

    def __sklearn_tags__(self):
        tags = super().__sklearn_tags__()
        tags.input_tags.allow_nan = True
        tags.target_tags.required = True
        return tags

    def __getstate__(self):
        """Return the parameters, and what was fitted as arrays and JSON."""
        kept: dict[str, Any] = {**super().__getstate__()}  # type: ignore[bad-unpacking]
        if "model_" in kept:
            model = kept["model_"]
            names = ("task", "params", "temperature", "balance")
            kept["model_"] = {name: getattr(model, name) for name in names} | {
                "spec": asdict(model.spec),
                "encoding": encoding_to_json(model.encoding),
                "weighting": list(model.weighting),
            }
        return kept

    def __setstate__(self, kept):
        if "model_" in kept:
            told = kept["model_"]
            spec = Spec(**told["spec"] | {"sizes": tuple(told["spec"]["sizes"])})
            encoding = encoding_from_json(told["encoding"])
            made = {"spec": spec, "encoding": encoding, "weighting": Weighting(*told["weighting"])}
            kept = kept | {"model_": Model(**told | made)}
        super().__setstate__(kept)

    def fit(self, X, y, sample_weight=None):
        """Train on X (N, D), numbers or a data frame by name, and y (N,); return self.

        sample_weight: (N,) of at least 0, how much each row counts in the loss.

        Raises: ValueError for bad input; FloatingPointError for a loss that is not finite.
        """
        self.__dict__.pop("_optimizer_state", None)
        table, y, weights = self._read(X, y, sample_weight)
        self._check_fit(y)
        config = self._config(weights)
        labels = find_labels(table, self._target, self._task)
        if self.validation is None:
            rows = held_out = labels.rows
        else:
            rows, held_out = labels.split(config.validation, config.seed)
        encoding = self._encoding(table, rows, weights, config)
        self.model_ = self._train(config, table, weights, encoding, rows, held_out)
        return self

    def _check_fit(self, y: np.ndarray) -> None:
        """Refuse a target that nothing can be learned of."""

    def _partial_fit(self, X, y, sample_weight):
        first = not hasattr(self, "model_")
        table, _, weights = self._read(X, y, sample_weight, reset=first, told=True)
        rows = np.arange(table.num_rows)
        config = replace(self._config(weights), epochs=1, schedule="constant", gram="off")
        encoding = self._encoding(table, rows, weights, config) if first else self.model_.encoding
        calls = getattr(self, "_optimizer_state", (None, 0))[1]
        config = replace(config, seed=config.seed + calls)  # other batches in each call
        self.model_ = self._train(config, table, weights, encoding, rows, rows, going_on=True)
        return self

    def _config(self, weights: np.ndarray | None) -> Config:
        options = {n: v for n, v in self.get_params(deep=False).items() if n not in OWN}
        seed = self.random_state
        if not isinstance(seed, (int, np.integer)):
            seed = check_random_state(seed).randint(2**31 - 1)
        if self.validation is not None:
            options["validation"] = self.validation
        if weights is not None:
            options["sample_weight"] = "sample_weight"
        hidden = tuple(map(int, np.atleast_1d(self.hidden)))
        more = {"hidden": hidden, "seed": int(seed), "batch_size": self.batch_size}
        return Config(target=self._target, task=self._task, **options, **more)

    def _table(self, X: Any, y: Any = None, *, reset: bool = False) -> tuple[dict[str, Any], Any]:
        """Return the columns of X by name, and y."""
        names, given = getattr(X, "columns", None), {} if y is None and not reset else {"y": y}
        if names is not None and all(isinstance(name, str) for name in names):
            validate_data(self, X, skip_check_array=True, reset=reset, **given)
            columns = {name: np.asarray(X[name]) for name in names}
            for name, column in columns.items():
                if column.dtype.kind == "M":
                    columns[name] = column.astype("M8[us]")
            return columns, y
        checks: dict[str, Any] = {"ensure_all_finite": "allow-nan", "reset": reset} | given
        if given:
            checks |= {"ensure_min_samples": 2, "multi_output": True}
            X, y = validate_data(self, X, **checks)
        else:
            X = validate_data(self, X, **checks)
        return {f"x{place}": X[:, place] for place in range(X.shape[1])}, y

    def _read(self, X: Any, y: Any, sample_weight: Any, *, reset: bool = True, told: bool = False):
        """Return the table with the target, the target, and the weights, of rows that weigh."""
        columns, _ = self._table(X, y, reset=reset)
        y = self._check_target(y, told)
        check_consistent_length(next(iter(columns.values())), y)
        weights = self._weights(y, sample_weight)
        if reset:
            self._target = "y" + "_" * max(map(len, columns)) * ("y" in columns)
        columns[self._target] = self._as_column(y)
        table = frames.to_table(columns)
        if weights is not None and not weights.all():
            table, y, weights = table.take(weights > 0), y[weights > 0], weights[weights > 0]
        return table, y, weights

    def _weights(self, y: np.ndarray, sample_weight: Any) -> np.ndarray | None:
        if sample_weight is None:
            return None
        rules: dict[str, Any] = {"dtype": np.float64, "ensure_non_negative": True}
        return validation._check_sample_weight(sample_weight, y, **rules)

    def _encoding(
        self, table: Table, rows: np.ndarray, weights: np.ndarray | None, config: Config
    ) -> Encoding:
        """Fit the encoding; means and standard deviations are by the weights of the rows."""
        places = [c for c in self.categorical if isinstance(c, str)]
        places += [f"x{c}" for c in self.categorical if not isinstance(c, str)]
        target, config = self._target, replace(config, categorical=tuple(places))
        numbers = table
        if self._task == "classification":  # whose classes are known
            row_numbers = np.arange(table.num_rows, dtype=float)
            numbers = table._replace(columns=table.columns | {target: row_numbers})
        encoding = fit(numbers, target, "regression", rows, config)
        columns = [*encoding.features, encoding.target]
        if weights is not None:
            columns = [_by_weights(c, table.columns[c.name][rows], weights[rows]) for c in columns]
        return encoding._replace(features=tuple(columns[:-1]), target=self._encoded(columns[-1]))

    def _train(self, config, table, weights, encoding, rows, held_out, *, going_on=False) -> Model:
        """Return the model of the best epoch, after training from `model_` if that goes on."""
        dataset = self._dataset(config, table, weights, encoding, rows, held_out)
        config, placement = trainer.resolve(config, dataset)
        with trainer.on_device(config):
            known = going_on and hasattr(self, "model_")
            params = self.model_.params if known else steps.initial_params(config, dataset.spec)
            made = trainer.make_trainer(config, dataset, params, placement)
            now = state.begin(made.params, made.optimizer)
            leaves, calls = getattr(self, "_optimizer_state", (None, 0))
            if going_on and leaves is not None:
                opt_state = jax.tree.unflatten(jax.tree.structure(now.state.opt_state), leaves)
                now = now._replace(state=made.place(now.state._replace(opt_state=opt_state)))
            now = state.on_host(_run(config, dataset, made, now))
            if going_on:
                self._optimizer_state = jax.tree.leaves(now.state.opt_state), calls + 1
            self.n_iter_ = now.lines[-1]["epoch"]
            told: dict[str, Any] = {"task": self._task, "weighting": dataset.weighting}
            told |= {"params": made.weights(now.best)}
            model = Model(spec=dataset.spec, encoding=encoding, **told)
            if self.validation is not None and not going_on:
                told |= fit_calibration(model, dataset.validation.blocks())
            return Model(spec=dataset.spec, encoding=encoding, **told)

    def _dataset(self, config, table, weights, encoding, rows, held_out) -> Dataset:
        weighting = EQUAL if weights is None else Weighting("sample_weight")
        train, validation = (
            rows_of(table, encoding, config.param_dtype, weighting, weights, some)
            for some in (rows, held_out)
        )
        spec = Spec(
            sizes=(encoding.width, *config.hidden, encoding.target.width),
            bias=True,
            activation=config.activation,
            loss="cross_entropy" if self._task == "classification" else "mean_squares",
            label_smoothing=config.label_smoothing,
        )
        batch_size = min(config.batch_size or 32, len(rows))
        sizes: dict[str, Any] = {"batch_size": batch_size, "weighting": weighting}
        sizes |= {"source": {}, "reason": "", "values": weights, "table": table.take(slice(0))}
        some = {"train": train, "validation": validation}
        return Dataset(task=self._task, encoding=encoding, spec=spec, **some, **sizes)


def _run(config: Config, dataset: Dataset, made: trainer.Trainer, now: RunState) -> RunState:
    nothing: Any = {"save": lambda now: None, "on_line": lambda line: None}
    nothing |= {"on_progress": lambda progress: None, "signal": lambda: None}
    return loop.run(config, dataset, made, now, **nothing)[0]


def _by_weights(column: Column, values: np.ndarray, weights: np.ndarray) -> Column:
    """Return a column of numbers with the mean and std by the weights (N,) of its values."""
    if column.categories or column.base == "date":
        return column
    values = values.reshape(len(values), -1).astype(float)
    w = weights[:, None] * ~np.isnan(values)
    if not w.any(axis=0).all():
        return column
    w /= w.sum(axis=0)
    mean = np.nansum(w * values, axis=0)
    std = np.sqrt(np.nansum(w * (values - mean) ** 2, axis=0))
    std = np.where(std > 1e-12 * np.abs(mean), std, 1.0)  # else rounding of one value
    return column._replace(mean=tuple(mean.tolist()), std=tuple(std.tolist()))
