"""Files that run without jaxnet: StableHLO, PyTorch, ONNX, each with an example program."""

import importlib
from typing import Any

_HOMES = {  # each public name and its module, imported on first use: options cost no framework
    "describe": "description",
    "export": "formats",
    "onnx": "formats",
    "pytorch": "formats",
    "stablehlo": "formats",
}

__all__ = list(_HOMES)


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'jaxnet.export' has no attribute {name!r}")
    return getattr(importlib.import_module(f"jaxnet.export.{_HOMES[name]}"), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
