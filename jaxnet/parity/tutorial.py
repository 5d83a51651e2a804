"""The tutorial's stages, every implementation of each, and the probes: for `jaxnet parity`."""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from jaxnet import data
from jaxnet.parity.checks import check
from jaxnet.parity.compare import DTYPES, Case
from jaxnet.parity.participants import Leaves, Participant, oracle
from jaxnet.parity.recording import Trajectory, load, record, trajectory
from jaxnet.parity.report import Report
from jaxnet.spec import Batch, Spec, check_choice


class Stage(NamedTuple):
    """One of the tutorial's workloads: its network and its optimizer."""

    name: str
    hidden: int  # how many hidden layers
    bias: bool
    activation: str
    optimizer: str
    learning_rate: float

    def spec(self, sizes: tuple[int, int, int]) -> Spec:
        """The network at sizes (D_in, H, D_out)."""
        d_in, hidden, d_out = sizes
        return Spec((d_in, *[hidden] * self.hidden, d_out), self.bias, self.activation)


STAGES = {
    stage.name: stage
    for stage in (
        Stage("tensors", 1, False, "my_relu", "sgd", 1e-6),
        Stage("sequential", 1, True, "relu", "adam", 1e-4),
        Stage("module", 1, True, "my_relu", "sgd", 1e-4),
        Stage("dynamic", 2, True, "my_relu", "momentum", 1e-4),
    )
}
SIZES = (64, 1000, 100, 10)  # N, D_in, H, D_out
STEPS = (1, 2, 3, 10, 100)
RECORDED_SIZES = (6, 9, 7, 4)
RECORDINGS = Path(__file__).parent / "recordings"


def stage_case(
    stage: Stage,
    sizes: tuple[int, int, int, int] = SIZES,
    steps: tuple[int, ...] = STEPS,
    num_steps: int = 100,
    seed: int = 0,
) -> Case:
    """The stage's data, initial parameters and probes; the dynamic network draws its repeats."""
    spec = stage.spec(sizes[1:])
    batch = data.random_problem(spec, sizes[0], seed, "float64")
    dynamic = stage.name == "dynamic"
    repeats = np.random.default_rng(seed).integers(0, 4, num_steps + max(steps))

    def batch_at(i: int) -> Batch:
        return batch._replace(repeats=repeats[i]) if dynamic else batch

    params = spec.init(seed, "float64")
    deepest = batch._replace(repeats=np.int64(3)) if dynamic else batch
    probes = make_probes(spec, params, deepest)
    return Case(stage.name, params, batch_at, steps, num_steps, probes)


def make_probes(spec: Spec, params: Leaves, batch: Batch) -> dict[str, tuple[Leaves, Batch]]:
    """States that random data never reach, each a way for a wrong rule to show.

    ties: integers, so that units are exactly 0, a row of zeros, and a unit that is 0 for every row.
    dead: a layer of units that are all negative. large, tiny: inputs times 1e3 and 1e-3.
    """
    rng = np.random.default_rng(1)
    whole = {k: rng.integers(-2, 3, p.shape).astype(float) for k, p in params.items()}
    whole["w1"][:, 0] = 0
    biases = {name: np.zeros_like(p) for name, p in params.items() if name.startswith("b")}
    x = rng.integers(-2, 3, batch.x.shape).astype(float)
    x[0] = 0
    dead = params | {"w1": -np.abs(params["w1"])}
    dead |= {"b1": -np.abs(params["b1"])} if spec.bias else {}
    return {
        "ties": (whole | biases, batch._replace(x=x, y=np.rint(batch.y))),
        "dead units": (dead, batch._replace(x=np.abs(batch.x))),
        "large": (params, batch._replace(x=1e3 * batch.x)),
        "tiny": (params, batch._replace(x=1e-3 * batch.x)),
    }


def stage_oracle(stage: Stage, sizes: tuple[int, int, int, int] = SIZES) -> Participant:
    """The reference: NumPy, gradients by hand."""
    return oracle(stage.spec(sizes[1:]), stage.optimizer, stage.learning_rate)


def _jax(stage: Stage, spec: Spec, activation: str) -> Participant:
    from jaxnet import net, optimizers
    from jaxnet.parity.adapters import jax_participant

    name = "jax custom_vjp" if activation == "my_relu" else f"jax {activation}"
    return jax_participant(
        partial(net.loss, activation=activation, loss=spec.loss),
        optimizers.make(stage.optimizer, stage.learning_rate),
        forward=lambda params, batch: net.forward(
            params, batch.x, activation=activation, repeats=batch.repeats
        ),
        name=name,
    )


def _flax(stage: Stage, spec: Spec, kind: str) -> Participant:
    from flax import nnx

    from jaxnet import flax_net, optimizers
    from jaxnet.parity.adapters import flax_participant

    d_in, hidden, d_out = spec.sizes[0], spec.sizes[1], spec.sizes[-1]
    made = {
        "Sequential": lambda: flax_net.sequential(spec, rngs=nnx.Rngs(0)),
        "TwoLayerNet": lambda: flax_net.TwoLayerNet(d_in, hidden, d_out, rngs=nnx.Rngs(0)),
        "DynamicNet": lambda: flax_net.DynamicNet(d_in, hidden, d_out, rngs=nnx.Rngs(0)),
    }
    prefixes = {
        "Sequential": [f"layers/{2 * k}" for k in range(len(spec.sizes) - 1)],
        "TwoLayerNet": ["linear1", "linear2"],
        "DynamicNet": ["input_linear", "middle_linear", "output_linear"],
    }[kind]
    layout = {f"{prefix}/kernel": f"w{k}" for k, prefix in enumerate(prefixes, 1)}
    if spec.bias:
        layout |= {f"{prefix}/bias": f"b{k}" for k, prefix in enumerate(prefixes, 1)}

    def forward(module, batch):
        return module(batch.x) if batch.repeats is None else module(batch.x, batch.repeats)

    return flax_participant(
        made[kind](),
        lambda module, batch: flax_net.LOSSES[spec.loss](forward(module, batch), batch.y),
        optimizers.make(stage.optimizer, stage.learning_rate),
        forward=forward,
        layout=layout,
        name=f"flax {kind}",
    )


def torch_stage(stage: Stage, sizes: tuple[int, int, int, int] = SIZES) -> Participant:
    """A stage in PyTorch, at torch's own layout and names."""
    from jaxnet import torch_net
    from jaxnet.parity.adapters import torch_participant

    spec, kind = stage.spec(sizes[1:]), KINDS[stage.name]
    d_in, hidden, d_out = spec.sizes[0], spec.sizes[1], spec.sizes[-1]
    made = {
        "Sequential": lambda: torch_net.sequential(spec),
        "TwoLayerNet": lambda: torch_net.TwoLayerNet(d_in, hidden, d_out),
        "DynamicNet": lambda: torch_net.DynamicNet(d_in, hidden, d_out),
    }
    module = made[kind]()
    layout: dict[str, Any] = {}
    layers = dict.fromkeys(name.rpartition(".")[0] for name, _ in module.named_parameters())
    for k, prefix in enumerate(layers, 1):
        layout[f"{prefix}.weight"] = (f"w{k}", (1, 0))
        if spec.bias:
            layout[f"{prefix}.bias"] = f"b{k}"

    def forward(module, batch):
        return module(batch.x) if batch.repeats is None else module(batch.x, batch.repeats)

    return torch_participant(
        module,
        lambda module, batch: torch_net.LOSSES[spec.loss](forward(module, batch), batch.y),
        lambda parameters: torch_net.OPTIMIZERS[stage.optimizer](
            parameters, lr=stage.learning_rate
        ),
        forward=forward,
        layout=layout,
        name=f"torch {kind}",
    )


KINDS = {
    "tensors": "Sequential",
    "sequential": "Sequential",
    "module": "TwoLayerNet",
    "dynamic": "DynamicNet",
}


def implementations(
    stage: Stage, sizes: tuple[int, int, int, int] = SIZES
) -> list[tuple[Participant, str]]:
    """Every implementation of a stage that can run here, each with the ReLU rule that it means.

    It is compared with the oracle of that rule: the rules differ at 0, and only there.
    """
    spec, kind = stage.spec(sizes[1:]), KINDS[stage.name]
    found = [(_jax(stage, spec, rule), rule) for rule in ("relu", "my_relu")]
    found.append((_flax(stage, spec, kind), stage.activation))
    if has_torch():
        found.append((torch_stage(stage, sizes), stage.activation))
    return found


def has_torch() -> bool:
    """Whether PyTorch is installed: without it, its recordings stand in."""
    return importlib.util.find_spec("torch") is not None


def run_stage(
    name: str,
    sizes: tuple[int, int, int, int] = SIZES,
    num_steps: int = 100,
    tiers: tuple[str, ...] = tuple(DTYPES),
) -> Iterator[Report]:
    """Compare every implementation of a stage with the oracle, and yield each report.

    Raises: ValueError for an unknown stage or sizes or steps below 1.
    """
    check_choice("stage", name, tuple(STAGES))
    if len(sizes) != 4 or sizes[0] < 1:
        raise ValueError(
            f"`sizes` must be four integers N, D_in, H, D_out of at least 1, got {sizes}"
        )
    if num_steps < 1:
        raise ValueError(f"`num_steps` must be at least 1, got {num_steps}")
    stage = STAGES[name]
    steps = tuple(step for step in STEPS if step <= num_steps)
    case = stage_case(stage, sizes, steps, num_steps)
    # The other rule differs at ties only, which are probed: a short run is enough for it.
    short = replace(case, steps=tuple(s for s in steps if s <= 10), num_steps=min(num_steps, 10))
    oracles: dict[str, Trajectory] = {}
    for participant, rule in implementations(stage, sizes):
        if rule not in oracles:
            reference = stage_oracle(stage._replace(activation=rule), sizes)
            oracles[rule] = trajectory(reference, case if rule == stage.activation else short)
        yield check(participant, against=oracles[rule], tiers=tiers)
    if not has_torch():
        recording = load(RECORDINGS / f"{name}.npz")
        yield check(stage_oracle(stage, RECORDED_SIZES), against=recording, tiers=tiers)


def record_stages(folder: Path = RECORDINGS) -> None:
    """Record every stage's PyTorch trajectory, for machines without it."""
    folder.mkdir(exist_ok=True)
    for name, stage in STAGES.items():
        case = stage_case(stage, RECORDED_SIZES, (1, 2, 3, 10), 100)
        record(folder / f"{name}.npz", torch_stage(stage, RECORDED_SIZES), case)
