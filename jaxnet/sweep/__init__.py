"""Many networks trained at once in one compiled program, to find good options."""

import importlib
from typing import Any

__all__ = [
    "Key", "Mapping", "Member", "Plan", "Row", "Setting", "Stopped", "Sweep", "SweepProgress",
    "mapping_of", "plan", "run", "train",
]  # fmt: skip


def __getattr__(name: str) -> Any:
    """Import a public name on first use: options cost no framework."""
    if name not in __all__:
        raise AttributeError(f"module 'jaxnet.sweep' has no attribute {name!r}")
    return getattr(importlib.import_module("jaxnet.sweep.sweep"), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
