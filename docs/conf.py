"""Builds the site: `make docs`. It needs no network, nor does a reader."""

import ast
import re
import sys
from pathlib import Path

DOCS = Path(__file__).parent
ROOT = DOCS.parent
sys.path.insert(0, str(DOCS))

project = "jaxnet"
html_title = "jaxnet"
copyright = "the authors of jaxnet, MIT licence"
extensions = ["myst_nb", "sphinx.ext.autodoc", "sphinx.ext.autosummary", "sphinx_copybutton"]
extensions += ["docstrings", "programs"]
exclude_patterns = ["_templates"]
templates_path = ["_templates"]

html_theme = "furo"
html_static_path = ["site.css"]
html_css_files = ["site.css"]
html_show_sphinx = False
html_copy_source = False
highlight_language = "none"  # of a block that names none: a session or an output
copybutton_prompt_text = "$ "
copybutton_only_copy_prompt_lines = False

nitpicky = True
nitpick_ignore_regex = [("py:.*", ".*")]  # types of other packages, whose pages are on the network
myst_heading_anchors = 3
nb_execution_mode = "force"
nb_execution_raise_on_error = True
nb_execution_timeout = 300

# Pages link to files as they lie in the repository, where GitHub follows them. On the site:
ON_THE_SITE = {
    "../README.md": "index.md",
    "../CHANGELOG.md": "changelog.md",
    "../scripts/cluster/README.md": "cluster.md",
}


def link(app, docname, source):
    """Turn a page's links to files outside docs/ to the pages that show them."""
    for file, page in ON_THE_SITE.items():
        source[0] = source[0].replace(f"]({file}", f"]({page}")
    source[0] = re.sub(r"\.\./scripts/(\d\d_\w+)\.py\)", r"scripts/\1.md)", source[0])


def write_script_pages(app):
    """Write a page for each numbered script: its docstring, its source, what it prints."""
    for script in (ROOT / "scripts").glob("[01]*_*.py"):
        doc = ast.get_docstring(ast.parse(script.read_text())) or ""
        title, _, rest = doc.partition(": ")
        page = DOCS / "scripts" / f"{script.stem}.md"
        text = f"# {title}\n\n{rest[:1].upper()}{rest[1:]}\n\n`python scripts/{script.name}`\n\n"
        text += f"```{{script}} ../scripts/{script.name}\n```\n"
        if not page.exists() or page.read_text() != text:
            page.write_text(text)


def setup(app):
    app.connect("builder-inited", write_script_pages)
    app.connect("source-read", link)
