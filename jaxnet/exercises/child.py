"""The reader's process: runs the file, asks its functions, and returns what they answered.

It judges nothing: what it says is compared in the process that started it.
"""

from __future__ import annotations

import faulthandler
import math
import os
import re
import signal
import sys
import traceback
import types
from pathlib import Path
from typing import Any

from jaxnet.exercises import wire
from jaxnet.exercises.errors import LEAKED
from jaxnet.exercises.exercise import Exercise, WrongAnswerError, flatten
from jaxnet.exercises.table import EXERCISES

FRAMES = 3  # lines of the reader's file that are shown of an exception
TEXT = 300  # characters of its message


def main(descriptor: int) -> None:
    """Answer the request on standard input by a message to `descriptor`, and end."""
    os.set_inheritable(descriptor, False)
    faulthandler.enable(os.dup(2))  # the lines where it is, if it is ended
    request = wire.unpack(sys.stdin.buffer.read())
    signal.alarm(math.ceil(request["seconds"]) + 10)  # if the check itself is killed
    sys.stdin = open(os.devnull)  # noqa: SIM115
    sys.path.append(str(Path(request["path"]).parent))  # at the end: libraries come first
    exercise = EXERCISES[request["number"]]
    message = wire.pack(answer(exercise, request["path"], request["source"], request["rounds"]))
    sys.stdout.flush()
    with open(descriptor, "wb") as channel:
        channel.write(len(message).to_bytes(8, "little") + message)
    os._exit(0)


def answer(exercise: Exercise, path: str, source: str, rounds: list[Any]) -> dict[str, Any]:
    """Run a file and ask its functions in each round.

    Returns {"answers": [...], "facts": [...]}; or {"failed": what is wrong, "error": "Type: text"}.
    """
    module = types.ModuleType("exercise")
    module.__file__ = path
    sys.modules["exercise"] = module
    try:
        exec(compile(source, path, "exec"), module.__dict__)
        for name in exercise.functions:
            if not callable(getattr(module, name, None)):
                raise WrongAnswerError(f"the file must define {name}: was it renamed or deleted?")
        found = [exercise.ask(module, **inputs) for inputs in rounds]
        for name, leaf in flatten([answers for answers, _ in found]).items():
            if "Tracer" in type(leaf).__name__:
                raise WrongAnswerError(f"{name.partition('/')[2]} is a tracer: {LEAKED}")
        return {"answers": [a for a, _ in found], "facts": [f for _, f in found]}
    except WrongAnswerError as wrong:
        return {"failed": str(wrong), "error": ""}
    except SystemExit as stop:
        where = _lines(stop, path) or ["sys.exit"]
        return {"failed": f"the file ends the program: {where[-1]}", "error": ""}
    except BaseException as error:
        name = f"{type(error).__name__}: {_short(str(error))}"
        return {"failed": "\n".join([name, *_lines(error, path)]), "error": f"{name} {error}"}
    finally:
        del sys.modules["exercise"]


def _lines(error: BaseException, path: str) -> list[str]:
    """The lines of the reader's file through which an exception came, the last ones."""
    frames = [f for f in traceback.extract_tb(error.__traceback__) if f.filename == path]
    lines = dict.fromkeys(f"line {f.lineno}, in {f.name}: {f.line}" for f in frames)
    return list(lines)[-FRAMES:]


def _short(text: str) -> str:
    """The first sentences of a message; JAX's go on for pages."""
    first = re.split(r"\n\s*\n|The error occurred while", text.strip())[0]
    first = " ".join(first.split())
    return first if len(first) <= TEXT else first[: TEXT - 3] + "..."
