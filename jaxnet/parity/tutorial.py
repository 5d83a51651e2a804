"""The tutorial's networks, every implementation of each, and the probes: for `jaxnet parity`."""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from jaxnet import data
from jaxnet.parity.adapters.makers import flax_participant, jax_participant, torch_participant
from jaxnet.parity.checks import check
from jaxnet.parity.limits import DTYPES
from jaxnet.parity.participants import Leaves, Participant, oracle
from jaxnet.parity.points import Case
from jaxnet.parity.recording import Trajectory, load, record, trajectory
from jaxnet.parity.report import Report
from jaxnet.spec import Batch, Spec, check_choice

Sizes = tuple[int, int, int, int]  # N, D_in, H, D_out


class Program(NamedTuple):
    """One of the tutorial's programs: its network and its optimizer.

    module: "Sequential", or the name of the class in `flax_net` and `torch_net`.
    """

    name: str
    num_hidden: int
    bias: bool
    activation: str
    optimizer: str
    learning_rate: float
    module: str

    def spec(self, sizes: Sizes) -> Spec:
        """Return the network at sizes (N, D_in, H, D_out), of which N is not used."""
        _, d_in, hidden, d_out = sizes
        return Spec((d_in, *[hidden] * self.num_hidden, d_out), self.bias, self.activation)


PROGRAMS = {
    program.name: program
    for program in (
        Program("tensors", 1, False, "my_relu", "sgd", 1e-6, "Sequential"),
        Program("sequential", 1, True, "relu", "adam", 1e-4, "Sequential"),
        Program("module", 1, True, "my_relu", "sgd", 1e-4, "TwoLayerNet"),
        Program("dynamic", 2, True, "my_relu", "momentum", 1e-4, "DynamicNet"),
    )
}
SIZES = (64, 1000, 100, 10)
STEPS = (1, 2, 3, 10, 100)
RECORDED_SIZES = (6, 9, 7, 4)
RECORDINGS = Path(__file__).parent / "recordings"


def make_case(
    program: Program,
    sizes: Sizes = SIZES,
    steps: tuple[int, ...] = STEPS,
    num_steps: int = 100,
    seed: int = 0,
) -> Case:
    """Return the program's data, initial parameters and probes; "dynamic" draws its repeats."""
    spec = program.spec(sizes)
    batch = data.random_problem(spec, sizes[0], seed, "float64")
    dynamic = program.name == "dynamic"
    repeats = np.random.default_rng(seed).integers(0, 4, num_steps + max(steps))

    def batch_at(i: int) -> Batch:
        return batch._replace(repeats=repeats[i]) if dynamic else batch

    params = spec.init(seed, "float64")
    deepest = batch._replace(repeats=np.int64(3)) if dynamic else batch
    probes = make_probes(spec, params, deepest)
    return Case(program.name, params, batch_at, steps, num_steps, probes)


def make_probes(spec: Spec, params: Leaves, batch: Batch) -> dict[str, tuple[Leaves, Batch]]:
    """Return states that random data never reach, in each of which a wrong rule shows.

    ties: integers, so that units are exactly 0, a row of zeros, and a unit that is 0 for every row.
    dead units: a layer of units that are all negative. large, tiny: inputs times 1e3 and 1e-3.
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


def in_numpy(program: Program, sizes: Sizes = SIZES) -> Participant:
    """Return the reference: NumPy, gradients by hand."""
    return oracle(program.spec(sizes), program.optimizer, program.learning_rate)


def in_jax(program: Program, sizes: Sizes, activation: str) -> Participant:
    """Return the program in `net`, with one of the two ReLU rules."""
    from jaxnet import net, optimizers

    return jax_participant(
        partial(net.loss, activation=activation),
        optimizers.make(program.optimizer, program.learning_rate),
        forward=lambda params, batch: net.forward(
            params, batch.x, activation=activation, repeats=batch.repeats
        ),
        name="jax custom_vjp" if activation == "my_relu" else f"jax {activation}",
    )


def in_flax(program: Program, sizes: Sizes) -> Participant:
    """Return the program in Flax, with Flax's own names."""
    from flax import nnx

    from jaxnet import flax_net, optimizers

    if program.module == "Sequential":
        module: Any = flax_net.sequential(program.spec(sizes), rngs=nnx.Rngs(0))
    else:
        module = getattr(flax_net, program.module)(*sizes[1:], rngs=nnx.Rngs(0))
    layout = {}
    for k, layer in enumerate(LAYERS[program.module], start=1):
        prefix = f"layers/{layer}" if program.module == "Sequential" else layer
        layout[f"{prefix}/kernel"] = f"w{k}"
        layout |= {f"{prefix}/bias": f"b{k}"} if program.bias else {}
    return flax_participant(
        module,
        partial(_sum_squares, flax_net),
        optimizers.make(program.optimizer, program.learning_rate),
        forward=_call,
        layout=layout,
        name=f"flax {program.module}",
    )


def in_torch(program: Program, sizes: Sizes = SIZES) -> Participant:
    """Return the program in PyTorch, with torch's own names and layout."""
    from jaxnet import torch_net

    if program.module == "Sequential":
        module: Any = torch_net.sequential(program.spec(sizes))
    else:
        module = getattr(torch_net, program.module)(*sizes[1:])
    layout: dict[str, Any] = {}
    for k, layer in enumerate(LAYERS[program.module], start=1):
        layout[f"{layer}.weight"] = (f"w{k}", (1, 0))
        layout |= {f"{layer}.bias": f"b{k}"} if program.bias else {}
    optimizer = torch_net.OPTIMIZERS[program.optimizer]
    return torch_participant(
        module,
        partial(_sum_squares, torch_net),
        partial(optimizer, lr=program.learning_rate),
        forward=_call,
        set_to_none=False,
        layout=layout,
        name=f"torch {program.module}",
    )


LAYERS = {
    "Sequential": ("0", "2"),  # the places between which the activation lies
    "TwoLayerNet": ("linear1", "linear2"),
    "DynamicNet": ("input_linear", "middle_linear", "output_linear"),
}


def _call(module: Any, batch: Batch) -> Any:
    return module(batch.x) if batch.repeats is None else module(batch.x, batch.repeats)


def _sum_squares(framework: Any, module: Any, batch: Batch) -> Any:
    return framework.LOSSES["sum_squares"](_call(module, batch), batch.y)


def implementations(program: Program, sizes: Sizes = SIZES) -> list[tuple[Participant, str]]:
    """Return every implementation of a program that can run here, each with its ReLU rule.

    It is compared with the oracle of that rule: the rules differ at 0, and only there.
    """
    found = [(in_jax(program, sizes, rule), rule) for rule in ("relu", "my_relu")]
    found.append((in_flax(program, sizes), program.activation))
    if has_torch():
        found.append((in_torch(program, sizes), program.activation))
    return found


def has_torch() -> bool:
    """Return whether PyTorch is installed: its recordings stand in for it where it is not."""
    return importlib.util.find_spec("torch") is not None


def run(
    name: str,
    sizes: Sizes = SIZES,
    num_steps: int = 100,
    tiers: tuple[str, ...] = tuple(DTYPES),
) -> Iterator[Report]:
    """Compare every implementation of a program with the oracle, and yield each report.

    Raises: ValueError for an unknown program, and for sizes or steps below 1.
    """
    check_choice("program", name, tuple(PROGRAMS))
    if len(sizes) != 4 or sizes[0] < 1:
        raise ValueError(
            f"`sizes` must be four integers N, D_in, H, D_out of at least 1, got {sizes}"
        )
    if num_steps < 1:
        raise ValueError(f"`num_steps` must be at least 1, got {num_steps}")
    program = PROGRAMS[name]
    steps = tuple(step for step in STEPS if step <= num_steps)
    case = make_case(program, sizes, steps, num_steps)
    # The other rule differs at ties only, which are probed: a short run is enough for it.
    short = replace(case, steps=tuple(s for s in steps if s <= 10), num_steps=min(num_steps, 10))
    oracles: dict[str, Trajectory] = {}
    for participant, rule in implementations(program, sizes):
        if rule not in oracles:
            reference = in_numpy(program._replace(activation=rule), sizes)
            oracles[rule] = trajectory(reference, case if rule == program.activation else short)
        yield check(participant, against=oracles[rule], tiers=tiers)
    if not has_torch():
        recording = load(RECORDINGS / f"{name}.npz")
        yield check(in_numpy(program, RECORDED_SIZES), against=recording, tiers=tiers)


def record_all(folder: Path = RECORDINGS) -> None:
    """Record every program's PyTorch trajectory, for machines without PyTorch."""
    folder.mkdir(exist_ok=True)
    for name, program in PROGRAMS.items():
        case = make_case(program, RECORDED_SIZES, (1, 2, 3, 10), 100)
        record(folder / f"{name}.npz", in_torch(program, RECORDED_SIZES), case)
