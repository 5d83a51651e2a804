"""The examples for porters of the README and the page of parity: the reports, the port mended."""

import re

from test_readme import README, ROOT, alike, blocks


def test_the_bug_is_named_and_the_mended_port_is_equal(capsys):
    code, shown = next(pair for pair in blocks(README, "python") if "import torch" in pair[0])
    exec(compile(code, "port", "exec"), {})
    assert alike(capsys.readouterr().out, shown)
    exec(
        compile(
            code.replace('x @ params["0.weight"] +', 'x @ params["0.weight"].T +'), "port", "exec"
        ),
        {},
    )
    assert capsys.readouterr().out.splitlines()[0].endswith(": equal, 4,096 numbers compared")


def told(report):
    """The report without what rounding decides: which leaf is the worst, in which step."""
    row = r"(?m)^(mathematics|precision)(\s+\w+(?: run)?)\s+\S+\s+\S+"
    return re.sub(" +", " ", re.sub(row, r"\1\2 leaf", report))


def test_the_page_of_parity_shows_what_is_printed(capsys):
    """Of the port, of the port mended, and of one whose square layer is not declared."""
    page = (ROOT / "docs/parity.md").read_text()
    code = next(code for code, _ in blocks(page, "python") if "class FlaxNet" in code)
    shown = [text for text, _ in blocks(page, "") if text.startswith("my port")]
    mended = code.replace("nnx.LayerNorm(5,", "nnx.LayerNorm(5, epsilon=1e-5,")
    square = mended.replace('"mix/kernel": ("mix.weight", (1, 0))', '"mix/kernel": "mix.weight"')
    assert len({code, mended, square}) == len(shown) == 3
    for version, text in zip((code, mended, square), shown, strict=True):
        exec(compile(version, "my_port", "exec"), {"__name__": "__main__"})
        assert alike(told(capsys.readouterr().out), told(text)), text
