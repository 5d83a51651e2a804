"""Directives that show programs and what they print, run while the site is built.

`columns STAGE PART` shows a part of a stage of the tutorial in PyTorch, NumPy and JAX side by side;
the part `output` is what the three print, whose numbers must agree. `script PATH` shows a script.
"""

import ast
import importlib.util
import math
import os
import re
import subprocess
import sys
from functools import cache
from pathlib import Path

from docutils import nodes
from sphinx.errors import ExtensionError
from sphinx.util.docutils import SphinxDirective

TUTORIAL = Path(__file__).parent / "tutorial"
FRAMEWORKS = {"torch": "PyTorch", "numpy": "NumPy", "jax": "JAX"}
HAS_TORCH = importlib.util.find_spec("torch") is not None


@cache
def run(path: Path) -> str:
    """Return what a program prints; it must end well and print nothing on stderr."""
    done = subprocess.run(
        [sys.executable, "-W", "error", path],
        capture_output=True,
        text=True,
        timeout=600,
        env=os.environ | {"JAX_PLATFORMS": "cpu"},
    )
    if done.returncode or done.stderr:
        raise ExtensionError(f"{path} failed:\n{done.stderr}")
    return done.stdout


def recorded(stage: str) -> Path:
    """Return the file of what a stage's program in PyTorch prints."""
    return TUTORIAL / f"{stage}_torch.txt"


def outputs(stage: str) -> dict[str, str]:
    """Return what a stage's programs print; PyTorch's as recorded if it is not installed."""
    live = [name for name in FRAMEWORKS if name != "torch" or HAS_TORCH]
    return {"torch": recorded(stage).read_text()} | {
        name: run(TUTORIAL / f"{stage}_{name}.py") for name in live
    }


def agree(printed: str, other: str) -> bool:
    """Whether two outputs hold the same numbers, to the last of seven digits."""
    a, b = (list(map(float, re.findall(r"-?\d[\d.]*(?:e[-+]\d+)?", t))) for t in (printed, other))
    return len(a) == len(b) and all(map(lambda x, y: math.isclose(x, y, rel_tol=2e-6), a, b))


def parts(path: Path) -> dict[str, str]:
    """Return the parts of a program, each of which begins with a line `# %% name`."""
    pieces = re.split(r"^# %% (\w+)\n", path.read_text(), flags=re.MULTILINE)
    return {name: code.strip("\n") for name, code in zip(pieces[1::2], pieces[2::2], strict=True)}


def block(text: str, language: str) -> nodes.literal_block:
    return nodes.literal_block(text, text, language=language)


class Columns(SphinxDirective):
    required_arguments = 2

    def run(self):
        stage, part = self.arguments
        if part == "output":
            shown = outputs(stage)
            for name in FRAMEWORKS:
                if not agree(shown[name], shown["numpy"]):
                    raise ExtensionError(f"stage {stage} prints other numbers in {name}")
        else:
            shown = {name: parts(TUTORIAL / f"{stage}_{name}.py")[part] for name in FRAMEWORKS}
        row = nodes.container(classes=["columns"])
        for name, title in FRAMEWORKS.items():
            self.env.note_dependency(str(TUTORIAL / f"{stage}_{name}.py"))
            if (part, name, HAS_TORCH) == ("output", "torch", False):
                title += ", recorded"
            code = block(shown[name], "none" if part == "output" else "python")
            row += nodes.container("", nodes.paragraph(text=title, classes=["framework"]), code)
        return [row]


class Script(SphinxDirective):
    required_arguments = 1

    def run(self):
        path = (Path(self.env.srcdir) / self.arguments[0]).resolve()
        self.env.note_dependency(str(path))
        source = path.read_text()
        docstring = ast.parse(source).body[0]
        code = "\n".join(source.splitlines()[docstring.end_lineno :]).strip("\n")
        prints = nodes.paragraph(text="It prints, where this page was built:")
        return [block(code, "python"), prints, block(run(path), "none")]


def setup(app):
    app.add_directive("columns", Columns)
    app.add_directive("script", Script)
    return {"parallel_read_safe": True}
