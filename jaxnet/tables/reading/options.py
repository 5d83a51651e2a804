"""How the text of a table's file is to be read, where a user says it."""

from __future__ import annotations

import codecs
import re
from typing import NamedTuple

MISSING = ("fill", "error")  # what becomes of a missing value
# Cells without quotes that are missing values, beside the empty ones.
MISSING_WORDS = ("NA", "N/A", "n/a", "#N/A", "#NA", "#N/A N/A", "<NA>", "NULL", "null") + (
    ("NaN", "nan", "-NaN", "-nan", "1.#IND", "-1.#IND", "1.#QNAN", "-1.#QNAN")
)
DIRECTIVES = "%d %m %b %B %Y %y %H %I %M %S %f %p %z %a %A"  # of a format of dates
ORDERS = ("day-first", "month-first")


class ReadOptions(NamedTuple):
    """How the text of a file is read; what is None or empty is found from the file.

    delimiter: the character between the columns, or "tab". encoding: a codec of Python. decimal:
    "." or ",". missing_words: the texts that are missing values, in place of MISSING_WORDS. dates:
    "day-first" or "month-first" for dates as 01/02/2023, or a format as "%d.%m.%Y". missing: "fill"
    leaves NaN, None or NaT for a missing value, "error" refuses it. categorical: columns that hold
    categories, whose text is never taken for numbers or dates.
    """

    delimiter: str | None = None
    encoding: str | None = None
    decimal: str | None = None
    missing_words: tuple[str, ...] = ()
    dates: str | None = None
    missing: str = "fill"
    categorical: tuple[str, ...] = ()

    @property
    def words(self) -> tuple[str, ...]:
        return self.missing_words or MISSING_WORDS

    @property
    def sign(self) -> str | None:
        """The delimiter as it is in the text."""
        return "\t" if self.delimiter in ("tab", "\\t") else self.delimiter

    def check(self) -> None:
        """Raises: ValueError naming the wrong option."""
        from jaxnet.spec import check_choice

        check_choice("missing", self.missing, MISSING)
        if self.decimal is not None:
            check_choice("decimal", self.decimal, (".", ","))
        if self.sign is not None and (len(self.sign) != 1 or self.sign in '"\r\n'):
            raise ValueError(f"`delimiter` must be one character, or tab; got {self.delimiter!r}")
        try:
            codecs.lookup(self.encoding or "utf-8")
        except LookupError:
            what = "must be the name of an encoding, as latin-1 or utf-16"
            raise ValueError(f"`encoding` {what}; got {self.encoding!r}") from None
        if self.dates is not None and self.dates not in ORDERS:
            used = re.findall("%.", self.dates)
            year = {"%Y", "%y"} & {*used} and {"%m", "%b", "%B"} & {*used} and "%d" in used
            if not year or not {*used} <= set(DIRECTIVES.split()) or len({*used}) < len(used):
                what = f"must be {' or '.join(ORDERS)}, or a format of {DIRECTIVES} as %d/%m/%Y"
                raise ValueError(f"`dates` {what}; got {self.dates!r}")


AS_FOUND = ReadOptions()
