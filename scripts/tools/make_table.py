"""A synthetic Parquet table of any number of rows, written block by block, to try things out.

    python scripts/tools/make_table.py big.parquet --rows 5000000

`score` is a quantity and `label` a class; both depend on the columns x0, x1, ..., `city` and `wet`.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import pyarrow as pa
from pyarrow import parquet

ROWS = 2**17  # to a row group
CITIES = np.array(["Berlin", "Köln", "Lyon", "Oslo", "Porto", "Rom", "Wien"])


def block(number: int, rows: int, columns: int, weights: np.ndarray) -> pa.Table:
    """The rows of a block, which depend on its number alone."""
    rng = np.random.default_rng([0, number])
    x = rng.standard_normal((rows, columns), np.float32)
    city, wet = rng.integers(0, len(CITIES), rows), rng.random(rows) < 0.3
    signal = np.tanh(x @ weights) + 0.2 * city - 0.5 * wet
    score = 50 + 10 * (signal + 0.1 * rng.standard_normal(rows))
    arrays: dict = {f"x{i}": x[:, i] for i in range(columns)}
    arrays |= {"age": rng.integers(18, 99, rows, np.uint8), "wet": wet}
    arrays["city"] = pa.DictionaryArray.from_arrays(city.astype(np.int8), CITIES)
    arrays |= {"score": score, "label": np.digitize(signal, [0.0, 0.6, 1.2]).astype(np.uint8)}
    return pa.table(arrays)


def write(path: Path, rows: int, columns: int) -> None:
    """Write the table, a row group at a time."""
    weights = np.random.default_rng(0).standard_normal(columns) / columns**0.5
    first = block(0, 1, columns, weights)
    with parquet.ParquetWriter(path, first.schema) as writer:
        for start in range(0, rows, ROWS):
            writer.write_table(block(start // ROWS, min(ROWS, rows - start), columns, weights))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("path", type=Path, help="the .parquet file to write")
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--columns", type=int, default=20, help="of random numbers, float32")
    args = parser.parse_args()
    write(args.path, args.rows, args.columns)


if __name__ == "__main__":
    main()
