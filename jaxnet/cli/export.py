"""`jaxnet export`: its options, and what it prints."""

from __future__ import annotations

from typing import Annotated

import tyro

Run = Annotated[
    str, tyro.conf.Positional, tyro.conf.arg(metavar="RUN", help="The folder of a run.")
]


def export(run: Run, *, format: tuple[str, ...] = (), out: str | None = None) -> int:
    """Write a trained network as files that run without jaxnet, each with an example program.

    stablehlo: model.stablehlo, the network with its encoding, for JAX without jaxnet.
    pytorch: model.safetensors, the weights as the state_dict of an nn.Sequential.
    onnx: model.onnx, the network with its encoding, for ONNX runtimes (pip install 'jaxnet[onnx]').

    Try:

    jaxnet export runs/wine-1

    jaxnet export runs/wine-1 --format onnx --out wine-onnx

    Args:
        format: stablehlo, pytorch, onnx; by default all, onnx where it is installed.
        out: The folder to write, by default RUN/model. What was exported there is replaced.
    """
    from pathlib import Path

    from jaxnet.export.formats import export as write  # brings JAX, which --help does without
    from jaxnet.runs import model
    from jaxnet.runs.folder import MODEL

    folder = Path(run) / MODEL if out is None else Path(out)
    exported = write(model.load(run), folder, format)
    width = max(len(str(path)) for path in exported.files)
    for path, what in exported.files.items():
        print(f"{path!s:{width}}  {what}")
    for note in exported.notes:
        print(f"note: {note}")
    return 0
