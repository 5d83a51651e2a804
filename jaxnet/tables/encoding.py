"""How a table becomes arrays: numbers standardised, text one-hot, classes or numbers to predict."""

from __future__ import annotations

import json
from collections.abc import Callable, Collection, Iterable
from typing import Any, NamedTuple

import numpy as np

from jaxnet.data import aligned
from jaxnet.spec import check_choice
from jaxnet.tables.table import (
    NOT,
    Table,
    check_finite,
    check_lengths,
    is_number,
    list_names,
    quote,
)

UNSEEN = ("error", "zero")  # what becomes of a category that training did not have
KINDS = {"b": "boolean", "i": "integer", "u": "integer", "f": "real", "O": "text"}
VALUES = {"boolean": "True".__eq__, "integer": int, "real": float, "text": str}  # of a category
TYPES = {"boolean": bool, "integer": np.int64, "real": np.float64}
MAX_CLASSES = 20  # an integer target with more distinct values is taken for a quantity
BLOCK = 2**22  # numbers of a column in float64 at once, for its statistics: 32 MB
SCALED = 2**17  # and to be standardised, within the processor's cache: 1 MB


class Column(NamedTuple):
    """How a column becomes numbers: standardised by mean and std, or one-hot categories.

    mean, std: one float for each of the column's D numbers. categories: text, sorted; then the
    others are empty. kind: what the column of training held, boolean, integer, real or text.
    """

    name: str
    mean: tuple[float, ...] = ()
    std: tuple[float, ...] = ()
    categories: tuple[str, ...] = ()
    kind: str = "real"

    @property
    def width(self) -> int:
        """The number of network inputs or outputs that the column takes."""
        return len(self.categories) or len(self.mean)


class Encoding(NamedTuple):
    """How a table becomes x and y: the feature columns in order, and the target."""

    features: tuple[Column, ...]
    target: Column


def infer_task(table: Table, target: str) -> tuple[str, str]:
    """Return "classification" or "regression" for a target column, and the reason in words."""
    column = target_column(table, target)
    return choose_task(column.dtype, lambda: len(np.unique(column)) if column.ndim == 1 else 0)


def choose_task(dtype: np.dtype, distinct: Callable[[], int]) -> tuple[str, str]:
    """As `infer_task`, for a target of a dtype; distinct(): how many values an integer one has."""
    if dtype.kind == "O":
        return "classification", "its values are text"
    if dtype.kind == "b":
        return "classification", "its values are true and false"
    if dtype.kind not in "iu" or not (number := distinct()):
        return "regression", "its values are real numbers"
    if number <= MAX_CLASSES:
        return "classification", f"it has {number} distinct integers"
    return "regression", f"it has {number} distinct integers, more than {MAX_CLASSES}"


def fit_encoding(
    table: Table, target: str, task: str, rows: np.ndarray, categorical: Collection[str] = ()
) -> Encoding:
    """Fit an encoding: numbers standardised by the statistics of `rows`, text one-hot.

    Categories and classes are those of the whole table. The columns named in `categorical` are
    taken as text.

    Raises: ValueError for an unknown column, a table without features, a target of one value only,
    and a text column whose values hardly repeat (an identifier).
    """

    def summarise(name: str, as_text: bool) -> Summary:
        return _summarise(table.path, name, table.columns[name], rows, as_text)

    values = target_column(table, target)
    values = values.reshape(len(values), -1)
    encoding = fit_summaries(table, target, task, categorical, summarise)
    if (constant := (values == values[0]).all(axis=0)).any():
        raise one_value(table.path, target, values[0, constant.argmax()])
    return encoding


class Summary(NamedTuple):
    """What an encoding is fitted to: the number of rows, and the distinct values as sorted texts,
    or mean and std (D,).
    """

    rows: int
    categories: tuple[str, ...] = ()
    mean: np.ndarray = np.zeros(0)
    std: np.ndarray = np.zeros(0)


def fit_summaries(
    table: Table,
    target: str,
    task: str,
    categorical: Collection[str],
    summarise: Callable[[str, bool], Summary],
) -> Encoding:
    """As `fit_encoding`, of a table of which only names and dtypes are looked at.

    summarise(name, as_text): what is known of a column, of its categories or its numbers.
    """
    y = target_column(table, target)
    if task == "regression" and y.dtype == object:
        raise ValueError(
            f"{table.path}: the target {target!r} must be numbers for regression, got text"
        )
    if unknown := sorted(set(categorical) - set(table.columns)):
        raise ValueError(
            f"{table.path}: no column {unknown[0]!r}; the columns are {list_names(table.columns)}"
        )
    if len(table.columns) < 2:
        raise ValueError(f"{table.path}: there is no feature column beside the target {target!r}")
    features = tuple(
        _fit_column(table, name, summarise, name in categorical, "drop it if it is an id")
        for name in table.columns
        if name != target
    )
    advice = "choose another target, or `task` regression if it is a quantity"
    return Encoding(
        features, _fit_column(table, target, summarise, task == "classification", advice)
    )


def one_value(path: str, target: str, value: Any) -> ValueError:
    """The error for a target that is constant."""
    return ValueError(f"{path}: the target {target!r} has one value only, {value}")


def encode(
    table: Table, encoding: Encoding, dtype: str = "float32", rows: np.ndarray | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """Return x (N, D_in), and y: (N, D_out) standardised numbers or (N,) int32 classes.

    rows: the N rows to encode, in that order; None for all.
    """
    return (
        encode_features(table, encoding, dtype, rows=rows),
        encode_target(table, encoding, dtype, rows),
    )


def encode_features(
    table: Table,
    encoding: Encoding,
    dtype: str = "float32",
    unseen: str = "error",
    rows: np.ndarray | None = None,
) -> np.ndarray:
    """Return x (N, D_in) of a table that has the feature columns, in any order, and maybe others.

    unseen: "error", or "zero" to encode a category that training did not have as zeros. rows: as in
    `encode`.

    Raises: ValueError for a column that is missing or has another width or kind than in training,
    an unseen category, and a number too large for the dtype.
    """
    check_choice("unseen", unseen, UNSEEN)
    widths = [column.width for column in encoding.features]
    arrays = [_find(table, column) for column in encoding.features]
    x = aligned((len(arrays[0] if rows is None else rows), sum(widths)), dtype)
    stop = 0
    for column, width, values in zip(encoding.features, widths, arrays, strict=True):
        start, stop = stop, stop + width
        if column.categories:
            codes = _codes(table, values, rows, column, unseen)
            x[:, start:stop] = codes[:, None] == np.arange(width)
        else:
            _standardise(table, values, rows, column, x[:, start:stop])
    return x


def encode_target(
    table: Table, encoding: Encoding, dtype: str = "float32", rows: np.ndarray | None = None
) -> np.ndarray:
    """Return y: (N, D_out) standardised numbers, or (N,) int32 classes; any other is an error.

    rows: as in `encode`.
    """
    column = encoding.target
    values = _find(table, column)
    if column.categories:
        return _codes(table, values, rows, column, "error", "classes")
    y = aligned((len(values if rows is None else rows), column.width), dtype)
    _standardise(table, values, rows, column, y)
    return y


def classes(column: Column) -> np.ndarray:
    """The categories as the values that training had: booleans, integers, reals or text objects."""
    values = [VALUES[column.kind](text) for text in column.categories]
    return np.array(values, object if column.kind == "text" else None)


def decode(y_pred: np.ndarray, column: Column) -> np.ndarray:
    """Return what outputs (N, D_out) say of a target.

    The most probable class (N,), or float64 numbers in the target's units: (N,), or (N, D) for a
    target of several columns.
    """
    if column.categories:
        return classes(column)[y_pred.argmax(axis=1)]
    numbers = y_pred.astype(float) * np.asarray(column.std) + np.asarray(column.mean)
    return numbers if column.width > 1 else numbers[:, 0]


def kinds_to_read(columns: Iterable[Column]) -> dict[str, str]:
    """What to read each column as from text: its kind, or a number if it is standardised."""
    return {c.name: c.kind if c.categories or c.kind == "boolean" else "real" for c in columns}


def from_columns(columns: Any, features: tuple[Column, ...], path: str = "`columns`") -> Table:
    """Return the table of a mapping of arrays by name, or of numbers (N, D_in) in order."""
    if not hasattr(columns, "keys"):
        return _from_matrix(np.asarray(columns), features, path)
    names = list(columns.keys())
    arrays = {c.name: np.asarray(columns[c.name]) for c in features if c.name in names}
    if missing := [c.name for c in features if c.name not in names]:
        raise ValueError(f"{path}: no column {missing[0]!r}; the columns are {list_names(names)}")
    check_lengths(path, {name: array.shape for name, array in arrays.items()})
    arrays = {name: _plain(path, name, array) for name, array in arrays.items()}
    for name, array in arrays.items():
        check_finite(path, name, array)
    return Table(path, arrays)


def _from_matrix(x: np.ndarray, features: tuple[Column, ...], path: str) -> Table:
    if text := [column.name for column in features if column.categories]:
        raise ValueError(
            f"{path} must be a mapping of names to arrays, since column {text[0]!r} holds "
            f"categories; got an array of shape {x.shape}"
        )
    stops = np.cumsum([column.width for column in features])
    if x.ndim != 2 or x.shape[1] != stops[-1] or x.dtype.kind not in "biuf":
        raise ValueError(
            f"{path} must be numbers (N, {stops[-1]}), got {x.dtype} of shape {x.shape}"
        )
    parts = np.split(x, stops[:-1], axis=1)
    arrays = {column.name: part for column, part in zip(features, parts, strict=True)}
    for name, array in arrays.items():
        check_finite(path, name, array)
    return Table(path, arrays)


def _plain(path: str, name: str, array: np.ndarray) -> np.ndarray:
    """Return an array that a user gave as a column: numbers, booleans, or text as objects."""
    if array.dtype == object and not all(isinstance(value, str) for value in array.flat):
        for row, value in enumerate(array.tolist(), start=1):
            if not isinstance(value, (str, bool, int, float, np.generic, list)) or value != value:
                raise ValueError(
                    f"{path}: row {row}, column {name!r}: the value is missing, or neither "
                    f"number nor text: {quote(str(value))}"
                )
        array = np.array(array.tolist())
    if array.dtype.kind in "UT":
        array = array.astype(object)
    if array.dtype.kind not in KINDS:
        raise ValueError(
            f"{path}: column {name!r} must be numbers, booleans or text, got {array.dtype}"
        )
    return array.reshape(len(array), -1) if array.ndim > 2 else array


def _fit_column(
    table: Table, name: str, summarise: Callable[[str, bool], Summary], as_text: bool, advice: str
) -> Column:
    dtype = table.columns[name].dtype
    kind, as_text = KINDS[dtype.kind], as_text or dtype.kind == "O"
    found = summarise(name, as_text)
    if not as_text:
        std = np.where(found.std > 0, found.std, 1.0)
        return Column(name, tuple(found.mean.tolist()), tuple(std.tolist()), kind=kind)
    if len(found.categories) > max(MAX_CLASSES, found.rows // 2):
        raise ValueError(
            f"{table.path}: column {name!r} has {len(found.categories)} distinct categories in "
            f"{found.rows} rows; {advice}"
        )
    return Column(name, categories=found.categories, kind=kind)


def _summarise(
    path: str, name: str, column: np.ndarray, rows: np.ndarray, as_text: bool
) -> Summary:
    """What is known of a column in memory: its categories in all rows, or mean and std in some."""
    if as_text:
        if column.ndim > 1:
            raise ValueError(
                f"{path}: column {name!r} must be (N,) to hold categories, got {column.shape}"
            )
        return Summary(len(column), tuple(map(str, np.unique(column.astype(str)))))
    values = column.reshape(len(column), -1)
    mean, std = np.empty((2, values.shape[1]))
    block = max(1, BLOCK // len(rows))
    for start in range(0, len(mean), block):  # float64, but not all at once
        columns = slice(start, start + block)
        part = values[rows, columns].astype(float)
        with np.errstate(over="ignore", invalid="ignore"):
            mean[columns], std[columns] = part.mean(axis=0), part.std(axis=0)
        if not np.isfinite(std[columns]).all():
            raise too_large(path, name, np.abs(part).max())
    return Summary(len(column), mean=mean, std=std)


def too_large(path: str, name: str, largest: float) -> ValueError:
    """The error for a column whose std overflows."""
    return ValueError(
        f"{path}: column {name!r} has values up to {largest:.4g}, too large to standardise; "
        "rescale it"
    )


def _find(table: Table, column: Column) -> np.ndarray:
    """Return the column's values: (N,) categories, or numbers (N, D)."""
    values = table.columns.get(column.name)
    if values is None:
        raise ValueError(
            f"{table.path}: no column {column.name!r}; the columns are {list_names(table.columns)}"
        )
    width = 1 if column.categories else column.width
    if values.size != len(values) * width:
        raise ValueError(
            f"{table.path}: column {column.name!r} must have {width} "
            f"value{'s' * (width > 1)} a row, as in training; got shape {values.shape}"
        )
    return values.reshape(len(values)) if column.categories else values.reshape(len(values), width)


def _codes(
    table: Table,
    values: np.ndarray,
    rows: np.ndarray | None,
    column: Column,
    unseen: str,
    what: str = "categories",
) -> np.ndarray:
    """The index (N,) int32 of the value in each row among the categories, -1 for an unseen one."""
    values = values if rows is None else values[rows]
    index = {category: code for code, category in enumerate(column.categories)}
    few, place = values, np.arange(len(values))
    if values.dtype != object:
        few, place = np.unique(values, return_inverse=True)
    texts = _texts(few, column.kind)
    codes = np.array([index.get(text, -1) for text in texts], np.int32)[place]
    if unseen == "error" and (codes < 0).any():
        at = int((codes < 0).argmax())
        row = at if rows is None else rows[at]
        remedy = ", or encode it as zeros with `unseen` zero" if what == "categories" else ""
        raise ValueError(
            f"{table.path}: row {table.offset + row + 1}, column {column.name!r}: "
            f"{quote(texts[place[at]])} is not among the {what} of training "
            f"({list_names(column.categories)}); correct it{remedy}"
        )
    return codes


def _texts(values: np.ndarray, kind: str) -> list[str]:
    """The text for each value (N,), as it was in training: an integer may have become a real."""
    if values.dtype == object:
        return [str(value) for value in values.tolist()]
    if KINDS[values.dtype.kind] == kind or kind == "text":
        return values.astype(str).tolist()
    with np.errstate(invalid="ignore"):
        cast = values.astype(TYPES[kind])
    return np.where(cast == values, cast.astype(str), values.astype(str)).tolist()


def _standardise(
    table: Table, values: np.ndarray, rows: np.ndarray | None, column: Column, out: np.ndarray
) -> None:
    """Put the values (N, D) of the rows, less the mean, over the std, into `out`."""
    if values.dtype == object:
        texts = values[:, 0].tolist()
        row = next((i for i, text in enumerate(texts) if not is_number(text)), 0)
        raise ValueError(
            f"{table.path}: row {table.offset + row + 1}, column {column.name!r}: "
            f"{quote(texts[row])} is {NOT['double']}; correct it or drop the column"
        )
    mean, std = np.asarray(column.mean), np.asarray(column.std)
    block = max(1, SCALED // column.width)
    for start in range(0, len(out), block):  # float64, but not all at once
        here = slice(start, start + block)
        part, some = out[here], values[here] if rows is None else values[rows[here]]
        with np.errstate(over="ignore"):
            part[:] = (some - mean) / std
        if not np.isfinite(part).all():
            at, place = np.argwhere(~np.isfinite(part))[0]
            row = start + at if rows is None else rows[start + at]
            raise ValueError(
                f"{table.path}: row {table.offset + row + 1}, column {column.name!r}: the "
                f"value {some[at, place]} is too large for {out.dtype}; correct it"
            )


def target_column(table: Table, target: str) -> np.ndarray:
    """The column to predict; raise if there is none such."""
    if target not in table.columns:
        raise ValueError(
            f"{table.path}: no target column {target!r}; "
            f"the columns are {list_names(table.columns)}"
        )
    return table.columns[target]


def encoding_to_json(encoding: Encoding) -> dict[str, Any]:
    """Return an encoding as JSON holds it: each column's name, mean, std, categories and kind."""
    features = [column._asdict() for column in encoding.features]
    return json.loads(json.dumps({"features": features, "target": encoding.target._asdict()}))


def encoding_from_json(value: Any) -> Encoding:
    """Return the encoding of which `value` is the JSON. Raises: ValueError, TypeError, KeyError."""
    columns = [
        Column(
            str(column["name"]),
            *(tuple(column[name]) for name in ("mean", "std", "categories")),
            kind=str(column["kind"]),
        )
        for column in (*value["features"], value["target"])
    ]
    for column in columns:
        scales = np.asarray([column.mean, column.std], float)
        good = np.isfinite(scales).all() and (scales[1] > 0).all() and column.width > 0
        if not good or not all(isinstance(text, str) for text in column.categories):
            raise ValueError(f"the encoding of column {column.name!r}")
    return Encoding(tuple(columns[:-1]), columns[-1])
