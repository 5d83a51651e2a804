"""The command line: options in, messages out; only here does an error become an exit code."""

from __future__ import annotations

import atexit
import functools
import gc
import inspect
import logging
import os
import signal
import sys
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Annotated, Any, get_type_hints

import tyro

import jaxnet
from jaxnet.cli import parity as cli_parity
from jaxnet.cli import train as cli_train
from jaxnet.cli.export import export
from jaxnet.cli.parity import ParityOptions
from jaxnet.cli.predict import evaluate, predict
from jaxnet.cli.processes import ONE, ProcessOptions, check, is_silent, join, launch, part
from jaxnet.cli.show import show
from jaxnet.cli.sweep import sweep
from jaxnet.engine.signals import ProcessLost, RemoteError
from jaxnet.runs.config import (
    Config,
    DataOptions,
    NetworkOptions,
    RunOptions,
    ScaleOptions,
    TrainingOptions,
)

Programs = Annotated[
    tuple[str, ...],
    tyro.conf.Positional,
    tyro.conf.arg(
        metavar="[PROGRAM ...]",
        help="tensors, sequential, module or dynamic; without one, all of them.",
        help_behavior_hint="",
    ),
]
Weights = Annotated[
    Path, tyro.conf.Positional, tyro.conf.arg(metavar="FILE", help="A .safetensors file.")
]
NoCache = Annotated[
    bool,
    tyro.conf.FlagCreatePairsOff,
    tyro.conf.arg(
        help="Compile everything anew, and keep nothing of it in the user's cache folder."
    ),
]


@dataclass(frozen=True, kw_only=True)
class Scale(ScaleOptions):
    """Beyond one device, and one device's memory."""

    devices: Annotated[
        int | str | None, tyro.conf.arg(aliases=("--mesh",), metavar="N|all|data=N,model=M")
    ] = None


GROUPS = {
    "data": DataOptions,
    "network": NetworkOptions,
    "training": TrainingOptions,
    "run": RunOptions,
    "scale": Scale,
}
arguments: list[str] = []  # of this process, for those that it starts


def train(
    data: DataOptions,
    network: NetworkOptions,
    training: TrainingOptions,
    run: RunOptions,
    scale: Scale,
    processes: ProcessOptions = ONE,
    *,
    resume: Path | None = None,
) -> int:
    """Train a feed-forward network on a table, or on the handwritten digits if none is given.

    Try:

    jaxnet train

    jaxnet train --data wine.csv --target class

    jaxnet train --data houses.parquet --target price --hidden 256 64 --epochs 200 --patience 20

    jaxnet train --data genes.npz --target y --optimizer adamw --weight-decay 0.1 --schedule warmup

    jaxnet train --resume runs/wine-1 --epochs 100

    jaxnet train --data parts/ --target price --batch-size 4096 --devices all

    Args:
        resume: The folder of a run to go on with, to the same bits as if it had never stopped. Its
            options hold; epochs, learning rate, schedule, patience, devices and how it is saved
            may be given anew.
    """
    config = _config(data, network, training, run, scale)
    check(processes)
    if processes.processes > 1:
        return launch(arguments, processes.processes, config.device)
    join(processes)
    return cli_train.train(config) if resume is None else cli_train.resume(resume, config)


def import_weights(
    weights: Weights,
    data: DataOptions,
    network: NetworkOptions,
    training: TrainingOptions,
    run: RunOptions,
    scale: Scale,
    *,
    like: Path | None = None,
    layers: tuple[str, ...] = (),
) -> int:
    """Begin a run with weights from PyTorch, to be trained on with `jaxnet train --resume`.

    In PyTorch: safetensors.torch.save_file(model.state_dict(), "model.safetensors"), for a model of
    Linear layers with one activation between them. The sizes are those of the file.

    Try:

    jaxnet import model.safetensors --like runs/wine-1

    jaxnet import model.safetensors --data wine.csv --target class --activation tanh

    Args:
        like: A run whose options hold where none are given, and whose encoding of the columns.
        layers: The names of the Linear layers in order, if their names do not tell.
    """
    config = _config(data, network, training, run, scale)
    hidden = NetworkOptions().hidden if like is None else _options_of(like).hidden
    return cli_train.import_weights(weights, like, layers, config, hidden)


def _config(*groups: Any) -> Config:
    options: dict[str, Any] = {}
    for group in groups:
        options |= asdict(group)
    return Config(**options)


def parity(programs: Programs = (), *, comparison: ParityOptions) -> int:
    """Compare every version of the tutorial's networks with NumPy's gradients by hand.

    The exit code is 0 if all are equal, 1 for a mismatch, whose likely cause is named, 2 if they
    could not be compared.
    """
    return cli_parity.run(programs, comparison)


COMMANDS: dict[str, Callable[..., int]] = {
    "train": train,
    "sweep": sweep,
    "show": show,
    "evaluate": evaluate,
    "predict": predict,
    "export": export,
    "import": import_weights,
    "parity": parity,
}
DEFAULTS = {"train": "--resume", "import": "--like"}  # options that name the run to take others of
COMPILE_NOTHING = {"show"}


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; the exit code is 0 done, 1 unequal, 2 bad input, 128 + signal."""
    if argv is None:  # the process is ours
        _collect_less_garbage()
    argv = list(sys.argv[1:] if argv is None else argv)
    if argv == ["--version"]:
        print(f"jaxnet {jaxnet.__version__}")
        return 0
    arguments[:] = argv
    _log_to_stderr()
    return part(_run(argv))


def _run(argv: list[str]) -> int:
    try:
        return tyro.extras.subcommand_cli_from_dict(
            {name: _cached(name, f) for name, f in (COMMANDS | _with_run_options(argv)).items()},
            prog="jaxnet",
            description="Feed-forward networks in JAX, proven equal to NumPy and PyTorch.",
            args=argv,
            config=(tyro.conf.OmitArgPrefixes, tyro.conf.DisallowNone),
        )
    except BrokenPipeError:  # the reader of our output has gone, as `head` does
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 128 + signal.SIGPIPE
    except OSError as error:
        text = error.strerror if error.errno and error.filename is None else None
        return _fail(2, text or str(error))
    except ProcessLost as error:
        return part(_fail(2, str(error)), lost=True)
    except (ValueError, FloatingPointError, MemoryError, RemoteError) as error:
        return _fail(2, "" if is_silent(error) else str(error))
    except SystemExit as stop:  # tyro has printed the help, or what it could not parse
        return int(stop.code or 0)
    except KeyboardInterrupt as stop:  # or runs.Stopped, which is one
        number = getattr(stop, "signum", signal.SIGINT)
        silent = is_silent(stop)
        return _fail(128 + number, "" if silent else str(stop) or "interrupted")


def _collect_less_garbage() -> None:
    """Save half a second: imports make next to none, and the exit needs no search for it."""
    gc.set_threshold(50_000, 20, 100)
    atexit.register(gc.freeze)


def _cached(name: str, command: Callable[..., int]) -> Callable[..., int]:
    """The command with the option --no-cache, if it compiles anything."""
    if name in COMPILE_NOTHING:
        return command

    def with_cache(*args: Any, no_cache: bool, **options: Any) -> int:
        starts = (
            getattr(options.get("processes"), "processes", 1) > 1
        )  # others, and computes nothing
        if not (no_cache or starts):
            from jaxnet.engine import compile_cache  # brings JAX, which --help does without

            compile_cache.enable()
        return command(*args, **options)

    option = inspect.Parameter("no_cache", inspect.Parameter.KEYWORD_ONLY, default=False)
    _set_signature(with_cache, [*inspect.signature(command).parameters.values(), option])
    with_cache.__annotations__ = get_type_hints(command, include_extras=True) | {
        "no_cache": NoCache
    }
    with_cache.__doc__ = command.__doc__
    return with_cache


def _set_signature(function: Callable, parameters: list[inspect.Parameter]) -> None:
    """Give a function the parameters, and so the defaults, that tyro reads."""
    function.__signature__ = inspect.Signature(parameters)  # type: ignore[attr]


def _log_to_stderr() -> None:
    """Show what the library logs as lines of this program; the stream is that of each line."""
    log = logging.getLogger("jaxnet")
    log.propagate = False
    log.handlers = [_Lines()]


class _Lines(logging.Handler):
    def emit(self, record: logging.LogRecord) -> None:
        print(f"jaxnet: {record.getMessage()}", file=sys.stderr)


def _fail(code: int, text: str) -> int:
    if text:
        print(f"jaxnet: {text}", file=sys.stderr)
    return code


def _with_run_options(argv: list[str]) -> dict[str, Callable[..., int]]:
    """The command of `argv` with a run's options as its defaults, if it names a run for that."""
    option = DEFAULTS.get(argv[0] if argv else "")
    folder = None
    for i, word in enumerate(argv):
        if word == option and i + 1 < len(argv):
            folder = argv[i + 1]
        elif option and word.startswith(f"{option}="):
            folder = word.partition("=")[2]
    if folder is None:
        return {}
    command, values = COMMANDS[argv[0]], asdict(_options_of(Path(folder)))

    @functools.wraps(command)
    def with_options(*args: Any, **options: Any) -> int:
        return command(*args, **options)

    parameters = [
        parameter.replace(default=_pick(GROUPS[name], values)) if name in GROUPS else parameter
        for name, parameter in inspect.signature(command).parameters.items()
    ]
    _set_signature(with_options, parameters)
    return {argv[0]: with_options}


def _options_of(folder: Path) -> Config:
    from jaxnet.runs import Record

    return Record.load(folder).config


def _pick(group: type, values: dict[str, Any]) -> Any:
    return group(**{field.name: values[field.name] for field in fields(group)})
