"""Time per step against batch, width, depth and rows: jaxnet, PyTorch, and the floor."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from .rounds import Say, Settings, measure
from .workloads import Workload

BASE = {"batch": 128, "width": 256, "depth": 2, "rows": 16_384}
VALUES = {
    "batch": (1, 8, 64, 512, 4096),
    "width": (16, 64, 256, 1024),
    "depth": (1, 2, 4, 8, 16),
    "rows": (1024, 16_384, 262_144),
}
FEATURES, CLASSES = 128, 10
CURVES = ("fit_scan", "torch", "torch-fused")


def workload_at(**changed: int) -> Workload:
    """The base network with one size changed: `depth` hidden layers of `width` units."""
    at = BASE | changed
    return Workload(
        name="scaling-" + "-".join(f"{name}-{value}" for name, value in changed.items()),
        title=", ".join(f"{name} {value:,}" for name, value in at.items()),
        sizes=(FEATURES, *[at["width"]] * at["depth"], CLASSES),
        rows=max(at["rows"], at["batch"]),
        batch=at["batch"],
        optimizer="adam",
        learning_rate=1e-3,
        once_steps=1,
    )


def curves(settings: Settings, folder: Path, say: Say, values=VALUES) -> list[dict[str, Any]]:
    """A point for each value: {axis, value, us: {curve or "floor": us}}."""
    points = []
    for axis, numbers in values.items():
        for value in numbers:
            workload = workload_at(**{axis: value})
            say(f"{axis} {value}")
            found = measure(workload, list(CURVES), settings, folder, say, checked=False)
            (folder / f"{workload.name}.npz").unlink()
            us = {
                name: entry["us"]
                for name in CURVES
                if "us" in (entry := found["participants"].get(name, {}))
            }
            points.append(
                {"axis": axis, "value": value, "us": us | {"floor": found["floor"]["us"]}}
            )
    return points
