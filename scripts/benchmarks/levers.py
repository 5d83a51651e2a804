"""Variants of the reference scan, each one idea to make it faster."""

from __future__ import annotations

from .participant import Participant

JAX = ("jax", "optax")


def _xla(name: str, flags: str, note: str, verdict: str) -> Participant:
    return Participant(
        name, "peers_jax:scan", JAX, note=note, cache="jax", environment={"XLA_FLAGS": flags},
        half=True, verdict=verdict,
    )  # fmt: skip


LEVERS: dict[str, Participant] = {
    p.name: p
    for p in (
        Participant(
            "lever: out-in", "lever_steps:out_in", JAX, "weights held (out, in)",
            verdict="kept: `train.transposed`, in every run and sweep",
        ),
        Participant(
            "lever: narrowing", "lever_steps:narrowing", JAX,
            "weights held (out, in) only of layers that narrow",
            verdict="not kept: of our rows it differs in the digits' alone, and gives a mesh and a "
            "checkpoint two layouts",
        ),
        Participant(
            "lever: one buffer", "lever_steps:one_buffer", JAX,
            "parameters and moments in one flat buffer, one update for all",
            verdict="not kept: the gradients are copied together at each step",
        ),
        Participant(
            "lever: no donation", "lever_steps:no_donation", JAX, "no donation of the state",
            verdict="donation kept: it spares a copy of the state at each call, seldom more",
        ),
        Participant(
            "lever: unroll 4", "lever_steps:unroll", JAX, "`scan(unroll=4)`",
            verdict="not kept: it compiles longer, and changes the bits",
        ),
        Participant(
            "lever: hand backward", "lever_steps:hand_backward", JAX,
            "backward by hand: bias, activation and its derivative fused",
            verdict="not kept: XLA fuses what `jax.grad` makes as well",
        ),
        _xla(
            "lever: one thread", "--xla_cpu_multi_thread_eigen=false",
            "XLA: products on one thread",
            "not kept: small products do without threads already, large ones need them",
        ),
        _xla(
            "lever: no YNNPACK", "--xla_cpu_experimental_ynn_fusion_type=",
            "XLA: products by Eigen rather than YNNPACK",
            "not kept: slower here",
        ),
        _xla(
            "lever: oneDNN",
            "--xla_cpu_experimental_onednn_custom_call=true "
            "--xla_cpu_experimental_ynn_fusion_type=",
            "XLA: products by oneDNN rather than YNNPACK",
            "kept for bfloat16 on CPUs: `epochs.compiler_options`",
        ),
        _xla(
            "lever: fast math", "--xla_cpu_enable_fast_math=true", "XLA: fast math",
            "not kept: no gain, and infinities and NaN become undefined",
        ),
        _xla(
            "lever: no fast min/max", "--xla_cpu_enable_fast_min_max=false",
            "XLA: exact min and max", "not kept: no gain",
        ),
        _xla(
            "lever: codegen split 1", "--xla_cpu_parallel_codegen_split_count=1",
            "XLA: one module of machine code", "not kept: no gain; large programs compile longer",
        ),
    )
}  # fmt: skip
