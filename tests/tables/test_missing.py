"""Missing values and dates come through the reader, in blocks and on disk, in the same arrays."""

import datetime

import numpy as np
import pyarrow as pa
import pytest
from pyarrow import csv, parquet

from jaxnet.tables import convert as conversion
from jaxnet.tables.convert import convert
from jaxnet.tables.reading import csv_file
from jaxnet.tables.reading.options import ReadOptions
from jaxnet.tables.reading.reader import blocks, read

STRICT = ReadOptions(missing="error")

N = 31
GAPS = np.arange(N) % 4 == 1
DAYS = np.datetime64("1999-12-30", "us") + np.arange(N) * np.timedelta64(90061, "s")
WHOLE: dict = {
    "real": np.arange(N) / 8,
    "count": np.arange(N) % 7,
    "flag": np.arange(N) % 3 == 0,
    "word": np.array(["Rom", "Köln", "東京"], object)[np.arange(N) % 3],
    "day": DAYS,
}
KINDS = {"real": "real", "count": "integer", "flag": "boolean", "word": "text", "day": "date"}


def with_gaps():
    """What is right: NaN, None and NaT in every fourth row; day's day alone is whole."""
    columns = {name: c.astype(float) if c.dtype.kind in "bi" else c for name, c in WHOLE.items()}
    none = {"f": np.nan, "O": None, "M": np.datetime64("NaT", "us")}
    for column in (columns := {name: c.copy() for name, c in columns.items()}).values():
        column[GAPS] = none[column.dtype.kind]
    return columns


def arrow():
    return pa.table({name: pa.array(c.tolist(), mask=GAPS) for name, c in WHOLE.items()})


WRITERS = {
    "a.csv": lambda path: csv.write_csv(arrow(), path),
    "a.parquet": lambda path: parquet.write_table(arrow(), path, row_group_size=7),
}


@pytest.fixture(autouse=True)
def small_blocks(monkeypatch):
    monkeypatch.setattr(conversion, "BLOCK_NUMBERS", 9 * len(WHOLE))
    monkeypatch.setattr(csv_file, "BLOCK_BYTES", 200)


def check(table, rows=slice(None)):
    for name, want in with_gaps().items():
        np.testing.assert_array_equal(table.columns[name], want[rows])
        assert table.columns[name].dtype == want.dtype
    assert {name: table.kind(name).split()[0] for name in table.columns} == KINDS


@pytest.mark.parametrize("name", WRITERS)
def test_missing_values_and_dates_are_the_same_whole_in_blocks_and_on_disk(tmp_path, name):
    WRITERS[name](tmp_path / name)
    whole = read(tmp_path / name)
    check(whole)
    assert sorted(whole.texts("word")) == ["Köln", "Rom", "東京"]
    for block in blocks(tmp_path / name, whole.kinds, 8):
        check(block, slice(block.offset, block.offset + block.num_rows))
    store = convert(tmp_path / name)
    rows = np.random.default_rng(0).permutation(N)
    check(store.take(rows), rows)
    for block in store.blocks(list(store.columns)):
        check(block, slice(block.offset, block.offset + block.num_rows))
    assert dict(store.kinds) == dict(whole.kinds)
    assert {n: c.dtype for n, c in store.columns.items()} == {
        n: c.dtype for n, c in with_gaps().items()
    }


@pytest.mark.parametrize("name", WRITERS)
def test_missing_values_are_refused_by_their_row_when_asked(tmp_path, name):
    WRITERS[name](tmp_path / name)
    kinds = read(tmp_path / name).kinds
    for reading in (
        lambda: read(tmp_path / name, options=STRICT),
        lambda: convert(tmp_path / name, options=STRICT),
        lambda: list(blocks(tmp_path / name, kinds, 3, options=STRICT)),
    ):
        with pytest.raises(ValueError, match=rf"{name}: row 2, column 'real': the value is miss"):
            reading()


def test_a_time_with_a_zone_is_in_utc(tmp_path):
    zone = datetime.timezone(datetime.timedelta(hours=2))
    time = pa.array([datetime.datetime(2024, 3, 1, 1, 30, tzinfo=zone), None])
    parquet.write_table(pa.table({"t": time}), tmp_path / "a.parquet")
    got = read(tmp_path / "a.parquet").columns["t"]
    np.testing.assert_array_equal(got, np.array(["2024-02-29T23:30", "NaT"], "M8[us]"))
