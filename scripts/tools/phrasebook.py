"""Write docs/phrasebook.md from the table in scripts/phrasebook/.

python scripts/tools/phrasebook.py             # from what torch did, as recorded
python scripts/tools/phrasebook.py --record    # records it first; needs PyTorch
"""

import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]


def main():
    sys.path[0] = str(ROOT / "scripts")  # in the place of this folder, where this file is
    from phrasebook import ROWS, page, reference

    if "--record" in sys.argv[1:]:
        reference.record(list(ROWS.values()))
    (ROOT / "docs/phrasebook.md").write_text(page.page())


if __name__ == "__main__":
    main()
