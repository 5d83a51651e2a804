"""Damage the bytes of a file, or the values of its JSON, at random places."""

from __future__ import annotations

import copy
import json
import math
import random
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

NUMBERS = [0, -1, 1.5, 2**31, 2**63, 10**30, 1e308, math.nan, math.inf, -math.inf, True]
VALUES = [*NUMBERS, None, "", "x", "\x1b[2J\n=1+1", "a" * 5000, [], {}, [[]], [None], {"a": 1}]


def damage(content: bytes, rng: random.Random) -> bytes:
    """Change, remove, repeat or add bytes at some places."""
    made = bytearray(content)
    for _ in range(rng.choice([1, 1, 2, 5, 20])):
        start = rng.randrange(len(made) + 1)
        stop = min(len(made), start + rng.choice([1, 1, 2, 4, 8, 100]))
        change = rng.randrange(6)
        if change == 0:
            made[start:stop] = rng.randbytes(stop - start)
        elif change == 1:
            del made[start:stop]
        elif change == 2:
            made[start:start] = made[start:stop] * rng.choice([1, 2, 1000])
        elif change == 3:
            made[start:start] = rng.choice([b'"', b"\n", b"\r", b"\0", b",", b" ", b"\xff", b"["])
        elif change == 4:
            number = rng.choice([0, 1, -1, 2**31 - 1, 2**40, 2**63 - 1])
            made[start : start + 8] = struct.pack("<q", number)
        else:
            del made[start:]
    return bytes(made)


def damage_json(value: Any, rng: random.Random) -> Any:
    """Change, remove, add or nest values at some places."""
    made = copy.deepcopy(value)
    for _ in range(rng.choice([1, 1, 1, 2, 5])):
        holder, key = rng.choice(_places(made) or [({"": made}, "")])
        change = rng.randrange(6)
        if change == 0:
            del holder[key]
        elif change == 1 and isinstance(holder, list):
            holder += [copy.deepcopy(holder[key]) for _ in range(rng.choice([1, 3, 100]))]
        elif change == 2 and isinstance(holder, dict):
            holder[rng.choice(["x", "", "\x1b[2J", "w3"])] = copy.deepcopy(rng.choice(VALUES))
        elif change == 3:
            for _ in range(rng.choice([1, 30, 300])):
                holder[key] = [holder[key]]
        elif change == 4 and isinstance(holder[key], (int, float)):
            holder[key] = rng.choice(NUMBERS)
        else:
            holder[key] = copy.deepcopy(rng.choice(VALUES))
    return made


def _places(value: Any) -> list[tuple[Any, Any]]:
    """Return each holder and key within a value, some thousands at most."""
    found: list[tuple[Any, Any]] = []
    left = [value]
    while left and len(found) < 5000:
        one = left.pop()
        for key in [*one] if isinstance(one, dict) else range(len(one)):
            found.append((one, key))
            if isinstance(one[key], (dict, list)):
                left.append(one[key])
    return found


def rewrite(path: Path, rng: random.Random, change: Callable[[Any], Any] = lambda value: value):
    """Damage a file of JSON as values or as bytes. change: makes its digest right again."""
    if rng.random() < 0.2:
        path.write_bytes(damage(path.read_bytes(), rng))
        return
    made = change(damage_json(json.loads(path.read_bytes()), rng))
    path.write_text(json.dumps(made))
