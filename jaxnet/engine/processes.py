"""The processes of one run: how they meet, what they tell each other, how a lost one is noticed.

Each of them runs the same program (`mesh` divides its arrays), and JAX's own runtime connects them:
gloo between CPUs, NCCL between GPUs. All of them must call these functions, in the same order. In a
run of one process they cost nothing.
"""

from __future__ import annotations

import atexit
import contextlib
import json
import os
import re
import sys
import threading
from collections.abc import Callable, Iterator
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils

from jaxnet.engine import rendezvous
from jaxnet.engine.signals import ProcessLost, RemoteError
from jaxnet.engine.watchdog import Watchdog, delay_abort

START_TIMEOUT, SHUTDOWN_TIMEOUT = 50, 30  # seconds
HEARTBEAT_TIMEOUT = 100  # seconds until JAX ends the others in C++, should the watchdog not have
DISCONNECT_TIMEOUT = 2.0  # seconds, for processes that all end at the same point of the program

_watchdog: Watchdog | None = None


def start(
    coordinator: str | None = None,
    process_id: int | None = None,
    num_processes: int | None = None,
    *,
    timeout: int = START_TIMEOUT,
) -> None:
    """Join the processes of this run, before anything is computed.

    coordinator: HOST:PORT of process 0, which listens on that host's address only. Without any
    argument JAX asks SLURM, Open MPI or Kubernetes. timeout: seconds to wait for the others. From
    then on, once another process has ended or been silent for 40 seconds, a thread ends this one
    with one line and exit code 2, unless `detect_loss` raises before. Python keeps its signal
    handlers.

    Raises: ValueError for some of the arguments without the others, outside a cluster, for a port
    in use, for two processes with one number; TimeoutError if a process does not come;
    ConnectionError if another program answers; RuntimeError if JAX has computed before.
    """
    given = {"coordinator": coordinator, "process_id": process_id, "num_processes": num_processes}
    by_hand = any(value is not None for value in given.values())
    options = _by_hand(given) if by_hand else _detected(timeout)
    _meet(options, timeout, all_addresses=not by_hand)
    # its handler would replace Python's of SIGTERM
    jax.config.update("jax_enable_preemption_service", False)
    jax.config.update("jax_cpu_collectives_implementation", "gloo")
    jax.distributed.initialize(
        **options,
        cluster_detection_method="deactivate",
        initialization_timeout=timeout,
        heartbeat_timeout_seconds=HEARTBEAT_TIMEOUT,
        shutdown_timeout_seconds=SHUTDOWN_TIMEOUT,
    )


def _meet(options: dict[str, Any], timeout: int, *, all_addresses: bool) -> None:
    """Meet the other processes, and watch them from here on."""
    global _watchdog
    coordinator, number = options["coordinator_address"], options["process_id"]
    count = options["num_processes"]
    if number == 0:
        members = rendezvous.gather(coordinator, count, timeout, all_addresses=all_addresses)
    else:
        members = rendezvous.reach(coordinator, number, count, timeout)
    delay_abort()
    _watchdog = Watchdog(members)
    atexit.register(_leave)
    if number:
        rendezvous.await_listener(coordinator, timeout)


def _by_hand(given: dict[str, Any]) -> dict[str, Any]:
    """The options of `jax.distributed.initialize`."""
    missing = [name for name, value in given.items() if value is None]
    if missing:
        other = next(name for name in given if name not in missing)
        names = ", ".join(f"`{name}`" for name in missing)
        raise ValueError(f"{names} must be given with `{other}`, or none of the three")
    coordinator, process_id, num_processes = given.values()
    match = re.fullmatch(r"(?:\[[^\]]+\]|[^:\s]+):(\d{1,5})", str(coordinator))
    if match is None or not 0 < int(match[1]) < 2**16:
        raise ValueError(f"`coordinator` must be HOST:PORT, got {coordinator!r}")
    if num_processes < 1 or not 0 <= process_id < num_processes:
        raise ValueError(
            f"`process_id` must be 0..{num_processes - 1}, below `num_processes`; got {process_id}"
        )
    return {
        "coordinator_address": coordinator,
        "process_id": process_id,
        "num_processes": num_processes,
        "coordinator_bind_address": coordinator,
    }


def _detected(timeout: int) -> dict[str, Any]:
    """The same as `jax.distributed.initialize` finds them in a cluster."""
    from jax._src.clusters import ClusterEnv  # no public name tells them without connecting

    devices = [int(i) for i in os.environ.get("JAX_LOCAL_DEVICE_IDS", "").split(",") if i]
    address, num_processes, process_id, local = ClusterEnv.auto_detect_unset_distributed_params(
        os.environ.get("JAX_COORDINATOR_ADDRESS"), None, None, devices or None, None, timeout
    )
    if address is None or num_processes is None or process_id is None:
        raise ValueError(
            "`coordinator`, `process_id` and `num_processes` must be given where JAX finds no "
            "SLURM, Open MPI or Kubernetes"
        )
    return {
        "coordinator_address": address,
        "process_id": process_id,
        "num_processes": num_processes,
        "local_device_ids": local,
    }


def _leave() -> None:
    """Tell the others at the end of the program that this process leaves, unless it has failed."""
    global _watchdog
    if _watchdog is not None:
        _watchdog.leave(orderly=not hasattr(sys, "last_value"))
        _watchdog = None


def disconnect(timeout: float = DISCONNECT_TIMEOUT) -> bool:
    """Part from the other processes; return whether all did within `timeout` seconds.

    Nothing may be computed on a mesh after it. If it returns False, end by `os._exit`: an ordinary
    exit would wait for the others, and then abort.
    """
    _leave()
    thread = threading.Thread(target=jax.distributed.shutdown, daemon=True)
    thread.start()
    thread.join(timeout)
    return not thread.is_alive()


def is_main() -> bool:
    """Return whether this is process 0, which alone writes files and prints."""
    return jax.process_index() == 0


@contextlib.contextmanager
def detect_loss(advice: Callable[[], str] | None = None) -> Iterator[None]:
    """Raise ProcessLost for what JAX raises when another process has ended.

    advice: returns what to do then, to be added to what is said; also if nothing is raised, since
    this process waits for one that is silent. Otherwise that of the block around this one.
    """
    watchdog = _watchdog
    if watchdog is None:  # the only process
        yield
        return
    before = watchdog.advice
    watchdog.advice = advice or before
    try:
        yield
    except (jax.errors.JaxRuntimeError, ValueError) as error:
        # the exchange of NumPy arrays makes a ValueError of it
        if isinstance(error, ValueError) and "gloo" not in str(error).lower():
            raise
        first_line = (str(error).strip().splitlines() or [type(error).__name__])[0]
        which = watchdog.explain() or f"another process of this run was lost ({first_line})"
        raise ProcessLost(which + watchdog.advice()) from None
    finally:
        watchdog.advice = before


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
