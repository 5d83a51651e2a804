"""What was typed wrong, in one line, with the option that was probably meant."""

from __future__ import annotations

import difflib
import re
from collections.abc import Collection, Sequence

KINDS = {  # of values, as the parser writes them
    "INT": "an integer",
    "FLOAT": "a number",
    "[INT [INT ...]]": "integers",
}


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
    found = difflib.get_close_matches(name.replace("_", "-"), known, 1, cutoff=0.7)
    return f"did you mean {found[0]}?" if found else ""


def _help(command: str) -> str:
    return f"jaxnet {command} --help shows its options"


def explain(box: str, argv: Sequence[str], options: dict[str, str]) -> str:
    """Return in one line what the parser has printed, in a box, of the words of `argv`."""
    sections = _sections(box)
    for section in sections:
        if section[0].startswith("Unrecognized"):
            return suggest(section[1].split()[0], argv, options)
    first, *rest = sections
    text = " ".join(line.strip() for line in first)
    if first[0].startswith("Missing from"):
        names = [line.split()[0] for line in first if re.match(r" {4}\S", line)]
        return f"missing: {', '.join(names)}; {_help(argv[0])}"
    wrong, got = re.match(r"Error parsing (\S+):", text), re.findall(r"'[^']*'", text)
    if wrong and got and len(rest) > 1:
        words = rest[0][1].strip().partition(" ")[2]
        return f"{wrong[1]} must be {KINDS.get(words, words)}, got {got[-1]}"
    return f"{text.rstrip('.')}; {_help(argv[0])}"


def _sections(box: str) -> list[list[str]]:
    """The lines inside a box, in parts that are divided by rules, without its title and colours."""
    sections: list[list[str]] = [[]]
    for line in re.sub(r"\x1b\[[\d;]*m", "", box).splitlines()[1:]:
        inside = line.rstrip(" │")[2:]  # the box may be of spaces and - where there is no UTF-8
        if inside and not inside.strip("─-╯ "):
            sections.append([])
        elif inside:
            sections[-1].append(inside)
    return [section for section in sections if section]
