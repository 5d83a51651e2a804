"""`jaxnet predict`: a model on a data file, into another file."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from jaxnet.cli.options import ModelCommand


@dataclass(frozen=True, kw_only=True)
class Predict(ModelCommand):
    """Predict each row of a data file with the model of a run.

    For classes it writes the class and the probability of each class.

    Examples:
      jaxnet predict runs/wine-1 --data new.csv --out predictions.csv
      jaxnet predict runs/houses-1 --data all.parquet --out prices.parquet --keep id
    """

    data: Path
    """The file to predict, or a folder of such; it has the columns of training in any order."""
    out: Path
    """The file to write, .csv or .parquet; it must not exist."""
    keep: tuple[str, ...] = ()
    """Columns of the data to copy in front of the predictions, such as an id."""

    def __call__(self) -> int:
        from jaxnet.runs import model
        from jaxnet.runs import predict as inference

        trained = model.load(self.run)
        rows = inference.predict(trained, self.data, self.out, keep=self.keep, **self.applied)
        names = [*self.keep, *inference.output_names(trained.encoding.target)]
        first = len(self.keep) + 2
        shown = names if len(names) <= first + 2 else [*names[:first], "...", names[-1]]
        print(f"{self.out}: {rows:,} rows: {', '.join(shown)}")
        return 0
