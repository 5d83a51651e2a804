"""Trees of arrays as bytes, and back: what passes between the check and the reader's process.

Nothing of what is read is executed: there is no pickle in it.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import numpy as np

MOST = 2**26  # bytes of an answer


class Other(str):
    """The name of the type of something that is no tree of arrays."""


def pack(tree: Any) -> bytes:
    """Return a tree of dictionaries, tuples, lists, arrays, numbers, text and None as bytes.

    A JAX array becomes a NumPy array, bfloat16 float32, and anything else the name of its type.
    """
    parts: list[bytes] = []
    text = json.dumps(_describe(tree, parts)).encode()
    return len(text).to_bytes(8, "little") + text + b"".join(parts)


def _describe(tree: Any, parts: list[bytes]) -> Any:
    if tree is None or isinstance(tree, (bool, int, float, str)):
        return {"is": "plain", "value": tree}
    if isinstance(tree, Mapping):
        items = {str(key): _describe(value, parts) for key, value in tree.items()}
        return {"is": "dict", "items": items}
    if isinstance(tree, (tuple, list)):
        return {"is": "list", "items": [_describe(value, parts) for value in tree]}
    if not hasattr(tree, "__array__"):
        return {"is": "other", "type": type(tree).__name__}
    array = np.asarray(tree)
    if array.dtype.name == "bfloat16":
        array = array.astype(np.float32)
    if array.dtype.kind not in "fiub":
        return {"is": "other", "type": f"array of {array.dtype}"}
    parts.append(array.tobytes())
    return {"is": "array", "dtype": array.dtype.str, "shape": array.shape}


def unpack(content: bytes) -> Any:
    """Return the tree that was packed; tuples are lists. Raises: ValueError for other bytes."""
    try:
        start = 8 + int.from_bytes(content[:8], "little")
        plain, rest = json.loads(content[8:start]), [start]
        return _build(plain, content, rest)
    except (KeyError, TypeError, RecursionError) as error:
        raise ValueError(f"no packed tree: {error!r}") from None


def _build(plain: Any, content: bytes, rest: list[int]) -> Any:
    kind = plain["is"]
    if kind == "plain":
        return plain["value"]
    if kind == "other":
        return Other(plain["type"])
    if kind == "dict":
        return {key: _build(value, content, rest) for key, value in plain["items"].items()}
    if kind == "list":
        return [_build(value, content, rest) for value in plain["items"]]
    dtype = np.dtype(plain["dtype"])
    if dtype.kind not in "fiub":
        raise ValueError(f"no packed tree: an array of {dtype}")
    shape = tuple(plain["shape"])
    count = int(np.prod(shape, dtype=object)) if shape else 1
    found = np.frombuffer(content, dtype, count, rest[0]).reshape(shape).copy()
    rest[0] += found.nbytes
    return found
