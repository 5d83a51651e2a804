"""Files of every kind that jaxnet reads, damaged, and how each is loaded: of `fuzz_loaders`."""

from __future__ import annotations

import gzip
import hashlib
import json
import random
import shutil
import zipfile
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from damage import damage, damage_json, rewrite
from fuzz_tables import SPELLED, TYPES, WORDS
from pyarrow import parquet
from safetensors.numpy import save

from jaxnet import optimizers, parity
from jaxnet.cli import run_text
from jaxnet.engine import checkpoint
from jaxnet.export import lifetime, torch_weights
from jaxnet.parity import recording
from jaxnet.runs import folder as run_folder
from jaxnet.runs import model, state
from jaxnet.runs.config import Config
from jaxnet.runs.params import digest, save_params
from jaxnet.runs.record import Record
from jaxnet.tables import arrays, convert
from jaxnet.tables.fitting import fit_encoding
from jaxnet.tables.reading import reader

Load = Callable[[Path], object]


def table_of(rng: random.Random, rows: int) -> dict[str, list[str]]:
    names = rng.choices(list(SPELLED), k=rng.randint(1, 4))
    made = {}
    for place, name in enumerate(names):
        made[f"{name}{place}"] = [text for text, _ in SPELLED[name](rng, rows, False)]
    return made | {"y": [rng.choice(WORDS) for _ in range(rows)]}


def csv_of(table: dict[str, list[str]]) -> bytes:
    rows = zip(*table.values(), strict=True)
    lines = [",".join(table), *(",".join(f'"{text}"' for text in row) for row in rows)]
    return ("\n".join(lines) + "\n").encode()


def csv(folder: Path, rng: random.Random) -> Load:
    content = damage(csv_of(table_of(rng, rng.randint(2, 200))), rng)
    name = "t.csv"
    if rng.random() < 0.3:
        name, content = "t.csv.gz", gzip.compress(content, 1)
        content = damage(content, rng) if rng.random() < 0.5 else content
    return _table(folder / name, content, rng)


def npz(folder: Path, rng: random.Random) -> Load:
    path = folder / "t.npz"
    np.savez(path, a=np.arange(9.0), b=np.arange(9), c=np.array([*"abcabcabc"]))
    with zipfile.ZipFile(path) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    name = rng.choice([*members])
    members[name] = damage(members[name], rng)
    if rng.random() < 0.3:
        members[rng.choice(["raw", "x.txt", "../x.npy", "o.npy"])] = members[name]
    with zipfile.ZipFile(path, "w", rng.choice([0, 8, 12, 14])) as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    content = path.read_bytes()
    return _table(path, damage(content, rng) if rng.random() < 0.3 else content, rng)


def parquet_file(folder: Path, rng: random.Random) -> Load:
    path, table, rows = folder / "t.parquet", {}, rng.randint(2, 30)
    for place, kind in enumerate(rng.choices([*TYPES], k=3)):
        type, make = TYPES[kind]
        table[str(place)] = pa.array([make(rng) for _ in range(rows)], type)
    parquet.write_table(pa.table(table), path, compression=rng.choice(["NONE", "SNAPPY", "GZIP"]))
    return _table(path, damage(path.read_bytes(), rng), rng)


def _table(path: Path, content: bytes, rng: random.Random) -> Load:
    path.write_bytes(content)
    on_disk = rng.random() < 0.3

    def load(folder: Path) -> None:
        table = convert.convert(path) if on_disk else reader.read(path)
        for block in table.blocks(list(table.columns)):
            assert block.num_rows
        for block in reader.blocks(path, table.kinds, 7):
            assert block.num_rows

    return load


def stored(folder: Path, rng: random.Random) -> Load:
    """The arrays of a table on disk, and their description."""
    path, kept = folder / "t.csv", folder / "t.csv.arrays"
    path.write_bytes(csv_of(table_of(rng, 30)))
    convert.convert(path)

    def sign(value: Any) -> Any:
        if isinstance(value, dict):
            value.pop("digest", None)
            content = json.dumps(value, sort_keys=True, default=str).encode()
            value["digest"] = arrays.digest(content)
        return value

    if rng.random() < 0.7:
        rewrite(kept / "arrays.json", rng, sign)
    else:
        file = kept / rng.choice(["numbers.npy", "codes.npy"])
        file.write_bytes(damage(file.read_bytes(), rng))
        found = json.loads((kept / "arrays.json").read_text())
        content = file.read_bytes()
        found["digests"][file.name] = [
            arrays.digest(content[i : i + 2**20]) for i in range(0, len(content), 2**20)
        ]
        (kept / "arrays.json").write_text(json.dumps(sign(found)))

    def load(folder: Path) -> None:
        store = convert.convert(path)
        for block in store.blocks(list(store.columns)):
            assert block.num_rows
        store.take(np.arange(store.num_rows)[-3:])

    return load


def write_run(folder: Path) -> tuple[Path, state.RunState]:
    """Write a run's folder with one checkpoint; return the table, and its state."""
    data, run = folder / "t.csv", folder / "run"
    rng = random.Random(0)
    rows = [(rng.random(), rng.choice("uvw"), rng.choice("ab")) for _ in range(40)]
    data.write_text("a,b,y\n" + "".join(f"{a},{b},{y}\n" for a, b, y in rows))
    table = reader.read(data)
    encoding = fit_encoding(table, "y", "classification", np.arange(40), ())
    spec = model.Spec((encoding.width, 3, 2), True, "relu", "cross_entropy")
    source = {"name": "t.csv", "path": str(data), "bytes": 9, "sha256": "0", "left_out": []}
    versions, device = {"jaxnet": "0"}, {"platform": "cpu", "kind": "cpu", "processors": 2}
    config = Config(data=str(data), target="y", hidden=(3,), epochs=2)
    counts = {"train": 32, "validation": 8}
    record = Record(config, "classification", spec, counts, source, encoding, device, versions)
    run.mkdir()
    record.save(run)
    line = {"step": 0, "epoch": 0, "train_loss": 1.0, "val_loss": 1.0, "val_accuracy": 0.5}
    run_folder.append_metrics(run, line)
    now = state.begin(spec.init(0), optimizers.make("adam", learning_rate=0.1))
    now = now._replace(best_line=line, lines=[line])
    with checkpoint.Writer(run / run_folder.CHECKPOINTS) as writer:
        state.save(writer, run, dict, now, record.identity())
    return data, now


def config(folder: Path, rng: random.Random) -> Load:
    write_run(folder)
    name = rng.choice([run_folder.CONFIG] * 4 + [run_folder.METRICS, run_folder.REPORT])
    (folder / "run" / run_folder.REPORT).write_text('{"epoch": 0, "train": {"loss": 1.0}}')
    if name == run_folder.METRICS:
        content = (folder / "run" / name).read_bytes()
        (folder / "run" / name).write_bytes(damage(content, rng) + b"\n")
    else:
        rewrite(folder / "run" / name, rng)

    def load(folder: Path) -> None:
        run = run_text.read(folder / "run")
        run_text.summary(run)
        run_text.comparison([run, run])
        made = model.load(folder / "run")
        predict = made.predict(reader.read(folder / "t.csv").columns)
        assert len(predict) == 40

    return load


def weights(folder: Path, rng: random.Random) -> Load:
    """The parameters of a run's model."""
    write_run(folder)
    path = folder / "run" / run_folder.PARAMS
    params = Record.load(folder / "run").spec.init(1)
    if rng.random() < 0.5:
        path.write_bytes(damage(path.read_bytes(), rng))
    else:
        name = rng.choice([*params])
        shape = rng.choice([(), (0,), (1, 2, 3), (3, 1)])
        params[name] = np.zeros(shape, rng.choice(["f4", "f8", "i4", "f2", "b1"]))
        line = damage_json({"epoch": 1, "temperature": 1.0, "balance": 0.5}, rng)
        line = line if isinstance(line, dict) else {}
        if rng.random() < 0.5:
            save_params(path, params, line)
        else:
            line = json.dumps([line | {"sha256": digest(params)}][rng.random() < 0.2 :])
            path.write_bytes(save(params, {"jaxnet": line}))

    def load(folder: Path) -> None:
        made = model.load(folder / "run")
        made.predict(reader.read(folder / "t.csv").columns)

    return load


def checkpoints(folder: Path, rng: random.Random) -> Load:
    _, now = write_run(folder)
    path = folder / "run" / run_folder.CHECKPOINTS / "0"
    stored = path / checkpoint.ARRAYS
    if rng.random() < 0.4:
        stored.write_bytes(damage(stored.read_bytes(), rng))

    def sign(value: Any) -> Any:
        if isinstance(value, dict):
            value.pop("sha256", None)
            if rng.random() < 0.9:
                value["arrays"] = hashlib.sha256(stored.read_bytes()).hexdigest()
            content = json.dumps(value, sort_keys=True).encode()
            value["sha256"] = hashlib.sha256(content).hexdigest()
        return value

    if rng.random() < 0.7:
        rewrite(path / checkpoint.JSON, rng, sign)
    else:
        made = sign(json.loads((path / checkpoint.JSON).read_text()))
        (path / checkpoint.JSON).write_text(json.dumps(made))

    def load(folder: Path) -> None:
        run = folder / "run"
        checkpoint.metadata(run / run_folder.CHECKPOINTS)
        with_lines, _ = state.restore(run, now)
        assert int(with_lines.state.step) == 0

    return load


def torch(folder: Path, rng: random.Random) -> Load:
    """A state_dict as safetensors."""
    sizes = [rng.randint(1, 4) for _ in range(rng.randint(2, 9))]
    prefix = rng.choice(["net.{}", "{}", "layer{}", "a.{}.b"])
    tensors: dict[str, np.ndarray] = {}
    for k, (d_in, d_out) in enumerate(pairwise(sizes)):
        name = prefix.format(k if rng.random() < 0.5 else rng.choice("abcdefgh"))
        tensors[f"{name}.weight"] = np.zeros((d_out, d_in), np.float32)
        tensors[f"{name}.bias"] = np.zeros(d_out, np.float32)
    content = save(tensors)
    path = folder / "m.safetensors"
    path.write_bytes(damage(content, rng) if rng.random() < 0.7 else content)
    return lambda folder: torch_weights.read(path, torch_weights.layer_order(path))


def recordings(folder: Path, rng: random.Random) -> Load:
    path = folder / "r.npz"
    if not path.exists():
        small = Path(parity.__file__).parent / "recordings"
        shutil.copy(min(small.glob("*.npz"), key=lambda file: file.stat().st_size), path)
    with np.load(path) as file:
        about, values = json.loads(file["about"].tobytes()), file["values"]
    text = json.dumps(damage_json(about, rng)).encode()
    text = damage(text, rng) if rng.random() < 0.2 else text
    np.savez(path, about=np.frombuffer(text, np.uint8), values=values)
    if rng.random() < 0.2:
        path.write_bytes(damage(path.read_bytes(), rng))
    return lambda folder: recording.load(path)


def exports(folder: Path, rng: random.Random) -> Load:
    """A StableHLO file with its model.json, as `jaxnet doctor FILE` reads them."""
    import jax.export

    (rows,) = jax.export.symbolic_shape("N")
    shape = jax.ShapeDtypeStruct((rows, 3), np.float32)
    program = jax.export.export(jax.jit(jax.nn.softmax), platforms=("cpu",))(shape)
    path = folder / lifetime.STABLEHLO
    path.write_bytes(damage(bytes(program.serialize()), rng))
    (folder / lifetime.DESCRIPTION).write_text('{"versions": {"jaxlib": "0.10.1"}}')
    rewrite(folder / lifetime.DESCRIPTION, rng)

    def load(folder: Path) -> None:
        found = lifetime.inspect(path)
        for name in ("jaxlib", "jax"):
            if name in found.versions:
                lifetime.promise(found.versions[name])

    return load


MAKES: dict[str, Callable[[Path, random.Random], Load]] = {
    "csv": csv,
    "npz": npz,
    "parquet": parquet_file,
    "stored": stored,
    "config": config,
    "weights": weights,
    "checkpoints": checkpoints,
    "torch": torch,
    "recordings": recordings,
    "exports": exports,
}
SLOW = {"exports": 25}  # only each so many seeds: a process of its own for each case
