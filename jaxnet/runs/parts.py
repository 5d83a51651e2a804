"""The parts of a run's record as JSON holds them: each field is checked by type and range."""

from __future__ import annotations

from typing import Any

from jaxnet.runs.config import Config
from jaxnet.spec import Spec
from jaxnet.tables import typed
from jaxnet.tables.column import encoding_from_json
from jaxnet.tables.weights import weighting_from_json


def parts_of(found: dict[str, Any]) -> dict[str, Any]:
    """Return the arguments of a `Record`. Raises: ValueError naming the field that is wrong."""

    def part(name: str, hint: Any = dict) -> Any:
        return typed.field("", found, name, hint)

    parts = {
        "config": _options(part("config"), part("data")),
        "task": part("task", str),
        "spec": Spec(**typed.arguments(Spec, "spec", part("spec"))),
        "rows": _rows(part("rows")),
        "data": _data(part("data")),
        "encoding": encoding_from_json(part("encoding")),
        "device": part("device", dict[str, str | int]),
        "versions": part("versions", dict[str, str]),
        "history": part("history", tuple[dict, ...]),
        "weighting": weighting_from_json(part("weighting")),
    }
    for place, entry in enumerate(parts["history"]):
        typed.field(f"history[{place}]", entry, "step", int)
        typed.field(f"history[{place}]", entry, "changed", dict)
    typed.field("device", parts["device"], "platform", str)
    task = "classification" if parts["encoding"].target.categories else "regression"
    if parts["task"] != task:
        raise ValueError(f"`task` must be {task}, as the target's encoding, got {parts['task']!r}")
    return parts


def _options(values: Any, data: Any) -> Config:
    options = typed.arguments(Config, "config", values)
    if options["data"] is not None:
        options["data"] = _data(data)["path"]
    return Config(**options | {"out": None})


def _data(values: Any) -> dict[str, Any]:
    typed.typed("data", values, dict)
    kinds: dict[str, Any] = {"name": str, "path": str, "bytes": int, "sha256": str}
    kinds |= {"left_out": tuple[str, ...]} if "left_out" in values else {}
    found = {name: typed.field("data", values, name, kind) for name, kind in kinds.items()}
    return found | ({"left_out": list(found["left_out"])} if "left_out" in values else {})


def _rows(values: Any) -> dict[str, int]:
    typed.typed("rows", values, dict)
    rows = {name: typed.field("rows", values, name, int) for name in ("train", "validation")}
    if rows["train"] < 1 or rows["validation"] < 0:
        raise ValueError(f"`rows` must be at least 1 to train on, and 0 others; got {rows}")
    return rows
