"""The phrasebook: PyTorch and JAX side by side, each row executed and compared.

A row is a `Row` in the file of its topic; `scripts/tools/phrasebook.py` writes the page.
"""

from phrasebook import autograd, indexing, tensors, ties
from phrasebook.row import Row

TOPICS: dict[str, list[Row]] = {
    "Tensors": tensors.ROWS,
    "Indexing and shapes": indexing.ROWS,
    "Gradients": autograd.ROWS,
    "Ties, zeros and nan": ties.ROWS,
}
ROWS = {row.slug: row for rows in TOPICS.values() for row in rows}
