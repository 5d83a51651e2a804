"""A reference's trajectory: the points, and the losses of its free run; made here, or read from
disk.
"""

from __future__ import annotations

import io
import json
import math
import platform
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from jaxnet.parity.compare import Case, Point, free_run, points
from jaxnet.parity.participants import Leaves, Participant
from jaxnet.spec import Batch

FORMAT = "jaxnet parity recording 1"


class Trajectory(NamedTuple):
    """What candidates are compared with.

    losses: of the float64 free run (num_steps,), empty without an optimizer. shadow: of a float32
    run of the reference with its hidden units permuted, where it is a network of ours.
    reference: the participant, or None for a recording. batches: those of the free run.
    """

    name: str
    case: Case
    points: list[Point]
    losses: np.ndarray
    shadow: np.ndarray
    reference: Participant | None


def trajectory(reference: Participant, case: Case) -> Trajectory:
    """Run a reference through a case. Raises: ValueError if it is not finite, or has nothing."""
    made, losses = points(reference, case)
    shadow = np.zeros(0)
    if len(losses):
        shadow = free_run(reference, _permuted(reference, case), "float32")
    return Trajectory(reference.name, case, made, losses, shadow, reference)


def record(path: str | Path, participant: Participant, case: Case) -> None:
    """Write a participant's trajectory to an .npz file, to be compared with where it cannot run.

    It holds numbers and JSON only (no pickle): inputs and outputs of every point, bars, losses, the
    versions and the platform. Batches must be `Batch`es or dictionaries of arrays.
    """
    made = trajectory(participant, case)
    batches = [case.batch_at(i) for i in range(len(made.losses) or 1)]
    arrays: dict[str, Any] = {"losses": made.losses, "shadow": made.shadow}
    arrays |= {f"params/{name}": leaf for name, leaf in case.params.items()}
    names = list(_fields(batches[0]))
    arrays |= {f"batch/{k}": np.stack([np.asarray(_fields(b)[k]) for b in batches]) for k in names}
    records = []
    for i, point in enumerate(made.points):
        records.append(
            {"tier": point.tier, "step": point.step, "probe": point.probe, "allowed": point.allowed}
        )
        groups = {"params": point.params, "state": point.state, "grads": point.grads}
        groups["batch"] = _fields(point.batch)
        groups["want"] = {"|".join(key): value for key, value in point.want.items()}
        groups["bar"] = {"|".join(key): value for key, value in point.bar.items()}
        for group, leaves in groups.items():
            arrays |= {f"point/{i}/{group}/{k}": np.asarray(v) for k, v in leaves.items()}
    about: dict[str, Any] = {
        "format": FORMAT,
        "participant": participant.name,
        "case": case.name,
        "steps": list(case.steps),
        "batch": type(batches[0]).__name__,
        "points": records,
        "versions": _versions(),
        "platform": platform.platform(),
    }
    about["arrays"], values = _pack(arrays)
    stream = io.BytesIO()
    text = np.frombuffer(json.dumps(about).encode(), np.uint8)
    np.savez_compressed(stream, about=text, values=values)
    temporary = Path(f"{path}.partial")
    temporary.write_bytes(stream.getvalue())
    temporary.replace(path)


def load(path: str | Path) -> Trajectory:
    """Read a recording, as something to compare `against`.

    Raises: FileNotFoundError; ValueError for a file that is damaged or not a recording.
    """
    try:
        content = io.BytesIO(Path(path).read_bytes())  # np.load leaves a damaged file open
        with np.load(content, allow_pickle=False) as file:
            about = json.loads(file["about"].tobytes())
            if about["format"] != FORMAT:
                raise ValueError(f"its format is {about['format']!r}, not {FORMAT!r}")
            return _read(about, _unpack(about["arrays"], file["values"]))
    except FileNotFoundError:
        raise FileNotFoundError(f"no recording at {path}") from None
    except Exception as error:  # damage comes as NotImplementedError, MemoryError, anything
        raise ValueError(f"{path}: not a readable parity recording ({error})") from None


def _pack(arrays: Leaves) -> tuple[dict[str, tuple[int, str, tuple[int, ...]]], np.ndarray]:
    """All arrays as one, equal ones once, and where each is: its offset in bytes, dtype, shape."""
    offsets: dict[bytes, int] = {}
    index, size = {}, 0
    for name, array in arrays.items():
        content = array.tobytes()
        if content not in offsets:
            offsets[content], size = size, size + len(content)
        index[name] = offsets[content], array.dtype.str, array.shape
    return index, np.frombuffer(b"".join(offsets), np.uint8)


def _unpack(index: dict[str, Any], values: np.ndarray) -> Leaves:
    def array(offset, dtype, shape):  # a view: it refuses a dtype of pointers
        end = offset + np.dtype(dtype).itemsize * math.prod(shape)
        return values[offset:end].view(dtype).reshape(shape).copy()

    return {name: array(*place) for name, place in index.items()}


def _read(about: dict[str, Any], arrays: Leaves) -> Trajectory:
    def group(prefix: str) -> Leaves:
        return {k.removeprefix(prefix): v for k, v in arrays.items() if k.startswith(prefix)}

    def batch(fields: dict[str, Any]) -> Any:
        fields = {k: v[()] if v.ndim == 0 else v for k, v in fields.items()}
        return Batch(**fields) if about["batch"] == "Batch" else fields

    stacked = group("batch/")
    length = len(next(iter(stacked.values())))

    def batch_at(i: int) -> Any:
        return batch({k: v[min(i, length - 1)] for k, v in stacked.items()})

    made = []
    for i, item in enumerate(about["points"]):
        made.append(
            Point(
                tier=item["tier"],
                step=item["step"],
                probe=item["probe"],
                params=group(f"point/{i}/params/"),
                state=group(f"point/{i}/state/"),
                batch=batch(group(f"point/{i}/batch/")),
                grads=group(f"point/{i}/grads/"),
                want={_key(k): v for k, v in group(f"point/{i}/want/").items()},
                bar={_key(k): v for k, v in group(f"point/{i}/bar/").items()},
                allowed=item["allowed"],
            )
        )
    losses = arrays["losses"]
    case = Case(
        about["case"], group("params/"), batch_at, tuple(about["steps"]), max(len(losses), 1)
    )
    name = f"{about['participant']} (recorded)"
    return Trajectory(name, case, made, losses, arrays["shadow"], None)


def _key(text: str) -> tuple[str, str]:
    stage, _, leaf = text.partition("|")
    return stage, leaf


def _fields(batch: Any) -> dict[str, Any]:
    fields = batch._asdict() if hasattr(batch, "_asdict") else dict(batch)
    return {name: value for name, value in fields.items() if value is not None}


def _versions() -> dict[str, str]:
    import importlib.metadata as metadata

    found = {"python": platform.python_version()}
    for name in ("numpy", "torch", "jax", "flax", "optax"):
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return found


def _permuted(reference: Participant, case: Case) -> Case:
    """The same case with the hidden units of one of our networks in another order."""
    if reference.plan is None:
        return case
    params = dict(case.params)
    rng = np.random.default_rng(0)
    sizes = reference.plan.spec.sizes
    shared = len(set(sizes[1:-1])) == 1 and len(sizes) > 3  # repeated layers keep one order
    order = rng.permutation(sizes[1])
    for k in range(1, len(sizes) - 1):
        if not shared and k > 1:
            order = rng.permutation(sizes[k])
        params[f"w{k}"] = params[f"w{k}"][:, order]
        params[f"w{k + 1}"] = params[f"w{k + 1}"][order]
        if f"b{k}" in params:
            params[f"b{k}"] = params[f"b{k}"][order]
    return Case(case.name, params, case.batch_at, case.steps, case.num_steps)
