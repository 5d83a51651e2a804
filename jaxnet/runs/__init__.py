"""A run is a folder: trained, killed at any moment, resumed to the same bits, loaded."""

import importlib
from typing import Any

_HOMES = {  # each public name and its module, imported on first use: options cost no framework
    "Config": "config",
    "RemoteError": "run",
    "ProcessLost": "run",
    "Progress": "run",
    "Run": "run",
    "Stopped": "run",
    "changed_config": "run",
    "create": "run",
    "evaluate_validation": "run",
    "load": "run",
    "prepare": "run",
    "prepare_again": "run",
    "read_config": "run",
    "resume": "run",
    "train": "run",
}

__all__ = list(_HOMES)


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'jaxnet.runs' has no attribute {name!r}")
    return getattr(importlib.import_module(f"jaxnet.runs.{_HOMES[name]}"), name)
