"""Tables, runs and the oracle for what `jaxnet export` writes; processes without jaxnet."""

import subprocess
import sys
from typing import Any

import numpy as np
import pyarrow as pa
from pyarrow import parquet
from run_helpers import write_run

from jaxnet import numpy_net
from jaxnet.tables import dates
from jaxnet.tables.column import classes
from jaxnet.tables.encoding import category_texts
from jaxnet.tables.reading.reader import read
from jaxnet.tables.table import Table

# float32: sums of at most 8 products near 1, each rounded at 6e-8, the input once more before it is
# standardised; float64 the same at 1e-16. ONNX takes the erf of gelu in float32 always.
TOLERANCE = {"float32": 3e-6, "float64": 1e-13}


def write_table(folder, name):
    """flowers: categories between numbers; signals: predicts (N, 2); words: no numbers; visits:
    dates and missing values.
    """
    rng = np.random.default_rng(0)
    if name == "signals":
        path = folder / "signals.npz"
        x, y = rng.normal(5, 2, (9, 3)), rng.normal(100, 30, (9, 2))
        np.savez(path, x=x, t=rng.normal(size=9), y=y)
        return path, "y", ()
    if name == "visits":
        path = folder / "visits.parquet"
        parquet.write_table(pa.table(visits()), path)
        return path, "fee", ("room",)
    lines = ["color,size,grade,weight,name"]
    for i in range(9):
        color, grade, flower = ("red", "blue", "green")[i % 3], (1, 10, 2)[i // 3], "abc"[i % 2]
        lines.append(f"{color},{rng.normal(7, 2)},{grade},{rng.normal()},{flower}")
    if name == "words":
        lines = [",".join(line.split(",")[i] for i in (0, 2, 4)) for line in lines]
    path = folder / f"{name}.csv"
    path.write_text("\n".join(lines) + "\n")
    return path, "name", ("grade",)


def visits():
    """Nine rows: a time, a day, numbers, text and codes, each with missing values; and a fee."""
    rng = np.random.default_rng(1)
    moments = np.datetime64("1969-11-03T05:06:07", "us") + rng.integers(0, 2**52, 9)
    whole = moments.astype("M8[s]").astype("M8[us]")  # seconds that float32 holds
    whole[4] = np.datetime64("NaT", "us")
    days = whole.astype("M8[D]")
    days[[0, 8]] = np.datetime64("NaT", "D")
    return {
        "time": pa.array(whole),
        "ward": pa.array(["b", None, "a", "b", "a", None, "a", "b", "a"]),
        "day": pa.array(days),
        "age": pa.array([50.5, 3.0, None, 71.0, 20.25, None, 66.0, 1.0, 35.0]),
        "member": pa.array([True, None, False, True, True, False, False, True, True]),
        "room": pa.array([10, 2, 10, None, 2, 10, 7, 7, 2]),
        "fee": pa.array(rng.normal(100, 30, 9)),
    }


def make_run(folder, table="flowers", dtype="float32", activation="relu"):
    """Write a run below a folder; return it, its model and its table.

    table: its name, and " x3" after it for an ensemble of three networks.
    """
    folder.mkdir(exist_ok=True)
    table, _, members = table.partition(" x")
    path, target, categorical = write_table(folder, table)
    options: dict[str, Any] = {"dtype": dtype, "activation": activation, "categorical": categorical}
    options["numbers"] = "bins" if table == "visits" else "standard"
    options["ensemble"] = int(members or 1)
    made = write_run(folder / "run", path, target, **options)
    return folder / "run", made, read(path)


def raw_inputs(made, table) -> dict[str, Any]:
    """The inputs of the exported files, from the table: numbers (N, n) and codes (N, m)."""
    numbers, codes = [], []
    for column in made.encoding.features:
        values = table.columns[column.name]
        if column.categories:
            known = dict(zip(column.categories, range(99), strict=False))
            gap = len(known) if column.missing else -1
            texts = category_texts(values, column.base)
            codes.append([gap if text is None else known[text] for text in texts])
        elif column.base == "date":
            numbers.append(dates.split(values)[:, : len(column.mean)])
        else:
            numbers.append(values.reshape(len(values), -1))
    inputs = {"numbers": np.hstack(numbers).astype(made.dtype)} if numbers else {}
    return inputs | ({"codes": np.array(codes, np.int32).T} if codes else {})


def oracle(made, x):
    """Probabilities, or numbers in the target's units, in float64."""
    target, found = made.encoding.target, []
    for member in made.members:
        params = {name: leaf.astype(float) for name, leaf in member.items()}
        y = numpy_net.forward(params, x, activation=made.spec.activation)
        e = np.exp(y)
        found.append(e / e.sum(axis=1, keepdims=True) if target.categories else y)
    mean = np.mean(found, axis=0)
    return mean if target.categories else mean * target.std + target.mean


def rows_of(made, table):
    """The table as the rows that the example programs take."""
    names = [column.name for column in made.encoding.features]
    columns = [
        category_texts(table.columns[c.name], c.base)
        if c.categories
        else [_plain(value) for value in table.columns[c.name]]
        for c in made.encoding.features
    ]
    return [dict(zip(names, row, strict=True)) for row in zip(*columns, strict=True)]


def example_of(made):
    """The row that the example programs try, as a table: the means, and the first categories."""

    def value(column):
        if column.categories:
            return classes(column)[:1]
        if column.base == "date":
            return np.array([dates.text(column.mean)], "M8[us]")
        return np.array([column.mean])

    return Table("t", {column.name: value(column) for column in made.encoding.features})


def _plain(value):
    """A value as JSON holds it: a missing one is null, a date its ISO form."""
    if isinstance(value, np.datetime64):
        return None if np.isnat(value) else str(value)
    value = value.tolist() if isinstance(value, (np.ndarray, np.generic)) else value
    return None if value != value else value


def without_jaxnet(code, *arguments):
    """Run a program in which jaxnet cannot be imported; return what it prints."""
    block = "import sys; sys.modules['jaxnet'] = None\n"
    command = [sys.executable, "-I", "-W", "error", "-c", block + code, *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout


def assert_equals_the_oracle(got, made, x, tolerance):
    assert str(got.dtype) == made.dtype
    want = oracle(made, x)
    scale = np.abs(want).max()
    np.testing.assert_allclose(got, want, rtol=0, atol=tolerance * scale)
