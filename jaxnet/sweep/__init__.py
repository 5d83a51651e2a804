"""Many networks trained at once in one compiled program, to find good options."""

import importlib
from typing import Any

_HOMES = {  # each public name and its module, imported on first use: options cost no framework
    "Key": "sweep",
    "Mapping": "sweep",
    "Member": "sweep",
    "Plan": "sweep",
    "Row": "sweep",
    "Setting": "sweep",
    "Stopped": "sweep",
    "Sweep": "sweep",
    "SweepProgress": "sweep",
    "mapping_of": "sweep",
    "plan": "sweep",
    "run": "sweep",
    "train": "sweep",
}

__all__ = list(_HOMES)


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'jaxnet.sweep' has no attribute {name!r}")
    return getattr(importlib.import_module(f"jaxnet.sweep.{_HOMES[name]}"), name)
