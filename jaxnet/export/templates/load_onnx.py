"""Apply model.onnx to rows of a table; needs onnxruntime, and not jaxnet."""

import json
from pathlib import Path

import numpy as np
import onnxruntime

folder = Path(__file__).parent
about = json.loads((folder / "model.json").read_text(encoding="utf-8"))
session = onnxruntime.InferenceSession(str(folder / "model.onnx"))


def code(column, value):
    """The index of a value among the categories of its column, -1 for one that is not there."""
    return column["categories"].index(str(value)) if str(value) in column["categories"] else -1


def inputs(rows):
    """The arrays that the model takes: numbers (N, n) and codes (N, m), if there are such."""
    arrays = {}
    if columns := about["inputs"]["numbers"]:
        numbers = [np.concatenate([np.ravel(row[c["name"]]) for c in columns]) for row in rows]
        arrays["numbers"] = np.array(numbers, about["dtype"])
    if columns := about["inputs"]["codes"]:
        codes = [[code(c, row[c["name"]]) for c in columns] for row in rows]
        arrays["codes"] = np.array(codes, "int32")
    return arrays


def predict(rows):
    """The probabilities (N, classes) or the predictions (N, D) of N rows {column: value, ...}."""
    return session.run(None, inputs(rows))[0]


if __name__ == "__main__":
    result = predict([about["example"]])[0]  # of the training means and the first categories
    if classes := about["output"].get("classes"):
        print(about["target"], classes[result.argmax()])
        print(dict(zip(classes, result.tolist(), strict=True)))
    else:
        print(about["target"], result.tolist())
