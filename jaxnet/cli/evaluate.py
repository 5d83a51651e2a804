"""`jaxnet evaluate`: the metrics of a model, with pictures; and what its columns are worth."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from jaxnet.cli import text
from jaxnet.cli.options import ModelCommand, parse_threshold

if TYPE_CHECKING:
    from numpy import ndarray

    from jaxnet.runs.importance import Importances
    from jaxnet.runs.model import Model
    from jaxnet.tables.metrics import Metrics

MAX_SHOWN = 20  # classes of a confusion matrix that is printed whole
SHORT = ("log_loss", "accuracy", "balanced_accuracy", "roc_auc", "rmse", "mae", "r2", "coverage")


@dataclass(frozen=True, kw_only=True)
class Evaluate(ModelCommand):
    """Measure a model on data with the target, or on its validation rows.

    Classes: log loss, accuracy, ROC AUC, calibration, the confusion matrix.

    Numbers: root mean squared and mean absolute error, r2; of quantiles, coverage.

    Examples:
      jaxnet evaluate runs/wine-1
      jaxnet evaluate runs/wine-1 --data test.csv --png confusion.png
      jaxnet evaluate runs/churn-1 --data test.csv --threshold 0.3
      jaxnet evaluate runs/churn-1 --data test.csv --importance
      jaxnet evaluate runs/churn-1 --json
    """

    data: Path | None = None
    """The file or folder to measure on; by default the validation rows of training."""
    importance: bool = False
    """Measure too how much worse the model gets if the values of a column are shuffled."""
    json: bool = False
    """Print all as JSON, and draw nothing."""
    png: Path | None = None
    """The picture of the confusion matrix, or of predicted against true numbers; by default
    RUN/confusion-DATA.png or RUN/predicted-DATA.png."""

    def __call__(self) -> int:
        if self.png is not None and not self.png.parent.is_dir():
            raise ValueError(f"`png` must be in a folder that exists, got {self.png}")
        if self.png is not None and self.json:
            raise ValueError(f"`png` must not be given with `json`, got {self.png}")
        from jaxnet.runs import model, run
        from jaxnet.runs import predict as inference

        folder, threshold = self.folder, parse_threshold(self.threshold)
        trained = model.load(folder)
        trained.threshold(threshold)  # refuses what does not fit, before the data are read
        if self.data is None:
            batches, name = run.validation_rows(folder).blocks, "validation"
        else:
            reading = inference.reading_of(trained, self.delimiter, self.encoding)
            batches = partial(inference.batches, trained, self.data, self.unseen, reading)
            name = self.data.name
        metrics, found = trained.measure(batches(), threshold), None
        if self.importance:
            from jaxnet.runs.importance import permutation_importance

            found = permutation_importance(trained, batches())
        if self.json:
            print(json.dumps(as_json(metrics, found), indent=1, ensure_ascii=False))
            return 0
        print_metrics(metrics, name)
        if found:
            print(importance_text(found))
        self._draw(folder, trained, metrics, found, name)
        return 0

    def _draw(
        self,
        folder: Path,
        trained: Model,
        metrics: Metrics,
        found: Importances | None,
        name: str,
    ) -> None:
        from jaxnet.runs import model_plots as plots
        from jaxnet.tables.metrics import ClassMetrics, NumberMetrics

        target, stem, png = trained.encoding.target, name.partition(".")[0], self.png
        result = metrics.result()
        which = "accuracy" if target.categories else "rmse"
        title = f"{target.name}: {name}, {which} {text.metric_text(which, result[which])}"
        draw = partial(text.draw_picture, given=None)
        if isinstance(metrics, ClassMetrics):
            path = png or folder / f"confusion-{stem}.png"
            picture = partial(plots.confusion_matrix, metrics.confusion, target.categories, title)
            text.draw_picture(path, picture, given=png)
            curves = metrics.uncalibrated, metrics.calibrated, metrics.temperature
            path = folder / f"calibration-{stem}.png"
            draw(path, partial(plots.calibration, *curves, f"{target.name}: {name}"))
        if isinstance(metrics, NumberMetrics):
            path = png or folder / f"predicted-{stem}.png"
            picture = partial(plots.predicted, metrics.pairs, metrics.names, title)
            text.draw_picture(path, picture, given=png)
        if found:
            title = f"{target.name}: {name}, {found.rows:,} rows"
            path = folder / f"importance-{stem}.png"
            draw(path, partial(plots.importance, found.columns, found.metric, title))


def as_json(metrics: Metrics, found: Importances | None) -> dict[str, Any]:
    """The metrics and the importances as JSON holds them."""
    report = metrics.report()
    if found:
        report["importance"] = {
            "metric": found.metric,
            "rows": found.rows,
            "columns": [one._asdict() for one in found.columns],
        }
    return report


def print_metrics(metrics: Metrics, name: str) -> None:
    """Print one line of metrics, and for classes the calibration and the confusion matrix."""
    report = metrics.report()
    names = [one for one in SHORT if one in report]
    values = [text.metric_text(one, report[one]) for one in names]
    print(text.aligned([["", "rows", *names], [name, f"{metrics.rows:,}", *values]]))
    if metrics.confusion is None:
        return
    classes = metrics.target.categories
    if report["threshold"] is not None:
        print(f"{classes[1]!r} is predicted from the probability {report['threshold']:.4g} on")
    print(text.calibration_text(report))
    print(confusion_text(metrics.confusion, classes))


def importance_text(found: Importances) -> str:
    """The columns with the rise of the metric, the most important first."""
    shown = found.columns[:MAX_SHOWN]
    rows = [["column", "rise", "std"]]
    for name, *numbers in shown:
        rows.append([_cut(name, 40), *(text.metric_text("", float(f"{n:.3g}")) for n in numbers)])
    value = text.metric_text("", found.value)
    head = (
        f"importance: how much the {found.metric}, {value} on {text.count(found.rows, 'row')}, "
        "rises if a column is shuffled"
    )
    more = len(found.columns) - len(shown)
    rest = f"\n... and {more} columns more, which --json shows" if more else ""
    return f"{head}\n{text.aligned(rows)}{rest}"


def confusion_text(counts: ndarray, classes: Sequence[str]) -> str:
    """A confusion matrix (classes, classes) as text: the true class by row, predicted by column.

    Recall is the fraction of a true class that is found, precision the fraction of a predicted
    class that is right; "-" where there is none. Of more than twenty classes, the most frequent
    confusions are listed instead.
    """
    if len(classes) > MAX_SHOWN:
        return _confusions(counts, classes)
    hits = counts.diagonal().tolist()
    recall = map(_percent, hits, counts.sum(axis=1).tolist())
    precision = map(_percent, hits, counts.sum(axis=0).tolist())
    names = [_cut(name) for name in classes]
    rows = [["true \\ predicted", *names, "recall"]]
    for name, line, value in zip(names, counts.tolist(), recall, strict=True):
        rows.append([name, *map(str, line), value])
    return text.aligned([*rows, ["precision", *precision, ""]])


def _confusions(counts: ndarray, classes: Sequence[str]) -> str:
    """The most frequent pairs of a true and another, predicted class."""
    pairs = [
        (number, i, j)
        for i, line in enumerate(counts.tolist())
        for j, number in enumerate(line)
        if number and i != j
    ]
    shown = sorted(pairs, key=lambda pair: -pair[0])[:MAX_SHOWN]
    rows = [["true", "predicted", "rows", "of the true class"]]
    for number, i, j in shown:
        share = _percent(number, counts[i].sum())
        rows.append([_cut(classes[i]), _cut(classes[j]), str(number), share])
    which = f"the {MAX_SHOWN} most frequent of " if len(pairs) > MAX_SHOWN else ""
    head = f"{len(classes)} classes; confusions: {which}{len(pairs)}"
    return f"{head}\n{text.aligned(rows)}\n{_worst(counts, classes)}" if pairs else head


def _worst(counts: ndarray, classes: Sequence[str]) -> str:
    """Precision and recall of the classes that are found most rarely."""
    rows, found, right = counts.sum(axis=1), counts.sum(axis=0), counts.diagonal()
    there = [k for k in range(len(classes)) if rows[k]]
    shown = sorted(there, key=lambda k: right[k] / rows[k])[:MAX_SHOWN]
    table = [["class", "rows", "recall", "precision"]]
    for k in shown:
        shares = _percent(right[k], rows[k]), _percent(right[k], found[k])
        table.append([_cut(classes[k]), str(rows[k]), *shares])
    return f"the {len(shown)} classes of the lowest recall, of {len(there)}\n{text.aligned(table)}"


def _percent(part: int, whole: int) -> str:
    return f"{part / whole:.1%}" if whole else "-"


def _cut(name: str, most: int = 16) -> str:
    return name if len(name) <= most else name[: most - 1] + "…"
