"""config.json: what defines a run, written when it begins and compared when it is resumed."""

from __future__ import annotations

import hashlib
import importlib.metadata
import json
import logging
import os
import platform
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import jaxnet
from jaxnet import files
from jaxnet.runs.config import RESUMABLE, Config, default_epochs
from jaxnet.runs.folder import CONFIG, check_own
from jaxnet.runs.record_fields import record_fields
from jaxnet.spec import Spec
from jaxnet.tables.column import Encoding, encoding_to_json
from jaxnet.tables.weights import EQUAL, Weighting

if TYPE_CHECKING:
    from jaxnet.runs.dataset import Dataset

FORMAT = 3  # of config.json; jaxnet 0.1 wrote none
PACKAGES = ("jax", "jaxlib", "optax", "numpy")  # which decide the last bits of a run
HERE = ("data", "out", "device")  # options that may differ from process to process

log = logging.getLogger("jaxnet")


@dataclass(frozen=True, eq=False)
class Record:
    """What defines a run.

    config: its options; `data` is where the file now is. rows: how many by split, "train" and
    "validation". data: the file's name, path, bytes and sha256, and the
    columns left out. device, versions: `environment` at
    the last start. history: a dictionary for each resume that changed something.
    """

    config: Config
    task: str
    spec: Spec
    rows: dict[str, int]
    data: dict[str, Any]
    encoding: Encoding
    device: dict[str, Any]
    versions: dict[str, str]
    history: tuple[dict[str, Any], ...] = ()
    weighting: Weighting = EQUAL

    @classmethod
    def of(cls, config: Config, dataset: Dataset, mesh: Any = None) -> Record:
        """Return the record of a run that begins. mesh: as `environment` takes it."""
        return cls(
            replace(
                config,
                batch_size=dataset.batch_size,
                epochs=config.epochs or default_epochs(len(dataset.train)),
            ),
            dataset.task,
            dataset.spec,
            {"train": len(dataset.train), "validation": len(dataset.validation)},
            dataset.source,
            dataset.encoding,
            **environment(config, mesh),
            weighting=dataset.weighting,
        )

    @classmethod
    def load(cls, folder: str | Path) -> Record:
        """Read the record of the run in a folder, and check every field of it.

        Raises: FileNotFoundError for a folder that holds no run; ValueError naming the field that
        is missing or wrong, or the version of jaxnet that wrote another format, or a link or pipe
        in the folder.
        """
        path = Path(folder) / CONFIG
        check_own(Path(folder))
        try:
            found = files.read_json(path)
        except FileNotFoundError:
            raise FileNotFoundError(
                f"{folder}: this is not the folder of a run, it has no {CONFIG}"
            ) from None
        _check_format(Path(folder), found)
        try:
            return cls(**record_fields(found))
        except ValueError as error:
            raise ValueError(f"{path}: not the record of a run ({error}); was it edited?") from None

    def save(self, folder: Path) -> None:
        """Write config.json. Raises: OSError naming the file."""
        files.write_json(folder / CONFIG, self.to_json())

    def to_json(self) -> dict[str, Any]:
        return {
            "format": FORMAT,
            "config": asdict(self.config),
            "task": self.task,
            "spec": asdict(self.spec),
            "rows": self.rows,
            "data": self.data,
            "encoding": encoding_to_json(self.encoding),
            "weighting": self.weighting._asdict(),
            "device": self.device,
            "versions": self.versions,
            "history": list(self.history),
        }

    def changed(self, folder: str | Path, options: Mapping[str, Any]) -> Config:
        """Return the run's options with those that a resume changes.

        Raises: ValueError for an option that must not change.
        """
        config = replace(self.config, **options)
        for name, value in self.changes(config).items():
            if name not in RESUMABLE | {"data"}:
                raise ValueError(
                    f"`{name}` must stay {getattr(self.config, name)!r} to resume {folder}, got "
                    f"{value!r}; train a new run with it"
                )
        return config

    def changes(self, config: Config) -> dict[str, Any]:
        """Return the options of `config` that differ from the run's, `out` apart."""
        old, new = asdict(self.config), asdict(config)
        return {name: v for name, v in new.items() if v != old[name] and name != "out"}

    def identity(self) -> dict[str, Any]:
        """Return what must stay the same for a run to be resumed, name by name."""
        fixed = RESUMABLE | {"data", "out"}
        options = {name: v for name, v in asdict(self.config).items() if name not in fixed}
        return json.loads(json.dumps(options)) | {
            "task": self.task,
            "sizes": list(self.spec.sizes),
            "data": self.data["sha256"],
            "encoding": _digest(encoding_to_json(self.encoding)),
            "weighting": _digest(self.weighting),
        }

    def check(self, folder: Path, began: Mapping[str, Any], dataset: Dataset) -> None:
        """Raise ValueError if this is not the record of a checkpoint, whose `identity` is `began`,
        or not that of the dataset.
        """
        now = self.identity()
        if found := _difference(began, now):
            name, old, new = found
            raise ValueError(
                f"{folder / CONFIG}: says {name} {new!r}, and the checkpoint {old!r}; was it "
                "edited? Set it back, or train a new run"
            )
        if list(dataset.spec.sizes) != now["sizes"] or dataset.source["sha256"] != now["data"]:
            raise ValueError(f"`dataset` must be that of {folder}, got another")

    def resumed(self, config: Config, step: int, environment: dict[str, Any]) -> Record:
        """Return the record of the run as it is resumed at a step, and log what may change the
        last bits of its losses.
        """
        now = {"device": self.device, "versions": self.versions}
        for name, value in environment.items():
            _warn(name, now[name], value, config.deterministic)
        more = (config.epochs or 0) > (self.config.epochs or 0)
        if more and config.schedule != "constant" and step > 0:
            log.warning(
                f"the {config.schedule} schedule of the learning rate now ends after epoch "
                f"{config.epochs}, so it rises again from where the one over {self.config.epochs} "
                "epochs had it"
            )
        changed = self.changes(config)
        if not changed and environment == now:
            return self
        data = self.data
        if "data" in changed:
            data = data | {"path": str(Path(changed["data"]).absolute())}
        history = *self.history, {"step": step, "changed": changed, **environment}
        return replace(self, config=config, data=data, history=history, **environment)


def environment(config: Config, mesh: Any = None) -> dict[str, Any]:
    """Return what decides the last bits of a run beside its options: libraries, devices, threads.

    mesh: a jax.sharding.Mesh, or None for one device.
    """
    # these bring JAX, without which a record can be read
    from jaxnet.engine.epochs import compiler_options
    from jaxnet.engine.mesh import own_device

    device = own_device(config.device)
    products = compiler_options(config.dtype, device.platform)
    axes = [] if mesh is None else [f"{name}={size}" for name, size in mesh.shape.items()]
    versions = {name: importlib.metadata.version(name) for name in PACKAGES}
    return {
        "device": {
            "platform": device.platform,
            "kind": device.device_kind,
            # XLA splits its sums over these, so that their number decides the last bits
            "processors": int(os.environ.get("NPROC") or os.cpu_count() or 1),
        }
        | ({"mesh": ",".join(axes)} if axes else {})
        | ({"products": "oneDNN"} if products else {}),
        "versions": {"jaxnet": jaxnet.__version__, "python": platform.python_version()} | versions,
    }


def digest(config: Config, dataset: Dataset) -> int:
    """Return a number below 2**31 of all that must be the same in each process of a run."""
    options = {name: value for name, value in asdict(config).items() if name not in HERE}
    same = [options, dataset.task, dataset.spec.sizes, dataset.source["sha256"]]
    return int(_digest(same)[:8], 16) >> 1


def _warn(name: str, old: dict[str, Any], new: dict[str, Any], deterministic: bool) -> None:
    """Log the first difference that changes the last bits of a run."""
    ignored = {"python", "mesh"} if deterministic else {"python"}  # deterministic: on any mesh
    one, other = ({k: v for k, v in d.items() if k not in ignored} for d in (old, new))
    if found := _difference(one, other):
        was, now = ("none" if text is None else text for text in found[1:])
        text = f"{name} {found[0]} was {was} and is {now}"
        log.warning(f"{text}: losses will agree to rounding, not to the bit")


def _difference(old: Mapping[str, Any], new: Mapping[str, Any]) -> tuple[str, Any, Any] | None:
    """The first name, value and new value in which two dictionaries differ."""
    for name in {**old, **new}:
        if old.get(name) != new.get(name):
            return name, old.get(name), new.get(name)
    return None


def _digest(value: Any) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True, default=str).encode()).hexdigest()


def _check_format(folder: Path, found: dict[str, Any]) -> None:
    if found.get("format") == FORMAT:
        return
    versions = found.get("versions")
    writer = versions.get("jaxnet") if isinstance(versions, dict) else None
    if writer is None:
        raise ValueError(f"{folder / CONFIG}: not the record of a run; was it edited?")
    raise ValueError(
        f"{folder}: this run was made by jaxnet {writer}, and jaxnet {jaxnet.__version__} cannot "
        f"read it; use jaxnet {writer}, or train a new run"
    )
