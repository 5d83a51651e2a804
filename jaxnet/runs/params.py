"""The weights of a run's model on disk: safetensors with a digest, and the metrics they had."""

from __future__ import annotations

import hashlib
import json
import math
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save

from jaxnet.files import check_size, make_folder, write

CALIBRATION = {"temperature": math.inf, "balance": 1}  # what is kept of a classifier, and the most


def save_params(path: Path, params: dict[str, np.ndarray], line: dict[str, Any]) -> None:
    """Write parameters as safetensors, whole at every moment, with a digest of their bytes.

    line: the metrics of the epoch that they are of, and what is known of CALIBRATION; kept beside
    the digest as JSON.
    """
    params = {name: np.ascontiguousarray(leaf) for name, leaf in params.items()}
    make_folder(path.parent)
    write(path, save(params, {"jaxnet": json.dumps(line | {"sha256": digest(params)})}))


def read_params(path: Path) -> tuple[dict[str, np.ndarray], dict[str, float]]:
    """Return the parameters, and what is known of CALIBRATION. Raises: ValueError."""
    try:
        check_size(path, path.stat().st_size)
        with safe_open(path, "np") as file:
            line = json.loads((file.metadata() or {}).get("jaxnet", "{}"))
            params = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except (ValueError, TypeError, RecursionError, OSError, SafetensorError) as error:
        raise ValueError(str(error)) from None
    if not isinstance(line, dict) or line.get("sha256") != digest(params):
        raise ValueError("its bytes have changed since it was written")
    if len({leaf.dtype for leaf in params.values()}) > 1 or params["w1"].dtype.kind != "f":
        raise ValueError("its dtypes are not one floating dtype")
    known = {name: line[name] for name in CALIBRATION if name in line}
    for name, value in known.items():
        number = isinstance(value, float | int) and not isinstance(value, bool)
        if not number or not 0 <= value <= CALIBRATION[name] or (name, value) == ("temperature", 0):
            raise ValueError(f"`{name}` is {str(value)[:60]}")
    return params, known


def digest(params: dict[str, np.ndarray]) -> str:
    """Return the SHA-256 of the names and the bytes of parameters, in hexadecimal."""
    found = hashlib.sha256()
    for name in sorted(params):
        found.update(name.encode() + np.ascontiguousarray(params[name]).tobytes())
    return found.hexdigest()
