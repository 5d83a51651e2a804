"""Runs that `test_placement` makes on virtual devices, in a folder with table.csv."""

from typing import Any

from jaxnet import runs
from jaxnet.runs import evaluation
from jaxnet.runs.config import Config

# name -> options on a mesh, and those of the same run on one device
MESHES: dict[str, tuple[dict, dict]] = {
    "data": ({"devices": 4}, {}),
    "data and model": ({"devices": "data=2,model=2"}, {"hidden": (512,)}),
    "on disk": ({"devices": "data=4,model=1"}, {"on_disk": "on"}),
    "dual form": ({"devices": 4}, {"optimizer": "momentum", "gram": "on"}),
    "ensemble": ({"devices": 4}, {"ensemble": 2, "dropout": 0.2, "clip_norm": 0.5}),
    "weights, on disk": ({"devices": 4, "on_disk": "on"}, {"class_weight": "balanced"}),
    "microbatches": ({"devices": 2, "accumulate": 4, "remat": True}, {}),
}
# blocks of 10 validation rows, 8 on a mesh: of the 26, three that divide over it and a rest
BLOCK: Any = 10


def config(**options):
    defaults: dict = {"data": "table.csv", "target": "y", "hidden": (5,), "epochs": 3}
    defaults |= {"batch_size": 8, "validation": 0.3}
    return Config(**(defaults | options))


def main():
    evaluation.BLOCK = BLOCK
    for name, (on_mesh, options) in MESHES.items():
        runs.train(config(dtype="float64", out=f"{name} many", **options, **on_mesh))
        runs.train(config(dtype="float64", out=f"{name} one", **options))


if __name__ == "__main__":
    main()
