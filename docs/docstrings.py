"""Docstrings of this repository, which are plain text, as reStructuredText for the reference."""

import re

NAMED = re.compile(r"([a-z_]\w*(?:, [a-z_]\w*)*|Raises|Fitted): ?(.*)")


def marked(line: str) -> str:
    """Escape what plain text does not mean as markup, outside of `code`."""
    texts = re.split(r"`+([^`]+)`+", line)
    for i, text in enumerate(texts):
        if i % 2:
            texts[i] = f"``{text}``" + "\\ " * (texts[i + 1][:1].isalnum())
        else:
            texts[i] = re.sub(r"([*|\\])|(?<=\w)(_)(?!\w)", r"\\\1\2", text)
    return "".join(texts)


def field(name: str, text: str) -> str:
    """Return the field of a line such as `x: (N, D_in) floats`, or `Raises: ValueError if`."""
    if name == "Raises":
        error, _, text = text.partition(" ")
        return f":raises {error.rstrip(':,')}: {marked(text)}"
    return f":{name}: {marked(text)}"


def to_rst(lines: list[str]) -> list[str]:
    out: list[str] = []
    state = "text"  # or "field" or "code"
    for line in lines:
        named = NAMED.fullmatch(line)
        if not line.strip():
            state = "text" if state == "field" else state
            out.append("")
        elif line.startswith("    ") and (state == "code" or not (out and out[-1].strip())):
            out += [] if state == "code" else ["::", ""]
            out.append(line)
            state = "code"
        elif named:
            out += [""] if state == "text" else []
            out.append(field(*named.groups()))
            state = "field"
        elif state == "field":
            out.append("   " + marked(line.strip()))
        else:
            state = "text"
            out.append(marked(line))
    return out


def on_docstring(app, what, name, obj, options, lines):
    lines[:] = to_rst(lines)


def setup(app):
    app.connect("autodoc-process-docstring", on_docstring)
    return {"parallel_read_safe": True}
