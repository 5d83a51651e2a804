"""Processes that run a case of `mesh_cases`, on virtual devices of the CPU."""

import os
import socket
import subprocess
import sys
from pathlib import Path

import quick_code

import jaxnet

HERE = Path(__file__).parent
SOURCE = Path(jaxnet.__file__).parent.parent
THREADS = 8  # the same for all, and as many as devices: the number changes the bits of a CPU


def environment(devices, quick=False):
    """quick: compile as `quick_code` says, where only rounding may differ."""
    path = os.pathsep.join([str(SOURCE), os.environ.get("PYTHONPATH", "")])
    flags = f"--xla_force_host_platform_device_count={devices}"
    own = quick_code.ENVIRONMENT if quick else {}
    return (
        os.environ
        | own
        | {
            "JAX_PLATFORMS": "cpu",
            "NPROC": str(THREADS),
            "PYTHONPATH": path,
            "XLA_FLAGS": f"{flags} {own.get('XLA_FLAGS', '')}",
        }
    )


def free_port():
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


def start(devices, *arguments, quick=False, **options):
    return subprocess.Popen(
        [sys.executable, "-W", "error", *map(str, arguments)],
        env=environment(devices, quick),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        **options,
    )


def finish(processes, timeout=200):
    """Their standard errors, once all have ended well."""
    try:
        errors = [process.communicate(timeout=timeout)[1] for process in processes]
    finally:
        for process in processes:
            process.kill()
    assert [process.returncode for process in processes] == [0] * len(processes), errors
    return errors


def make_case(out, name, processes, devices):
    """Write the arrays of a case to `out`; devices: those of each process."""
    coordinator = f"127.0.0.1:{free_port()}"
    own = [[name, out]]
    if processes > 1:
        own = [[name, out, i, processes, coordinator] for i in range(processes)]
    quick = name != "same bits"
    finish([start(devices, HERE / "mesh_cases.py", *arguments, quick=quick) for arguments in own])


def part(found, prefix):
    """The arrays whose names begin so, by the rest of their names."""
    return {k.removeprefix(prefix): v for k, v in found.items() if k.startswith(prefix)}
