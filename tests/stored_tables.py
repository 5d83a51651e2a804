"""One table of every type, in every format whose rows can stay on disk."""

import gzip
import itertools

import numpy as np
import pyarrow as pa
from pyarrow import csv, parquet

from jaxnet.tables.reading.reader import read
from jaxnet.tables.table import Table

N = 203
RNG = np.random.default_rng(0)
COLUMNS = {
    "real": RNG.standard_normal(N),
    "word": np.array(["Rom", "Köln", "a, b", 'say "no"', "東京"], object)[RNG.integers(0, 5, N)],
    "wet": RNG.random(N) < 0.4,
    "byte": RNG.integers(0, 256, N).astype(np.uint8),
    "next byte": RNG.integers(0, 256, N).astype(np.uint8),
    "short": RNG.integers(-3000, 3000, N).astype(np.int16),
    "long": RNG.integers(-(2**60), 2**60, N),
    "month": RNG.integers(1, 13, N).astype(np.int32),
    "single": (1e4 * RNG.standard_normal(N)).astype(np.float32),
    "half": RNG.standard_normal(N).astype(np.float16),
    "constant": np.full(N, 7.0),
    "class": RNG.integers(0, 4, N),
}
TARGETS = ("real", "word", "wet", "byte", "long", "class")


def arrow(columns=COLUMNS, start=0, stop=N):
    parts = {name: column[start:stop] for name, column in columns.items()}
    return pa.table({n: pa.array(c.tolist() if c.dtype == object else c) for n, c in parts.items()})


def csv_bytes(delimiter=",", columns=COLUMNS, start=0, stop=N):
    sink = pa.BufferOutputStream()
    table = arrow(columns, start, stop)
    if "half" in columns:
        table = table.set_column(9, "half", table["half"].cast(pa.float32()))
    csv.write_csv(table, sink, csv.WriteOptions(delimiter=delimiter))
    return sink.getvalue().to_pybytes()


def write_folder(path):
    path.mkdir()
    (path / "notes.txt").write_text("no table")
    for i, (start, stop) in enumerate(itertools.pairwise((0, 50, 51, N))):
        parquet.write_table(arrow(start=start, stop=stop), path / f"{i}.parquet", row_group_size=7)


WRITERS = {
    "groups.parquet": lambda path: parquet.write_table(arrow(), path, row_group_size=13),
    "plain.csv": lambda path: path.write_bytes(csv_bytes()),
    "tabs.tsv": lambda path: path.write_bytes(csv_bytes("\t")),
    "packed.csv.gz": lambda path: path.write_bytes(gzip.compress(csv_bytes())),
    "folder": write_folder,
}


def whole(path):
    """The table as it is in memory; of a folder, its files one after the other."""
    if not path.is_dir():
        return read(path)
    parts = [read(file) for file in sorted(path.glob("*.parquet"))]
    columns = {n: np.concatenate([p.columns[n] for p in parts]) for n in parts[0].columns}
    return Table(str(path), columns)
