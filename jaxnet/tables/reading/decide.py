"""What a table's columns are taken for, in view of all of them, and what is refused."""

from __future__ import annotations

import re
import shlex
from collections.abc import Callable, Collection, Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from jaxnet.tables.reading.forms import guess, has_leading_zeros, parse
from jaxnet.tables.reading.options import ReadOptions
from jaxnet.tables.table import fault, quote

if TYPE_CHECKING:
    from jaxnet.tables.reading.looks import Look

FEW = 20  # texts that may be categories though most of them are numbers
SHARE = 0.05  # of the texts: so many that are no numbers, but hold digits, make all of them codes
LOOKED_AT = 200  # texts that say what forms a column may have


class Fault(NamedTuple):
    """A column that is refused.

    wrong: returns which of its texts (N,) are. what: says why of such a text. example: a text of
    the column.
    """

    name: str
    wrong: Callable[[Any], np.ndarray]
    what: Callable[[str], str]
    example: str


def decide(
    looks: Mapping[str, Look], options: ReadOptions, commas: bool
) -> tuple[dict[str, str | None], list[str], Fault | None]:
    """Return the kinds of columns, None for one without any value; lines that say what was taken
    for what; and what is refused.

    A column whose form is open follows the others of its table. commas: commas separate the
    columns, so that numbers have decimal points.
    """
    decimals = {d for look in looks.values() for d in _decimals(look)}
    decimal = options.decimal or (decimals.pop() if len(decimals) == 1 else None)
    decimal = decimal or ("." if commas and not decimals else None)
    orders = {kind[:7] for look in looks.values() for kind in _orders(look)}
    kinds: dict[str, str | None] = {}
    notes = []
    for name, look in looks.items():
        if look.kind == "real" and look.grouped and decimal == ",":
            look.again = True
        kind = look.kind or ("text" if look.held else None)
        if kind == "words":
            found = _open(look, decimal, orders)
            if len(found) > 1:
                return {}, [], _ambiguous(name, look, found)
            kind = found[0] if found else "text"
            if found and " " in kind:
                value = _value(look.example, kind)
                notes.append(f"column {name!r}: {quote(look.example)} is read as {value}")
        kinds[name] = _widest(name, kind, look.types)
    return kinds, notes, None


def _widest(name: str, kind: str | None, types: Mapping[str, Path]) -> str | None:
    """Return the kind of a column from that of its text and those of its types, by file."""
    order = ["boolean", "integer", "real"]
    found = [*types, *([kind] if kind else [])]
    if {one.split()[0] for one in found} <= set(order):
        return max(found, key=lambda one: order.index(one.split()[0]), default=None)
    if len({one.split()[0] for one in found}) == 1:
        return max(found, key=len)
    (other, file), nouns = next(iter(types.items())), {"text": "text", "date": "dates"}
    others = [nouns.get(one.split()[0], "numbers") for one in found if one != other]
    what = f"holds {nouns.get(other, 'numbers')}, and in another file {others[0]}"
    raise fault(file, name, what)


def _one(text: str) -> Any:
    import pyarrow as pa

    return pa.array([text])


def _value(text: str, kind: str) -> str:
    """Return a number or a date as a message shows it."""
    value = str(parse(_one(text), kind)[0][0])
    return value.removesuffix("T00:00:00.000000").removesuffix(".0")


def _decimals(look: Look) -> Iterable[str]:
    """Return the decimal sign that a column certainly has, if any."""
    if look.kind == "real":
        return () if look.grouped else (".",)
    signs = [kind[13] for kind in look.candidates or [] if kind.startswith("real decimal=")]
    return signs if len(signs) == 1 and look.signs else ()


def _orders(look: Look) -> list[str]:
    """Return the kind of dates that a column certainly has, if day and month are numbers."""
    found = [kind for kind in look.candidates or [] if re.match("date %[dm][/-]%[dm]", kind)]
    return found if len(found) == 1 else []


def _open(look: Look, decimal: str | None, orders: set[str]) -> list[str]:
    """Return the candidates of a column that remain in view of the others."""
    found = look.candidates or []
    if found and found[0].startswith("real"):
        plain = not look.signs
        if plain and "unit" not in found[0] and (look.typed or look.zeros):
            return []
        usual = "." if look.signs <= {"."} else decimal  # as of numbers without a unit
        found = [kind for kind in found if kind[13] == (decimal or usual)] or found
    if len(found) > 1 and len(orders) == 1:
        found = [kind for kind in found if kind[:7] in orders] or found
    return found


def _ambiguous(name: str, look: Look, found: list[str]) -> Fault:
    """Return the fault of a column whose first text that two forms read differently is shown."""
    if found[0].startswith("date"):
        option = "`dates` day-first or `dates` month-first"
    else:
        option = "`decimal` . or `decimal` ,"

    def what(text: str) -> str:
        values = " or ".join(_value(text, kind) for kind in found)
        return f"{quote(text)} may be {values}, as all of the column; say {option}"

    def differ(texts: Any) -> np.ndarray:
        one, other = (parse(texts, kind)[0] for kind in found[:2])
        return (one != other) & texts.is_valid().to_numpy(zero_copy_only=False)

    return Fault(name, differ, what, look.example)


def judge(
    name: str, texts: Collection[str | None], options: ReadOptions, *, more: bool = False
) -> tuple[str, Fault | None]:
    """Return a line that says why a column of different texts, of which many are numbers, is text;
    or what is refused in it. more: there are more texts than these.
    """
    import pyarrow as pa

    given = [text for text in texts if text is not None]
    tried = dict.fromkeys(k for t in given[:LOOKED_AT] for k in guess(t, options.decimal))
    array, bad, best = pa.array(given, pa.string()), np.ones(len(given), bool), ""
    for kind in tried:
        wrong = parse(array, kind)[1]
        if kind != "boolean" and wrong.sum() < bad.sum():
            bad, best = wrong, kind
    words = [given[i] for i in np.flatnonzero(bad)]
    if not best or (2 * len(words) > len(given) and not _are_truths(words)):
        return "", None
    numbers = best.startswith("real")
    if not words and not more:
        zeros = next((t for t in given if has_leading_zeros(_one(t))), None)
        why = f"since {quote(zeros)} begins with a zero" if zeros else ""
        return f"column {name!r} holds categories, {why}" if zeros and numbers else "", None
    if numbers and words and _are_codes(words, len(given)):
        return (
            f"column {name!r} holds categories, since {quote(words[0])} is among its numbers",
            None,
        )
    what = "is text in a column of numbers" if numbers else "is no date in a column of dates"
    column = shlex.quote(name)
    remedy = f"correct it, or say `categorical` {column} or `drop` {column}"
    if len(words) == 1 and not re.search(r"\d", words[0]):
        missing = f"`missing_words` {shlex.quote(words[0])}"
        remedy = f"if it means a missing value, say {missing}; if not, {remedy}"

    def why_not(text: str) -> str:
        return f"{quote(text)} {what}; {remedy}"

    return "", Fault(name, lambda texts: parse(texts, best)[1], why_not, words[0] if words else "")


def _are_truths(words: list[str]) -> bool:
    return {word.lower() for word in words} <= {"true", "false"}


def _are_codes(words: list[str], number: int) -> bool:
    """Return whether words among numbers make all of them, so many different texts, codes."""
    if any(guess(word) for word in words) and not _are_truths(words):
        return False
    codes = all(re.search(r"\d", word) for word in words)
    few = number <= FEW and (codes or len(words) > 1 or bool(guess(words[0])))
    return few or (codes and len(words) >= SHARE * number)
