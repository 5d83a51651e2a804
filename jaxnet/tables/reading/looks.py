"""What a column is, found block after block: its types, or the forms that its text may have."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np

from jaxnet.tables.reading import arrow
from jaxnet.tables.reading.forms import PLAIN, cast, functions, guess, has_leading_zeros, parse
from jaxnet.tables.reading.indexes import Count
from jaxnet.tables.reading.options import ReadOptions
from jaxnet.tables.table import KINDS

STARTS = {"integer": r"-?\d+", "real": PLAIN}  # of columns of numbers
GROUPED = r"^[+-]?[1-9]\d{0,2}(\.\d{3})*$"  # which may be thousands


class Look:
    """What a column is, block after block.

    kind: of the text so far: None before there is any, "integer", "real", or "words". types: the
    kinds of what is no text, and the first file of each. candidates: the kinds that words may have,
    None before there is any; of the categories that a user names, none. again: numbers came before
    a word, so that the column must be looked at from its start as words. gaps: a value is missing.
    held: there were only quoted words that may stand for missing values. typed: the text is of a
    file with types, and no plain number. grouped: the reals may be thousands, as 1.234. signs:
    those of . and , that a word has, as the `example` does. zeros: a word begins as 007 does.
    """

    def __init__(self, options: ReadOptions, name: str, *, commas: bool, keep: bool, words: bool):
        self.kind: str | None = "words" if words else None
        self.types: dict[str, Path] = {}
        self.count = Count()
        self.again = self.held = self.typed = self.read_plain = self.zeros = False
        self.grouped, self.signs, self.example = not commas, set[str](), ""
        self.candidates: list[str] | None = [] if name in options.categorical else None
        self._dtypes: set[np.dtype] = set()
        self.gaps, self._parts = False, []
        self._options, self._name, self._keep, self._words = options, name, keep, words

    def update(self, file: Path, column: Any, offset: int, typed: bool) -> None:
        """Add a block of a file, an Arrow array or one of numbers (N,) or (N, D), whose rows come
        after `offset` others. typed: the file has types.
        """
        if isinstance(column, np.ndarray) or not arrow.is_text(column.type):
            self._add_values(file, column, offset, typed)
            return
        texts = arrow.to_strings(column)
        self.typed |= typed
        self.gaps |= texts.null_count > 0
        if self.kind != "words" and texts.null_count < len(texts) and not self.typed:
            numbers = self._numbers(texts)
            if numbers is not None:
                self.count.update(numbers)
                self._parts += [numbers] * self._keep
                return
            self.again, self.kind = self.kind is not None, None if self.held else "words"
        if self.typed and texts.null_count < len(texts):
            self.kind = "words"
        if self.kind == "words" and self.candidates != []:
            self._eliminate(texts)
            self.again |= self.read_plain and not self.candidates
        if self._keep:
            self._parts.append(texts.dictionary_encode() if self.kind == "words" else texts)

    def _add_values(self, file: Path, column: Any, offset: int, typed: bool) -> None:
        """Add what is no text: of the kind that is known, if the file has no types."""
        if isinstance(column, np.ndarray):
            values, kind = column, KINDS[column.dtype.kind]
        else:
            values = arrow.to_numpy(file, self._name, column, offset)
            kind = arrow.kind_of(column.type) or "real"
            self.gaps |= column.null_count > 0
            kind = "" if column.null_count == len(column) else kind
        if typed:
            self._dtypes.add(values.dtype)
            if kind:
                self.types.setdefault(kind, file)
        self.read_plain |= not typed
        self.count.update(values)
        self._parts += [values] * self._keep

    @property
    def plain(self) -> str | None:
        """What the column may be read as from now on, without its text; an integer may be 007."""
        if self.candidates == ["boolean"] and not self._words:
            return "boolean"
        return "real" if self.kind == "real" and not self.grouped else None

    def add_type(self, file: Path, type: Any, gaps: bool) -> None:
        """Add a block of an Arrow type of which only this is known. Raises: ValueError."""
        import pyarrow as pa

        values = arrow.to_numpy(file, self._name, pa.array([], type))
        self._dtypes.add(values.dtype)
        self.types.setdefault(arrow.kind_of(type) or "real", file)
        self.gaps |= gaps

    def dtype(self, kind: str) -> np.dtype:
        """Return the dtype of the values as a kind."""
        word = kind.split()[0]
        if word in ("text", "date"):
            return np.dtype(object if word == "text" else "M8[us]")
        found = self._dtypes or {np.dtype({"boolean": bool, "integer": int}.get(word, float))}
        if self.kind is not None:
            found = {*found, np.dtype({"boolean": bool, "integer": int}.get(word, float))}
        dtype = np.result_type(*found)
        return np.dtype(float) if self.gaps and dtype.kind in "biu" else dtype

    def finish(self, kind: str) -> np.ndarray:
        """Return the values of all blocks as a kind."""
        parts = []
        while self._parts:
            part = self._parts.pop(0)
            text = not isinstance(part, np.ndarray)
            parts.append(read_as(part, kind, self._options)[0] if text else part)
        return np.concatenate(parts)

    def _numbers(self, texts: Any) -> np.ndarray | None:
        """Return the numbers that the texts are, with NaN for missing ones, or None."""
        from pyarrow import ArrowInvalid

        compute = functions()
        for clean in (False, True):
            if clean:
                given = compute.utf8_trim_whitespace(texts)
                texts = _without_words(given, self._options)
                if texts.null_count == len(texts):  # of quoted words, which may be texts
                    self.held = True
                    return None if self.kind is None else np.full(len(texts), np.nan)
            first = texts.drop_null()[0].as_py()
            for kind in ("integer", "real"):
                known = self.kind == "real" if kind == "integer" else self._options.decimal == ","
                if known or not re.fullmatch(STARTS[kind], first):  # a cast that fails is slow
                    continue
                try:
                    numbers = cast(texts, kind)
                except ArrowInvalid:
                    continue
                if kind == "integer" and has_leading_zeros(texts):
                    return None
                self.gaps |= texts.null_count > 0
                self.kind = kind
                if kind == "real" and self.grouped:
                    found = compute.match_substring_regex(texts, GROUPED)
                    self.grouped = bool(compute.all(found).as_py())
                return numbers
        return None

    def _eliminate(self, texts: Any) -> None:
        """Keep the candidates that the texts may be of."""
        compute = functions()

        given = _without_words(texts.dictionary_encode().dictionary, self._options).drop_null()
        if not len(given):
            return
        if self.candidates is None:
            self.example = given[0].as_py()
            self.candidates = guess(self.example, self._options.decimal, self._options.dates)
        self.zeros |= has_leading_zeros(given)
        digits = bool(compute.any(compute.match_substring_regex(given, r"\d")).as_py())
        self.candidates = [
            kind
            for kind in self.candidates
            if not parse(given, kind)[1].any() and not (kind == "boolean" and digits)
        ]
        for sign in {".", ","} - self.signs if self.candidates else ():
            if len(found := given.filter(compute.match_substring(given, sign))):
                self.example = found[0].as_py()
                self.signs.add(sign)


def read_as(texts: Any, kind: str, options: ReadOptions) -> tuple[np.ndarray, np.ndarray]:
    """As `forms.parse`; a quoted missing word in other columns than of text is missing too."""
    values, bad = parse(texts, kind)
    if not bad.any():
        return values, bad
    cleaned = _without_words(texts, options)
    return parse(cleaned, kind)


def _without_words(texts: Any, options: ReadOptions) -> Any:
    """Return strings with null for the missing words."""
    import pyarrow as pa

    compute = functions()

    if pa.types.is_dictionary(texts.type):
        texts = texts.cast(texts.type.value_type)
    words = compute.is_in(texts, pa.array(["", *options.words]))
    return compute.if_else(words, pa.scalar(None, texts.type), texts)
