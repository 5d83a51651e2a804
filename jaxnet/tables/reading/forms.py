"""Forms in which text holds values: each is a kind of a column, as "real decimal=,".

boolean integer text date       true, 12, x, 2023-12-31 or 2023-12-31T10:15:00Z
real                            1.5 or 2e-3
real decimal=. unit=$           $1,234.50, with or without the comma
real decimal=,                  1.234,50
date %d/%m/%Y                   31/12/2023
"""

from __future__ import annotations

import functools
import re
from typing import Any

import numpy as np

UNITS = "$€£¥₹%"
SPACES = " '\u00a0\u2009\u202f"  # that separate thousands too, beside the other one of . and ,
PLAIN = r"^[+-]?(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d+)?$|^[+-]?(?i:inf|infinity|nan)$"
MONTHS = "january february march april may june july august september october november december"
ZONE = r"(?P<z>Z|[+-]\d\d:?\d\d)"
ISO = r"(?P<Y>\d{4})-(?P<m>\d\d)-(?P<d>\d\d)(?:[T ](?P<H>\d\d):(?P<M>\d\d)(?::(?P<S>\d\d)"
ISO += rf"(?:[.,](?P<f>\d{{1,9}}))?)?)? ?{ZONE}?"
PATTERNS = {
    **{letter: rf"(?P<{letter}>\d{{1,2}})" for letter in "dmHMS"},
    **dict.fromkeys("bB", r"(?P<b>[A-Za-z]{3,9})\.?"),
    **dict.fromkeys("aA", r"[A-Za-z]{3,9}"),
    "Y": r"(?P<Y>\d{4})",
    "y": r"(?P<y>\d\d)",
    "I": r"(?P<H>\d{1,2})",
    "f": r"(?P<f>\d{1,9})",
    "p": r"(?P<p>[AaPp]\.?[Mm]\.?)",
    "z": ZONE,
}
DAYS = ["%Y/%m/%d", "%Y.%m.%d", "%d.%m.%Y", "%d.%m.%y", "%d. %b %Y", "%d%b%Y"]
DAYS += [f"{first}{sign}%Y" for sign in "/-" for first in (f"%d{sign}%m", f"%m{sign}%d")]
DAYS += [day.replace("%Y", "%y") for day in DAYS[-4:]]
DAYS += [f"%d{sign}%b{sign}{year}" for sign in "- /" for year in ("%Y", "%y")]
DAYS += ["%b %d, %Y", "%b %d %Y", "%a, %d %b %Y", "%a %b %d %Y", "%A, %b %d, %Y"]


def functions() -> Any:
    """Return pyarrow's functions of arrays, which it makes as it is imported: no checker knows."""
    import pyarrow.compute

    return pyarrow.compute


def parse(texts: Any, kind: str) -> tuple[np.ndarray, np.ndarray]:
    """Return strings (N,), an Arrow array, as values of a kind (N,), and where one is not (N,).

    A null is NaN, None or NaT; integers and booleans are float64 where there is one. What is not of
    the kind is as a null.
    """
    from pyarrow import ArrowInvalid

    word, _, form = kind.partition(" ")
    if kind in ("integer", "real"):
        try:
            return cast(texts, word), np.zeros(len(texts), bool)
        except ArrowInvalid:
            pass
    coded = texts.dictionary_encode()
    distinct, places = coded.dictionary, coded.indices.fill_null(len(coded.dictionary))
    if word == "text":
        values, bad = np.array(distinct.to_pylist(), object), np.zeros(len(distinct), bool)
    elif word == "date":
        values, bad = _dates(distinct, form)
    elif word == "boolean":
        values, bad = _booleans(distinct)
    else:
        values, bad = _numbers(distinct, word, form)
    places = places.to_numpy(zero_copy_only=False)
    if texts.null_count:
        none: Any = {"text": None, "date": np.datetime64("NaT", "us")}.get(word, np.nan)
        values = np.append(values.astype(float) if values.dtype.kind in "bi" else values, none)
        bad = np.append(bad, False)
    return values[places], bad[places]


def guess(text: str, decimal: str | None = None, dates: str | None = None) -> list[str]:
    """Return the kinds, other than of plain numbers, that a text may be of; decimal, dates: as in
    `ReadOptions`.
    """
    text = text.strip()
    if text.lower() in ("true", "false"):
        return ["boolean"]
    if re.fullmatch(ISO, text):
        return ["date"]
    if dates is not None and "%" in dates and re.fullmatch(_pattern(dates), text):
        return [f"date {dates}"]
    if forms := _date_forms(text, dates):
        return [f"date {form}" for form in forms]
    units = [sign for sign in UNITS if sign in text]
    if not re.fullmatch(rf"[-+.,eE\d{SPACES}{UNITS}]*\d[-+.,eE\d{SPACES}{UNITS}]*", text):
        return []
    unit = f" unit={units[0]}" if units else ""
    kinds = [f"real decimal={sign}{unit}" for sign in (decimal or ".,")]
    return [kind for kind in kinds if re.fullmatch(_number(kind[13], units[:1]), text)]


def _date_forms(text: str, dates: str | None) -> list[str]:
    clock = re.search(r"([ T])\d\d?:\d\d(:\d\d)?(\.\d+)?(( ?)[AaPp]\.?[Mm]\.?)?$", text)
    day, form = text, ""
    if clock:
        day, half = text[: clock.start()], clock[4]
        form = f"{clock[1]}{'%I' if half else '%H'}:%M{':%S' * bool(clock[2])}"
        form += ".%f" * bool(clock[3]) + f"{clock[5]}%p" * bool(half)
    found = [one for one in DAYS if re.fullmatch(_pattern(one), day)]
    first = {"day-first": "%m", "month-first": "%d"}.get(dates or "", "no")  # not this one
    settled = [one for one in found if not re.match(rf"{first}[/-]%[dm]", one)]
    return [one + form for one in settled]


@functools.cache
def _pattern(form: str) -> str:
    """Return the regular expression of a format of dates."""
    parts = re.split(r"%(.)", form)
    return "".join(PATTERNS[part] if i % 2 else re.escape(part) for i, part in enumerate(parts))


def _number(decimal: str, unit: Any = "") -> str:
    """Return the regular expression of a number with thousands in groups, and a unit."""
    other = "," if decimal == "." else r"\."
    groups = "|".join(rf"(?:{sign}\d{{3}})+" for sign in (other, "'", "[ \u00a0\u2009\u202f]"))
    whole = rf"(?:\d+|[1-9]\d{{0,2}}(?:{groups}))"
    number = rf"(?:{whole}(?:{re.escape(decimal)}\d*)?|{re.escape(decimal)}\d+)(?:[eE][+-]?\d+)?"
    if not unit:
        return rf"[+-]?{number}"
    sign = re.escape("".join(unit))
    return rf"[+-]?(?:{sign}\s?[+-]?{number}|{number}\s?{sign})"


def _numbers(texts: Any, word: str, form: str) -> tuple[np.ndarray, np.ndarray]:
    from pyarrow import ArrowInvalid

    compute = functions()

    texts = compute.utf8_trim_whitespace(texts)
    if form:
        decimal, unit = form[8], form[9:].removeprefix(" unit=")
        good = _matches(texts, _number(decimal, unit))
        signs = f"[{SPACES}{re.escape(unit)}{',' if decimal == '.' else '.'}]"
        texts = compute.replace_substring_regex(texts, signs, "")
        texts = compute.replace_substring(texts, decimal, ".")
    else:
        good = _matches(texts, PLAIN)
    texts = compute.if_else(good, texts, None)
    if word == "integer":
        numbers = cast(texts, "real")
        good &= (numbers == np.floor(numbers)) & (np.abs(numbers) < 2**63)
        texts = compute.replace_substring_regex(
            compute.if_else(good, texts, None), r"^\+|\.0*$", ""
        )
        try:
            return cast(texts.fill_null("0"), word), ~good
        except ArrowInvalid:  # 1e5
            return np.where(good, numbers, 0).astype(np.int64), ~good
    return cast(texts, word), ~good


def cast(texts: Any, word: str) -> np.ndarray:
    """Return strings as integers or reals, or float64 with NaN where one is null."""
    import pyarrow as pa

    numbers = texts.cast(pa.int64() if word == "integer" else pa.float64())
    return as_numpy(numbers)


def as_numpy(array: Any) -> np.ndarray:
    """Return an Arrow array of numbers or times (N,); its own `to_numpy` imports pandas, if it is
    there, which takes longer than all else that is read of a small table.
    """
    import pyarrow as pa

    plain = pa.types.is_integer(array.type) or pa.types.is_floating(array.type)
    if plain and not array.null_count:
        return np.from_dlpack(array)
    return array.to_numpy(zero_copy_only=False)


def _booleans(texts: Any) -> tuple[np.ndarray, np.ndarray]:
    compute = functions()

    texts = compute.utf8_lower(compute.utf8_trim_whitespace(texts))
    true = _matches(texts, r"true|1|1\.0")
    return true, ~(true | _matches(texts, r"false|0|0\.0"))


def _matches(texts: Any, pattern: str) -> np.ndarray:
    compute = functions()

    found = compute.match_substring_regex(texts, rf"^(?:{pattern})$")
    return found.fill_null(False).to_numpy(zero_copy_only=False)


def _dates(texts: Any, form: str) -> tuple[np.ndarray, np.ndarray]:
    """Return strings as dates in a format, or in ISO 8601's; with a zone, in UTC."""
    import pyarrow as pa

    compute = functions()

    if not form:
        try:
            return texts.cast(pa.timestamp("us")).to_numpy(zero_copy_only=False), np.zeros(
                len(texts), bool
            )
        except pa.ArrowInvalid:
            pass
    texts = compute.utf8_trim_whitespace(texts)
    found = compute.extract_regex(texts, rf"^(?:{_pattern(form) if form else ISO})$")
    names = {field.name for field in found.type}
    good = found.is_valid().to_numpy(zero_copy_only=False)

    def number(name: str, default: int) -> np.ndarray:
        if name not in names:
            return np.full(len(texts), default)
        part = compute.struct_field(found, name)
        part = compute.if_else(compute.equal(part, ""), str(default), part)
        return part.fill_null(str(default)).cast(pa.int64()).to_numpy()

    month = number("m", 1)
    if "b" in names:
        word = compute.utf8_lower(compute.struct_field(found, "b"))
        known = [*MONTHS.split(), *(name[:3] for name in MONTHS.split()), "sept"]
        place = compute.index_in(word, pa.array(known)).fill_null(99).to_numpy()
        month = np.where(place == 24, 9, np.where(place > 24, 0, place % 12 + 1))
    return _moments(found, number, month, good)


def _moments(
    found: Any, number: Any, month: np.ndarray, good: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Return the dates of numbers by letter, and which of them do not exist."""
    compute = functions()

    names = {field.name for field in found.type}
    short = number("y", 0)
    year = number("Y", 1970) if "Y" in names else short + np.where(short < 69, 2000, 1900)
    day, hour, minute, second = (number(letter, int(letter == "d")) for letter in "dHMS")
    good &= (month >= 1) & (month <= 12) & (day >= 1) & (hour < 24) & (minute < 60) & (second < 60)
    micros = np.zeros(len(good), np.int64)
    if "f" in names:
        digits = compute.struct_field(found, "f").fill_null("")
        digits = compute.utf8_slice_codeunits(compute.utf8_rpad(digits, 6, "0"), 0, 6)
        micros = digits.cast("int64").to_numpy()
    if "p" in names:
        half = compute.utf8_lower(compute.struct_field(found, "p")).fill_null("a")
        after = compute.starts_with(half, "p").to_numpy(zero_copy_only=False)
        good &= (hour >= 1) & (hour <= 12)
        hour = hour % 12 + 12 * after
    months = ((year - 1970) * 12 + month - 1).astype("M8[M]")
    days = months.astype("M8[D]") + (day - 1)
    good &= days.astype("M8[M]") == months
    seconds = hour * 3600 + minute * 60 + second - _zones(found)
    dates = days.astype("M8[us]") + (seconds * 1_000_000 + micros)
    return np.where(good, dates, np.datetime64("NaT", "us")), ~good


def _zones(found: Any) -> np.ndarray:
    """Return how many seconds the zones of dates are east of UTC."""
    compute = functions()

    if "z" not in {field.name for field in found.type}:
        return np.zeros(len(found), np.int64)
    zones = compute.struct_field(found, "z").fill_null("").to_pylist()
    east = dict.fromkeys(zones, 0)
    for zone in east:
        if len(zone) > 1:
            sign = -1 if zone[0] == "-" else 1
            east[zone] = sign * (int(zone[1:3]) * 3600 + int(zone[-2:]) * 60)
    return np.array([east[zone] for zone in zones], np.int64)


def has_leading_zeros(texts: Any) -> bool:
    """Return whether a string begins as 007 or 0x1f do: as a code, and no number."""
    _, ends, data = texts.buffers()
    if data is None or not len(texts):
        return False
    ends = np.frombuffer(ends, np.int32)[texts.offset : texts.offset + len(texts) + 1]
    data = np.append(np.frombuffer(data, np.uint8, int(ends[-1])), 0)
    zeros = np.flatnonzero(data[ends[:-1]] == ord("0"))
    starts = ends[zeros]
    second = data[starts + 1]
    codes = ((second >= ord("0")) & (second <= ord("9"))) | (second == ord("x"))
    return bool((codes & (ends[zeros + 1] > starts + 1)).any())
