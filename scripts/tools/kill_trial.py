"""Kill a real training process at random moments, resume it each time, and compare every bit.

    python scripts/tools/kill_trial.py --kills 200

One run is never disturbed. Another is ended by SIGKILL, at a random moment of its start, of its
training or of a checkpoint's writing, and resumed, until it has been killed often enough; then
it is left alone. Both must end with the same metrics.jsonl and the same bits in every array.
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

NEW = [
    "--data",
    "table.csv",
    "--target",
    "y",
    "--hidden",
    "16",
    "--epochs",
    "1500",
    "--checkpoint-every",
    "0.05",
    "--out",
]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--kills", type=int, default=200)
    parser.add_argument("--seed", type=int, default=0, help="of the moments")
    options = parser.parse_args()
    moments = random.Random(options.seed)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_table(folder / "table.csv")
        start(folder, "train", *NEW, "whole").communicate()
        phases: collections.Counter[str] = collections.Counter()
        while phases.total() < options.kills:
            process = start(folder, "train", *arguments(folder))
            phases[kill(process, folder / "killed", moments)] += 1
        process = start(folder, "train", *arguments(folder))
        output = process.communicate()[0]
        if process.returncode != 0:
            print(output)
            return 1
        for phase, count in sorted(phases.items()):
            print(f"{count:4} killed {phase}")
        return compare(folder / "whole", folder / "killed")


def arguments(folder: Path) -> list[str]:
    """Resume the run; begin it if it was killed before there was one."""
    begun = (folder / "killed" / CONFIG).exists()
    return ["--resume", "killed"] if begun else [*NEW, "killed"]


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


def kill(process: subprocess.Popen, folder: Path, moments: random.Random) -> str:
    """End the process by SIGKILL as it starts, trains or saves; return what it was doing."""
    moment = moments.random()
    if moment < 0.2:
        time.sleep(moments.uniform(0, 3))
    else:
        wait_for_an_epoch(process, folder / METRICS)
        while moment > 0.6 and not writing(folder) and process.poll() is None:
            time.sleep(0.001)
        time.sleep(moments.uniform(0, 0.25 if moment < 0.6 else 0.05))
    if process.poll() is not None:
        output = process.stdout.read() if process.stdout else ""
        raise SystemExit(f"the run ended before it could be killed\n{output}")
    process.kill()
    process.wait()
    if not (folder / CONFIG).exists():
        return "before the folder was there"
    if writing(folder):
        return "while a checkpoint was written"
    metrics = folder / METRICS
    content = metrics.read_bytes() if metrics.exists() else b""
    if not content.endswith(b"\n"):
        return "within a line of metrics" if content else "before the first epoch ended"
    return "while it trained, or started again"


def wait_for_an_epoch(process: subprocess.Popen, metrics: Path) -> None:
    """Return when the file has grown: a resumed run first cuts it."""
    before = after = metrics.stat().st_size if metrics.exists() else 0
    while after <= before and process.poll() is None:
        time.sleep(0.001)
        before, after = after, metrics.stat().st_size if metrics.exists() else 0


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
