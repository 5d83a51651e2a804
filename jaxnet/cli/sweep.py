"""`jaxnet sweep`: its options, and what it prints."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from jaxnet.cli import train
from jaxnet.runs.config import Config, DataOptions, NetworkOptions, RunOptions, TrainingOptions

if TYPE_CHECKING:
    from jaxnet.sweep.sweep import Plan, Sweep, SweepProgress

SHOWN = 10  # settings of the table that is printed


@dataclass(frozen=True, kw_only=True)
class Networks(NetworkOptions):
    """The networks between the columns and the target."""

    hidden: tuple[str, ...] = ("128",)  # type: ignore[bad-override]
    """The sizes of the hidden layers, several networks apart: 32 64,64 are two."""


@dataclass(frozen=True, kw_only=True)
class Trainings(TrainingOptions):
    """How they are trained."""

    learning_rate: tuple[str, ...] = ("1e-4:1e-1:7",)  # type: ignore[bad-override]
    """Learning rates: several, or LOW:HIGH:COUNT, evenly spaced in their logarithm."""
    weight_decay: tuple[str, ...] = ()  # type: ignore[bad-override]
    """L2 added to the gradient (decoupled for adamw), in the same form; by default torch's."""


def sweep(
    data: DataOptions,
    networks: Networks,
    trainings: Trainings,
    run: RunOptions,
    *,
    seeds: int = 1,
    folds: int | None = None,
) -> int:
    """Train many networks at once, to find the best learning rate, weight decay and sizes.

    Try:

    jaxnet sweep

    jaxnet sweep --data wine.csv --target class --learning-rate 1e-4:1e-1:8 --hidden 32 64,64

    jaxnet sweep --data houses.parquet --target price --weight-decay 0 1e-4:1e-1:4 --folds 5

    Args:
        seeds: How many seeds, from --seed on. Each has its own split, initial weights and order of
            the rows.
        folds: Cross-validation: each of so many parts of the rows is held out in turn.
    """
    from jaxnet.sweep import sweep as sweeps  # brings JAX, which --help does without

    rates, decays, sizes = (
        parse_numbers("learning_rate", trainings.learning_rate),
        parse_numbers("weight_decay", trainings.weight_decay),
        parse_sizes(networks.hidden),
    )
    for name, values in (("learning_rate", rates), ("hidden", sizes)):
        if not values:
            raise ValueError(f"`{name}` must be at least one, got none")
    options: dict[str, Any] = asdict(data) | asdict(networks) | asdict(trainings) | asdict(run)
    options |= {"hidden": sizes[0], "learning_rate": rates[0], "weight_decay": None}
    plan = sweeps.plan(
        Config(**options),
        learning_rate=rates,
        weight_decay=decays,
        hidden=sizes,
        seeds=seeds,
        folds=folds,
    )
    _print_plan(plan)
    started = time.perf_counter()
    found = sweeps.train(plan, on_progress=_reporter())
    _print_sweep(plan, found, time.perf_counter() - started)
    return 0 if found.best else 1


def parse_numbers(name: str, words: Sequence[str]) -> tuple[float, ...]:
    """The numbers of words that are each one number, or LOW:HIGH:COUNT.

    Raises: ValueError naming the word.
    """
    numbers: list[float] = []
    for word in words:
        try:
            parts = word.split(":")
            if len(parts) == 1:
                numbers.append(float(word))
                continue
            low, high, count = float(parts[0]), float(parts[1]), int(parts[2])
            if len(parts) > 3 or not 0 < low < high < float("inf") or count < 2:
                raise ValueError
        except (ValueError, IndexError):
            raise ValueError(
                f"`{name}` must be numbers, or LOW:HIGH:COUNT with 0 < LOW < HIGH and COUNT of at "
                f"least 2, got {word!r}"
            ) from None
        ratio = high / low
        numbers += [float(f"{low * ratio ** (i / (count - 1)):.6g}") for i in range(count)]
    return tuple(numbers)


def parse_sizes(words: Sequence[str]) -> tuple[tuple[int, ...], ...]:
    """The hidden sizes of each network: 64,64 is one of two layers.

    Raises: ValueError naming the word.
    """
    try:
        return tuple(tuple(map(int, word.split(","))) for word in words)
    except ValueError:
        raise ValueError(
            f"`hidden` must be networks of comma-separated sizes, as in 32 64,64; got {words}"
        ) from None


def _print_plan(plan: Plan) -> None:
    """Say what was read, and how many networks are trained in which way."""
    from jaxnet.sweep import sweep as sweeps

    config, number, dataset = plan.config, plan.num_members, plan.dataset
    rows = dataset.train_rows, dataset.validation_rows
    held_out = (
        f"{rows[1]} held out"
        if plan.folds is None
        else f"each held out by one of {plan.folds} folds"
    )
    print(f"{Path(dataset.table.path).name}: {sum(rows)} rows, {held_out}")
    train.print_task(dataset, config)
    seeds = len({key.seed for key in plan.keys})
    folds = f" x {plan.folds} folds" if plan.folds else ""
    programs = len(plan.architectures)
    print(
        f"{number} networks: {_count(len(plan.settings), 'setting')} x {_count(seeds, 'seed')}"
        f"{folds}; {config.activation}, {config.optimizer}, batch {dataset.batch_size}, "
        f"{_count(config.epochs, 'epoch')}, in {_count(programs, 'program')}:"
    )
    for hidden in plan.architectures:
        sizes = dataset.spec.sizes[0], *hidden, dataset.spec.sizes[-1]
        mapping = sweeps.mapping_of(plan, hidden)
        print(f"  {'-'.join(map(str, sizes))}: {mapping.reason}")


def _count(number: int, what: str) -> str:
    return f"{number} {what}{'s' * (number != 1)}"


def _reporter() -> Callable[[SweepProgress], None]:
    """A line at each tenth of the way, at least a second apart."""
    printed, last = 0, time.perf_counter()

    def report(progress: SweepProgress) -> None:
        nonlocal printed, last
        tenth, now = int(progress.share * 10), time.perf_counter()
        if tenth > printed and now - last >= 1 and tenth < 10:
            printed, last = tenth, now
            print(
                f"{progress.share:.0%}: {progress.members} of {progress.num_members} networks",
                flush=True,
            )

    return report


def _print_sweep(plan: Plan, found: Sweep, seconds: float) -> None:
    """Print the best settings with mean and spread, where everything is, and what to do next."""
    from rich.console import Console

    made = sum(member.epochs for member in found.members)
    print(
        f"{made:,} epochs of {plan.num_members} networks, and the best once more: {seconds:.1f} s"
    )
    Console().print(_table(plan, found))
    names = (path.name + "/" * path.is_dir() for path in found.folder.iterdir())
    print(f"{found.folder}: " + ", ".join(sorted(name for name in names if name[0] != ".")))
    if found.best is None:
        print("every setting diverged: try smaller learning rates, scaled inputs, or float64")
        return
    best, data = found.best.folder, Path(plan.dataset.source["path"])
    train.print_commands(
        f"show {train.quote(best)}",
        f"predict {train.quote(best)} --data {train.quote(train.short(data))} "
        "--out predictions.csv",
    )


def _table(plan: Plan, found: Sweep):
    """The best settings, with mean and standard deviation over seeds and folds."""
    from rich.table import Table

    table = Table(box=None, pad_edge=False)
    for name in ("hidden", "learning\nrate", "weight\ndecay"):
        table.add_column(name, justify="right", no_wrap=True)
    for name in ("loss", *(name for name in found.table[0].mean if name != "loss")):
        table.add_column(f"val_{name}", justify="right", no_wrap=True)
    for row in found.table[:SHOWN]:
        decay = row.setting.weight_decay
        texts = [",".join(map(str, row.setting.hidden)), f"{row.setting.learning_rate:.4g}"]
        texts.append("default" if decay is None else f"{decay:.4g}")
        if row.diverged:
            texts.append(f"{row.diverged} of {row.members} diverged")
        texts += [_value(name, row.mean[name], row.std[name]) for name in row.mean]
        table.add_row(*texts)
    if len(found.table) > SHOWN:
        table.caption = f"the best {SHOWN} of {len(found.table)} settings; all in sweep.csv"
        table.caption_justify = "left"
    return table


def _value(name: str, mean: float | None, std: float | None) -> str:
    if std is None:
        return train.format_(name, mean)
    spread = f"{std:.2%}" if name == "accuracy" else f"{std:.2g}"
    return f"{train.format_(name, mean)} +- {spread}"
