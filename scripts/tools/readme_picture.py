"""Draw the picture of the README: a run's learning curves beside the speed of a training step.

    python scripts/tools/readme_picture.py runs/digits-1 docs/jaxnet.png

The speeds are those of the digits in docs/benchmarks.json.
"""

import json
import sys
from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.figure import Figure

BENCHMARKS = Path(__file__).parents[2] / "docs" / "benchmarks.json"
BLUE, RED, GREY = "#4477aa", "#cc6677", "#777777"  # Tol's colours, which colour-blind readers see
SHOWN = {  # the rows of the benchmark that the chart shows, and what a reader calls them
    "fit_scan": "jaxnet",
    "keras": "Keras (JAX)",
    "numpy": "NumPy",
    "sklearn": "scikit-learn",
    "equinox": "Equinox",
    "nnx": "Flax nnx",
    "torch": "PyTorch",
}


def main(run: str, out: str) -> None:
    """Draw both panels into the file `out`."""
    figure = Figure(figsize=(9, 3.1), dpi=150, layout="constrained")
    curves, speeds = figure.subplots(1, 2)
    lines = (Path(run) / "metrics.jsonl").read_text().splitlines()
    draw_curves(curves, [json.loads(line) for line in lines])
    draw_speeds(speeds, json.loads(BENCHMARKS.read_text()))
    figure.savefig(out)


def draw_curves(axes: Axes, lines: list[dict]) -> None:
    """Losses on a log scale, and the accuracy in the title."""
    epochs = [line["epoch"] for line in lines]
    for name, color in (("train_loss", GREY), ("val_loss", BLUE)):
        label = {"train_loss": "training", "val_loss": "validation"}[name]
        axes.plot(epochs, [line[name] for line in lines], color=color, label=label, linewidth=2)
    best = min(lines, key=lambda line: line["val_loss"])
    axes.plot(best["epoch"], best["val_loss"], "o", color=BLUE)
    axes.set_yscale("log")
    axes.set_xlabel("epoch")
    axes.set_title(f"Loss: the best epoch is {best['val_accuracy']:.1%} right", loc="left")
    axes.legend(frameon=False)
    axes.spines[["top", "right"]].set_visible(False)


def draw_speeds(axes: Axes, benchmarks: dict) -> None:
    """Microseconds of a step as bars, fastest first."""
    found = next(w for w in benchmarks["workloads"] if w["workload"]["name"] == "digits")
    times = {label: found["participants"][name]["us"] for name, label in SHOWN.items()}
    times = dict(sorted(times.items(), key=lambda item: -item[1]))
    colors = [BLUE if label == "jaxnet" else RED for label in times]
    bars = axes.barh(list(times), list(times.values()), color=colors)
    least = min(times.values())
    labels = [f" {us:.0f} µs" + f" ({us / least:.1f}x)" * (us > least) for us in times.values()]
    axes.bar_label(bars, labels)
    axes.margins(x=0.3)
    axes.set_xticks([])
    axes.set_title("One training step, batch 32, 64-128-10, Adam", loc="left")
    axes.spines[["top", "right", "bottom"]].set_visible(False)


if __name__ == "__main__":
    main(*sys.argv[1:])
