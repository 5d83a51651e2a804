"""The processes of one run: how they meet, what they tell each other, how a lost one is noticed.

Each of them runs the same program (`mesh` divides its arrays), and JAX's own runtime connects them:
gloo between CPUs, NCCL between GPUs. All of them must call these functions, in the same order. In a
run of one process they cost nothing.
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
DISCONNECT_TIMEOUT = 2.0  # seconds, for processes that all end at the same point of the program


def start(
    coordinator: str | None = None,
    process_id: int | None = None,
    num_processes: int | None = None,
    *,
    timeout: int = START_TIMEOUT,
) -> None:
    """Join the processes of this run, before anything is computed.

    coordinator: HOST:PORT of process 0, which listens on that host's address only. Without any
    argument JAX asks SLURM, Open MPI or Kubernetes. timeout: seconds to wait for the others; JAX
    ends process 0 if one of them never comes. A process that is silent for 30 seconds counts as
    lost. Python keeps its signal handlers.

    Raises: ValueError for some of the arguments without the others, or outside a cluster;
    TimeoutError if the coordinator does not answer; RuntimeError if JAX has computed before.
    """
    given = {"coordinator": coordinator, "process_id": process_id, "num_processes": num_processes}
    options = _by_hand(given, timeout) if any(v is not None for v in given.values()) else {}
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


def _by_hand(given: dict[str, Any], timeout: int) -> dict[str, Any]:
    """The options of `jax.distributed.initialize`, once process 0 listens."""
    missing = [name for name, value in given.items() if value is None]
    if missing:
        other = next(name for name in given if name not in missing)
        names = ", ".join(f"`{name}`" for name in missing)
        raise ValueError(f"{names} must be given with `{other}`, or none of the three")
    coordinator, process_id, num_processes = given.values()
    if not re.fullmatch(r"(\[[^\]]+\]|[^:\s]+):\d+", str(coordinator)):
        raise ValueError(f"`coordinator` must be HOST:PORT, got {coordinator!r}")
    if num_processes < 1 or not 0 <= process_id < num_processes:
        raise ValueError(
            f"`process_id` must be 0..{num_processes - 1}, below `num_processes`; got {process_id}"
        )
    if process_id:
        _await(coordinator, timeout)
    return {
        "coordinator_address": coordinator,
        "process_id": process_id,
        "num_processes": num_processes,
        "coordinator_bind_address": coordinator,
        "cluster_detection_method": "deactivate",
    }


def _await(coordinator: str, timeout: int) -> None:
    """Wait until process 0 listens: JAX ends a process that meets nobody there."""
    host, _, port = coordinator.rpartition(":")
    deadline = time.monotonic() + timeout
    while True:
        try:
            return socket.create_connection((host.strip("[]"), int(port)), timeout=1).close()
        except OSError:
            if time.monotonic() >= deadline:
                raise TimeoutError(f"{coordinator} did not answer within {timeout} s") from None
            time.sleep(0.1)


def disconnect(timeout: float = DISCONNECT_TIMEOUT) -> bool:
    """Part from the other processes; return whether all did within `timeout` seconds.

    Nothing may be computed on a mesh after it. If it returns False, end by `os._exit`: an ordinary
    exit would wait for the others, and then abort.
    """
    thread = threading.Thread(target=jax.distributed.shutdown, daemon=True)
    thread.start()
    thread.join(timeout)
    return not thread.is_alive()


def is_main() -> bool:
    """Return whether this is process 0, which alone writes files and prints."""
    return jax.process_index() == 0


@contextlib.contextmanager
def detect_loss() -> Iterator[None]:
    """Raise ProcessLost for what JAX raises when another process has ended."""
    try:
        yield
    except (jax.errors.JaxRuntimeError, ValueError) as error:
        # the exchange of NumPy arrays makes a ValueError of it
        own = isinstance(error, ValueError) and "gloo" not in str(error).lower()
        if jax.process_count() == 1 or own:
            raise
        first_line = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise ProcessLost(
            f"another process of this run was lost, as process {jax.process_index()} of "
            f"{jax.process_count()} noticed ({first_line})"
        ) from None


def gather_ints(values: Any) -> np.ndarray:
    """Return the integers (k,) of every process, (processes, k) int32.

    It takes 1 to 3 ms: call it once a chunk of steps. Raises: ProcessLost.
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
    # as bytes: it is a sum over processes, in which -0.0 would become 0.0
    content = np.frombuffer(b"".join(leaf.tobytes() for leaf in leaves), np.uint8)
    with detect_loss():
        content = multihost_utils.broadcast_one_to_all(content)
    pieces = np.split(content, np.cumsum([leaf.nbytes for leaf in leaves[:-1]]).astype(int))
    return structure.unflatten(
        np.frombuffer(piece.tobytes(), leaf.dtype).reshape(leaf.shape)
        for piece, leaf in zip(pieces, leaves, strict=True)
    )


def broadcast_json(value: Any) -> Any:
    """Return process 0's value, which JSON can hold, in every process. Raises: ProcessLost."""
    if jax.process_count() == 1:
        return value
    content = np.frombuffer(json.dumps(value).encode(), np.uint8) if is_main() else np.zeros(0)
    length = int(gather_ints([len(content)])[0, 0])
    content = content if is_main() else np.zeros(length, np.uint8)
    return json.loads(broadcast(content).tobytes())
