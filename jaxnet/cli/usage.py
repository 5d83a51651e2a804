"""What was typed wrong, in one line, with the option that was probably meant."""

from __future__ import annotations

import difflib
import re
from collections.abc import Collection, Sequence


def suggest(word: str, argv: Sequence[str], options: dict[str, str]) -> str:
    """Return what to say of a word that the command of `argv` does not take.

    options: what is typed for each of its arguments.
    """
    known = [option for option in options.values() if option.startswith("--")]
    if word.startswith("-"):
        name = word.partition("=")[0]
        near = _near(name, [*known, *(f"--no-{option[2:]}" for option in known)])
        return f"there is no option {name}; {near or _help(argv[0])}"
    said = f"{word!r} is no option of jaxnet {argv[0]}"
    if "--data" not in known or "--data" in argv:
        return f"{said}; {_help(argv[0])}"
    target = " --target COLUMN" if "--target" in known and "--target" not in argv else ""
    return f"{said}; did you mean --data {word}{target}?"


def _near(name: str, known: Collection[str]) -> str:
    found = difflib.get_close_matches(name.replace("_", "-"), known, 1)
    return f"did you mean {found[0]}?" if found else ""


def _help(command: str) -> str:
    return f"jaxnet {command} --help shows its options"


def one_line(box: str, command: str) -> str:
    """Return what the parser has printed in a box, in one line and without the general advice."""
    lines = [line.strip("│╭╮╰╯").rstrip() for line in box.splitlines()]
    inside = [line for line in lines if line.strip("─ ") and "─ " not in line]
    missing = [found[1] for line in inside if (found := re.match(r" {5}(\S+)", line))]
    if missing and "Missing from" in inside[0]:
        return f"missing: {', '.join(missing)}; {_help(command)}"
    text = []
    for line in lines[1:]:
        if set(line.strip()) == {"─"}:
            break
        text.append(line.strip())
    return f"{' '.join(text)}; {_help(command)}".replace(".;", ";")
