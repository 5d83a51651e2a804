"""jaxnet: the tutorial "Learning PyTorch with Examples" in JAX, proven equal to NumPy and PyTorch.

The modules are the API, and are imported on first use: `import jaxnet` alone brings no framework.

    from jaxnet import data, net, optimizers, train
"""

import importlib
from types import ModuleType

__version__ = "0.2.0"

_CORE = [
    "spec",
    "numpy_net",
    "net",
    "flax_net",
    "torch_net",
    "optimizers",
    "train",
    "data",
    "files",
]
_ROOMS = ["parity", "tables", "engine", "runs", "sweep", "export", "estimators", "exercises", "cli"]


def __getattr__(name: str) -> ModuleType:
    if name in _CORE + _ROOMS:
        return importlib.import_module(f"jaxnet.{name}")
    raise AttributeError(f"module 'jaxnet' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted([*globals(), *_CORE, *_ROOMS])
