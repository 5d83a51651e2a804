"""`jaxnet sweep`: train many networks at once, and compare them."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from jaxnet.cli import text
from jaxnet.cli.options import Cached, make_config
from jaxnet.runs.config import DataOptions, NetworkOptions, RunOptions, TrainingOptions

if TYPE_CHECKING:
    from jaxnet import sweep

FURTHER = ("dropout", "label_smoothing")  # options whose columns are shown where they vary
SHOWN = 10  # settings in the table that is printed


@dataclass(frozen=True, kw_only=True)
class Networks(NetworkOptions):
    """The networks between the columns and the target."""

    hidden: tuple[str, ...] = ("128",)  # type: ignore[bad-override]
    """The sizes of the hidden layers of each network: 32 64,64 are two networks."""


@dataclass(frozen=True, kw_only=True)
class Trainings(TrainingOptions):
    """How they are trained."""

    learning_rate: tuple[str, ...] = ("1e-4:1e-1:7",)  # type: ignore[bad-override]
    """Learning rates: numbers, or LOW:HIGH:COUNT for a range with equal ratios."""
    weight_decay: tuple[str, ...] = ()  # type: ignore[bad-override]
    """L2 added to the gradient (decoupled for adamw), in the same form; by default torch's."""
    dropout: tuple[str, ...] = ("0",)  # type: ignore[bad-override]
    """The shares of hidden units that are set to 0 in a step: numbers."""
    label_smoothing: tuple[str, ...] = ("0",)  # type: ignore[bad-override]
    """The shares of each training row's class that all classes divide: numbers."""


@dataclass(frozen=True, kw_only=True)
class Sweep(Cached):
    """Train many networks at once, to find the best options.

    Examples:
      jaxnet sweep
      jaxnet sweep --data wine.csv --target class --hidden 32 64,64
      jaxnet sweep --data wine.csv --target class --learning-rate 1e-4:1e-1:8
      jaxnet sweep --data houses.csv --target price --weight-decay 0 0.01 --folds 5
    """

    data: DataOptions = field(default_factory=DataOptions)
    network: Networks = field(default_factory=Networks)
    training: Trainings = field(default_factory=Trainings)
    run: RunOptions = field(default_factory=RunOptions)
    seeds: int = 1
    """How many seeds, from --seed on; each has its own split, initial weights and row order."""
    folds: int | None = None
    """Cross-validation: divide the rows into so many folds, and hold out each in turn."""

    def __call__(self) -> int:
        """Train, and print the best settings; 1 if the loss of every network diverged."""
        from jaxnet.sweep import sweep

        started = time.perf_counter()
        plan = self._plan()
        _print_plan(plan)
        found = sweep.train(plan, on_progress=_reporter())
        _print_sweep(plan, found, time.perf_counter() - started)
        return 0 if found.best else 1

    def _plan(self) -> sweep.Plan:
        from jaxnet.sweep import sweep

        rates = parse_numbers("learning_rate", self.training.learning_rate)
        decays = parse_numbers("weight_decay", self.training.weight_decay)
        sizes = parse_sizes(self.network.hidden)
        dropout = parse_numbers("dropout", self.training.dropout)
        smoothing = parse_numbers("label_smoothing", self.training.label_smoothing)
        needed = {"learning_rate": rates, "hidden": sizes, "dropout": dropout}
        for name, values in (needed | {"label_smoothing": smoothing}).items():
            if not values:
                raise ValueError(f"`{name}` must have at least one value, got none")
        first = {"hidden": sizes[0], "learning_rate": rates[0], "weight_decay": None}
        first |= {"dropout": dropout[0], "label_smoothing": smoothing[0]}
        config = make_config(self.data, self.network, self.training, self.run, **first)
        return sweep.plan(
            config,
            learning_rate=rates,
            weight_decay=decays,
            hidden=sizes,
            dropout=dropout,
            label_smoothing=smoothing,
            seeds=self.seeds,
            folds=self.folds,
        )


def parse_numbers(name: str, words: Sequence[str]) -> tuple[float, ...]:
    """The numbers of words that are each one number, or LOW:HIGH:COUNT.

    Raises: ValueError naming the option and the word.
    """
    numbers: list[float] = []
    for word in words:
        try:
            low, *rest = word.split(":")
            if not rest:
                numbers.append(float(low))
                continue
            first, last, count = float(low), float(rest[0]), int(rest[1])
            if len(rest) > 2 or not 0 < first < last < float("inf") or count < 2:
                raise ValueError
        except (ValueError, IndexError):
            raise ValueError(
                f"`{name}` must be numbers, or LOW:HIGH:COUNT with 0 < LOW < HIGH and COUNT of at "
                f"least 2, got {word!r}"
            ) from None
        ratio = last / first
        numbers += [float(f"{first * ratio ** (i / (count - 1)):.6g}") for i in range(count)]
    return tuple(numbers)


def parse_sizes(words: Sequence[str]) -> tuple[tuple[int, ...], ...]:
    """The hidden sizes of each network: 64,64 is one of two layers. Raises: as `parse_numbers`."""
    try:
        return tuple(tuple(map(int, word.split(","))) for word in words)
    except ValueError:
        raise ValueError(
            "`hidden` must be the sizes of each network, with commas between its layers, as in "
            f"32 64,64; got {' '.join(words)}"
        ) from None


def _print_plan(plan: sweep.Plan) -> None:
    """Print what was read, and how many networks are trained in which way."""
    from jaxnet.sweep import mapping_of

    config, dataset = plan.config, plan.dataset
    rows = len(dataset.train), len(dataset.validation)
    held_out = f"each in turn, in {plan.folds} folds" if plan.folds else str(rows[1])
    print(f"{Path(dataset.table.path).name}: {sum(rows)} rows, held out: {held_out}")
    text.print_task(dataset, config)
    seeds = text.count(len({key.seed for key in plan.keys}), "seed")
    epochs = text.count(config.epochs or 0, "epoch")
    print(
        f"{plan.num_members} networks: {text.count(len(plan.settings), 'setting')} x {seeds}"
        f"{f' x {plan.folds} folds' if plan.folds else ''}; {config.activation}, "
        f"{config.optimizer}, batch {dataset.batch_size}, {epochs}, "
        f"in {text.count(len(plan.architectures), 'program')}:"
    )
    for hidden in plan.architectures:
        sizes = dataset.spec.sizes[0], *hidden, dataset.spec.sizes[-1]
        print(f"  {'-'.join(map(str, sizes))}: {mapping_of(plan, hidden).reason}")


def _reporter() -> Callable[[sweep.SweepProgress], None]:
    """Return a callback that prints each tenth of the way, at most once a second."""
    printed, last = 0, time.perf_counter()

    def report(progress: sweep.SweepProgress) -> None:
        nonlocal printed, last
        tenth, now = int(progress.share * 10), time.perf_counter()
        if printed < tenth < 10 and now - last >= 1:
            printed, last = tenth, now
            done = f"{progress.members} of {progress.num_members} networks"
            print(f"{progress.share:.0%}: {done}", flush=True)

    return report


def _print_sweep(plan: sweep.Plan, found: sweep.Sweep, seconds: float) -> None:
    """Print the best settings with mean and spread, where everything is, and what to do next."""
    epochs = sum(member.epochs for member in found.members)
    print(f"{epochs:,} epochs of {plan.num_members} networks, and the best again: {seconds:.1f} s")
    metrics = list(found.table[0].mean) or ["loss"]
    tried = [n for n in FURTHER if len({getattr(s, n) for s in plan.settings}) > 1]
    head = ["hidden", "learning rate", "weight decay", *(n.replace("_", " ") for n in tried)]
    rows = [[*head, *(f"val_{name}" for name in metrics)]]
    rows += [_row(row, tried, metrics) for row in found.table[:SHOWN]]
    print(text.aligned(rows))
    if len(found.table) > SHOWN:
        print(f"the best {SHOWN} of {len(found.table)} settings; all are in sweep.csv")
    text.print_folder(found.folder)
    for name in ("learning_rate", "weight_decay"):
        if note := edge_note(name, [getattr(s, name) for s in plan.settings], found.table[0]):
            print(note)
    if found.best is None:
        print("every setting diverged: try smaller learning rates, scaled inputs, or float64")
        return
    best, data = text.quote(found.best.folder), text.short(Path(plan.dataset.source["path"]))
    predict = f"predict {best} --data {text.quote(data)} --out predictions.csv"
    text.print_commands(f"show {best}", predict)


def edge_note(name: str, tried: Sequence[float | None], best: sweep.Row) -> str | None:
    """Say that the best value of an option is the lowest or highest that was tried, and how to try
    others; None if it is neither, or there is nothing beyond.
    """
    values, value = sorted({one for one in tried if one is not None}), getattr(best.setting, name)
    if len(values) < 2 or value not in (values[0], values[-1]) or not value or best.diverged:
        return None
    highest = value == values[-1]
    low, high = (value / 3, value * 30) if highest else (value / 30, value * 3)
    return (
        f"note: the best {name.replace('_', ' ')}, {value:.4g}, is the "
        f"{'highest' if highest else 'lowest'} that was tried; a better one may lie beyond: "
        f"--{name.replace('_', '-')} {low:.1g}:{high:.1g}:7"
    )


def _row(row: sweep.Row, tried: Sequence[str], metrics: Sequence[str]) -> list[str]:
    """A setting, and "mean +- standard deviation" of its metrics over seeds and folds."""
    hidden, rate, decay = row.setting[:3]
    texts = [
        ",".join(map(str, hidden)),
        f"{rate:.4g}",
        "default" if decay is None else f"{decay:.4g}",
        *(f"{getattr(row.setting, name):.4g}" for name in tried),
    ]
    if row.diverged:
        return [*texts, f"{row.diverged} of {row.members} diverged", *[""] * (len(metrics) - 1)]
    for name in metrics:
        spread = "" if row.std[name] is None else f" +- {text.metric_text(name, row.std[name])}"
        texts.append(text.metric_text(name, row.mean[name]) + spread)
    return texts
