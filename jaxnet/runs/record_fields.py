"""The fields of a run's record, from JSON: each is checked by type and range."""

from __future__ import annotations

from typing import Any

from jaxnet.runs.config import Config
from jaxnet.spec import Spec
from jaxnet.tables import from_json
from jaxnet.tables.column import encoding_from_json
from jaxnet.tables.weights import weighting_from_json


def record_fields(found: dict[str, Any]) -> dict[str, Any]:
    """Return the arguments of a `Record`. Raises: ValueError naming the field that is wrong."""

    def field(name: str, hint: Any = dict) -> Any:
        return from_json.field("", found, name, hint)

    made = {
        "config": _options(field("config"), field("data")),
        "task": field("task", str),
        "spec": Spec(**from_json.arguments(Spec, "spec", field("spec"))),
        "rows": _rows(field("rows")),
        "data": _data(field("data")),
        "encoding": encoding_from_json(field("encoding")),
        "device": field("device", dict[str, str | int]),
        "versions": field("versions", dict[str, str]),
        "history": field("history", tuple[dict, ...]),
        "weighting": weighting_from_json(field("weighting")),
    }
    for place, entry in enumerate(made["history"]):
        from_json.field(f"history[{place}]", entry, "step", int)
        from_json.field(f"history[{place}]", entry, "changed", dict)
    from_json.field("device", made["device"], "platform", str)
    task = "classification" if made["encoding"].target.categories else "regression"
    if made["task"] != task:
        raise ValueError(f"`task` must be {task}, as the target's encoding, got {made['task']!r}")
    return made


def _options(values: Any, data: Any) -> Config:
    options = from_json.arguments(Config, "config", values)
    if options["data"] is not None:
        options["data"] = _data(data)["path"]
    return Config(**options | {"out": None})


def _data(values: Any) -> dict[str, Any]:
    from_json.value("data", values, dict)
    kinds: dict[str, Any] = {"name": str, "path": str, "bytes": int, "sha256": str}
    kinds |= {"left_out": tuple[str, ...]} if "left_out" in values else {}
    found = {name: from_json.field("data", values, name, kind) for name, kind in kinds.items()}
    return found | ({"left_out": list(found["left_out"])} if "left_out" in values else {})


def _rows(values: Any) -> dict[str, int]:
    from_json.value("rows", values, dict)
    rows = {name: from_json.field("rows", values, name, int) for name in ("train", "validation")}
    if rows["train"] < 1 or rows["validation"] < 0:
        raise ValueError(f"`rows` must be at least 1 to train on, and 0 others; got {rows}")
    return rows
