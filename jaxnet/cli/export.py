"""`jaxnet export`: a trained network as files that run without jaxnet."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from tyro.conf import Positional

from jaxnet.cli.options import Cached, run_of


@dataclass(frozen=True, kw_only=True)
class Export(Cached):
    """Write the model of a run as files that run without jaxnet.

    stablehlo: model.stablehlo, the network with its encoding, for JAX.

    pytorch: model.safetensors, the weights as a state_dict of nn.Sequential.

    onnx: model.onnx, the network with its encoding (pip install 'jaxnet[onnx]').

    Examples:
      jaxnet export runs/wine-1
      jaxnet export runs/wine-1 --format onnx --out wine-onnx
    """

    run: Positional[Path]
    """The folder of a run, or of a sweep, whose best run is taken."""
    format: tuple[str, ...] = ()
    """Of stablehlo, pytorch and onnx; by default all, onnx only where it is installed."""
    out: Path | None = None
    """The folder to write, by default RUN/model. An earlier export there is replaced."""

    def __call__(self) -> int:
        from jaxnet.export import export, lifetime
        from jaxnet.runs import model
        from jaxnet.runs.folder import MODEL

        run = run_of(self.run)
        folder = run / MODEL if self.out is None else self.out
        exported = export(model.load(run), folder, self.format)
        width = max(len(str(path)) for path in exported.files)
        for path, what in exported.files.items():
            print(f"{path!s:{width}}  {what}")
        if folder / lifetime.STABLEHLO in exported.files:
            print(lifetime.promise(lifetime.installed()))
        for note in exported.notes:
            print(f"note: {note}")
        return 0
