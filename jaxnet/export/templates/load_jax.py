"""Apply model.stablehlo to rows of a table; needs jax and flatbuffers, and not jaxnet."""

import json
import math
from datetime import datetime
from pathlib import Path

import jax
import numpy as np
from jax import export

folder = Path(__file__).parent
about = json.loads((folder / "model.json").read_text(encoding="utf-8"))
jax.config.update("jax_enable_x64", about["dtype"] == "float64")
call = jax.jit(export.deserialize(bytearray((folder / "model.stablehlo").read_bytes())).call)


def code(column, value):
    """The index of a value among the categories of its column, -1 for one that is not there."""
    text = None if value is None else str(value)
    return column["categories"].index(text) if text in column["categories"] else -1


def numbers(column, value):
    """The numbers of a value, NaN if it is missing; a date in ISO form becomes days and seconds."""
    if value is None:
        return [math.nan] * column["width"]
    if "date" in column:
        since = datetime.fromisoformat(value).replace(tzinfo=None) - datetime(1970, 1, 1)
        return [since.days, since.seconds + since.microseconds / 1e6][: column["width"]]
    return np.ravel(value).astype(float).tolist()


def inputs(rows):
    """The arrays that the model takes: numbers (N, n) and codes (N, m), if there are such."""
    arrays = {}
    if columns := about["inputs"]["numbers"]:
        lists = [[n for c in columns for n in numbers(c, row[c["name"]])] for row in rows]
        arrays["numbers"] = np.array(lists, about["dtype"])
    if columns := about["inputs"]["codes"]:
        lists = [[code(c, row[c["name"]]) for c in columns] for row in rows]
        arrays["codes"] = np.array(lists, "int32")
    return arrays


def predict(rows):
    """The probabilities (N, classes) or the predictions (N, D) of N rows {column: value, ...}."""
    return np.asarray(call(*inputs(rows).values()))


if __name__ == "__main__":
    result = predict([about["example"]])[0]  # of the training means and the first categories
    if classes := about["output"].get("classes"):
        print(about["target"], classes[result.argmax()])
        print(dict(zip(classes, result.tolist(), strict=True)))
    else:
        print(about["target"], result.tolist())
