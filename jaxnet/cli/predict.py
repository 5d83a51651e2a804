"""`jaxnet predict`: a model on a data file, into another file."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jaxnet.cli.options import ModelCommand, parse_threshold
from jaxnet.cli.output import escaped


@dataclass(frozen=True, kw_only=True)
class Predict(ModelCommand):
    """Predict each row of a data file with the model of a run.

    Classes: the class, and the probability of each class.

    Numbers: the number; of a run with the quantile loss, its interval.

    Examples:
      jaxnet predict runs/wine-1 --data new.csv --out predictions.csv
      jaxnet predict runs/houses-1 --data all.parquet --out prices.parquet --keep id
      jaxnet predict runs/churn-1 --data new.csv --out - --threshold balance
    """

    data: Path
    """The file to predict, or a folder of such; it has the columns of training in any order."""
    out: Path
    """The file to write, .csv or .parquet; it must not exist. Or -, for CSV on standard output."""
    keep: tuple[str, ...] = ()
    """Columns of the data to copy in front of the predictions, such as an id; or all."""

    def __call__(self) -> int:
        from jaxnet.runs import model
        from jaxnet.runs import predict as inference

        trained, threshold = model.load(self.folder), parse_threshold(self.threshold)
        stream = sys.stdout.buffer if str(self.out) == "-" else None
        options: dict[str, Any] = {"unseen": self.unseen, "threshold": threshold}
        options |= {"delimiter": self.delimiter, "encoding": self.encoding}
        options["keep"] = "all" if self.keep == ("all",) else self.keep
        rows = inference.predict(trained, self.data, stream or self.out, **options)
        if stream:
            return 0
        reading = inference.reading_of(trained, self.delimiter, self.encoding)
        kept = inference.kept(self.data, options["keep"], reading)
        names = [*kept, *inference.output_names(trained, kept)]
        first = len(kept) + 2 if len(kept) < 5 else 2
        shown = names if len(names) <= first + 2 else [*names[:first], "...", names[-1]]
        print(f"{self.out}: {rows:,} rows: {escaped(', '.join(shown))}")
        return 0
