"""Every row of the phrasebook is true: JAX's code is torch's function, and the trap's is not.

Torch is live where it is installed, and recorded elsewhere. What differs fails a row by its name.
"""

import importlib.util
from pathlib import Path

import pytest
from phrasebook import ROWS, TOPICS, compare, page, reference

PAGE = Path(__file__).parents[2] / "docs/phrasebook.md"
LIVE = importlib.util.find_spec("torch") is not None
TRAPS = [slug for slug, row in ROWS.items() if row.naive]

pytestmark = [
    pytest.mark.usefixtures("quick_compilation"),
    # what torch itself imports, for a first torch.func
    pytest.mark.filterwarnings("ignore:`torch.jit.script:DeprecationWarning"),
]


@pytest.mark.parametrize("slug", ROWS)
def test_jax_does_what_torch_does(slug):
    row = ROWS[slug]
    compare.assert_equal(row, (reference.live if LIVE else reference.recorded)(row))


@pytest.mark.parametrize("slug", TRAPS)
def test_the_trap_gives_other_numbers_and_the_page_shows_them(slug):
    assert f"→ {page.measured(slug)}.\n" in PAGE.read_text(), "run scripts/tools/phrasebook.py"


def test_the_page_is_what_the_table_generates():
    assert page.page() == PAGE.read_text(), "run scripts/tools/phrasebook.py"


def test_no_two_rows_have_one_name_and_each_has_a_place_on_the_page():
    assert sum(map(len, TOPICS.values())) == len(ROWS)
    assert PAGE.read_text().count("\n### ") == len(ROWS)
