"""Many networks trained at once to find good options: the best learning rate, decay and sizes."""

from __future__ import annotations

import contextlib
import csv
import io
import itertools
import math
import signal
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from jaxnet.engine.signals import Stopped, catch_signals
from jaxnet.files import write, write_json
from jaxnet.runs import run as runs
from jaxnet.runs.config import Config
from jaxnet.runs.folder import BEST, SWEEP, new_folder
from jaxnet.runs.record import Record
from jaxnet.sweep.members import Member, SweepProgress, train_members
from jaxnet.sweep.settings import Key, Mapping, Plan, Setting, plan
from jaxnet.sweep.settings import mapping as mapping_of

__all__ = [
    "Key", "Mapping", "Member", "Plan", "Row", "Setting", "Sweep", "SweepProgress", "mapping_of",
    "plan", "run", "train",
]  # fmt: skip

CSV = "sweep.csv"
PICTURE = "sweep.png"
SHOWN = 3  # options in the picture


class Row(NamedTuple):
    """A setting, over its members.

    diverged: how many of them did; then there is no mean. mean, std: by metric, loss and accuracy
    or rmse and r2; the standard deviation has n - 1, and is None for a single member.
    """

    setting: Setting
    members: int
    diverged: int
    mean: dict[str, Any]
    std: dict[str, Any]


@dataclass(frozen=True)
class Sweep:
    """A sweep that has ended.

    table: a row for each setting, by mean validation loss, those that diverged last. best: the
    best setting as an ordinary run; None if all diverged.
    """

    folder: Path
    members: list[Member]
    table: list[Row]
    best: runs.Run | None


def run(
    config: Config,
    *,
    on_progress: Callable[[SweepProgress], None] = lambda progress: None,
    **options: Any,
) -> Sweep:
    """Train a network for each combination of options, and the best of them as an ordinary run.

    options: those of `plan`. In a new folder (`config.out`, by default the next free
    runs/NAME-sweep-1): sweep.csv with all members, sweep.json with the options, sweep.png, and
    `best/`, a run's folder.

    Raises: as `runs.train`. A loss that becomes NaN or infinite ends its member, not the sweep.
    """
    return train(plan(config, **options), on_progress=on_progress)


def train(
    planned: Plan,
    *,
    on_progress: Callable[[SweepProgress], None] = lambda progress: None,
    on_best: Callable[[runs.Progress], None] = lambda progress: None,
) -> Sweep:
    """Train a plan; on_best is called while the best setting is trained alone.

    Raises: as `run`.
    """
    with _new_folder(planned) as folder:
        write_json(folder / SWEEP, _described(planned))
        members = _train_members(planned, folder, on_progress)
        table = tabulate(members)
        picture(planned, table, folder / PICTURE)
    best = None
    if not table[0].diverged:
        config = replace(best_config(planned, members, table), out=str(folder / BEST))
        best = runs.train(config, on_progress=on_best)
    return Sweep(folder, members, table, best)


def best_config(planned: Plan, members: Sequence[Member], table: Sequence[Row]) -> Config:
    """The options of the best setting's best member; with folds, of its first seed."""
    of_best = [member for member in members if member.setting == table[0].setting]
    key = min(of_best, key=lambda member: member.metrics["loss"]).key
    config = planned.config_of(table[0].setting, planned.keys[0] if planned.folds else key)
    return replace(config, ensemble=planned.config.ensemble)


def tabulate(members: Sequence[Member]) -> list[Row]:
    """A row for each setting, by mean validation loss; those that diverged last."""
    groups: dict[Setting, list[Member]] = {}
    for member in members:
        groups.setdefault(member.setting, []).append(member)
    rows = itertools.starmap(_row, groups.items())
    return sorted(rows, key=lambda row: (row.diverged, row.mean.get("loss", math.inf)))


def _row(setting: Setting, members: list[Member]) -> Row:
    diverged = sum(member.reason == "diverged" for member in members)
    mean: dict[str, Any] = {}
    std: dict[str, Any] = {}
    for name in () if diverged else members[0].metrics:
        values = [value for member in members if (value := member.metrics[name]) is not None]
        mean[name] = float(np.mean(values)) if values else None
        std[name] = float(np.std(values, ddof=1)) if len(values) > 1 else None
    return Row(setting, len(members), diverged, mean, std)


def _train_members(
    planned: Plan, folder: Path, on_progress: Callable[[SweepProgress], None]
) -> list[Member]:
    """Train all members, in the order of the plan; sweep.csv is written now and then."""
    members: list[Member] = []
    every, written = max(planned.config.checkpoint_every, 1.0), time.perf_counter()
    order = {setting: i for i, setting in enumerate(planned.settings)}
    with catch_signals() as received:
        for member, _ in train_members(planned, on_progress, received):
            members.append(member)
            if time.perf_counter() - written > every:
                write_csv(folder / CSV, members)
                written = time.perf_counter()
        members.sort(key=lambda m: (order[m.setting], m.key.seed, m.key.fold or 0))
        if members:
            write_csv(folder / CSV, members)
        if (number := received()) is not None and len(members) < planned.num_members:
            where = f": {folder / CSV} has these" if members else ", nothing is kept"
            raise Stopped(
                number,
                f"stopped by {signal.Signals(number).name} after {len(members)} of "
                f"{planned.num_members} networks{where}",
            )
    return members


def write_csv(path: Path, members: Sequence[Member]) -> None:
    """Write a line for each member; the file is whole at every moment."""
    metrics = max((member.metrics for member in members), key=len)
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    names = (*Setting._fields, "seed", "fold", "reason", "epochs", "epoch")
    writer.writerow([*names, "train_loss", *(f"val_{name}" for name in metrics)])
    for m in members:
        sizes = ",".join(map(str, m.setting.hidden))
        numbers = [m.train_loss, *(m.metrics.get(name) for name in metrics)]
        writer.writerow([sizes, *m.setting[1:], *m.key, m.reason, m.epochs, m.epoch, *numbers])
    write(path, text.getvalue().encode())


def _new_folder(planned: Plan) -> contextlib.AbstractContextManager[Path]:
    out, name = planned.config.out, planned.dataset.source["name"].partition(".")[0]
    if out is not None and any((Path(out) / file).exists() for file in (CSV, SWEEP, BEST)):
        raise FileExistsError(f"`out` must not hold a sweep already: {out}")
    return new_folder(out, f"{name}-sweep", [SWEEP], lambda folder: (folder / CSV).exists())


def _described(planned: Plan) -> dict[str, Any]:
    """The content of sweep.json."""
    described = Record.of(planned.config, planned.dataset).to_json()
    del described["encoding"], described["spec"]  # each member has its own
    described["sweep"] = {
        "settings": [setting._asdict() for setting in planned.settings],
        "seeds": sorted({key.seed for key in planned.keys}),
        "folds": planned.folds,
    }
    return described


def picture(planned: Plan, table: Sequence[Row], path: Path) -> bool:
    """Draw the mean validation metric against the options that vary; False if none does.

    Of more than three, the others are those of the best setting.
    """
    from jaxnet.runs import sweep_plots  # matplotlib takes a second to import

    names = ("learning_rate", "weight_decay", "dropout", "label_smoothing", "hidden")
    values = {n: list(dict.fromkeys(getattr(s, n) for s in planned.settings)) for n in names}
    axes = {name: several for name, several in values.items() if len(several) > 1}
    if not axes:
        return False
    fixed, axes = list(axes)[SHOWN:], dict(list(axes.items())[:SHOWN])
    best = table[0].setting
    cells = {
        tuple(getattr(row.setting, name) for name in axes): (row.mean["loss"], row.std["loss"])
        for row in table
        if not row.diverged
        and all(getattr(row.setting, name) == getattr(best, name) for name in fixed)
    }
    dataset = planned.dataset
    title = f"{path.parent.name}: {dataset.task} of {dataset.encoding.target.name!r}"
    counts = {"seeds": len({key.seed for key in planned.keys}), "folds": planned.folds or 1}
    over = " x ".join(f"{number} {what}" for what, number in counts.items() if number > 1)
    sweep_plots.sweep(axes, cells, dataset.spec.loss, over, title, path)
    return True
