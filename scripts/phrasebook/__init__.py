"""The phrasebook: PyTorch and JAX side by side, each row executed and compared.

A row is a `Row` in the file of its topic. `scripts/tools/phrasebook.py --record` runs it in torch
and writes the page.
"""

from phrasebook import (
    autograd,
    compiled,
    indexing,
    initial,
    layers,
    losses,
    modules,
    norms,
    optimizers,
    sequences,
    tensors,
    ties,
    training,
)
from phrasebook.row import Row

TOPICS: dict[str, list[Row]] = {
    "Tensors": tensors.ROWS,
    "Indexing and shapes": indexing.ROWS,
    "Gradients": autograd.ROWS,
    "Ties, zeros and nan": ties.ROWS,
    "Layers": layers.ROWS,
    "Normalisation": norms.ROWS,
    "Attention and recurrence": sequences.ROWS,
    "Modules": modules.ROWS,
    "Initial values": initial.ROWS,
    "Losses": losses.ROWS,
    "Optimizers": optimizers.ROWS,
    "Training": training.ROWS,
    "Compiled functions": compiled.ROWS,
}
ROWS = {row.slug: row for rows in TOPICS.values() for row in rows}
