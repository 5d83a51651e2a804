"""The command line: finds the command, runs it, and turns errors into one line and an exit code."""

from __future__ import annotations

import atexit
import contextlib
import difflib
import gc
import inspect
import io
import logging
import os
import re
import signal
import sys
from collections.abc import Sequence
from dataclasses import is_dataclass
from typing import Any, get_type_hints

import tyro

import jaxnet
from jaxnet.cli import output
from jaxnet.cli.doctor import Doctor
from jaxnet.cli.evaluate import Evaluate
from jaxnet.cli.exercise import Exercise
from jaxnet.cli.export import Export
from jaxnet.cli.import_weights import Import
from jaxnet.cli.options import TrainingCommand
from jaxnet.cli.parity import Parity
from jaxnet.cli.predict import Predict
from jaxnet.cli.processes import is_silent, leave
from jaxnet.cli.show import Show
from jaxnet.cli.sweep import Sweep
from jaxnet.cli.train import Train
from jaxnet.cli.usage import explain, suggest
from jaxnet.engine.signals import ProcessLost, RemoteError, raise_on_signals

# name -> the dataclass of its options, whose call runs it and returns the exit code
COMMANDS: dict[str, type] = {
    "train": Train,
    "sweep": Sweep,
    "show": Show,
    "evaluate": Evaluate,
    "predict": Predict,
    "export": Export,
    "import": Import,
    "parity": Parity,
    "doctor": Doctor,
    "exercise": Exercise,
}
LONGEST = 4000  # characters of a message
CONFIG = (
    tyro.conf.OmitArgPrefixes,
    tyro.conf.DisallowNone,
    tyro.conf.PositionalMetavarFromFieldName,
)


def run() -> int:
    """Run the command line in a process of its own: `main`, with its signals and its output."""
    ended: list[int] = []
    atexit.register(_exit_at_once, ended)  # first, so that it is called last
    gc.set_threshold(50_000, 20, 100)  # imports make next to no garbage
    output.guard()
    raise_on_signals()
    ended.append(output.exit_code(main()))
    return ended[0]


def _exit_at_once(ended: list[int]) -> None:
    """End the process of a command that has ended; Python would free each object first."""
    if ended:
        sys.stderr.flush()
        os._exit(ended[0])


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; the exit code is 0 done, 1 unequal, 2 bad input, 128 + signal."""
    argv = list(sys.argv[1:] if argv is None else argv)
    if argv == ["--version"]:
        print(f"jaxnet {jaxnet.__version__}")
        return 0
    if not argv or argv[0] not in COMMANDS:
        return _help(argv)
    command, options = COMMANDS[argv[0]], options_of(COMMANDS[argv[0]])
    _set_output(options)
    return leave(_run(command, argv, options))


def _help(argv: list[str]) -> int:
    """Print the commands, if there is no other; name a command that does not exist."""
    if argv and argv[0] not in ("-h", "--help"):
        near = difflib.get_close_matches(argv[0], COMMANDS, 1)
        hint = f"did you mean {near[0]}?" if near else f"choose from {', '.join(COMMANDS)}"
        return _fail(2, f"there is no command {argv[0]!r}; {hint}", {})
    lines = [f"  {name:10}{(c.__doc__ or '').splitlines()[0]}" for name, c in COMMANDS.items()]
    print(
        "usage: jaxnet COMMAND [OPTIONS]\n\n"
        "Feed-forward networks in JAX, proven equal to NumPy and PyTorch.\n\n"
        + "\n".join(lines)
        + "\n\njaxnet COMMAND --help shows its options, with examples.",
        file=sys.stdout if argv else sys.stderr,
    )
    return 0 if argv else 2


def _run(command: type, argv: list[str], options: dict[str, str]) -> int:
    try:
        parsed = _parse(command, argv, options)
        with getattr(parsed, "beside", contextlib.nullcontext)():
            return _call(parsed)
    except OSError as error:
        text = error.strerror if error.errno and error.filename is None else None
        return _fail(2, text or str(error), options)
    except ProcessLost as error:
        return leave(_fail(2, str(error), options), lost=True)
    except (ValueError, FloatingPointError, MemoryError, RemoteError) as error:
        return _fail(2, "" if is_silent(error) else str(error), options)
    except SystemExit as stop:  # tyro has printed the help
        return int(stop.code or 0)
    except KeyboardInterrupt as stop:  # or signals.Stopped, which is one
        number = getattr(stop, "signum", signal.SIGINT)
        text = "" if is_silent(stop) else str(stop) or "interrupted"
        return _fail(128 + number, text, options)


def _call(command: Any) -> int:
    if getattr(command, "cache", False):
        from jaxnet.engine import compile_cache

        compile_cache.enable()
    escaping: Any = output.Escaping(sys.stdout)
    with contextlib.redirect_stdout(escaping):
        code = command()
    sys.stdout.flush()
    return code


def _parse(command: type, argv: list[str], options: dict[str, str]) -> Any:
    """The command with its options; those of the run that it names are the defaults.

    Raises: ValueError, in one line, for words that are no options, or no values of theirs.
    """

    def parse(**default: Any) -> Any:
        printed = io.StringIO()
        try:
            with contextlib.redirect_stderr(printed):
                parsed, rest = tyro.cli(
                    command,
                    prog=f"jaxnet {argv[0]}",
                    description=inspect.getdoc(command),
                    args=argv[1:],
                    config=CONFIG,
                    return_unknown_args=True,
                    **default,
                )
        except SystemExit as stop:
            if stop.code:
                raise ValueError(explain(printed.getvalue(), argv, options)) from None
            raise
        if rest:
            raise ValueError(suggest(rest[0], argv, options))
        return parsed

    parsed = parse()
    if not isinstance(parsed, TrainingCommand) or parsed.options_from is None:
        return parsed
    from jaxnet.runs import Record

    return parse(default=parsed.with_options(Record.load(parsed.options_from).config))


def options_of(command: type) -> dict[str, str]:
    """What is typed on the command line for each argument of a command."""
    found: dict[str, str] = {}
    for name, kind in get_type_hints(command, include_extras=True).items():
        if is_dataclass(kind):
            found |= options_of(kind)
        elif hasattr(kind, "__metadata__"):  # Positional
            found[name] = name.upper()
        else:
            found[name] = "--" + name.replace("_", "-")
    return found


def with_options(text: str, options: dict[str, str]) -> str:
    """A message with options in place of the Python arguments that it names in backquotes."""
    return re.sub("`(\\w+)`", lambda name: options.get(name[1], name[0]), text)


def _fail(code: int, text: str, options: dict[str, str]) -> int:
    if text:
        _say(text, options)
    return code


def _say(text: str, options: dict[str, str]) -> None:
    line = output.escaped(with_options(text, options))
    shown = line if len(line) <= LONGEST else f"{line[:LONGEST]}..."
    print(f"jaxnet: {shown}", file=sys.stderr)


def _set_output(options: dict[str, str]) -> None:
    """Print with escapes for what the encoding lacks; show what the library logs as our lines."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    handler, log = logging.Handler(), logging.getLogger("jaxnet")
    handler.emit = lambda record: _say(record.getMessage(), options)
    log.propagate, log.handlers = False, [handler]
