"""jaxnet: the tutorial "Learning PyTorch with Examples" in JAX, proven equal to NumPy and PyTorch.

The modules are the API, and are imported on first use: `import jaxnet` alone brings no framework.

    from jaxnet import data, net, optimizers, train
"""

import importlib
from types import ModuleType

__version__ = "0.1.0"

_MODULES = (
    "checkpoint",
    "cli",
    "cli_export",
    "cli_inference",
    "cli_parity",
    "cli_processes",
    "cli_show",
    "cli_sweep",
    "cli_train",
    "compile_cache",
    "config",
    "csv_blocks",
    "data",
    "description",
    "deterministic",
    "encoding",
    "epochs",
    "export",
    "export_programs",
    "flax_net",
    "forms",
    "gradients",
    "gram",
    "inference",
    "loop",
    "mapped",
    "mapped_convert",
    "mapped_fit",
    "mapped_records",
    "metrics",
    "model",
    "net",
    "numpy_net",
    "onnx_graph",
    "optimizers",
    "order",
    "parallel",
    "parity",
    "placing",
    "plots",
    "problem",
    "processes",
    "run_folder",
    "runs",
    "session",
    "show",
    "snapshot",
    "spec",
    "stopping",
    "streaming",
    "streams",
    "sweep",
    "sweep_members",
    "sweep_plan",
    "sweep_program",
    "tables",
    "tensorboard",
    "torch_net",
    "torch_weights",
    "train",
)


def __getattr__(name: str) -> ModuleType:
    if name in _MODULES:
        return importlib.import_module(f"jaxnet.{name}")
    raise AttributeError(f"module 'jaxnet' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted([*globals(), *_MODULES])
