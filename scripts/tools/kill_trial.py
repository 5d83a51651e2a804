"""Kill real processes at random moments, start them again each time, and compare every bit.

    python scripts/tools/kill_trial.py --kills 200

One run is never disturbed. Another is ended by SIGKILL, at a random moment of its start, of its
training or of a checkpoint's writing, and resumed, until it has been killed often enough; then
it is left alone. Both must end with the same metrics.jsonl and the same bits in every array.

`--commands K` does the same K times to each other command (`kill_commands.py`): a conversion, a
prediction, an export, a sweep, and the last save of a run.
"""

from __future__ import annotations

import argparse
import collections
import os
import random
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

from jaxnet.engine import checkpoint
from jaxnet.runs.folder import CHECKPOINTS, CONFIG, METRICS, PARAMS

NEW = ["--data", "table.csv", "--target", "y", "--hidden", "16", "--checkpoint-every", "0.05"]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--kills", type=int, default=200)
    parser.add_argument("--commands", type=int, default=0, help="kills of each other command")
    parser.add_argument("--seed", type=int, default=0, help="of the moments")
    options = parser.parse_args()
    moments = random.Random(options.seed)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_table(folder / "table.csv")
        epochs = str(max(1500, 15 * options.kills))
        new = ["train", *NEW, "--epochs", epochs, "--out"]
        start(folder, *new, "whole").communicate()
        size = (folder / "whole" / METRICS).stat().st_size
        phases: collections.Counter[str] = collections.Counter()
        while (kills := phases.total()) < options.kills:
            process = start(folder, *resume_or(new, folder))
            share = size * (kills + 1) // (options.kills + 2)
            phases[kill(process, folder / "killed", moments, share)] += 1
        process = start(folder, *resume_or(new, folder))
        output = process.communicate()[0]
        if process.returncode != 0:
            print(output)
            return 1
        for phase, count in sorted(phases.items()):
            print(f"{count:4} killed {phase}")
        code = compare(folder / "whole", folder / "killed")
        if options.commands:
            from kill_commands import kill_commands

            code |= kill_commands(folder, options.commands, moments)
        return code


def resume_or(new: list[str], folder: Path) -> list[str]:
    """Return the arguments that resume the run, or begin it if there is none yet."""
    begun = (folder / "killed" / CONFIG).exists()
    return ["train", "--resume", "killed"] if begun else [*new, "killed"]


def write_table(path: Path) -> None:
    rng = np.random.default_rng(0)
    x = rng.standard_normal((300, 5))
    y = np.where(x @ [1, -2, 0.5, 0, 1] + rng.standard_normal(300) > 0, "yes", "no")
    rows = (",".join([*map(repr, row.tolist()), word]) for row, word in zip(x, y, strict=True))
    path.write_text("a,b,c,d,e,y\n" + "\n".join(rows) + "\n")


def start(folder: Path, *arguments: str) -> subprocess.Popen:
    return subprocess.Popen(
        [sys.executable, "-m", "jaxnet", *arguments],
        cwd=folder,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env=os.environ | {"JAX_PLATFORMS": "cpu"},
    )


def kill(process: subprocess.Popen, folder: Path, moments: random.Random, share: int) -> str:
    """End the process by SIGKILL as it starts, trains or saves; return what it was doing.

    share: the bytes of metrics.jsonl at which it is ended whatever the moment, so that the run
    outlasts all kills on a fast machine too.
    """
    moment, metrics = moments.random(), folder / METRICS

    def wait(seconds: float, until=lambda: False) -> None:
        end = time.monotonic() + seconds
        while time.monotonic() < end and size_of(metrics) < share and not until():
            if process.poll() is not None:
                return
            time.sleep(0.001)

    if moment < 0.2:
        wait(moments.uniform(0, 3))
    else:
        wait_for_an_epoch(process, metrics)
        if moment > 0.6:
            wait(60, until=lambda: writing(folder))
        wait(moments.uniform(0, 0.25 if moment < 0.6 else 0.05))
    if process.poll() is not None:
        output = process.stdout.read() if process.stdout else ""
        raise SystemExit(f"the run ended before it could be killed\n{output}")
    process.kill()
    process.wait()
    if not (folder / CONFIG).exists():
        return "before the folder was there"
    if writing(folder):
        return "while a checkpoint was written"
    content = metrics.read_bytes() if metrics.exists() else b""
    if not content.endswith(b"\n"):
        return "within a line of metrics" if content else "before the first epoch ended"
    return "while it trained, or started again"


def wait_for_an_epoch(process: subprocess.Popen, metrics: Path) -> None:
    """Return when the file has grown: a resumed run first cuts it."""
    before = after = size_of(metrics)
    while after <= before and process.poll() is None:
        time.sleep(0.001)
        before, after = after, size_of(metrics)


def size_of(path: Path) -> int:
    """Return the bytes of a file, 0 if there is none."""
    return path.stat().st_size if path.exists() else 0


def writing(folder: Path) -> bool:
    return any((folder / CHECKPOINTS).glob("*.part"))


def compare(whole: Path, killed: Path) -> int:
    """Print what is equal, and return 0 if everything is."""
    first, second = ((folder / METRICS).read_bytes() for folder in (whole, killed))
    wanted, got = (checkpoint.restore(folder / CHECKPOINTS) for folder in (whole, killed))
    different = [
        name
        for name in sorted(wanted.tree | got.tree)
        if name not in wanted.tree
        or name not in got.tree
        or wanted.tree[name].tobytes() != got.tree[name].tobytes()
    ]
    model = [(folder / PARAMS).read_bytes() for folder in (whole, killed)]
    print(f"metrics.jsonl: {'the same' if first == second else 'NOT THE SAME'}, {len(first)} bytes")
    print(f"step {wanted.step} and {got.step}: {len(wanted.tree)} arrays, different: {different}")
    print(f"model: {'the same' if model[0] == model[1] else 'NOT THE SAME'}")
    equal = first == second and wanted.step == got.step and not different and model[0] == model[1]
    return 0 if equal else 1


if __name__ == "__main__":
    sys.exit(main())
