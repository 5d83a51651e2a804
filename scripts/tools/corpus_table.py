"""Write docs/corpus.md: what `parity.check` says of each bug of the corpus.

python scripts/tools/corpus_table.py    # takes a minute; needs PyTorch
"""

import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]
HEAD = """# What is said of real porting bugs

Each line is a bug that people met when they ported a model or an optimizer, rebuilt small in our
own words and code; its report is linked. `parity.check` compares the wrong port with a PyTorch
reference, and says in which stage and layer they part first, and why; it says nothing of the
repaired port.

| source | what was wrong | first stage | layer | cause, as named |
|---|---|---|---|---|
"""


def main():
    sys.path[:0] = [str(ROOT / "tests"), str(ROOT / "tests/parity")]
    import jax
    from corpus import BUGS
    from corpus.check import check, row

    jax.config.update("jax_disable_most_optimizations", True)  # compiling takes the time
    rows = [row(source, check(source, wrong=True)) for source in BUGS]
    (ROOT / "docs/corpus.md").write_text(HEAD + "\n".join(rows) + "\n")


if __name__ == "__main__":
    main()
