"""A run is a folder: trained, killed at any moment, resumed to the same bits, loaded."""

import importlib
from typing import Any

_HOMES = {  # each public name and its module, imported on first use: options cost no framework
    "Config": "jaxnet.runs.config",
    "Dataset": "jaxnet.runs.dataset",
    "ProcessLost": "jaxnet.engine.signals",
    "Progress": "jaxnet.runs.loop",
    "Record": "jaxnet.runs.record",
    "RemoteError": "jaxnet.engine.signals",
    "Run": "jaxnet.runs.session",
    "Stopped": "jaxnet.engine.signals",
    "create": "jaxnet.runs.run",
    "evaluate_validation": "jaxnet.runs.run",
    "load": "jaxnet.runs.model",
    "permutation_importance": "jaxnet.runs.importance",
    "prepare": "jaxnet.runs.dataset",
    "prepare_again": "jaxnet.runs.run",
    "progress_line": "jaxnet.runs.progress",
    "resume": "jaxnet.runs.run",
    "train": "jaxnet.runs.run",
}

__all__ = list(_HOMES)


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'jaxnet.runs' has no attribute {name!r}")
    return getattr(importlib.import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
