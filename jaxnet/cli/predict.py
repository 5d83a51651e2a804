"""`jaxnet predict` and `jaxnet evaluate`: their options, and what they print."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import tyro

if TYPE_CHECKING:
    from jaxnet.tables.metrics import Metrics

Folder = Annotated[
    Path, tyro.conf.Positional, tyro.conf.arg(metavar="RUN", help="The folder of a trained run.")
]
Keep = Annotated[
    tuple[str, ...],
    tyro.conf.arg(
        metavar="[COLUMN ...]",
        help="Columns of the data to copy in front of the predictions, an id say.",
        help_behavior_hint="",
    ),
]
Unseen = Annotated[
    str,
    tyro.conf.arg(
        metavar="error|zero",
        help="What becomes of a category that training did not have: an error, or zeros, which "
        "take it for none of them.",
    ),
]
Held = Annotated[
    Path | None,
    tyro.conf.arg(
        metavar="PATH",
        help="The file to measure on; without it, the rows that training held out.",
        help_behavior_hint="",
    ),
]
Picture = Annotated[
    Path | None,
    tyro.conf.arg(
        metavar="PATH",
        help="The picture of the confusion matrix; if not given, RUN/confusion-DATA.png.",
        help_behavior_hint="",
    ),
]


def predict(
    run: Folder, *, data: Path, out: Path, keep: Keep = (), unseen: Unseen = "error"
) -> int:
    """Predict every row of a data file, of any size, with the best weights of a run.

    Classes are written with the probability of each, numbers in the target's units.

    Try:

    jaxnet predict runs/wine-1 --data new.csv --out predictions.csv

    jaxnet predict runs/houses-1 --data all.parquet --out prices.parquet --keep id street

    Args:
        data: The file to predict, with the columns of training in any order, and maybe others.
        out: The file to write, .csv, .parquet or .npz; it must not exist.
    """
    from jaxnet.runs import model
    from jaxnet.runs import predict as inference

    trained = model.load(run)
    rows = inference.predict(trained, data, out, keep=keep, unseen=unseen)
    names = [*keep, *inference.output_names(trained.encoding.target)]
    short = names if len(names) <= len(keep) + 4 else [*names[: len(keep) + 2], "...", names[-1]]
    print(f"{out}: {rows} rows: {', '.join(short)}")
    return 0


def evaluate(run: Folder, *, data: Held = None, png: Picture = None) -> int:
    """Measure a run on a data file that has the target too, or on its own validation rows.

    For classes it prints the confusion matrix, and draws it.

    Try:

    jaxnet evaluate runs/wine-1

    jaxnet evaluate runs/wine-1 --data test.csv --png confusion.png
    """
    if png is not None and not png.parent.is_dir():
        raise ValueError(f"`png` must be in a folder that exists, got {png}")
    from jaxnet.runs import model
    from jaxnet.runs import predict as inference

    trained = model.load(run)
    if png is not None and not trained.encoding.target.categories:
        raise ValueError(f"`png` must be given for classes only: {run} predicts numbers")
    if data is None:
        from jaxnet.runs.run import evaluate_validation

        metrics, name = evaluate_validation(run), "validation"
    else:
        metrics, name = inference.evaluate(trained, data), data.name
    _print(metrics, name)
    if metrics.confusion is not None:
        from jaxnet.runs.plots import confusion_matrix
        from jaxnet.tables.metrics import confusion_text

        classes = trained.encoding.target.categories
        print(confusion_text(metrics.confusion, classes))
        png = png or run / f"confusion-{name.partition('.')[0]}.png"
        accuracy = f"{metrics.result()['accuracy']:.2%}"
        title = f"{trained.encoding.target.name}: {name}, accuracy {accuracy}"
        confusion_matrix(metrics.confusion, classes, title, png)
        print(png)
    return 0


def _print(metrics: Metrics, name: str) -> None:
    """Print the metrics as a table of one line."""
    texts = {"": name, "rows": f"{metrics.rows}"}
    for metric, value in metrics.result().items():
        percent = metric == "accuracy" and value is not None
        texts[metric] = "-" if value is None else f"{value:.2%}" if percent else f"{value:.4g}"
    widths = [max(len(key), len(text)) for key, text in texts.items()]
    for line in (texts, texts.values()):
        first, *rest = (text.rjust(width) for text, width in zip(line, widths, strict=True))
        print("  ".join([first if line is texts else name.ljust(widths[0]), *rest]).rstrip())
