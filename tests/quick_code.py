"""How tests compile where only rounding may differ: in a quarter of the time.

Left out are most of XLA's optimisations, and its newer code of fused loops where it has another.
"""

import jax

OPTIONS = {"xla_cpu_parallel_codegen_split_count": 1}  # one module, which one thread compiles
if jax.__version_info__ < (0, 11):
    OPTIONS["xla_cpu_use_fusion_emitters"] = False
XLA_FLAGS = " ".join(f"--{name}={str(value).lower()}" for name, value in OPTIONS.items())
ENVIRONMENT = {"JAX_DISABLE_MOST_OPTIMIZATIONS": "1", "XLA_FLAGS": XLA_FLAGS}  # of a process
