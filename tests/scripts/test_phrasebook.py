"""Every row of the phrasebook is true: JAX's code is torch's function, and the trap's is not.

Torch is recorded; `test_phrasebook_torch` holds the recording against torch itself. What differs
fails a row by its name.
"""

from dataclasses import replace
from pathlib import Path

import pytest
from phrasebook import ROWS, TOPICS, compare, page, reference
from phrasebook.row import Row

PAGE = Path(__file__).parents[2] / "docs/phrasebook.md"
TRAPS = [slug for slug, row in ROWS.items() if row.naive]

pytestmark = pytest.mark.usefixtures("quick_compilation")


@pytest.mark.parametrize("slug", ROWS)
def test_jax_does_what_torch_does(slug):
    row = ROWS[slug]
    compare.assert_equal(row, reference.recorded(row))


@pytest.mark.parametrize("slug", TRAPS)
def test_the_trap_gives_other_numbers_and_the_page_shows_them(slug):
    assert f"→ {page.measured(slug)}.\n" in PAGE.read_text(), "run scripts/tools/phrasebook.py"


def test_the_page_is_what_the_table_generates():
    assert page.page() == PAGE.read_text(), "run scripts/tools/phrasebook.py"


def test_no_two_rows_have_one_name_and_each_has_a_place_on_the_page():
    assert sum(map(len, TOPICS.values())) == len(ROWS)
    assert PAGE.read_text().count("\n### ") == len(ROWS)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"check": "values"}, "`check` must be of gradient, value, training, got 'values'"),
        ({"naive": "y = 2 * x"}, "`trap` must say what `naive` does, got none: double"),
    ],
)
def test_a_row_that_is_incomplete_is_refused(given, message):
    with pytest.raises(ValueError, match=message):
        Row("double", "y = x + x", "y = x + x", **given)


def test_a_row_that_was_not_recorded_says_how_to_record_it():
    with pytest.raises(ValueError, match="must be recorded, got 'double': run"):
        reference.recorded(Row("double", "y = x + x", "y = x + x"))


def test_a_wrong_line_of_jax_and_a_trap_that_is_none_fail():
    row = ROWS["layernorm"]
    with pytest.raises(AssertionError, match="layer: norm, forward"):
        compare.assert_equal(replace(row, jax=row.naive), reference.recorded(row))
    with pytest.raises(AssertionError, match="the trap of layernorm must differ from torch"):
        compare.trap(replace(row, naive=row.jax), reference.recorded(row))
    row = ROWS["median"]
    with pytest.raises(AssertionError, match=r"`y` is 2\.5, PyTorch's 2"):
        compare.assert_equal(replace(row, jax=row.naive), reference.recorded(row))
