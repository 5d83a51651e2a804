"""The processes of one run: how they meet, what they tell each other, how a loss shows.

Each of them runs the same program (`parallel` divides its arrays), and JAX's own runtime connects
them: gloo between CPUs, NCCL between GPUs. What is called here must be called by all, in the same
order. In a run of one process it costs nothing.
"""

from __future__ import annotations

import contextlib
import json
import re
import socket
import threading
import time
from collections.abc import Iterator
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils

from jaxnet.engine.signals import ProcessLost, RemoteError

HEARTBEAT_TIMEOUT, SHUTDOWN_TIMEOUT, START_TIMEOUT = 30, 30, 60  # seconds
LEAVE_TIMEOUT = 2.0  # seconds, for processes that all leave at the same point of the program


def start(
    coordinator: str | None = None,
    process_id: int | None = None,
    num_processes: int | None = None,
    *,
    timeout: int = START_TIMEOUT,
) -> None:
    """Join the processes of this run; to be called before anything is computed.

    coordinator: HOST:PORT of process 0, which listens on that host's address only. Without any
    argument JAX asks SLURM, Open MPI or Kubernetes. timeout: seconds to wait for the others; JAX
    ends process 0 if one of them never comes. A process that is silent for 30 seconds counts as
    lost. Python keeps its signal handlers.

    Raises: ValueError for some of the arguments without the others, or outside a cluster;
    TimeoutError if the coordinator does not answer; RuntimeError if JAX has
    computed before.
    """
    by_hand = {"coordinator": coordinator, "process_id": process_id, "num_processes": num_processes}
    given = [name for name, value in by_hand.items() if value is not None]
    if given and len(given) < len(by_hand):
        missing = ", ".join(f"`{name}`" for name in by_hand if name not in given)
        raise ValueError(f"{missing} must be given with `{given[0]}`, or none of the three")
    options: dict[str, Any] = {}
    if given:
        _check_address(coordinator, process_id, num_processes)
        options = {
            "coordinator_address": coordinator,
            "process_id": process_id,
            "num_processes": num_processes,
            "coordinator_bind_address": coordinator,
            "cluster_detection_method": "deactivate",
        }
        if process_id:
            _await(str(coordinator), timeout)
    # its handler would replace Python's of SIGTERM
    jax.config.update("jax_enable_preemption_service", False)
    jax.config.update("jax_cpu_collectives_implementation", "gloo")
    try:
        jax.distributed.initialize(
            **options,
            initialization_timeout=timeout,
            heartbeat_timeout_seconds=HEARTBEAT_TIMEOUT,
            shutdown_timeout_seconds=SHUTDOWN_TIMEOUT,
        )
    except ValueError as error:
        raise ValueError(
            "`coordinator`, `process_id` and `num_processes` must be given where JAX finds no "
            f"SLURM, Open MPI or Kubernetes ({error})"
        ) from None


def _await(coordinator: str, timeout: int) -> None:
    """Wait until process 0 listens: JAX ends a process that meets nobody there."""
    host, _, port = coordinator.rpartition(":")
    deadline = time.monotonic() + timeout
    while True:
        try:
            socket.create_connection((host.strip("[]"), int(port)), timeout=1).close()
            return
        except OSError:
            if time.monotonic() >= deadline:
                raise TimeoutError(f"{coordinator} did not answer within {timeout} s") from None
            time.sleep(0.1)


def _check_address(coordinator: Any, process_id: Any, num_processes: Any) -> None:
    if not re.fullmatch(r"(\[[^\]]+\]|[^:\s]+):\d+", str(coordinator)):
        raise ValueError(f"`coordinator` must be HOST:PORT, got {coordinator!r}")
    if num_processes < 1 or not 0 <= process_id < num_processes:
        raise ValueError(
            f"`process_id` must be 0..{num_processes - 1}, below `num_processes`; got {process_id}"
        )


def leave(timeout: float = LEAVE_TIMEOUT) -> bool:
    """Part from the other processes; whether all did within `timeout` seconds.

    After it nothing may be computed on a mesh. If it is false, end by `os._exit`: an ordinary exit
    would wait for the others, and then abort.
    """
    thread = threading.Thread(target=jax.distributed.shutdown, daemon=True)
    thread.start()
    thread.join(timeout)
    return not thread.is_alive()


def is_main() -> bool:
    """Whether this is process 0, which alone writes files and speaks."""
    return jax.process_index() == 0


@contextlib.contextmanager
def detect_loss() -> Iterator[None]:
    """Raise ProcessLost for what JAX raises when another process has gone."""
    try:
        yield
    except (jax.errors.JaxRuntimeError, ValueError) as error:
        # a ValueError is what the exchange of NumPy arrays makes of it
        here = isinstance(error, ValueError) and "gloo" not in str(error).lower()
        if jax.process_count() == 1 or here:
            raise
        raise ProcessLost(
            f"another process of this run was lost, as process {jax.process_index()} of "
            f"{jax.process_count()} noticed ({_first_line(error)})"
        ) from None


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]


def gather_ints(values: Any) -> np.ndarray:
    """Return what each process says, (processes, k) int32: integers (k,) of its own.

    Once a chunk of steps is often enough: it takes 1 to 3 ms. Raises: ProcessLost.
    """
    own = np.array(values, np.int32)
    if jax.process_count() == 1:
        return own[None]
    with detect_loss():
        return np.asarray(multihost_utils.process_allgather(own))


@contextlib.contextmanager
def raise_together() -> Iterator[None]:
    """Let all processes fail at the end of the block if one of them failed in it.

    Of those that failed, the first raises its own error, and every other process RemoteError. The
    block must not talk to the other processes.
    """
    error: Exception | None = None
    try:
        yield
    except Exception as raised:
        error = raised
    failed = gather_ints([error is not None])[:, 0]
    if not failed.any():
        return
    first = int(failed.argmax())
    if first == jax.process_index() and error is not None:
        raise error
    raise RemoteError(f"process {first} failed, and has said why")


def broadcast(tree: Any) -> Any:
    """Return process 0's arrays in every process, to the bit, as NumPy arrays.

    tree: a pytree of arrays, of the same shapes and dtypes in every process. Raises: ProcessLost.
    """
    leaves, structure = jax.tree.flatten(jax.tree.map(np.asarray, tree))
    content = b"".join(leaf.tobytes() for leaf in leaves)
    # as bytes: it is a sum over processes, in which -0.0 would become 0.0
    with detect_loss():
        content = multihost_utils.broadcast_one_to_all(np.frombuffer(content, np.uint8)).tobytes()
    stops = np.cumsum([leaf.nbytes for leaf in leaves]).tolist()
    parts = [content[stop - leaf.nbytes : stop] for leaf, stop in zip(leaves, stops, strict=True)]
    return structure.unflatten(
        np.frombuffer(part, leaf.dtype).reshape(leaf.shape)
        for part, leaf in zip(parts, leaves, strict=True)
    )


def broadcast_json(value: Any) -> Any:
    """Return process 0's value, which JSON can hold, in every process. Raises: ProcessLost."""
    if jax.process_count() == 1:
        return value
    content = np.frombuffer(json.dumps(value).encode(), np.uint8) if is_main() else np.zeros(0)
    length = int(gather_ints([len(content)])[0, 0])
    content = content if is_main() else np.zeros(length, np.uint8)
    return json.loads(broadcast(content).tobytes())
