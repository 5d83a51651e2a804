"""Values from JSON as the arguments of a class: each of the type that its annotation says."""

from __future__ import annotations

import math
import typing
from collections.abc import Mapping
from types import NoneType, UnionType
from typing import Any, get_args, get_origin, get_type_hints

SHOWN = 60  # characters of a wrong value in a message
WORDS = {
    int: "a 64-bit integer",
    float: "a finite number",
    str: "text",
    bool: "true or false",
    dict: "an object",
    NoneType: "null",
}


def arguments(cls: Any, what: str, values: Any) -> dict[str, Any]:
    """Return the values of a dataclass's or named tuple's fields, its other names refused.

    Raises: ValueError naming the field `what`.NAME that is missing, unknown or of another type.
    """
    hints = {name: hint for name, hint in get_type_hints(cls).items() if name[0] != "_"}
    value(what, values, dict)
    if unknown := sorted(set(values) - set(hints)):
        raise ValueError(f"`{what}` has an unknown field {unknown[0][:SHOWN]!r}")
    return {name: field(what, values, name, hint) for name, hint in hints.items()}


def field(what: str, values: Mapping[str, Any], name: str, hint: Any) -> Any:
    """Return one of the values. Raises: ValueError if it is missing or of another type."""
    name_of = f"{what}.{name}" if what else name
    if name not in values:
        raise ValueError(f"`{what}`: {name!r} is missing" if what else f"{name!r} is missing")
    return value(name_of, values[name], hint)


def value(name: str, given: Any, hint: Any) -> Any:
    """Return what is given, with tuples for the lists that become such.

    Raises: ValueError naming it if it is not of the type that `hint` says.
    """
    made = _as_tuples(given, hint)
    if not _is_a(made, hint):
        shown = repr(given)
        shown = shown if len(shown) <= SHOWN else f"{shown[:SHOWN]}..."
        raise ValueError(f"`{name}` must be {_words(hint)}, got {shown}")
    return made


def _as_tuples(value: Any, hint: Any) -> Any:
    if not isinstance(value, list) or get_origin(hint) is not tuple:
        return value
    inner = get_args(hint)
    if inner[-1] is ...:
        return tuple(_as_tuples(one, inner[0]) for one in value)
    return tuple(map(_as_tuples, value, inner)) if len(inner) == len(value) else value


def _is_a(value: Any, hint: Any) -> bool:
    """Return whether a value has the type of an annotation; an integer is a float too, a bool is
    not; NaN, infinity, and integers of more than 64 bits are none.
    """
    if isinstance(hint, UnionType):
        return any(_is_a(value, one) for one in get_args(hint))
    if get_origin(hint) is dict:
        return isinstance(value, dict) and all(_is_a(v, get_args(hint)[1]) for v in value.values())
    if get_origin(hint) is list:
        return isinstance(value, list) and all(_is_a(one, get_args(hint)[0]) for one in value)
    if get_origin(hint) is tuple:
        inner = get_args(hint)
        if not isinstance(value, tuple):
            return False
        if inner[-1] is ...:
            return all(_is_a(one, inner[0]) for one in value)
        return len(value) == len(inner) and all(map(_is_a, value, inner))
    if isinstance(value, bool):
        return hint in (bool, typing.Any)
    if isinstance(value, int):
        return hint in (int, float, typing.Any) and -(2**63) <= value < 2**63
    if isinstance(value, float):
        return hint in (float, typing.Any) and math.isfinite(value)
    return hint is typing.Any or isinstance(value, hint)


def _words(hint: Any) -> str:
    if isinstance(hint, UnionType):
        return " or ".join(map(_words, get_args(hint)))
    inner = get_args(hint)
    if get_origin(hint) is dict:
        return f"an object of {_words(inner[1])}"
    if get_origin(hint) is list or (get_origin(hint) is tuple and inner[-1] is ...):
        return f"a list, each {_words(inner[0])}"
    if get_origin(hint) is tuple:
        return f"a list of {' and '.join(map(_words, inner))}"
    return WORDS.get(hint, "a value")
