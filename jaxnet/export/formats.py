"""A trained network as files that run without jaxnet: StableHLO, PyTorch's weights, ONNX.

model.stablehlo and model.onnx take raw values and hold the encoding. `numbers` (N, n) are the
columns of numbers and dates in order, flattened, in the dtype of the run, NaN where a value is
missing; a date is the whole days since 1970, and the seconds of the day where training had them.
`codes` (N, m) int32 are, for each categorical column, the index of its value among the categories
of model.json, in which null is a missing value; -1 for one that is not among them. An input without
columns is left out. They return the probabilities (N, classes), or the prediction (N, D) in the
target's units. model.safetensors holds the weights alone, so that it takes encoded x. model.json
describes all three. load_jax.py, load_torch.py and load_onnx.py show how to use them; they read
every name and number from model.json, and are the same for every model.
"""

from __future__ import annotations

import contextlib
import importlib.util
import json
import math
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.export
import numpy as np

from jaxnet.export import torch_weights
from jaxnet.export.description import Inputs, describe, inputs_of, precision_notes
from jaxnet.files import make_folder, read_json, replacing
from jaxnet.runs import evaluation
from jaxnet.runs.folder import EXPORTED as DESCRIPTION
from jaxnet.runs.model import Model
from jaxnet.runs.params import digest
from jaxnet.spec import check_choice

PLATFORMS = ("cpu", "cuda", "tpu")
TEMPLATES = Path(__file__).with_name("templates")


class Exported(NamedTuple):
    """The files written, each with what it holds, and notes: warnings, and what was left out."""

    files: dict[Path, str]
    notes: tuple[str, ...]


def export(model: Model, folder: str | Path, formats: Sequence[str] = ()) -> Exported:
    """Write a model in each of `formats` into a folder, made if need be; replace what it exported.

    formats: of stablehlo, pytorch, onnx; by default all, onnx only where it is installed. All are
    made before the first is written. A temperature becomes part of the last layer.

    Raises: ValueError for an unknown format, or onnx where it is not installed; OSError for a
    folder that cannot be written.
    """
    folder = Path(folder)
    for name in formats:
        check_choice("format", name, tuple(FORMATS))
    chosen, notes = _choose(formats)
    weights = _weights(model, folder, chosen)
    if model.temperature != 1:
        notes.append(
            f"the last layer is divided by the temperature {model.temperature:.4g}, so that the "
            "softmax of its outputs gives the model's probabilities"
        )
        model = model.folded()
    contents = {}
    for name in chosen:
        made = FORMATS[name]
        contents[folder / made.file] = made.build(model), f"{made.what}; see {made.program}"
        program = (TEMPLATES / made.program).read_bytes()
        contents[folder / made.program] = program, f"an example: python {made.program}"
    about = describe(model) | {"weights": weights}
    described = json.dumps(about, indent=1, ensure_ascii=False).encode() + b"\n"
    contents[folder / DESCRIPTION] = described, "columns, categories, scales, classes; versions"
    _write(folder, {path: content for path, (content, _) in contents.items()})
    notes += [
        f"{f.file} is of an earlier export, and may not fit {DESCRIPTION}: export it again or "
        "delete it"
        for f in FORMATS.values()
        if folder / f.file not in contents and (folder / f.file).exists()
    ]
    files = {path: what for path, (_, what) in contents.items()}
    return Exported(files, (*notes, *_dtype_notes(model, chosen)))


def stablehlo(model: Model) -> bytes:
    """model.stablehlo: what `jax.export.deserialize` takes, for any N from 1 and all PLATFORMS.

    Matrix products are in the full precision of their dtype, on GPUs too.
    """
    dtype = np.dtype(model.dtype)
    inputs = inputs_of(model.encoding).cast(dtype)
    params: dict[str, Any] = model.params | {"w1": model.params["w1"][..., inputs.order, :]}
    target = model.encoding.target
    scale = [_cast(part, dtype) for part in model.scale]

    def apply(*arrays):
        x = _encode(inputs, **dict(zip(shapes, arrays, strict=True)))
        y = evaluation.apply(model.spec, params, x)
        if target.categories:
            return jax.nn.softmax(y)
        return y * scale[0] + scale[1]

    (n,) = jax.export.symbolic_shape("N")
    shapes = {}
    if len(inputs.mean):
        shapes["numbers"] = jax.ShapeDtypeStruct((n, len(inputs.mean)), dtype)
    if len(inputs.code):
        shapes["codes"] = jax.ShapeDtypeStruct((n, int(inputs.column.max()) + 1), np.int32)
    x64 = jax.enable_x64(model.dtype == "float64")
    with x64, jax.default_matmul_precision("highest"), _no_locations():
        exported = jax.export.export(jax.jit(apply), platforms=PLATFORMS)(*shapes.values())
    return bytes(exported.serialize())


def _encode(inputs: Inputs, numbers: Any = None, codes: Any = None) -> jax.Array:
    """The network's inputs in the order of `Inputs`, whose dtype they have."""
    jnp, dtype, parts = jax.numpy, inputs.mean.dtype, []
    if numbers is not None:
        absent = jnp.isnan(numbers)
        numbers = jnp.where(absent, inputs.fill, numbers)
        binned = (numbers[:, inputs.binned] - inputs.lower) / (inputs.upper - inputs.lower)
        rest = jnp.fmod(numbers[:, inputs.turned], inputs.period)
        angle = rest * (2 * math.pi * inputs.times / inputs.period)
        parts = [(numbers - inputs.mean) / inputs.std, jnp.clip(binned, 0, 1)]
        parts += [jnp.sin(angle), jnp.cos(angle), absent[:, inputs.missing]]
    if codes is not None:
        parts.append(codes[:, inputs.column] == inputs.code)
    return jnp.concatenate([part.astype(dtype) for part in parts], axis=1)


@contextlib.contextmanager
def _no_locations() -> Iterator[None]:
    """Keep the paths of source files, a user's folders, out of what is exported."""
    option = "jax_traceback_in_locations_limit"
    limit = getattr(jax.config, option)
    jax.config.update(option, 0)
    try:
        yield
    finally:
        jax.config.update(option, limit)


def pytorch(model: Model) -> bytes:
    """model.safetensors: the state_dict of an nn.Sequential of Linear and activation layers, or of
    an nn.ModuleList of such, the members of an ensemble.
    """
    return torch_weights.save(model.members)


def onnx(model: Model) -> bytes:
    """model.onnx: the graph with its encoding, for any N."""
    from jaxnet.export import onnx_graph  # an extra

    dtype = np.dtype(model.dtype)
    inputs = inputs_of(model.encoding).cast(dtype)
    members = [params | {"w1": params["w1"][inputs.order]} for params in model.members]
    numbers = range(1, len(model.spec.sizes))
    std, mean = (_cast(part, dtype) for part in model.scale)
    return onnx_graph.build(
        inputs,
        members=[[(p[f"w{k}"], p.get(f"b{k}")) for k in numbers] for p in members],
        activation=model.spec.activation,
        output=None if model.encoding.target.categories else (mean, std),
    )


class Format(NamedTuple):
    """A file, the program beside it, what it is in words, and how it is made."""

    file: str
    program: str
    what: str
    build: Callable[[Model], bytes]


FORMATS: dict[str, Format] = {
    "stablehlo": Format(
        "model.stablehlo", "load_jax.py", "network and encoding, for JAX", stablehlo
    ),
    "pytorch": Format("model.safetensors", "load_torch.py", "weights, as a state_dict", pytorch),
    "onnx": Format(
        "model.onnx", "load_onnx.py", "network and encoding, for any ONNX runtime", onnx
    ),
}


def _cast(values: Any, dtype: np.dtype) -> np.ndarray:
    with np.errstate(over="ignore"):  # a note says so
        return np.asarray(values).astype(dtype)


def _choose(formats: Sequence[str]) -> tuple[list[str], list[str]]:
    """The formats to write, and a note if one was left out."""
    if importlib.util.find_spec("onnx") is not None:
        return list(dict.fromkeys(formats or FORMATS)), []
    missing = "the package onnx is not installed: pip install 'jaxnet[onnx]'"
    if "onnx" in formats:
        raise ValueError(f"`format` must be of stablehlo, pytorch; {missing}")
    if formats:
        return list(dict.fromkeys(formats)), []
    return [name for name in FORMATS if name != "onnx"], [f"onnx was left out: {missing}"]


def _weights(model: Model, folder: Path, chosen: Sequence[str]) -> dict[str, str]:
    """Return the digest of the weights that each exported file is of, also of an earlier export."""
    found: dict[str, str] = {}
    with contextlib.suppress(OSError, ValueError, KeyError, AttributeError):
        earlier = read_json(folder / DESCRIPTION)["weights"].items()
        found = {name: weights for name, weights in earlier if (folder / name).is_file()}
    return found | dict.fromkeys((FORMATS[name].file for name in chosen), digest(model.params))


def _write(folder: Path, contents: dict[Path, bytes]) -> None:
    """Write all files, and only then give them their names."""
    made: list[Path] = []
    try:
        made = make_folder(folder)
        with contextlib.ExitStack() as parts:  # which it leaves in the opposite order
            for path, content in reversed(contents.items()):
                parts.enter_context(replacing(path)).write_bytes(content)
    except BaseException as error:  # Ctrl-C too
        with contextlib.suppress(OSError):  # it is not empty
            for path in made:
                path.rmdir()
        if not isinstance(error, OSError):
            raise
        raise OSError(
            f"`out` must be a folder that can be written, got {folder} ({error.strerror})"
        ) from None


def _dtype_notes(model: Model, formats: Sequence[str]) -> list[str]:
    """What float32 loses, or what the reader of a float64 file has to know."""
    if model.dtype == "float32":
        files = " and ".join(FORMATS[name].file for name in formats if name != "pytorch")
        columns = (*model.encoding.features, model.encoding.target) if files else ()
        return [f"in {files} {note}" for note in precision_notes(columns)]
    notes = {
        "stablehlo": "model.stablehlo is in float64: its reader must set jax_enable_x64, as "
        "load_jax.py does",
    }
    if model.spec.activation == "gelu":
        notes["onnx"] = (
            "model.onnx computes gelu to float32's precision: onnxruntime has no other erf"
        )
    return [notes[name] for name in formats if name in notes]
