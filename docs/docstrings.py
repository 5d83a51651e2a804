"""Docstrings of this repository, which are plain text, as reStructuredText for the reference."""

import inspect
import re


def marked(line: str) -> str:
    """Escape what plain text does not mean as markup, outside of `code`."""
    texts = re.split(r"`+([^`]+)`+", line)
    for i, text in enumerate(texts):
        if i % 2:
            texts[i] = f"``{text}``" + "\\ " * (texts[i + 1][:1].isalnum())
        else:
            texts[i] = re.sub(r"([*|\\])|(?<=\w)(_)(?!\w)", r"\\\1\2", text)
    return "".join(texts)


def paragraph_to_rst(paragraph: str, names: list[str]) -> list[str]:
    """Make code of an indented block, and a list of sentences such as `x: (N, D_in) floats`."""
    lines = paragraph.splitlines()
    if all(line.startswith("    ") for line in lines):
        return ["::", "", *lines, ""]
    if any(line.startswith("- ") for line in lines):
        return [*map(marked, lines), ""]
    name = rf"(?:{'|'.join(map(re.escape, [*names, 'Raises', 'Fitted']))})(?:\([\w, ]*\))?"
    item = rf"(?:^|(?<=[.;)] ))(?={name}(?:, {name})*: )"
    prose, *items = re.split(item, " ".join(map(str.strip, lines)))
    listed = (text.split(": ", 1) for text in items)
    return [marked(prose), "", *(f"- **{key}**: {marked(text)}" for key, text in listed), ""]


def on_docstring(app, what, name, obj, options, lines):
    try:
        names = list(inspect.signature(obj).parameters)
    except (TypeError, ValueError):
        names = []
    paragraphs = re.split(r"\n\s*\n", "\n".join(lines).strip("\n"))
    lines[:] = [line for text in paragraphs for line in paragraph_to_rst(text, names)]


def on_member(app, what, name, obj, skip, options):
    """Leave out the fields of named tuples, and what scikit-learn adds to an estimator."""
    foreign = (getattr(obj, "__module__", None) or "").startswith("sklearn")
    added = type(obj).__name__ == "_tuplegetter" or name.endswith("_request")
    return True if foreign or added else None


def on_signature(app, what, name, obj, options, signature, returns):
    return (signature or "").replace("<factory>", "...") or None, returns


def setup(app):
    app.connect("autodoc-process-docstring", on_docstring)
    app.connect("autodoc-skip-member", on_member)
    app.connect("autodoc-process-signature", on_signature)
    return {"parallel_read_safe": True}
