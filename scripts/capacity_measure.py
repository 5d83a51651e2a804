"""The measurements of `capacity.py --measure`, on the CPU of this machine, as Markdown tables.

Each case is a function that a process of its own runs, `capacity_measure.py NAME ARGUMENT...`,
since the number of virtual devices, and joining a group of processes, come before anything else.
"""

from __future__ import annotations

import itertools
import json
import os
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable
from functools import partial
from pathlib import Path
from typing import Any

import capacity
import jax

from jaxnet import data, net, optimizers, runs, train
from jaxnet.engine import accumulate, processes
from jaxnet.engine import mesh as parallel
from jaxnet.runs.config import Config
from jaxnet.spec import Spec

HERE = Path(__file__).parent
COUNTS = (1, 2, 4, 8)  # virtual devices
PROCESSES = (1, 2, 4)
# hidden layers, batch, and steps that are timed together
NETWORKS = {"784-256-10": ((256,), 256, 20), "784-1024-1024-10": ((1024, 1024), 1024, 4)}
DEPTHS = (1, 4, 16)  # hidden layers whose compilation is timed
MEMORY = ((784, 1024, 1024, 1024, 10), 4096)
TABLES = {20: 2**20, 784: 2**15}  # columns of numbers, and rows, of the loader's tables
BATCHES = (1024, 8192)


def spec_of(sizes: tuple[int, ...]) -> Spec:
    return Spec(sizes, bias=True, loss="cross_entropy")


def step_of(spec: Spec, mesh: jax.sharding.Mesh, **options: Any) -> train.Step:
    loss = partial(net.loss, loss=spec.loss)
    return parallel.data_parallel(
        train.make_step(loss, optimizers.make("adam", 1e-3), **options), mesh
    )


def state_of(spec: Spec, mesh: jax.sharding.Mesh) -> train.TrainState:
    return parallel.replicate(mesh, train.init(spec.init(0), optimizers.make("adam", 1e-3)))


def timed_steps(name: str, mesh: jax.sharding.Mesh) -> Callable[[], float]:
    """The function that makes some steps, and returns the seconds of one."""
    hidden, batch, steps = NETWORKS[name]
    spec = spec_of((784, *hidden, 10))
    rows = parallel.replicate(mesh, data.random_problem(spec, num_rows=4 * batch))
    step, state = train.on_rows(step_of(spec, mesh), rows), state_of(spec, mesh)
    rows_at = data.row_batches(4 * batch, batch)

    def run() -> float:
        nonlocal state
        start = time.perf_counter()
        state, _ = train.fit_scan(step, state, rows_at, steps, chunk=steps)
        return (time.perf_counter() - start) / steps

    run()  # compiles
    return run


def devices(rounds: str) -> dict[str, list[list[float]]]:
    """Seconds of a step by network: a list for each round, of every number of devices in turn."""
    found = {}
    for name in NETWORKS:
        timed = [timed_steps(name, parallel.make_mesh(count)) for count in COUNTS]
        found[name] = [[run() for run in timed] for _ in range(int(rounds))]
    return found


def of_group(
    number: str, count: str, coordinator: str, rounds: str, *names: str
) -> dict[str, list[float]]:
    """Seconds of a step by network in each round, of one process among several."""
    processes.start(coordinator, int(number), int(count))
    timed = {name: timed_steps(name, parallel.make_mesh()) for name in names}
    return {name: [run() for _ in range(int(rounds))] for name, run in timed.items()}


def compiling() -> dict[str, list[list[float]]]:
    """Seconds to trace and compile a step, several times, by depth and number of devices."""
    found = {}
    for depth in DEPTHS:
        spec = spec_of((64, *[64] * depth, 10))
        tries: list[list[float]] = [[] for _ in COUNTS]
        for _, (count, times) in itertools.product(range(3), zip(COUNTS, tries, strict=True)):
            mesh = parallel.make_mesh(count)
            state = state_of(spec, mesh)
            batch = parallel.rows(mesh, data.random_problem(spec, num_rows=64))
            start = time.perf_counter()
            step_of(spec, mesh).lower(state, batch).compile()  # type: ignore[missing-attribute]
            times.append(time.perf_counter() - start)
        found[str(depth)] = tries
    return found


def spaces() -> list[list[Any]]:
    """What XLA sets aside for a step, and what the formula says: options, devices, bytes, bytes."""
    sizes, batch = MEMORY
    spec = spec_of(sizes)
    rows = data.random_problem(spec, num_rows=batch)
    parts = partial(accumulate.accumulated, microbatches=4, reduction="mean")
    ways: dict[str, tuple[dict, dict]] = {
        "float32": ({}, {}),
        "accumulate 4": ({"value_and_grad": parts}, {"parts": 4}),
        "bfloat16": ({}, {"bfloat16": True}),
    }
    found = []
    for name, (options, planned) in ways.items():
        loss = partial(
            net.loss, loss=spec.loss, compute_dtype="bfloat16" if name == "bfloat16" else None
        )
        step = train.make_step(loss, optimizers.make("adam", 1e-3), **options)
        for count in sorted({1, max(COUNTS)}):
            mesh = parallel.make_mesh(count)
            over = parallel.data_parallel(step, mesh)
            lowered = over.lower(state_of(spec, mesh), parallel.rows(mesh, rows))  # type: ignore[missing-attribute]
            got = lowered.compile().memory_analysis()
            plan = capacity.Plan(sizes, batch, count, rows=0, **planned)
            want = capacity.memory(plan)
            # the best parameters are a run's, not a step's
            want = sum(want.values()) - want["best parameters"]
            found.append([name, count, got.argument_size_in_bytes + got.temp_size_in_bytes, want])
    return found


def loader(folder: str) -> list[list[Any]]:
    """Of mapped tables: columns, bytes of a record, batch, and its seconds each time."""
    found = []
    for columns, rows in TABLES.items():
        path = Path(folder) / f"{columns}.parquet"
        command = [sys.executable, str(HERE / "make_table.py"), str(path)]
        subprocess.run([*command, "--rows", str(rows), "--columns", str(columns)], check=True)
        dataset = runs.prepare(Config(data=str(path), target="label", on_disk="on"))
        for batch in BATCHES:
            rows_at = data.row_batches(len(dataset.train), batch)
            times = []
            for i in range(24):
                start = time.perf_counter()
                dataset.train.batch(rows_at(i))
                times.append(time.perf_counter() - start)
            row_bytes = dataset.train.mapped.row_bytes
            found.append([dataset.train.width, row_bytes, batch, times[4:]])
    return found


CASES = {
    "devices": devices,
    "processes": of_group,
    "compiling": compiling,
    "spaces": spaces,
    "loader": loader,
}


def start(name: str, *arguments: object, devices: int = 1) -> subprocess.Popen:
    """Begin a case in a process of its own."""
    flags = {"XLA_FLAGS": f"--xla_force_host_platform_device_count={devices}"}
    return subprocess.Popen(
        [sys.executable, __file__, name, *map(str, arguments)],
        env=os.environ | flags | {"JAX_PLATFORMS": "cpu"},
        stdout=subprocess.PIPE,
        text=True,
    )


def result(process: subprocess.Popen) -> Any:
    """What a case has found.

    Raises: RuntimeError if it failed.
    """
    said = process.communicate()[0]
    if process.returncode:
        raise RuntimeError(f"{process.args} failed")
    return json.loads(said.splitlines()[-1])  # gloo speaks before


def in_processes(count: int, rounds: int, names: Iterable[str]) -> dict[str, list[float]]:
    """What process 0 of a group found in the case `processes`."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        coordinator = f"127.0.0.1:{listener.getsockname()[1]}"
    group = [start("processes", i, count, coordinator, rounds, *names) for i in range(count)]
    try:
        found = [result(process) for process in group]
    finally:
        for process in group:
            process.kill()
    return found[0]


def spread(values: list[float]) -> str:
    """Milliseconds: the median, and the least and the most."""
    low, middle, high = min(values), statistics.median(values), max(values)
    return f"{1e3 * middle:,.1f} ({1e3 * low:,.1f} to {1e3 * high:,.1f})"


def tables(rounds: int = 7) -> dict[str, str]:
    """Every measurement as a Markdown table, by its title."""
    found = {}
    of_devices = result(start("devices", rounds, devices=max(COUNTS)))
    found["ms a step on virtual devices of one process"] = capacity.markdown(
        ["network, batch", *map(str, COUNTS)],
        [
            [f"{name}, {NETWORKS[name][1]:,}", *(spread(list(c)) for c in zip(*times, strict=True))]
            for name, times in of_devices.items()
        ],
    )
    of_processes = {count: in_processes(count, rounds, NETWORKS) for count in PROCESSES}
    found["ms a step in processes of one device"] = capacity.markdown(
        ["network, batch", "bytes of gradient", *map(str, PROCESSES)],
        [
            [
                f"{name}, {batch:,}",
                f"{4 * capacity.num_gradients((784, *hidden, 10)):,.0f}",
                *(spread(of_processes[count][name]) for count in PROCESSES),
            ]
            for name, (hidden, batch, _) in NETWORKS.items()
        ],
    )
    found["ms to compile a step for virtual devices"] = capacity.markdown(
        ["hidden layers", *map(str, COUNTS)],
        [
            [depth, *map(spread, tries)]
            for depth, tries in result(start("compiling", devices=max(COUNTS))).items()
        ],
    )
    found["MB of a step on each device"] = capacity.markdown(
        ["", "devices", "XLA", "the formula"],
        [
            [name, count, f"{got / 1e6:.1f}", f"{want / 1e6:.1f}"]
            for name, count, got, want in result(start("spaces", devices=max(COUNTS)))
        ],
    )
    with tempfile.TemporaryDirectory() as folder:
        found["rows of a mapped table, one process"] = capacity.markdown(
            ["columns of x", "bytes of a record", "batch", "ms a batch", "rows a second"],
            [
                [
                    columns,
                    f"{row_bytes:,}",
                    f"{batch:,}",
                    spread(times),
                    f"{batch / statistics.median(times):,.0f}",
                ]
                for columns, row_bytes, batch, times in result(start("loader", folder))
            ],
        )
    return found


def main(rounds: int = 7) -> None:
    """Print every table."""
    start = time.perf_counter()
    for title, text in tables(rounds).items():
        print(f"{title}:\n\n{text}\n", flush=True)
    print(f"{time.perf_counter() - start:.0f} s on {os.cpu_count()} cores")


if __name__ == "__main__":
    print(json.dumps(CASES[sys.argv[1]](*sys.argv[2:])))
