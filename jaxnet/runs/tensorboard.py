"""The metrics of a run as TensorBoard scalars (extra `tensorboard`: tensorboardX)."""

from __future__ import annotations

import contextlib
import math
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from jaxnet.runs.folder import EVENTS

# each metric of a line of metrics.jsonl, and its tag: one group holds train and validation
TAGS = {
    "train_loss": "loss/train",
    "val_loss": "loss/validation",
    "val_accuracy": "accuracy/validation",
    "val_rmse": "rmse/validation",
    "val_r2": "r2/validation",
}


def require() -> None:
    """Raise ValueError if tensorboardX is not installed."""
    try:
        import tensorboardX  # noqa: F401
    except ImportError:
        raise ValueError(
            "`tensorboard` needs the package tensorboardX: pip install 'jaxnet[tensorboard]'"
        ) from None


@contextlib.contextmanager
def writer(folder: Path, step: int = 0) -> Iterator[Callable[[dict[str, Any]], None]]:
    """Yield a function that adds a line of metrics.jsonl to the events in FOLDER/tensorboard.

    step: where the run resumes, 0 for a new one; TensorBoard drops the events after it. Each line
    is on the disk when the function returns; values that are null or not finite are left out.

    Raises: ValueError without tensorboardX, OSError for a folder that cannot be written.
    """
    require()
    from tensorboardX import RecordWriter
    from tensorboardX.proto.event_pb2 import Event, SessionLog  # pyrefly: ignore
    from tensorboardX.proto.summary_pb2 import Summary  # pyrefly: ignore

    # RecordWriter and not SummaryWriter: the flush of that one leaves events behind, and it takes
    # the name of the last file if a run is resumed within the same second
    events = folder / EVENTS
    events.mkdir(exist_ok=True)
    records = RecordWriter(str(_next_file(events)))

    def add(**event: Any) -> None:
        records.write(Event(wall_time=time.time(), **event).SerializeToString())
        records.flush()

    def write(line: dict[str, Any]) -> None:
        values = [
            Summary.Value(tag=tag, simple_value=line[name])
            for name, tag in TAGS.items()
            if line.get(name) is not None and math.isfinite(line[name])
        ]
        add(step=line["step"], summary=Summary(value=values))

    try:
        add(file_version="brain.Event:2")
        add(step=step + 1, session_log=SessionLog(status=SessionLog.START))
        yield write
    finally:
        records.close()


def _next_file(events: Path) -> Path:
    """Return a new name, the last in the order in which TensorBoard reads them, by name."""
    found = (path.suffix[1:] for path in events.glob("*.tfevents.*"))
    last = max((int(number) for number in found if number.isdecimal()), default=0)
    return events / f"events.out.tfevents.{last + 1:010d}"
