"""A reference's trajectory: its points and the losses of its free run; made, or read from disk."""

from __future__ import annotations

import io
import json
import math
import platform
import re
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

import numpy as np

from jaxnet.parity.layers.calls import LayerRun
from jaxnet.parity.limits import MATHEMATICS
from jaxnet.parity.participants import Leaves, Participant, cast, train
from jaxnet.parity.points import Case, Point, complete, points
from jaxnet.spec import Batch

FORMAT = "jaxnet parity recording 1"
SETTINGS = ("tier", "step", "probe", "allowed")  # the fields of a point that are no arrays


class Trajectory(NamedTuple):
    """What candidates are compared with.

    losses: of the float64 free run, (num_steps,), or (0,) without an optimizer. shadow: of a
    float32 run of the reference (an oracle's with its hidden units permuted), as long.
    reference: the participant, or None for a recording. layers: what goes through the reference's
    layers, of a recording: by step and probe.
    """

    name: str
    case: Case
    points: list[Point]
    losses: np.ndarray
    shadow: np.ndarray
    reference: Participant | None
    layers: Mapping[tuple[int, str], LayerRun] = MappingProxyType({})

    def run_layers(self, point: Point, params: Leaves, batch: Any) -> LayerRun | None:
        """Return what goes through the reference's layers; None where that is not known.

        params and batch: those of the point, or near them; a recording has those of the point only.
        """
        if self.reference is None:
            return self.layers.get((point.step, point.probe))
        run = self.reference.layers
        return None if run is None else run(params, batch, {})


def trajectory(reference: Participant, case: Case) -> Trajectory:
    """Run a reference through a case.

    Raises: ValueError if the reference is not finite, or there is nothing to compare.
    """
    made, losses = points(reference, case)
    shadow = np.zeros(0)
    if len(losses):
        shadow = free_run(reference, _permuted(reference, case), "float32")
    return Trajectory(reference.name, case, made, losses, shadow, reference)


@np.errstate(all="ignore")
def free_run(participant: Participant, case: Case, dtype: str) -> np.ndarray:
    """Return the losses (num_steps,) of free training in a dtype, from the case's parameters."""
    params = cast(complete(participant, case.params), dtype)

    def batch_at(i):
        return cast(case.batch_at(i), dtype)

    return train(participant, params, batch_at, case.num_steps)[0]


def record(path: str | Path, participant: Participant, case: Case) -> None:
    """Write a participant's trajectory to an .npz file, for use where it cannot run.

    It holds numbers and JSON only (no pickle): inputs and outputs of every point, bars, losses, the
    versions and the platform, and what goes through the layers at the first step and at each probe.
    Batches must be `Batch`es or dictionaries of arrays.
    """
    from jaxnet import files

    made = trajectory(participant, case)
    batches = [case.batch_at(i) for i in range(len(made.losses) or 1)]
    arrays: dict[str, Any] = {"losses": made.losses, "shadow": made.shadow}
    arrays |= {f"params/{name}": leaf for name, leaf in case.params.items()}
    for name in _fields(batches[0]):
        arrays[f"batch/{name}"] = np.stack([np.asarray(_fields(b)[name]) for b in batches])
    for i, point in enumerate(made.points):
        arrays |= {f"point/{i}/{key}": value for key, value in _point_arrays(point).items()}
    calls, found = _layers(made)
    arrays |= found
    about: dict[str, Any] = {
        "format": FORMAT,
        "layers": calls,
        "participant": participant.name,
        "case": case.name,
        "steps": list(case.steps),
        "batch": type(batches[0]).__name__,
        "points": [{name: getattr(point, name) for name in SETTINGS} for point in made.points],
        "versions": _versions(),
        "platform": platform.platform(),
    }
    about["arrays"], values = _pack(arrays)
    stream = io.BytesIO()
    text = np.frombuffer(json.dumps(about).encode(), np.uint8)
    np.savez_compressed(stream, about=text, values=values)
    files.write(path, stream.getvalue())


def _layers(made: Trajectory) -> tuple[list[dict[str, Any]], Leaves]:
    """Return what goes through the layers at the first step and the probes: text, and arrays."""
    calls: list[dict[str, Any]] = []
    arrays: Leaves = {}
    for point in made.points:
        run = made.run_layers(point, point.params, point.batch) if point.step == 1 else None
        if run is not None and point.tier == MATHEMATICS:
            at = f"layers/{len(calls)}/"
            arrays |= {at + "|".join(map(str, key)): value for key, value in run.arrays().items()}
            leaves = {path: sorted(names) for path, names in run.leaves.items()}
            calls.append({"step": 1, "probe": point.probe, "times": run.times, "leaves": leaves})
    return calls, arrays


def _point_arrays(point: Point) -> Leaves:
    """Return a point's arrays by "group/name"."""
    groups = {"params": point.params, "state": point.state, "grads": point.grads}
    groups["batch"] = _fields(point.batch)
    groups["want"] = {"|".join(key): value for key, value in point.want.items()}
    groups["bar"] = {"|".join(key): value for key, value in point.bar.items()}
    return {
        f"{group}/{name}": np.asarray(value)
        for group, leaves in groups.items()
        for name, value in leaves.items()
    }


def load(path: str | Path) -> Trajectory:
    """Read a recording, to compare candidates `against` it.

    Raises: FileNotFoundError; ValueError for a file that is damaged or not a recording.
    """
    from jaxnet import files

    try:
        content = io.BytesIO(files.read(path))  # np.load leaves a damaged file open
        with np.load(content, allow_pickle=False) as file:
            files.check_npz(file.zip)
            about = json.loads(file["about"].tobytes())
            if about["format"] != FORMAT:
                raise ValueError(f"its format is {about['format']!r}, not {FORMAT!r}")
            return _read(about, _unpack(about["arrays"], file["values"]))
    except FileNotFoundError:
        raise FileNotFoundError(f"no recording at {path}") from None
    except Exception as error:  # damage raises NotImplementedError, MemoryError, anything
        reason = str(error)[:300]
        raise ValueError(f"{path}: not a readable parity recording ({reason})") from None


def _pack(arrays: Leaves) -> tuple[dict[str, tuple[int, str, tuple[int, ...]]], np.ndarray]:
    """Return where each array is (offset in bytes, dtype, shape), and all their bytes as one array.

    Equal arrays are held once.
    """
    offsets: dict[bytes, int] = {}
    index, size = {}, 0
    for name, array in arrays.items():
        content = array.tobytes()
        if content not in offsets:
            offsets[content], size = size, size + len(content)
        index[name] = offsets[content], array.dtype.str, array.shape
    return index, np.frombuffer(b"".join(offsets), np.uint8)


def _unpack(index: dict[str, Any], values: np.ndarray) -> Leaves:
    def array(offset, dtype, shape):  # by a view, which refuses a dtype of pointers
        end = offset + np.dtype(dtype).itemsize * math.prod(shape)
        return values[offset:end].view(dtype).reshape(shape).copy()

    from jaxnet import files

    sizes = (np.dtype(dtype).itemsize * math.prod(shape) for _, dtype, shape in index.values())
    files.check_size("the arrays", sum(sizes))  # many may be made of the same bytes
    return {name: array(*place) for name, place in index.items()}


def _read(about: dict[str, Any], arrays: Leaves) -> Trajectory:
    groups: dict[str, Leaves] = {}
    for name, value in arrays.items():  # once: there may be many points
        parts = re.match(r"(?:(?:point/\d+|layers)/)?[^/]*/", name)
        if parts is not None:
            groups.setdefault(parts[0], {})[name[parts.end() :]] = value

    def group(prefix: str) -> Leaves:
        return groups.get(prefix, {})

    def batch(fields: dict[str, Any]) -> Any:
        fields = {k: v[()] if v.ndim == 0 else v for k, v in fields.items()}
        return Batch(**fields) if about["batch"] == "Batch" else fields

    stacked = group("batch/")
    length = len(next(iter(stacked.values())))

    def batch_at(i: int) -> Any:
        return batch({k: v[min(i, length - 1)] for k, v in stacked.items()})

    made = []
    for i, settings in enumerate(about["points"]):
        fields: dict[str, Any] = dict(settings)
        for name in ("params", "state", "grads"):
            fields[name] = group(f"point/{i}/{name}/")
        for name in ("want", "bar"):
            leaves = group(f"point/{i}/{name}/")
            fields[name] = {tuple(key.split("|", 1)): leaf for key, leaf in leaves.items()}
        made.append(Point(batch=batch(group(f"point/{i}/batch/")), **fields))
    losses = arrays["losses"]
    case = Case(
        about["case"], group("params/"), batch_at, tuple(about["steps"]), max(len(losses), 1)
    )
    name = f"{about['participant']} (recorded)"
    layers = {
        (plain["step"], plain["probe"]): _read_layers(plain, group(f"layers/{i}/"))
        for i, plain in enumerate(about.get("layers", ()))
    }
    return Trajectory(name, case, made, losses, arrays["shadow"], None, layers)


def _read_layers(plain: dict[str, Any], arrays: Leaves) -> LayerRun:
    kinds: dict[str, dict[Any, np.ndarray]] = {"grads": {}, "values": {}, "cotangents": {}}
    for text, array in arrays.items():
        kind, *key = text.split("|")
        if kind == "grads":
            kinds[kind][key[0]] = array
        elif kind in kinds:
            kinds[kind][key[0], key[1], int(key[2])] = array
    times = {name: (start, stop) for name, (start, stop) in plain["times"].items()}
    leaves = {path: frozenset(names) for path, names in plain["leaves"].items()}
    return LayerRun(arrays["loss|"], times=times, leaves=leaves, **kinds)


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
    """Return the case with an oracle's hidden units in another order."""
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
