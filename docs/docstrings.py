"""Docstrings of this repository, which are plain text, as reStructuredText for the reference."""

import re

NAME = r"[a-z_]\w*(?:\([\w, ]*\))?"
NAMED = re.compile(rf"({NAME}(?:, {NAME})*|Raises|Fitted): ?(.*)")


def marked(line: str) -> str:
    """Escape what plain text does not mean as markup, outside of `code`."""
    texts = re.split(r"`+([^`]+)`+", line)
    for i, text in enumerate(texts):
        if i % 2:
            texts[i] = f"``{text}``" + "\\ " * (texts[i + 1][:1].isalnum())
        else:
            texts[i] = re.sub(r"([*|\\])|(?<=\w)(_)(?!\w)", r"\\\1\2", text)
    return "".join(texts)


def to_rst(lines: list[str]) -> list[str]:
    """Make a list of lines such as `x: (N, D_in) floats`, and code of indented blocks."""
    out: list[str] = []
    state = "text"  # or "item" or "code"
    for line in lines:
        named = NAMED.fullmatch(line)
        if not line.strip():
            state = "text" if state == "item" else state
            out.append("")
        elif line.startswith("    ") and (state == "code" or not (out and out[-1].strip())):
            out += [] if state == "code" else ["::", ""]
            out.append(line)
            state = "code"
        elif named:
            out += [""] if state == "text" else []
            out.append(f"- **{named[1]}**: {marked(named[2])}")
            state = "item"
        elif state == "item":
            out.append("  " + marked(line.strip()))
        else:
            state = "text"
            out.append(marked(line))
    return out


def on_docstring(app, what, name, obj, options, lines):
    lines[:] = to_rst(lines)


def on_member(app, what, name, obj, skip, options):
    return True if type(obj).__name__ == "_tuplegetter" else None  # "Alias for field number 0"


def on_signature(app, what, name, obj, options, signature, returns):
    return (signature or "").replace("<factory>", "...") or None, returns


def setup(app):
    app.connect("autodoc-process-docstring", on_docstring)
    app.connect("autodoc-skip-member", on_member)
    app.connect("autodoc-process-signature", on_signature)
    return {"parallel_read_safe": True}
