"""Tables, runs and the oracle for what `jaxnet export` writes; processes without jaxnet."""

import subprocess
import sys
from typing import Any

import numpy as np
from run_helpers import write_run

from jaxnet import numpy_net
from jaxnet.tables.reader import read

# float32: sums of at most 8 products near 1, each rounded at 6e-8, the input once more before it is
# standardised; float64 the same at 1e-16. ONNX takes the erf of gelu in float32 always.
TOLERANCE = {"float32": 3e-6, "float64": 1e-13}


def write_table(folder, name):
    """flowers: categories between numbers; signals: predicts (N, 2); words: no numbers."""
    rng = np.random.default_rng(0)
    if name == "signals":
        path = folder / "signals.npz"
        x, y = rng.normal(5, 2, (9, 3)), rng.normal(100, 30, (9, 2))
        np.savez(path, x=x, t=rng.normal(size=9), y=y)
        return path, "y", ()
    lines = ["color,size,grade,weight,name"]
    for i in range(9):
        color, grade, flower = ("red", "blue", "green")[i % 3], (1, 10, 2)[i // 3], "abc"[i % 2]
        lines.append(f"{color},{rng.normal(7, 2)},{grade},{rng.normal()},{flower}")
    if name == "words":
        lines = [",".join(line.split(",")[i] for i in (0, 2, 4)) for line in lines]
    path = folder / f"{name}.csv"
    path.write_text("\n".join(lines) + "\n")
    return path, "name", ("grade",)


def make_run(folder, table="flowers", dtype="float32", activation="relu"):
    """Write a run below a folder; return it, its model and its table.

    table: its name, and " x3" after it for an ensemble of three networks.
    """
    folder.mkdir(exist_ok=True)
    table, _, members = table.partition(" x")
    path, target, categorical = write_table(folder, table)
    options: dict[str, Any] = {"dtype": dtype, "activation": activation, "categorical": categorical}
    options["ensemble"] = int(members or 1)
    made = write_run(folder / "run", path, target, **options)
    return folder / "run", made, read(path)


def raw_inputs(made, table) -> dict[str, Any]:
    """The inputs of the exported files, from the table: numbers (N, n) and codes (N, m)."""
    numbers, codes = [], []
    for column in made.encoding.features:
        values = table.columns[column.name]
        if column.categories:
            codes.append([column.categories.index(str(value)) for value in values])
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
    columns = [table.columns[name].tolist() for name in names]
    return [dict(zip(names, row, strict=True)) for row in zip(*columns, strict=True)]


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
