"""`jaxnet import`: a new run that begins with weights from PyTorch."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

from tyro.conf import Positional

from jaxnet.cli import text
from jaxnet.cli.options import TrainingCommand
from jaxnet.cli.output import escaped
from jaxnet.cli.train import print_dataset
from jaxnet.runs.config import NetworkOptions


@dataclass(frozen=True, kw_only=True)
class Import(TrainingCommand):
    """Begin a run with weights from PyTorch; train --resume continues it.

    In PyTorch: safetensors.torch.save_file(model.state_dict(), "model.safetensors")

    The model must consist of Linear layers with one activation between them.

    Examples:
      jaxnet import model.safetensors --like runs/wine-1
      jaxnet import model.safetensors --data wine.csv --target class
    """

    weights: Positional[Path]
    """A .safetensors file."""
    like: Path | None = None
    """The folder of a run to take the encoding of the columns and all other options from."""
    layers: tuple[str, ...] = ()
    """The names of the Linear layers in their order, if neither names nor shapes tell it."""

    @property
    def options_from(self) -> Path | None:
        return self.like

    def __call__(self) -> int:
        """Write the run, and print its metrics on the validation rows."""
        from jaxnet import runs
        from jaxnet.export import torch_weights
        from jaxnet.runs.model import load

        names = torch_weights.layer_order(self.weights, self.layers)
        params = torch_weights.read(self.weights, names)
        config = self.config()
        sizes = tuple(params[f"b{k}"].shape[0] for k in range(1, len(params) // 2 + 1))
        default = NetworkOptions() if self.like is None else runs.Record.load(self.like).config
        if config.hidden not in (sizes[:-1], default.hidden):
            raise ValueError(
                f"`hidden` must be {sizes[:-1]}, as in {self.weights}, got {config.hidden}"
            )
        # the dual form holds weights relative to the drawn ones, and these are not
        gram = "off" if config.gram == "auto" else config.gram
        config = replace(config, hidden=sizes[:-1], gram=gram)
        encoding = None if self.like is None else load(self.like).encoding
        dataset = runs.prepare(config, encoding, text.conversion_reporter())
        found, expected = (params["w1"].shape[0], sizes[-1]), dataset.spec.sizes[:: len(sizes)]
        if found != expected:
            raise ValueError(
                f"{self.weights}: must have {expected[0]} inputs and {expected[1]} outputs, as "
                f"the data, got {found[0]} and {found[1]}"
            )
        params = {name: leaf.astype(config.dtype) for name, leaf in params.items()}
        print_dataset(dataset, config)
        print(f"layers: {escaped(', '.join(names))}")
        folder = runs.create(config, params, dataset=dataset)
        metrics = runs.evaluate_validation(folder).result()
        texts = ", ".join(text.metric_texts(metrics, list(metrics)))
        print(f"{folder}: {self.weights.name} on the validation rows: {texts}")
        name = text.quote(folder)
        text.print_commands(f"train --resume {name}", f"evaluate {name}")
        return 0
