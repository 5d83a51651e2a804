"""Runs that `test_distributed` makes in processes of their own: `distributed_runs.py NAME [...]`.

Further arguments: the process, how many there are, the coordinator, and epochs. What each process
has to say is written to NAME-PROCESS.json.
"""

import json
import sys
from pathlib import Path

import jax

from jaxnet import runs
from jaxnet.engine import processes
from jaxnet.runs.config import Config
from jaxnet.tables.rows import StoredRows


def config(**options):
    defaults: dict = {"data": "table.csv", "target": "y", "hidden": (16,), "batch_size": 16}
    defaults |= {"epochs": 3, "schedule": "constant"}
    return Config(**(defaults | options))


def error_of(**options):
    """What a run with these options raises."""
    try:
        runs.train(config(**options))
    except Exception as error:
        return f"{type(error).__name__}: {error}"


def batches_read(**options):
    """The shapes of all that a run reads from the disk."""
    whole, shapes = StoredRows.batch, []

    def batch(self, positions):
        shapes.append(positions.shape)
        return whole(self, positions)

    StoredRows.batch = batch
    runs.train(config(on_disk="on", **options))
    StoredRows.batch = whole
    return shapes


def several():
    """Two processes of two devices each."""
    number = jax.process_index()
    digits = runs.train(Config(epochs=2, out="digits-2"))
    runs.train(config(deterministic=True, out="same-2x2"))
    resumed = runs.resume("resumed", epochs=4)
    return {
        "digits": digits.metrics,
        "epochs": resumed.epochs,
        "read": batches_read(out="disk-2"),
        "a missing file": error_of(data="none.csv"),
        "a batch that does not divide": error_of(batch_size=15),
        "a folder that holds a run": error_of(out="digits-2"),
        "a file missing in one": error_of(data="table.csv" if number == 0 else "none.csv"),
        "other options in one": error_of(seed=number, out="apart"),
    }


def one():
    """One process of four devices."""
    for devices in (1, 4):
        runs.train(config(deterministic=True, devices=devices, out=f"same-{devices}"))
    return {}


def again():
    """Two processes: runs that were disturbed, and one that is not."""
    epochs = int(sys.argv[-1])
    for out in ("lost-0", "lost-1"):
        runs.resume(out, epochs=epochs)
    runs.train(config(epochs=epochs, out="undisturbed"))
    return {}


def main():
    name, *others = sys.argv[1:]
    if others:
        processes.start(others[2], int(others[0]), int(others[1]))
    said = {"several": several, "one": one, "again": again}[name]()
    Path(f"{name}-{jax.process_index()}.json").write_text(json.dumps(said))


if __name__ == "__main__":
    main()
