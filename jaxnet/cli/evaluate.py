"""`jaxnet evaluate`: the metrics of a model, and its confusion matrix."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from jaxnet.cli import text
from jaxnet.cli.options import ModelCommand

if TYPE_CHECKING:
    from numpy import ndarray

MAX_SHOWN = 20  # classes of a confusion matrix that is printed whole


@dataclass(frozen=True, kw_only=True)
class Evaluate(ModelCommand):
    """Measure a model on data with the target, or on its validation rows.

    For classes it prints and draws the confusion matrix.

    Examples:
      jaxnet evaluate runs/wine-1
      jaxnet evaluate runs/wine-1 --data test.csv --png confusion.png
    """

    data: Path | None = None
    """The file or folder to measure on; by default the validation rows of training."""
    png: Path | None = None
    """The picture of the confusion matrix; by default RUN/confusion-DATA.png."""

    def __call__(self) -> int:
        if self.png is not None and not self.png.parent.is_dir():
            raise ValueError(f"`png` must be in a folder that exists, got {self.png}")
        from jaxnet.runs import model, run
        from jaxnet.runs import predict as inference

        trained = model.load(self.run)
        if self.png is not None and not trained.encoding.target.categories:
            raise ValueError(f"`png` must be given for classes only: {self.run} predicts numbers")
        if self.data is None:
            metrics, name = run.evaluate_validation(self.run), "validation"
        else:
            metrics = inference.evaluate(trained, self.data, **self.applied)
            name = self.data.name
        found = metrics.result()
        values = [text.metric_text(*item) for item in found.items()]
        print(text.aligned([["", "rows", *found], [name, str(metrics.rows), *values]]))
        if metrics.confusion is not None:
            accuracy = text.metric_text("accuracy", found["accuracy"])
            title = f"{trained.encoding.target.name}: {name}, accuracy {accuracy}"
            self._show_confusion(metrics.confusion, trained.encoding.target.categories, title, name)
        return 0

    def _show_confusion(self, counts: ndarray, classes: Sequence[str], title: str, name: str):
        from jaxnet.runs.plots import confusion_matrix

        print(confusion_text(counts, classes))
        png = self.png or self.run / f"confusion-{name.partition('.')[0]}.png"
        confusion_matrix(counts, classes, title, png)
        print(png)


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
    return f"{head}\n{text.aligned(rows)}" if pairs else head


def _percent(part: int, whole: int) -> str:
    return f"{part / whole:.1%}" if whole else "-"


def _cut(name: str) -> str:
    return name if len(name) <= 16 else name[:15] + "…"
