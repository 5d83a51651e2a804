"""Damage files of every kind that jaxnet reads, and see that each is read or refused in one line.

    python scripts/tools/fuzz_loaders.py --seconds 60

Each case is made from a seed: a good file is damaged byte by byte, or value by value where it holds
JSON, whose digests are then made right again. Cases run in a process of their own of bounded
memory, which is ended if a case takes too long. A failure (another error than ValueError, OSError
or MemoryError, a hang, a crash) prints the seed, with which --seed makes the same case again.
"""

from __future__ import annotations

import argparse
import copy
import gzip
import hashlib
import json
import logging
import math
import os
import random
import resource
import select
import shutil
import signal
import struct
import tempfile
import time
import traceback
import warnings
import zipfile
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
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
from jaxnet.runs.record import Record
from jaxnet.runs.weights import digest, save_params
from jaxnet.tables import arrays, convert
from jaxnet.tables.fitting import fit_encoding
from jaxnet.tables.reading import reader

REFUSED = (ValueError, OSError, MemoryError)  # which the command line turns into one line
ROUND = 100  # seeds that a process checks: JAX keeps what it compiles
SECONDS, MEMORY = 20, 3 * 2**30  # that a case may take, and that its process may take beside
NUMBERS = [0, -1, 1.5, 2**31, 2**63, 10**30, 1e308, math.nan, math.inf, -math.inf, True]
VALUES = [*NUMBERS, None, "", "x", "\x1b[2J\n=1+1", "a" * 5000, [], {}, [[]], [None], {"a": 1}]
Load = Callable[[Path], object]


def damage(content: bytes, rng: random.Random) -> bytes:
    """Change, remove, repeat or add bytes at some places."""
    made = bytearray(content)
    for _ in range(rng.choice([1, 1, 2, 5, 20])):
        start = rng.randrange(len(made) + 1)
        stop = min(len(made), start + rng.choice([1, 1, 2, 4, 8, 100]))
        change = rng.randrange(6)
        if change == 0:
            made[start:stop] = rng.randbytes(stop - start)
        elif change == 1:
            del made[start:stop]
        elif change == 2:
            made[start:start] = made[start:stop] * rng.choice([1, 2, 1000])
        elif change == 3:
            made[start:start] = rng.choice([b'"', b"\n", b"\r", b"\0", b",", b" ", b"\xff", b"["])
        elif change == 4:
            number = rng.choice([0, 1, -1, 2**31 - 1, 2**40, 2**63 - 1])
            made[start : start + 8] = struct.pack("<q", number)
        else:
            del made[start:]
    return bytes(made)


def damage_json(value: Any, rng: random.Random) -> Any:
    """Change, remove, add or nest values at some places."""
    made = copy.deepcopy(value)
    for _ in range(rng.choice([1, 1, 1, 2, 5])):
        holder, key = rng.choice(_places(made) or [({"": made}, "")])
        change = rng.randrange(6)
        if change == 0:
            del holder[key]
        elif change == 1 and isinstance(holder, list):
            holder += [copy.deepcopy(holder[key]) for _ in range(rng.choice([1, 3, 100]))]
        elif change == 2 and isinstance(holder, dict):
            holder[rng.choice(["x", "", "\x1b[2J", "w3"])] = copy.deepcopy(rng.choice(VALUES))
        elif change == 3:
            for _ in range(rng.choice([1, 30, 300])):
                holder[key] = [holder[key]]
        elif change == 4 and isinstance(holder[key], (int, float)):
            holder[key] = rng.choice(NUMBERS)
        else:
            holder[key] = copy.deepcopy(rng.choice(VALUES))
    return made


def _places(value: Any) -> list[tuple[Any, Any]]:
    """Return each holder and key within a value, some thousands at most."""
    found: list[tuple[Any, Any]] = []
    left = [value]
    while left and len(found) < 5000:
        one = left.pop()
        for key in [*one] if isinstance(one, dict) else range(len(one)):
            found.append((one, key))
            if isinstance(one[key], (dict, list)):
                left.append(one[key])
    return found


def rewrite(path: Path, rng: random.Random, change: Callable[[Any], Any] = lambda value: value):
    """Damage a file of JSON as values or as bytes. change: makes its digest right again."""
    if rng.random() < 0.2:
        path.write_bytes(damage(path.read_bytes(), rng))
        return
    made = change(damage_json(json.loads(path.read_bytes()), rng))
    path.write_text(json.dumps(made))


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


def check(kind: str, seed: int, folder: Path) -> str:
    """Make a case and load it; return what the error says, or "".

    Raises: any error that is not clear.
    """
    rng = random.Random(f"{kind} {seed}")
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    load = MAKES[kind](folder, rng)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            load(folder)
        except REFUSED as error:
            return str(error) or type(error).__name__
    return ""


def work(kinds: list[str], seeds: range, folder: Path, out: int) -> None:
    """Check seeds in this process, of bounded memory, and write a line before each of them."""
    most = _size() + MEMORY
    resource.setrlimit(resource.RLIMIT_DATA, (most, most))
    logging.getLogger("jaxnet").setLevel(logging.CRITICAL)
    for seed in seeds:
        for kind in kinds:
            if seed % SLOW.get(kind, 1):
                continue
            os.write(out, f"{kind} {seed}\n".encode())
            try:
                check(kind, seed, folder)
            except Exception:
                last = traceback.format_exc().strip().splitlines()
                os.write(out, f"! {' / '.join(last[-4:])[:1500]}\n".encode())
    os.write(out, b".\n")


def _size() -> int:
    """Return the bytes of data of this process."""
    found = Path("/proc/self/status").read_text().split("VmData:")[1].split()[0]
    return int(found) * 1024


def fuzz(kinds: list[str], seeds: range, seconds: float, folder: Path) -> tuple[int, list[str]]:
    """Check seeds as long as there is time; return how many cases there were, and the failures."""
    end, cases, failures, last = time.monotonic() + seconds, 0, [], ""
    while seeds and time.monotonic() < end:
        read, write = os.pipe()
        pid = os.fork()
        if not pid:
            try:
                os.close(read)
                work(kinds, seeds[:ROUND], folder, write)
            finally:
                os._exit(0)
        os.close(write)
        with os.fdopen(read, "rb", 0) as lines:  # unbuffered, for select
            done, said, last = False, "", ""
            while not done and time.monotonic() < end + SECONDS:
                if not select.select([lines], [], [], SECONDS)[0]:
                    failures.append(f"{last}: hangs for {SECONDS} s")
                    break
                said = lines.readline().decode(errors="replace")
                if said.startswith("!"):
                    failures.append(f"{last}: {said[2:].strip()}")
                elif said in ("", ".\n"):
                    done = said == ".\n"
                    if not done:
                        failures.append(f"{last}: the process ended")
                    break
                else:
                    last, cases = said.strip(), cases + 1
                    if time.monotonic() >= end:
                        done = True
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)
        seeds = seeds[ROUND if done else seeds.index(int(last.split()[-1])) + 1 :]
    return cases, failures


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seconds", type=float, default=60.0)
    parser.add_argument("--kinds", nargs="+", default=[*MAKES], choices=[*MAKES])
    parser.add_argument("--seed", type=int, help="only this one")
    parser.add_argument("--start", type=int, default=0)
    options = parser.parse_args()
    seeds = range(options.start, 2**62)
    if options.seed is not None:
        seeds = range(options.seed, options.seed + 1)
    with tempfile.TemporaryDirectory() as name:
        began = time.monotonic()
        cases, failures = fuzz(options.kinds, seeds, options.seconds, Path(name) / "case")
        for failure in failures:
            print(failure)
        peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1024
        took = time.monotonic() - began
        print(f"{cases:,} cases in {took:.0f} s, {len(failures)} failed, at most {peak:,.0f} MB")
    raise SystemExit(bool(failures))


if __name__ == "__main__":
    main()
