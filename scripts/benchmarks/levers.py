"""Variants of the reference scan, each one idea to make it faster, run by `--levers`."""

from __future__ import annotations

from .participant import Participant

JAX = ("jax", "optax")


def _xla(name: str, flags: str, note: str) -> Participant:
    return Participant(
        name, "peers_jax:scan", JAX, note=note, cache="jax", environment={"XLA_FLAGS": flags}
    )


LEVERS: dict[str, Participant] = {
    p.name: p
    for p in (
        Participant("lever: out-in", "lever_steps:out_in", JAX, "weights held (out, in)"),
        Participant(
            "lever: one buffer", "lever_steps:one_buffer", JAX,
            "parameters and moments in one flat buffer, one update for all",
        ),
        Participant("lever: no donation", "lever_steps:no_donation", JAX, "no donation"),
        Participant("lever: unroll 4", "lever_steps:unroll", JAX, "scan(unroll=4)"),
        Participant(
            "lever: hand backward", "lever_steps:hand_backward", JAX,
            "backward by hand, bias and activation's derivative in one pass",
        ),
        _xla("lever: one thread", "--xla_cpu_multi_thread_eigen=false", "products on one thread"),
        _xla("lever: fast math", "--xla_cpu_enable_fast_math=true", "fast math"),
        _xla(
            "lever: no fast min/max", "--xla_cpu_enable_fast_min_max=false", "exact min and max"
        ),
        _xla(
            "lever: codegen split 1", "--xla_cpu_parallel_codegen_split_count=1",
            "one module of machine code",
        ),
    )
}  # fmt: skip
